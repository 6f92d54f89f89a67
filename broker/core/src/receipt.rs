//! Receipt, recall and transaction handles: which lease of which message, or which delayed or prepared message, under a MAC, so that a
//! client can neither make nor change one.

use std::hash::Hasher;

use bytes::Bytes;
use siphasher::sip128::{Hasher128, SipHasher24};
use sluice_log::record::{CursorId, Due};
use sluice_protocol::ids::{Attempt, Epoch, GroupId, Pass, ProducerId, QueueId, QueueIndex, QueueOffset, TopicId};
use sluice_protocol::wire::{Reader, Writer};

use crate::planted::{self, Bug};

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

/// Whose ids the ids of messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// This producer's alone.
    Producer(ProducerId),
    /// Those of all that say this number.
    Shared(u64),
}

/// Makes and reads handles with the log's secret.
#[derive(Clone, Debug)]
pub(crate) struct Receipts {
    secret: [u8; 16],
}

impl Receipts {
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        Self { secret }
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
        to.bytes(&fields).u128(self.mac(&fields));
    }

    /// What a handle names; `None` when it is not one of this broker's.
    pub(crate) fn read(&self, handle: &Bytes) -> Option<Receipt> {
        let (fields, mac) = handle.split_at_checked(FIELDS_BYTES)?;
        // As one number, so that the time it takes tells nothing of where a forged one differs.
        if u128::from_le_bytes(mac.try_into().ok()?) != self.mac(fields) && !planted::is(Bug::MacUnverified) {
            return None;
        }
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
        Some(Receipt {
            priority,
            cursor: CursorId { group, queue },
            offset: QueueOffset(from.u64().ok()?),
            pass: Pass(from.u32().ok()?),
            epoch: Epoch(from.u32().ok()?),
            attempt: Attempt(from.u16().ok()?),
        })
    }

    /// The handle that recalls a delayed message.
    pub(crate) fn recall(&self, topic: TopicId, due: Due) -> [u8; RECALL_BYTES] {
        let mut handle = [0; RECALL_BYTES];
        handle[0] = RECALL_VERSION;
        handle[1..9].copy_from_slice(&topic.0.to_le_bytes());
        handle[9..17].copy_from_slice(&due.at_ms.to_le_bytes());
        handle[17..25].copy_from_slice(&due.number.0.to_le_bytes());
        let mac = self.mac(&handle[..RECALL_FIELDS_BYTES]);
        handle[RECALL_FIELDS_BYTES..].copy_from_slice(&mac.to_le_bytes());
        handle
    }

    /// Which delayed message a handle recalls; `None` when it is not one of this broker's.
    pub(crate) fn read_recall(&self, handle: &[u8]) -> Option<(TopicId, Due)> {
        let mut from = Reader::new(handle);
        let version = from.u8().ok()?;
        let topic = TopicId(from.u64().ok()?);
        let due = Due {
            at_ms: from.i64().ok()?,
            number: QueueOffset(from.u64().ok()?),
        };
        let mac = from.u128().ok()?;
        let is_ours = mac == self.mac(&handle[..RECALL_FIELDS_BYTES]) || planted::is(Bug::RecallHandleUnverified);
        let sound = version == RECALL_VERSION && from.remaining() == 0 && is_ours;
        sound.then_some((topic, due))
    }

    /// The handle that commits or rolls back a prepared message.
    pub(crate) fn transaction(&self, topic: TopicId, number: QueueOffset) -> [u8; TRANSACTION_BYTES] {
        let mut handle = [0; TRANSACTION_BYTES];
        handle[0] = TRANSACTION_VERSION;
        handle[1..9].copy_from_slice(&topic.0.to_le_bytes());
        handle[9..17].copy_from_slice(&number.0.to_le_bytes());
        let mac = self.mac(&handle[..TRANSACTION_FIELDS_BYTES]);
        handle[TRANSACTION_FIELDS_BYTES..].copy_from_slice(&mac.to_le_bytes());
        handle
    }

    /// Which prepared message a handle names; `None` when it is not one of this broker's.
    pub(crate) fn read_transaction(&self, handle: &[u8]) -> Option<(TopicId, QueueOffset)> {
        let mut from = Reader::new(handle);
        let version = from.u8().ok()?;
        let (topic, number) = (TopicId(from.u64().ok()?), QueueOffset(from.u64().ok()?));
        let mac = from.u128().ok()?;
        let is_ours = mac == self.mac(&handle[..TRANSACTION_FIELDS_BYTES]) || planted::is(Bug::TransactionHandleUnverified);
        let sound = version == TRANSACTION_VERSION && from.remaining() == 0 && is_ours;
        sound.then_some((topic, number))
    }

    /// SipHash-2-4 with 128 bits (Aumasson, Bernstein 2012): a keyed function, so a MAC for short inputs.
    /// What the id that a producer gave a message is known by: nobody without the secret finds two ids that are known by the same.
    pub(crate) fn given_id(&self, topic: TopicId, scope: Scope, id: &str) -> u128 {
        let mut fields = Writer::with_capacity(GIVEN_ID_FIELDS_BYTES + id.len());
        fields.u8(GIVEN_ID_VERSION).u64(topic.0);
        match scope {
            Scope::Producer(producer) => fields.u8(0).u128(producer.0),
            Scope::Shared(number) => fields.u8(1).u64(number),
        };
        fields.text(id);
        self.mac(&fields.finish())
    }

    fn mac(&self, fields: &[u8]) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(fields);
        hasher.finish128().as_u128()
    }
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
        assert_eq!(receipts.read(&handle(&receipts)), Some(receipt()));
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
        assert_eq!(receipts.read_recall(&recall), Some((TopicId(3), due)));
        for place in 0..RECALL_BYTES {
            let mut changed = recall;
            changed[place] ^= 1;
            assert_eq!(receipts.read_recall(&changed), None);
        }
        assert_eq!(Receipts::new([8; 16]).read_recall(&recall), None);
        assert_eq!(receipts.read_recall(&handle(&receipts)), None);
        assert_eq!(receipts.read_recall(&[&recall[..], b"x"].concat()), None);
        assert_eq!(receipts.read(&Bytes::copy_from_slice(&recall)), None);
    }

    #[test]
    fn a_transaction_handle_names_its_message_and_nothing_else_passes_for_one() {
        let receipts = Receipts::new([7; 16]);
        let transaction = receipts.transaction(TopicId(3), QueueOffset(77));
        assert_eq!(receipts.read_transaction(&transaction), Some((TopicId(3), QueueOffset(77))));
        for place in 0..TRANSACTION_BYTES {
            let mut changed = transaction;
            changed[place] ^= 1;
            assert_eq!(receipts.read_transaction(&changed), None);
        }
        assert_eq!(Receipts::new([8; 16]).read_transaction(&transaction), None);
        assert_eq!(receipts.read_transaction(&handle(&receipts)), None);
        assert_eq!(receipts.read_recall(&transaction), None);
        assert_eq!(receipts.read_transaction(&[&transaction[..], b"x"].concat()), None);
    }
}
