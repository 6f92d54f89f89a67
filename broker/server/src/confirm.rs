//! The writing half of a producer's stream: what became of its publishes, in their order, many confirms a write.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::BytesMut;
use quinn::SendStream;
use sluice_core::effect::{Answer, StoredRun};
use sluice_protocol::batch::Batch;
use sluice_protocol::control::{Confirm, RefusedMessage, Stored};
use sluice_protocol::errors::Refusal;
use sluice_protocol::frame::{self, FrameKind};
use sluice_protocol::ids::{QueueOffset, Sequence};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::frames::{self, Broken};
use crate::metrics::Refusals;
use crate::serving::shutting_down;
use crate::shard::Numbered;
use crate::{answers, limits};

/// What the reading half tells, in the order of the publishes.
#[derive(Debug)]
pub(crate) enum Told {
    /// Publishes were taken.
    Group(Group),
    /// No further publish is read: every open one is confirmed, then the stream ends, with the refusal if there is one.
    End(Option<Refusal>),
}

/// Publishes that are asked, and answered, together.
#[derive(Debug, Default)]
pub(crate) struct Group {
    publishes: Vec<Publish>,
    /// All their messages.
    messages: u32,
    /// Their part of what the connection may have without a written confirm.
    confirms: Option<OwnedSemaphorePermit>,
    /// What became of those that were asked; `None` until the core says.
    answer: Option<Result<Answer, Refusal>>,
}

/// One publish of a group.
#[derive(Debug)]
struct Publish {
    /// What admission took out.
    refused: Vec<RefusedMessage>,
    /// The rest: first sequence and count of its first neighbours, and of further ones.
    first: (u64, u32),
    further: Vec<(u64, u32)>,
    /// Whether the core is asked; otherwise why not, unless there is no rest.
    asked: Result<bool, Refusal>,
}

impl Group {
    /// Whether it holds no publish.
    pub(crate) fn is_empty(&self) -> bool {
        self.publishes.is_empty()
    }

    /// Messages of its publishes.
    pub(crate) fn messages(&self) -> u32 {
        self.messages
    }

    /// Takes a publish of `messages`, which was asked unless its batch is empty or it was refused.
    pub(crate) fn push(&mut self, messages: u32, batch: &Batch, refused: Vec<RefusedMessage>, asked: Result<(), Refusal>) {
        let mut runs = batch.attributes().runs().map(|run| (run.first_sequence.0, run.rows));
        self.messages += messages;
        self.publishes.push(Publish {
            refused,
            first: runs.next().unwrap_or_default(),
            further: runs.collect(),
            asked: asked.map(|()| !batch.is_empty()),
        });
    }

    /// Keeps room for confirms until they are written.
    pub(crate) fn hold(&mut self, confirms: OwnedSemaphorePermit) {
        match &mut self.confirms {
            Some(held) => held.merge(confirms),
            None => self.confirms = Some(confirms),
        }
    }

    /// Says that there is nothing to ask the core for.
    pub(crate) fn settle(&mut self) {
        self.answer = Some(Ok(Answer::Stored {
            runs: Vec::new(),
            refused: Vec::new(),
        }));
    }

    /// Appends a confirm for each publish, or one for all, and counts what is refused. `confirm` is empty, and is again.
    fn encode(self, joined: bool, refusals: &Refusals, confirm: &mut Confirm, out: &mut BytesMut) {
        let (runs, refused) = match self.answer {
            Some(Ok(Answer::Stored { runs, refused })) => (runs, Ok(refused)),
            Some(Err(refusal)) => (Vec::new(), Err(refusal)),
            Some(Ok(_)) | None => unreachable!("the core answers publishes with what it stored, and only answered groups are written"),
        };
        let (mut runs, mut asked) = (Runs::new(&runs), 0);
        for publish in self.publishes {
            let outcome = match (&publish.asked, &refused) {
                (Err(refusal), _) | (Ok(true), Err(refusal)) => Err(refusal.clone()),
                (Ok(true), Ok(refused)) => {
                    asked += 1;
                    let found = refused.binary_search_by_key(&(asked - 1), |(nth, _)| *nth);
                    found.map_or(Ok(()), |found| Err(refused[found].1.clone()))
                }
                (Ok(false), _) => Ok(()),
            };
            publish.tell(outcome, &mut runs, refusals, confirm);
            if !joined {
                append(confirm, out);
            }
        }
        if joined {
            append(confirm, out);
        }
    }
}

impl Publish {
    /// Adds what became of the messages to a confirm.
    fn tell(self, outcome: Result<(), Refusal>, runs: &mut Runs<'_>, refusals: &Refusals, confirm: &mut Confirm) {
        confirm.refused.extend(self.refused);
        let rest = std::iter::once(self.first).chain(self.further);
        match outcome {
            Ok(()) => {
                let messages = rest.map(|(_, count)| count).sum();
                runs.take(messages, |run| push_stored(&mut confirm.stored, answers::stored(&run)));
            }
            Err(refusal) => {
                refusals.add(refusal.code, rest.clone().map(|(_, count)| u64::from(count)).sum());
                let sequences = rest.flat_map(|(first, count)| (0..u64::from(count)).map(move |place| first.wrapping_add(place)));
                confirm
                    .refused
                    .extend(sequences.map(|sequence| refused_message(sequence, refusal.clone())));
            }
        }
    }
}

