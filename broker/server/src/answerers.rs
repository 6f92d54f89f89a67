//! Who said of which topic that he can be asked about prepared messages: each in his turn.

use std::collections::{BTreeMap, VecDeque};

use sluice_core::effect::Ask;
use tokio::sync::mpsc::Sender;

/// Those who can be asked, by topic.
#[derive(Debug, Default)]
pub(crate) struct Answerers(BTreeMap<String, VecDeque<Answerer>>);

#[derive(Debug)]
struct Answerer {
    number: u64,
    asks: Sender<Ask>,
}

impl Answerers {
    /// Somebody can be asked from now on.
    pub(crate) fn came(&mut self, topic: String, number: u64, asks: Sender<Ask>) {
        self.0.entry(topic).or_default().push_back(Answerer { number, asks });
    }

    /// He cannot any more.
    pub(crate) fn left(&mut self, topic: &str, number: u64) {
        if let Some(answerers) = self.0.get_mut(topic) {
            answerers.retain(|answerer| answerer.number != number);
            if answerers.is_empty() {
                self.0.remove(topic);
            }
        }
    }

    /// Hands an ask to the next of those who can be asked about its topic and have not too much to answer already; gives it back when there is
    /// nobody.
    pub(crate) fn hand_out(&mut self, mut ask: Ask) -> Option<Ask> {
        let Some(answerers) = self.0.get_mut(&ask.topic) else {
            return Some(ask);
        };
        for _ in 0..answerers.len() {
            answerers.rotate_left(1);
            let Some(next) = answerers.back() else { break };
            match next.asks.try_send(ask) {
                Ok(()) => return None,
                Err(refused) => ask = refused.into_inner(),
            }
        }
        Some(ask)
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::effect::AskId;
    use sluice_core::state::transaction::Undecided;
    use sluice_protocol::ids::{QueueId, QueueOffset};
    use tokio::sync::mpsc;

    use super::*;

    fn ask(number: u64) -> Ask {
        Ask {
            ask: AskId(number),
            topic: "t".to_owned(),
            place: (QueueId::default(), QueueOffset(number)),
            handle: [0; sluice_core::TRANSACTION_BYTES],
            undecided: Undecided {
                due_ms: 0,
                prepared_wall_ms: 0,
                since_mono_ms: 0,
                asks: 0,
            },
        }
    }

    #[test]
    fn each_is_asked_in_his_turn_and_those_who_have_enough_or_are_gone_are_passed_over() {
        let mut answerers = Answerers::default();
        assert!(answerers.hand_out(ask(0)).is_some());
        let (one, mut first) = mpsc::channel(8);
        let (two, mut second) = mpsc::channel(2);
        answerers.came("t".to_owned(), 1, one);
        answerers.came("t".to_owned(), 2, two);
        assert!((1..=6).all(|number| answerers.hand_out(ask(number)).is_none()));
        let heard = |asks: &mut mpsc::Receiver<Ask>| std::iter::from_fn(|| asks.try_recv().ok()).map(|ask| ask.ask.0).collect::<Vec<_>>();
        let (of_first, of_second) = (heard(&mut first), heard(&mut second));
        assert_eq!((of_first.len(), of_second.len()), (4, 2));
        drop(second);
        assert!((7..=8).all(|number| answerers.hand_out(ask(number)).is_none()));
        assert_eq!(heard(&mut first), [7, 8]);
        answerers.left("t", 1);
        assert_eq!(answerers.hand_out(ask(9)).map(|ask| ask.ask), Some(AskId(9)));
        answerers.left("t", 2);
        assert!(answerers.0.is_empty());
    }
}
