//! Receipt, recall and transaction handles: which lease of which message, or which delayed or prepared message, under a MAC, so that a
//! client can neither make nor change one.

use std::hash::Hasher;

use bytes::Bytes;
use siphasher::sip128::{Hasher128, SipHasher24};
use sluice_log::record::{CursorId, Due, Restoration};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{Attempt, Epoch, GroupId, Pass, ProducerId, QueueId, QueueIndex, QueueOffset, TopicId};
use sluice_protocol::wire::{Reader, Writer};

use crate::planted::{self, Bug};
use crate::state::restorations::Restorations;

/// What is said of a handle that a restored broker did not make.
pub(crate) const AFTER_BACKUP: &str = "the handle was given after the backup was taken that this broker was restored from";

/// The size of a handle: its fields and 16 bytes of MAC.
pub(crate) const HANDLE_BYTES: usize = FIELDS_BYTES + 16;
const FIELDS_BYTES: usize = 37;
const VERSION: u8 = 1;
/// The size of a recall handle: its fields and 16 bytes of MAC.
pub const RECALL_BYTES: usize = RECALL_FIELDS_BYTES + 16;
const RECALL_FIELDS_BYTES: usize = 25;
/// The size of a transaction handle: its fields and 16 bytes of MAC.
pub const TRANSACTION_BYTES: usize = TRANSACTION_FIELDS_BYTES + 16;
const TRANSACTION_FIELDS_BYTES: usize = 17;
/// What a transaction handle begins with.
const TRANSACTION_VERSION: u8 = 66;
/// What is hashed of an id begins with this, as no handle does.
const GIVEN_ID_VERSION: u8 = 67;
/// What is hashed for the secret of a restoration begins with this, as no handle does.
const GENERATION_VERSION: u8 = 68;
const GIVEN_ID_FIELDS_BYTES: usize = 28;
/// What a recall handle begins with: no receipt handle does, so neither passes for the other.
const RECALL_VERSION: u8 = 65;
/// The version's byte holds the priority in its upper half.
const PRIORITY_SHIFT: u8 = 4;
const VERSION_MASK: u8 = 15;

/// What a handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// Whose lane the message is in.
    pub(crate) priority: u8,
    pub(crate) cursor: CursorId,
    pub(crate) offset: QueueOffset,
    pub(crate) pass: Pass,
    pub(crate) epoch: Epoch,
    pub(crate) attempt: Attempt,
}

impl Made {
    /// Whether a lease of this start was there when whoever made its handle came to its end.
    pub(crate) fn is_before_end(self, epoch: Epoch) -> bool {
        match self {
            Self::Here => true,
            Self::Before(first) => epoch < first,
        }
    }
}

/// Whose ids the ids of messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// This producer's alone.
    Producer(ProducerId),
    /// Those of all that say this number.
    Shared(u64),
}

/// Why a handle cannot be used, whatever it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotOurs {
    /// Nobody with this log's secret made it.
    Forged,
    /// It was made after the backup was taken from which this log was restored, by the broker that went on from there.
    After,
}

impl NotOurs {
    /// What its owner is told.
    pub(crate) fn refusal(self, code: ErrorCode) -> Refusal {
        match self {
            Self::Forged => Refusal::plain(code),
            Self::After => Refusal::new(code, AFTER_BACKUP),
        }
    }
}

/// When a handle was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// Since this log was restored, if it ever was.
    Here,
    /// Before this start, which was the first after a restoration: by this log, or by the one that it was restored from.
    Before(Epoch),
}

/// Makes and reads handles with the log's secret. Each restoration begins another secret for what is made from then on: who goes on with the
/// same log elsewhere has the one before, and what it makes counts here for no more than was there when the backup was taken.
#[derive(Clone, Debug)]
pub(crate) struct Receipts {
    /// The log's.
    secret: [u8; 16],
    /// For what is made now.
    current: [u8; 16],
    /// Those before, the newest last, and the restorations that ended their use.
    ended: Vec<([u8; 16], Restoration)>,
}

