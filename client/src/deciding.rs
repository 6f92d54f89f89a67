//! Decisions gathered: those that come while others are under way go together, so that many at a time cost one request.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_protocol::errors::Advice;
use sluice_protocol::limits::DECIDE_MESSAGES_MAX;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::limits;
use crate::link::Link;
use crate::transaction::{Decision, TransactionHandle, ask};

/// The decisions of one connection that wait to be asked.
#[derive(Default)]
pub(crate) struct Deciding {
    commits: Mutex<Gathered>,
    roll_backs: Mutex<Gathered>,
}

#[derive(Default)]
struct Gathered {
    waiting: VecDeque<Waiting>,
    /// Requests under way.
    under_way: usize,
}

/// One caller's decision: about all of these messages or none.
struct Waiting {
    handles: Vec<TransactionHandle>,
    answer: oneshot::Sender<Result<(), Error>>,
}

impl Deciding {
    fn of(&self, decision: Decision) -> MutexGuard<'_, Gathered> {
        let gathered = match decision {
            Decision::Commit => &self.commits,
            Decision::RollBack => &self.roll_backs,
        };
        gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathered {
    /// What goes together next: whole decisions, as many as one request may hold. Those that nobody waits for any more are dropped.
    fn take(&mut self) -> Vec<Waiting> {
        let mut taken = Vec::new();
        let mut messages = 0;
        while let Some(next) = self.waiting.pop_front() {
            if next.answer.is_closed() {
                continue;
            }
            messages += next.handles.len();
            if messages > DECIDE_MESSAGES_MAX && !taken.is_empty() {
                self.waiting.push_front(next);
                break;
            }
            taken.push(next);
        }
        taken
    }
}

/// Decides about messages: all of them, or none when one is refused. Other callers' decisions may go with it, which change nothing of its
/// outcome. Dropped, it is taken back where it has not been asked yet.
pub(crate) async fn decide(link: &Arc<Link>, handles: &[TransactionHandle], decision: Decision) -> Result<(), Error> {
    let (answer, answered) = oneshot::channel();
    {
        let mut gathered = link.deciding.of(decision);
        gathered.waiting.push_back(Waiting {
            handles: handles.to_vec(),
            answer,
        });
        if gathered.under_way < limits::DECISIONS_UNDER_WAY {
            gathered.under_way += 1;
            tokio::spawn(work(link.clone(), decision));
        }
    }
    // Its task ends without an answer only with the runtime.
    answered.await.unwrap_or(Err(Error::Closed))
}

/// Asks what waits until nothing does.
async fn work(link: Arc<Link>, decision: Decision) {
    loop {
        let taken = {
            let mut gathered = link.deciding.of(decision);
            let taken = gathered.take();
            if taken.is_empty() {
                gathered.under_way -= 1;
                return;
            }
            taken
        };
        together(&link, taken, decision).await;
    }
}

/// Asks for all in one request, and for each alone when something among them was wrong: then nothing was done.
async fn together(link: &Link, taken: Vec<Waiting>, decision: Decision) {
    let handles: Vec<&TransactionHandle> = taken.iter().flat_map(|waiting| &waiting.handles).collect();
    let outcome = ask(link, &handles, decision, false).await;
    let wrong = matches!(&outcome, Err(Error::Refused(refusal)) if refusal.code.advice() == Advice::Fix);
    let alone = wrong && taken.len() > 1;
    for waiting in taken {
        let outcome = if alone {
            let handles: Vec<&TransactionHandle> = waiting.handles.iter().collect();
            ask(link, &handles, decision, false).await
        } else {
            outcome.clone()
        };
        // Who asked may have gone.
        let _ = waiting.answer.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn waiting(messages: usize) -> (Waiting, oneshot::Receiver<Result<(), Error>>) {
        let (answer, answered) = oneshot::channel();
        let handles = vec![TransactionHandle(Bytes::from_static(b"handle")); messages];
        (Waiting { handles, answer }, answered)
    }

    fn sizes(taken: &[Waiting]) -> Vec<usize> {
        taken.iter().map(|waiting| waiting.handles.len()).collect()
    }

    #[test]
    fn decisions_go_together_whole_up_to_what_a_request_holds() {
        let (of, answers): (VecDeque<_>, Vec<_>) = [DECIDE_MESSAGES_MAX - 1, 1, 2, DECIDE_MESSAGES_MAX + 1, 3]
            .map(waiting)
            .into_iter()
            .unzip();
        let mut gathered = Gathered { waiting: of, under_way: 1 };
        assert_eq!(sizes(&gathered.take()), [DECIDE_MESSAGES_MAX - 1, 1]);
        assert_eq!(sizes(&gathered.take()), [2]);
        assert_eq!(
            sizes(&gathered.take()),
            [DECIDE_MESSAGES_MAX + 1],
            "the broker says that it is too much"
        );
        assert_eq!(sizes(&gathered.take()), [3]);
        assert!(gathered.take().is_empty());
        drop(answers);
    }

    #[test]
    fn a_decision_that_nobody_waits_for_is_not_asked() {
        let ((gone, answer), (kept, _answer)) = (waiting(1), waiting(2));
        drop(answer);
        let mut gathered = Gathered {
            waiting: [gone, kept].into(),
            under_way: 1,
        };
        assert_eq!(sizes(&gathered.take()), [2]);
    }
}
