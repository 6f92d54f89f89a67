//! The way into a shard: a bounded inbox, and where each answer goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;

use sluice_core::effect::{Answer, Ask as EffectAsk, Delivery, Taker};
use sluice_core::input::{ConnectionId, Input, RequestId, SubscriptionId};
use sluice_core::survey::{Survey, SurveyFrom};
use sluice_log::{LogError, Snapshot};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{Pass, QueueIndex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc as events, oneshot};

pub(crate) use crate::storage_room::StorageRoom;

/// A handle to the one thread that owns the core. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Shard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    inbox: mpsc::Sender<Mail>,
    /// Room for what clients asked and was not answered yet, in units of 1 KiB.
    room: Arc<Semaphore>,
    room_units: u32,
    next: AtomicU64,
    /// A `StorageRoom`.
    storage_room: AtomicU8,
}

/// What the shard's thread receives.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A client asks.
    Ask(Ask),
    /// A stream is opened: its events go here.
    Open {
        subscription: SubscriptionId,
        events: events::UnboundedSender<StreamEvent>,
        ask: Ask,
    },
    /// A stream's session is over: what the core still says of it goes nowhere.
    Closed { subscription: SubscriptionId },
    /// A client can be asked about prepared messages of a topic.
    Answers {
        topic: String,
        number: u64,
        asks: events::Sender<EffectAsk>,
    },
    /// It cannot any more.
    AnswersNoMore { topic: String, number: u64 },
    /// The disk, the plugins and the connections tell.
    Tell(Input),
    /// A scrape wants a piece of a survey.
    Survey { from: SurveyFrom, reply: oneshot::Sender<Survey> },
    /// A client wants a backup.
    Snapshot { reply: SnapshotReply },
    /// The log cannot be written any more.
    StorageFailed { reason: String },
    /// Write a checkpoint, then end.
    Stop,
}

/// Where a snapshot of the log goes.
pub(crate) type SnapshotReply = oneshot::Sender<Result<Snapshot, LogError>>;

/// An input that wants an answer.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) request: RequestId,
    pub(crate) input: Input,
    pub(crate) reply: Reply,
}

/// Where an answer goes.
#[derive(Debug)]
pub(crate) enum Reply {
    /// To one who waits for it alone.
    Once(oneshot::Sender<Result<Outcome, Refusal>>),
    /// To a stream's session that has several under way, under the number that the session gave it. The room in the inbox is kept until
    /// the answer comes, so that what is asked and not yet durable stays bounded.
    Numbered {
        number: u64,
        answers: events::UnboundedSender<Numbered>,
        room: InboxRoom,
    },
}

/// Room in the inbox for one question, until it is answered.
#[derive(Debug)]
pub(crate) struct InboxRoom {
    permit: OwnedSemaphorePermit,
    /// Whose it is, and how much, where shares are kept.
    share: Option<(Share, u32)>,
}

impl InboxRoom {
    /// Takes over the room of another question of the same client, which is asked and answered together with this one.
    pub(crate) fn merge(&mut self, mut other: Self) {
        let units = other.permit.num_permits();
        self.permit.merge(other.permit.split(units).expect("there are that many"));
        if let Some((_, more)) = other.share.take()
            && let Some((_, units)) = &mut self.share
        {
            *units += more;
        }
    }
}

impl Drop for InboxRoom {
    fn drop(&mut self) {
        if let Some((Share(taken), units)) = &self.share {
            taken.fetch_sub(*units, Ordering::Relaxed);
        }
    }
}

/// What one client has of the inbox's room, in its units.
#[derive(Clone, Debug, Default)]
pub(crate) struct Share(Arc<AtomicU32>);

/// An answer to one of several requests that a session has under way.
pub(crate) type Numbered = (u64, Result<Answer, Refusal>);

/// What a request leads to when it is not refused.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// An answer.
    Answer(Answer),
    /// Leased messages, to be read and sent.
    Leased(Delivery),
}

/// What happens on a stream subscription.
#[derive(Debug)]
pub(crate) enum StreamEvent {
    /// Messages to be read and pushed. Bounded by the credit that the client gave.
    Deliver(Delivery),
    /// A seek began a new pass on a queue.
    Reset { queue: QueueIndex, pass: Pass },
    /// The broker ended the stream.
    Ended(Refusal),
}

const UNIT_BYTES: usize = 1 << 10;