/// Appends a confirm, and empties it.
fn append(confirm: &mut Confirm, out: &mut BytesMut) {
    frame::encode_message(FrameKind::Confirm, confirm, out);
    confirm.stored.clear();
    confirm.refused.clear();
}

/// Adds a run, to the one before if it continues that.
/// Whether a run is of messages that are in a queue.
fn is_plain(run: &Stored) -> bool {
    run.recall.is_empty() && run.transaction.is_empty()
}

fn push_stored(stored: &mut Vec<Stored>, run: Stored) {
    match stored.last_mut() {
        Some(last)
            if is_plain(last)
                && is_plain(&run)
                && (last.topic, last.queue, last.duplicate) == (run.topic, run.queue, run.duplicate)
                && last.first_sequence + u64::from(last.count) == run.first_sequence
                && last.first_offset + u64::from(last.count) == run.first_offset =>
        {
            last.count += run.count;
        }
        Some(_) | None => stored.push(run),
    }
}

/// A message that is refused alone.
pub(crate) fn refused_message(sequence: u64, refusal: Refusal) -> RefusedMessage {
    RefusedMessage {
        sequence,
        refused: Some(refusal.into()),
    }
}

/// What was stored of a group, to be given out publish by publish.
struct Runs<'a> {
    next: Option<StoredRun>,
    rest: std::slice::Iter<'a, StoredRun>,
}

impl<'a> Runs<'a> {
    fn new(runs: &'a [StoredRun]) -> Self {
        let mut rest = runs.iter();
        Self {
            next: rest.next().copied(),
            rest,
        }
    }

    /// Gives out the runs of the next `messages`.
    fn take(&mut self, mut messages: u32, mut give: impl FnMut(StoredRun)) {
        while messages > 0
            && let Some(run) = self.next
        {
            let count = run.count.min(messages);
            messages -= count;
            give(StoredRun { count, ..run });
            self.next = match run.count - count {
                0 => self.rest.next().copied(),
                left => Some(StoredRun {
                    first_sequence: Sequence(run.first_sequence.0 + u64::from(count)),
                    first_offset: QueueOffset(run.first_offset.0 + u64::from(count)),
                    count: left,
                    ..run
                }),
            };
        }
    }
}

/// The messages of a stream without a confirm. At its bound no further publish is read until confirms are.
#[derive(Debug)]
pub(crate) struct Unconfirmed {
    messages: AtomicU32,
    messages_max: u32,
    fewer: Notify,
}

impl Unconfirmed {
    pub(crate) fn new(messages_max: u32) -> Self {
        Self {
            messages: AtomicU32::new(0),
            messages_max,
            fewer: Notify::new(),
        }
    }

    /// How many there are.
    pub(crate) fn messages(&self) -> u32 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Whether there is room for so many more.
    pub(crate) fn has_room(&self, messages: u32) -> bool {
        self.messages() + messages <= self.messages_max
    }

    /// Waits until there is room for so many more, at most the bound. May be cancelled.
    pub(crate) async fn room(&self, messages: u32) {
        while !self.has_room(messages) {
            self.fewer.notified().await;
        }
    }

    pub(crate) fn add(&self, messages: u32) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
    }

    fn remove(&self, messages: u32) {
        self.messages.fetch_sub(messages, Ordering::Relaxed);
        self.fewer.notify_one();
    }
}