impl Receipts {
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        Self {
            secret,
            current: secret,
            ended: Vec::new(),
        }
    }

    /// Follows the restorations that state knows of.
    pub(crate) fn follow(&mut self, restorations: &Restorations) {
        let mut before = (!restorations.more).then_some(self.secret);
        self.ended.clear();
        for restoration in &restorations.newest {
            self.ended.extend(before.map(|secret| (secret, restoration.clone())));
            let mut fields = [0; 17];
            fields[0] = GENERATION_VERSION;
            fields[1..].copy_from_slice(&restoration.mark);
            before = Some(mac(&self.secret, &fields).to_le_bytes());
        }
        self.current = before.unwrap_or(self.secret);
    }

    /// Whose these fields are: of this log as it goes on, or of a log that it went on from.
    fn owner(&self, fields: &[u8], of: u128) -> Option<Option<&Restoration>> {
        // As one number, so that the time it takes tells nothing of where a forged one differs.
        if of == mac(&self.current, fields) {
            return Some(None);
        }
        let ended = self.ended.iter().rev().find(|(secret, _)| of == mac(secret, fields));
        ended.map(|(_, restoration)| Some(restoration))
    }

    /// Whether a numbered message of a topic's calendar is the one that a handle was made for.
    fn is_same(owner: Option<&Restoration>, topic: TopicId, number: QueueOffset) -> bool {
        owner.is_none_or(|restoration| {
            let place = restoration.numbers.binary_search_by_key(&topic, |(topic, _)| *topic);
            place.is_ok_and(|place| number < restoration.numbers[place].1)
        })
    }

    /// Writes the handle of a receipt: [`HANDLE_BYTES`].
    pub(crate) fn write(&self, receipt: &Receipt, to: &mut Writer) {
        let mut fields = Writer::with_capacity(FIELDS_BYTES);
        let CursorId { group, queue } = receipt.cursor;
        fields
            .u8(VERSION | receipt.priority << PRIORITY_SHIFT)
            .u64(group.0)
            .u64(queue.topic.0)
            .u16(queue.index.0)
            .u64(receipt.offset.0);
        fields.u32(receipt.pass.0).u32(receipt.epoch.0).u16(receipt.attempt.0);
        let fields = fields.finish();
        to.bytes(&fields).u128(mac(&self.current, &fields));
    }

    /// What a handle names, and when it was made; `None` when it is not one of this broker's.
    pub(crate) fn read(&self, handle: &Bytes) -> Option<(Receipt, Made)> {
        let (fields, mac) = handle.split_at_checked(FIELDS_BYTES)?;
        let owner = match self.owner(fields, u128::from_le_bytes(mac.try_into().ok()?)) {
            None if planted::is(Bug::MacUnverified) => None,
            owner => owner?,
        };
        let made = owner.map_or(Made::Here, |restoration| Made::Before(restoration.epoch));
        let mut from = Reader::new(fields);
        let kind = from.u8().ok()?;
        if kind & VERSION_MASK != VERSION {
            return None;
        }
        let priority = kind >> PRIORITY_SHIFT;
        let group = GroupId(from.u64().ok()?);
        let queue = QueueId {
            topic: TopicId(from.u64().ok()?),
            index: QueueIndex(from.u16().ok()?),
        };
        let receipt = Receipt {
            priority,
            cursor: CursorId { group, queue },
            offset: QueueOffset(from.u64().ok()?),
            pass: Pass(from.u32().ok()?),
            epoch: Epoch(from.u32().ok()?),
            attempt: Attempt(from.u16().ok()?),
        };
        Some((receipt, made))
    }

    /// The handle that recalls a delayed message.
    pub(crate) fn recall(&self, topic: TopicId, due: Due) -> [u8; RECALL_BYTES] {
        let mut handle = [0; RECALL_BYTES];
        handle[0] = RECALL_VERSION;
        handle[1..9].copy_from_slice(&topic.0.to_le_bytes());
        handle[9..17].copy_from_slice(&due.at_ms.to_le_bytes());
        handle[17..25].copy_from_slice(&due.number.0.to_le_bytes());
        let mac = mac(&self.current, &handle[..RECALL_FIELDS_BYTES]);
        handle[RECALL_FIELDS_BYTES..].copy_from_slice(&mac.to_le_bytes());
        handle
    }

    /// Which delayed message a handle recalls.
    pub(crate) fn read_recall(&self, handle: &[u8]) -> Result<(TopicId, Due), NotOurs> {
        let parts = || -> Option<(TopicId, Due, u128)> {
            let mut from = Reader::new(handle);
            let (version, topic) = (from.u8().ok()?, TopicId(from.u64().ok()?));
            let due = Due {
                at_ms: from.i64().ok()?,
                number: QueueOffset(from.u64().ok()?),
            };
            let mac = from.u128().ok()?;
            (version == RECALL_VERSION && from.remaining() == 0).then_some((topic, due, mac))
        };
        let (topic, due, mac) = parts().ok_or(NotOurs::Forged)?;
        match self.owner(&handle[..RECALL_FIELDS_BYTES], mac) {
            None if !planted::is(Bug::RecallHandleUnverified) => Err(NotOurs::Forged),
            Some(owner) if !Self::is_same(owner, topic, due.number) => Err(NotOurs::After),
            None | Some(_) => Ok((topic, due)),
        }
    }

    /// The handle that commits or rolls back a prepared message.
    pub(crate) fn transaction(&self, topic: TopicId, number: QueueOffset) -> [u8; TRANSACTION_BYTES] {
        let mut handle = [0; TRANSACTION_BYTES];
        handle[0] = TRANSACTION_VERSION;
        handle[1..9].copy_from_slice(&topic.0.to_le_bytes());
        handle[9..17].copy_from_slice(&number.0.to_le_bytes());
        let mac = mac(&self.current, &handle[..TRANSACTION_FIELDS_BYTES]);
        handle[TRANSACTION_FIELDS_BYTES..].copy_from_slice(&mac.to_le_bytes());
        handle
    }

    /// Which prepared message a handle names.
    pub(crate) fn read_transaction(&self, handle: &[u8]) -> Result<(TopicId, QueueOffset), NotOurs> {
        let parts = || -> Option<(TopicId, QueueOffset, u128)> {
            let mut from = Reader::new(handle);
            let version = from.u8().ok()?;
            let (topic, number) = (TopicId(from.u64().ok()?), QueueOffset(from.u64().ok()?));
            let mac = from.u128().ok()?;
            (version == TRANSACTION_VERSION && from.remaining() == 0).then_some((topic, number, mac))
        };
        let (topic, number, mac) = parts().ok_or(NotOurs::Forged)?;
        match self.owner(&handle[..TRANSACTION_FIELDS_BYTES], mac) {
            None if !planted::is(Bug::TransactionHandleUnverified) => Err(NotOurs::Forged),
            Some(owner) if !Self::is_same(owner, topic, number) => Err(NotOurs::After),
            None | Some(_) => Ok((topic, number)),
        }
    }

    /// What the id that a producer gave a message is known by: nobody without the secret finds two ids that are known by the same. It outlives
    /// restorations, as what state holds does.
    pub(crate) fn given_id(&self, topic: TopicId, scope: Scope, id: &str) -> u128 {
        let mut fields = Writer::with_capacity(GIVEN_ID_FIELDS_BYTES + id.len());
        fields.u8(GIVEN_ID_VERSION).u64(topic.0);
        match scope {
            Scope::Producer(producer) => fields.u8(0).u128(producer.0),
            Scope::Shared(number) => fields.u8(1).u64(number),
        };
        fields.text(id);
        mac(&self.secret, &fields.finish())
    }
}