impl Shard {
    /// A shard whose thread reads the receiver; clients' questions may take `inbox_bytes` together.
    pub(crate) fn new(inbox_bytes: u64) -> (Self, mpsc::Receiver<Mail>) {
        let (inbox, mail) = mpsc::channel();
        let units = u32::try_from(inbox_bytes / UNIT_BYTES as u64)
            .unwrap_or(u32::MAX)
            .min(Semaphore::MAX_PERMITS as u32);
        let inner = Inner {
            inbox,
            room: Arc::new(Semaphore::new(units as usize)),
            room_units: units,
            next: AtomicU64::new(1),
            storage_room: AtomicU8::new(StorageRoom::Enough as u8),
        };
        (Self(Arc::new(inner)), mail)
    }

    /// A number that no request, subscription or connection of this start has had.
    pub(crate) fn number(&self) -> u64 {
        self.0.next.fetch_add(1, Ordering::Relaxed)
    }

    /// How much room the log has.
    pub(crate) fn storage_room(&self) -> StorageRoom {
        StorageRoom::of(self.0.storage_room.load(Ordering::Relaxed))
    }

    /// Says how much room the log has; what was said before.
    pub(crate) fn set_storage_room(&self, room: StorageRoom) -> StorageRoom {
        StorageRoom::of(self.0.storage_room.swap(room as u8, Ordering::Relaxed))
    }

    /// Bytes of the inbox's room that are taken, and that there are.
    pub(crate) fn inbox_bytes(&self) -> (u64, u64) {
        let free = self.0.room.available_permits();
        let taken = (self.0.room_units as usize).saturating_sub(free);
        ((taken * UNIT_BYTES) as u64, u64::from(self.0.room_units) * UNIT_BYTES as u64)
    }

    /// A piece of a survey, which waits neither for room in the inbox nor for the disk: its asker asks for one piece at a time. `None` when
    /// the shard has ended or failed.
    pub(crate) async fn survey(&self, from: SurveyFrom) -> Option<Survey> {
        let (reply, survey) = oneshot::channel();
        self.send(Mail::Survey { from, reply });
        survey.await.ok()
    }

    /// A snapshot of the log, taken between two writes.
    ///
    /// # Errors
    /// `ShuttingDown` when the shard has ended or failed.
    pub(crate) async fn snapshot(&self) -> Result<Result<Snapshot, LogError>, Refusal> {
        let (reply, snapshot) = oneshot::channel();
        self.send(Mail::Snapshot { reply });
        snapshot.await.map_err(|_| Refusal::plain(ErrorCode::ShuttingDown))
    }

    /// Room in the inbox for a publish of so many bytes, at once. A client may have as much as would be left: one that sends faster than the
    /// disk gets half, two get a third each, and there is always some for others (dynamic thresholds, Choudhury and Hahne 1998).
    ///
    /// # Errors
    /// `Overloaded` when there is none; `StorageFull` while the log has no more room than its reserve.
    pub(crate) fn room(&self, bytes: usize, share: &Share) -> Result<InboxRoom, Refusal> {
        if self.storage_room() < StorageRoom::Enough {
            return Err(Refusal::plain(ErrorCode::StorageFull));
        }
        let (units, free) = (self.units(bytes), self.0.room.available_permits());
        let had = share.0.load(Ordering::Relaxed);
        if had > 0 && (had + 2 * units) as usize > free {
            let text = format!("{had} KiB of this client are not stored yet and {free} KiB are left for all; send more slowly");
            return Err(Refusal::new(ErrorCode::Overloaded, text));
        }
        let taken = self.0.room.clone().try_acquire_many_owned(units);
        let permit = taken.map_err(|_| Refusal::plain(ErrorCode::Overloaded))?;
        share.0.fetch_add(units, Ordering::Relaxed);
        Ok(InboxRoom {
            permit,
            share: Some((share.clone(), units)),
        })
    }

    /// Room in the inbox for an input of so many bytes, waiting for it. May be cancelled.
    pub(crate) async fn wait_for_room(&self, bytes: usize) -> InboxRoom {
        let room = self.0.room.clone().acquire_many_owned(self.units(bytes)).await;
        InboxRoom {
            permit: room.expect("the inbox's room is never closed"),
            share: None,
        }
    }