/// Writes the confirms.
pub(crate) struct Writer<'a> {
    /// Groups not yet confirmed, oldest first.
    groups: VecDeque<Group>,
    /// The number of the oldest.
    first: u64,
    unconfirmed: &'a Unconfirmed,
    refusals: &'a Refusals,
    /// Whether the client takes one confirm for several publishes.
    joined: bool,
    ended: Option<Option<Refusal>>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(unconfirmed: &'a Unconfirmed, refusals: &'a Refusals, joined: bool) -> Self {
        Self {
            groups: VecDeque::new(),
            first: 0,
            unconfirmed,
            refusals,
            joined,
            ended: None,
        }
    }

    pub(crate) async fn run(
        mut self,
        send: &mut SendStream,
        mut told: UnboundedReceiver<Told>,
        mut answered: UnboundedReceiver<Numbered>,
    ) -> Result<(), Broken> {
        let (mut out, mut confirm) = (BytesMut::new(), Confirm::default());
        loop {
            // Neither receive loses anything when the other comes first.
            let first = tokio::select! {
                Some(news) = told.recv() => { self.learn(news); None }
                Some(answer) = answered.recv() => Some(answer),
                else => return Err(shutting_down().into()),
            };
            // The reading half shares this task, so all publishes that were asked are told by now.
            while let Ok(news) = told.try_recv() {
                self.learn(news);
            }
            if let Some((number, answer)) = first {
                self.answer(number, answer);
            }
            while let Ok((number, answer)) = answered.try_recv() {
                self.answer(number, answer);
            }
            loop {
                self.confirm(&mut confirm, &mut out);
                if out.is_empty() {
                    break;
                }
                frames::write(send, out.split().freeze()).await?;
            }
            if self.groups.is_empty()
                && let Some(end) = self.ended.take()
            {
                return match end {
                    Some(refusal) => Err(refusal.into()),
                    None => {
                        frames::finish(send).await;
                        Ok(())
                    }
                };
            }
        }
    }

    fn learn(&mut self, news: Told) {
        match news {
            Told::Group(group) => self.groups.push_back(group),
            Told::End(refusal) => self.ended = Some(refusal),
        }
    }

    fn answer(&mut self, number: u64, answer: Result<Answer, Refusal>) {
        let place = usize::try_from(number - self.first).expect("groups are numbered within a bounded window");
        if let Some(group) = self.groups.get_mut(place) {
            group.answer = Some(answer);
        }
    }

    /// Encodes the confirms of all groups at the front whose answer is known.
    fn confirm(&mut self, confirm: &mut Confirm, out: &mut BytesMut) {
        while out.len() < limits::WRITE_BYTES_MAX
            && let Some(group) = self.groups.pop_front_if(|group| group.answer.is_some())
        {
            self.first += 1;
            self.unconfirmed.remove(group.messages);
            group.encode(self.joined, self.refusals, confirm, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_protocol::batch::{BatchBuilder, NewMessage};
    use sluice_protocol::errors::ErrorCode;
    use sluice_protocol::ids::{ProducerId, QueueId};

    use super::*;

    fn batch(first: u64, count: u32) -> Batch {
        let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(first));
        let message = NewMessage::<&str> {
            tag: None,
            keys: &[],
            properties: &[],
            born_ms: 0,
            ..NewMessage::default()
        };
        for _ in 0..count {
            builder.push(&message, b"body").unwrap();
        }
        Batch::parse(builder.finish()).unwrap()
    }

    fn run(first_sequence: u64, count: u32, first_offset: u64) -> StoredRun {
        StoredRun {
            first_sequence: Sequence(first_sequence),
            count,
            queue: QueueId::default(),
            first_offset: QueueOffset(first_offset),
            duplicate: false,
            recall: None,
            transaction: None,
        }
    }

    /// Publishes of 2, 1, 3 and 2 messages, the second refused here, the third by the core.
    fn group() -> Group {
        let mut group = Group::default();
        group.push(2, &batch(0, 2), Vec::new(), Ok(()));
        group.push(1, &batch(2, 1), Vec::new(), Err(Refusal::plain(ErrorCode::Overloaded)));
        group.push(3, &batch(3, 3), Vec::new(), Ok(()));
        group.push(2, &batch(6, 2), Vec::new(), Ok(()));
        group.answer = Some(Ok(Answer::Stored {
            runs: vec![run(0, 1, 70), run(1, 1, 5), run(6, 2, 6)],
            refused: vec![(1, Refusal::plain(ErrorCode::SequenceTooOld))],
        }));
        group
    }

    /// What a confirm says: sequences stored with their offsets, and sequences refused.
    type Told = (Vec<(u64, u64)>, Vec<u64>);

    fn told(joined: bool) -> Vec<Told> {
        let (mut confirm, mut out) = (Confirm::default(), BytesMut::new());
        let refusals = Refusals::default();
        group().encode(joined, &refusals, &mut confirm, &mut out);
        assert_eq!((refusals.of(ErrorCode::Overloaded), refusals.of(ErrorCode::SequenceTooOld)), (1, 3));
        let frames = std::iter::from_fn(|| frame::decode(&mut out, 1 << 20).unwrap());
        let confirms = frames.map(|frame| frame.message::<Confirm>(FrameKind::Confirm).unwrap());
        let places = |run: &Stored| {
            let (sequence, offset) = (run.first_sequence, run.first_offset);
            (0..u64::from(run.count)).map(move |place| (sequence + place, offset + place))
        };
        confirms
            .map(|confirm| {
                let stored = confirm.stored.iter().flat_map(places).collect();
                (stored, confirm.refused.iter().map(|refused| refused.sequence).collect())
            })
            .collect()
    }

    #[test]
    fn each_publish_is_told_of_its_own_messages() {
        let expected = [
            (vec![(0, 70), (1, 5)], vec![]),
            (vec![], vec![2]),
            (vec![], vec![3, 4, 5]),
            (vec![(6, 6), (7, 7)], vec![]),
        ];
        assert_eq!(told(false), expected);
    }

    #[test]
    fn a_joined_confirm_tells_of_all() {
        assert_eq!(told(true), [(vec![(0, 70), (1, 5), (6, 6), (7, 7)], vec![2, 3, 4, 5])]);
    }
}