/// SipHash-2-4 with 128 bits (Aumasson, Bernstein 2012): a keyed function, so a MAC for short inputs.
fn mac(secret: &[u8; 16], fields: &[u8]) -> u128 {
    let mut hasher = SipHasher24::new_with_key(secret);
    hasher.write(fields);
    hasher.finish128().as_u128()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        let queue = QueueId {
            topic: TopicId(3),
            index: QueueIndex(2),
        };
        let cursor = CursorId { group: GroupId(9), queue };
        Receipt {
            priority: 9,
            cursor,
            offset: QueueOffset(77),
            pass: Pass(1),
            epoch: Epoch(4),
            attempt: Attempt(2),
        }
    }

    fn handle(receipts: &Receipts) -> Bytes {
        let mut to = Writer::new();
        receipts.write(&receipt(), &mut to);
        to.finish()
    }

    #[test]
    fn a_handle_names_its_lease() {
        let receipts = Receipts::new([7; 16]);
        assert_eq!(handle(&receipts).len(), HANDLE_BYTES);
        assert_eq!(receipts.read(&handle(&receipts)), Some((receipt(), Made::Here)));
    }

    #[test]
    fn a_changed_or_foreign_handle_is_none() {
        let receipts = Receipts::new([7; 16]);
        for place in 0..HANDLE_BYTES {
            let mut changed = handle(&receipts).to_vec();
            changed[place] ^= 1;
            assert_eq!(receipts.read(&Bytes::from(changed)), None);
        }
        assert_eq!(Receipts::new([8; 16]).read(&handle(&receipts)), None);
        assert_eq!(receipts.read(&handle(&receipts).slice(..HANDLE_BYTES - 1)), None);
    }

    #[test]
    fn a_recall_handle_names_its_message_and_nothing_else_passes_for_one() {
        let receipts = Receipts::new([7; 16]);
        let due = Due {
            at_ms: 1_800_000_000_000,
            number: QueueOffset(77),
        };
        let recall = receipts.recall(TopicId(3), due);
        assert_eq!(receipts.read_recall(&recall), Ok((TopicId(3), due)));
        for place in 0..RECALL_BYTES {
            let mut changed = recall;
            changed[place] ^= 1;
            assert_eq!(receipts.read_recall(&changed), Err(NotOurs::Forged));
        }
        assert_eq!(Receipts::new([8; 16]).read_recall(&recall), Err(NotOurs::Forged));
        assert_eq!(receipts.read_recall(&handle(&receipts)), Err(NotOurs::Forged));
        assert_eq!(receipts.read_recall(&[&recall[..], b"x"].concat()), Err(NotOurs::Forged));
        assert_eq!(receipts.read(&Bytes::copy_from_slice(&recall)), None);
    }

    #[test]
    fn a_transaction_handle_names_its_message_and_nothing_else_passes_for_one() {
        let receipts = Receipts::new([7; 16]);
        let transaction = receipts.transaction(TopicId(3), QueueOffset(77));
        assert_eq!(receipts.read_transaction(&transaction), Ok((TopicId(3), QueueOffset(77))));
        for place in 0..TRANSACTION_BYTES {
            let mut changed = transaction;
            changed[place] ^= 1;
            assert_eq!(receipts.read_transaction(&changed), Err(NotOurs::Forged));
        }
        assert_eq!(Receipts::new([8; 16]).read_transaction(&transaction), Err(NotOurs::Forged));
        assert_eq!(receipts.read_transaction(&handle(&receipts)), Err(NotOurs::Forged));
        assert_eq!(receipts.read_recall(&transaction), Err(NotOurs::Forged));
        assert_eq!(receipts.read_transaction(&[&transaction[..], b"x"].concat()), Err(NotOurs::Forged));
    }

    #[test]
    fn what_was_made_after_the_backup_by_the_log_that_went_on_is_told_apart() {
        let restoration = |mark, epoch, number| Restoration {
            mark: [mark; 16],
            epoch: Epoch(epoch),
            numbers: vec![(TopicId(3), QueueOffset(number))],
        };
        let mut restorations = Restorations::default();
        let mut receipts = Receipts::new([7; 16]);
        let original = receipts.clone();
        for (place, (mark, epoch, number)) in [(1, 5, 78), (2, 6, 90)].into_iter().enumerate() {
            restorations.newest.push(restoration(mark, epoch, number));
            let before = receipts.clone();
            receipts.follow(&restorations);
            assert_ne!(handle(&before), handle(&receipts), "another secret");
            assert_eq!(before.read(&handle(&receipts)), None, "who goes on elsewhere knows nothing of it");
            assert_eq!(
                receipts.read(&handle(&before)),
                Some((receipt(), Made::Before(Epoch(epoch)))),
                "{place}"
            );
        }
        assert_eq!(receipts.read(&handle(&receipts)), Some((receipt(), Made::Here)));
        assert_eq!(receipts.read(&handle(&original)), Some((receipt(), Made::Before(Epoch(5)))));
        let due = |number| Due {
            at_ms: 9,
            number: QueueOffset(number),
        };
        for (number, read) in [(77, Ok((TopicId(3), due(77)))), (78, Err(NotOurs::After))] {
            assert_eq!(receipts.read_recall(&original.recall(TopicId(3), due(number))), read);
            let transaction = original.transaction(TopicId(3), QueueOffset(number));
            assert_eq!(
                receipts.read_transaction(&transaction),
                read.map(|(topic, due)| (topic, due.number))
            );
        }
        assert_eq!(
            receipts.read_recall(&original.recall(TopicId(4), due(0))),
            Err(NotOurs::After),
            "a later topic"
        );
        assert_eq!(
            receipts.read_recall(&receipts.recall(TopicId(4), due(99))),
            Ok((TopicId(4), due(99)))
        );
        let id = |receipts: &Receipts| receipts.given_id(TopicId(3), Scope::Shared(1), "id");
        assert_eq!(id(&receipts), id(&original), "ids are known by what they were known by");
        restorations.more = true;
        receipts.follow(&restorations);
        assert_eq!(receipts.read(&handle(&original)), None, "what is too long ago is nobody's");
    }
}