    /// One unit for the input itself; never more than there is, so that whatever admission let through can go in.
    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(1 + bytes / UNIT_BYTES).unwrap_or(u32::MAX).min(self.0.room_units)
    }

    /// Asks one of several questions of a session; the answer comes to `answers` under `number`.
    pub(crate) fn ask_numbered(
        &self,
        input: impl FnOnce(RequestId) -> Input,
        number: u64,
        answers: events::UnboundedSender<Numbered>,
        room: InboxRoom,
    ) {
        let request = RequestId(self.number());
        self.send(Mail::Ask(Ask {
            request,
            input: input(request),
            reply: Reply::Numbered { number, answers, room },
        }));
    }

    /// Asks and waits for the outcome, taking room in the inbox until the shard has read it. When it is given up, the core is told.
    ///
    /// # Errors
    /// What the core refuses, and `ShuttingDown` when the shard has ended.
    pub(crate) async fn ask(&self, input: impl FnOnce(RequestId) -> Input) -> Result<Outcome, Refusal> {
        drop(self.wait_for_room(0).await);
        let (request, (sender, answer)) = (RequestId(self.number()), oneshot::channel());
        self.send(Mail::Ask(Ask {
            request,
            input: input(request),
            reply: Reply::Once(sender),
        }));
        let mut waiting = Waiting {
            shard: self,
            request: Some(request),
            answer,
        };
        let outcome = (&mut waiting.answer).await;
        waiting.request = None;
        outcome.unwrap_or_else(|_| Err(Refusal::plain(ErrorCode::ShuttingDown)))
    }

    /// Gives back what a receive was handed and nobody takes: its client has not seen it.
    pub(crate) fn undelivered(&self, delivery: Delivery) {
        if let Taker::Receive { handles, .. } = delivery.taker {
            self.tell(Input::Undelivered { handles });
        }
    }

    /// Opens a stream: asks the core, and sends what happens on it to `events` until `close_stream`.
    ///
    /// # Errors
    /// As `ask`.
    pub(crate) async fn open_stream(
        &self,
        subscription: SubscriptionId,
        events: events::UnboundedSender<StreamEvent>,
        input: impl FnOnce(RequestId) -> Input,
    ) -> Result<Answer, Refusal> {
        drop(self.wait_for_room(0).await);
        let (request, answer) = (RequestId(self.number()), oneshot::channel());
        let ask = Ask {
            request,
            input: input(request),
            reply: Reply::Once(answer.0),
        };
        self.send(Mail::Open { subscription, events, ask });
        match answer.1.await {
            Ok(Ok(Outcome::Answer(answer))) => Ok(answer),
            Ok(Ok(Outcome::Leased(_))) => unreachable!("the core answers a subscribe; deliveries go to the stream"),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(Refusal::plain(ErrorCode::ShuttingDown)),
        }
    }

    /// Forgets where a stream's events go.
    pub(crate) fn close_stream(&self, subscription: SubscriptionId) {
        self.send(Mail::Closed { subscription });
    }

    /// Says that a client can be asked about prepared messages of a topic.
    pub(crate) fn answers(&self, topic: String, number: u64, asks: events::Sender<EffectAsk>) {
        self.send(Mail::Answers { topic, number, asks });
    }

    /// Says that it cannot any more.
    pub(crate) fn answers_no_more(&self, topic: String, number: u64) {
        self.send(Mail::AnswersNoMore { topic, number });
    }

    /// Tells the core that a connection is gone.
    pub(crate) fn disconnected(&self, connection: ConnectionId) {
        self.tell(Input::Disconnected { connection });
    }

    /// Tells the core something that wants no answer. Not bounded here: each teller has at most a bounded number under way.
    pub(crate) fn tell(&self, input: Input) {
        self.send(Mail::Tell(input));
    }

    /// Says that the log failed.
    pub(crate) fn storage_failed(&self, reason: String) {
        self.send(Mail::StorageFailed { reason });
    }

    /// Asks the shard to write a checkpoint and end.
    pub(crate) fn stop(&self) {
        self.send(Mail::Stop);
    }

    fn send(&self, mail: Mail) {
        // When the shard's thread has ended, replies in the mail are dropped, which their waiters see.
        let _ = self.0.inbox.send(mail);
    }
}

/// Cancels a request when its waiter gives up, and gives back what it was handed in that moment.
struct Waiting<'a> {
    shard: &'a Shard,
    request: Option<RequestId>,
    answer: oneshot::Receiver<Result<Outcome, Refusal>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(request) = self.request else { return };
        self.answer.close();
        match self.answer.try_recv() {
            Ok(Ok(Outcome::Leased(delivery))) => self.shard.undelivered(delivery),
            Ok(Ok(Outcome::Answer(_)) | Err(_)) => {}
            Err(_) => self.shard.tell(Input::Cancelled { request }),
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_log::record::CursorId;
    use sluice_protocol::ids::{GroupId, QueueId};

    use super::*;

    #[test]
    fn a_full_inbox_refuses_and_takes_again_when_there_is_room() {
        let (shard, _mail) = Shard::new(64 << 10);
        let (one, other) = (Share::default(), Share::default());
        let taken = shard.room(60 << 10, &one).unwrap();
        assert_eq!(shard.room(8 << 10, &other).unwrap_err().code, ErrorCode::Overloaded);
        drop(taken);
        assert!(shard.room(8 << 10, &other).is_ok());
    }

    #[test]
    fn those_who_send_too_fast_leave_room_for_others() {
        let (shard, _mail) = Shard::new(1 << 20);
        let clients: Vec<Share> = std::iter::repeat_with(Share::default).take(3).collect();
        let mut taken = Vec::new();
        let mut fill = |share: &Share| {
            let mut count = 0;
            while let Ok(room) = shard.room(7 << 10, share) {
                taken.push(room);
                count += 1;
            }
            count
        };
        let counts: Vec<u32> = clients.iter().map(&mut fill).collect();
        assert_eq!(counts, [64, 32, 16], "of 128: half, then half of the rest each");
        let refused = shard.room(7 << 10, &clients[0]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Overloaded: 512 KiB of this client are not stored yet and 128 KiB are left for all; send more slowly"
        );
        drop(taken);
        assert_eq!(shard.inbox_bytes(), (0, 1 << 20));
        assert!(shard.room(7 << 10, &clients[0]).is_ok());
    }

    #[test]
    fn nothing_is_published_to_a_full_disk() {
        let (shard, _mail) = Shard::new(64 << 10);
        for room in [StorageRoom::Reserve, StorageRoom::Nothing] {
            shard.set_storage_room(room);
            assert_eq!(shard.storage_room(), room);
            assert_eq!(shard.room(1, &Share::default()).unwrap_err().code, ErrorCode::StorageFull);
        }
        shard.set_storage_room(StorageRoom::Enough);
        assert!(shard.room(1, &Share::default()).is_ok());
    }

    #[test]
    fn what_is_larger_than_the_inbox_goes_in_alone() {
        let (shard, _mail) = Shard::new(64 << 10);
        assert!(shard.room(1 << 20, &Share::default()).is_ok());
    }

    #[tokio::test]
    async fn a_question_to_a_shard_that_ended_is_refused() {
        let (shard, mail) = Shard::new(64 << 10);
        drop(mail);
        let refused = shard.ask(|request| Input::Cancelled { request }).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::ShuttingDown);
    }

    #[tokio::test]
    async fn messages_that_come_as_a_question_is_taken_back_are_given_back() {
        let (shard, mail) = Shard::new(64 << 10);
        let handle = bytes::Bytes::from_static(b"handle");
        let mut asked = Box::pin(shard.ask(|request| Input::Cancelled { request }));
        assert!(tokio::time::timeout(std::time::Duration::ZERO, &mut asked).await.is_err());
        let Ok(Mail::Ask(Ask {
            request,
            reply: Reply::Once(reply),
            ..
        })) = mail.try_recv()
        else {
            panic!("no question")
        };
        let taker = Taker::Receive {
            request,
            handles: vec![handle.clone()],
        };
        let delivery = Delivery {
            taker,
            cursor: CursorId {
                group: GroupId(1),
                queue: QueueId::default(),
            },
            pass: Pass(1),
            leases: Vec::new(),
        };
        assert!(reply.send(Ok(Outcome::Leased(delivery))).is_ok());
        drop(asked);
        let Ok(Mail::Tell(Input::Undelivered { handles })) = mail.try_recv() else {
            panic!("not given back")
        };
        assert_eq!(handles, [handle]);
        assert!(mail.try_recv().is_err(), "there is nothing to cancel");
    }

    #[tokio::test]
    async fn a_question_taken_back_is_cancelled() {
        let (shard, mail) = Shard::new(64 << 10);
        let asked = shard.ask(|request| Input::Cancelled { request });
        assert!(tokio::time::timeout(std::time::Duration::ZERO, asked).await.is_err());
        assert!(matches!(mail.try_recv(), Ok(Mail::Ask(_))));
        assert!(matches!(mail.try_recv(), Ok(Mail::Tell(Input::Cancelled { .. }))));
    }
}
