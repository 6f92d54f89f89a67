//! How a record is written: a fixed beginning (kind, version, the two clocks), then its fields, then its batch where it has one.
//!
//! A kind's number is never used again for another kind, and a version of a kind is never read as another.

use bytes::Bytes;
use sluice_protocol::ids::{Digest, Epoch, GroupId, Pass, ProducerId, QueueOffset, TopicId};
use sluice_protocol::units::Now;
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::delay::{put_delay, take_delay};
use super::expiry::{put_expiry, put_lifetime, take_expiry, take_lifetime};
use super::failure::{put_on_failure, take_on_failure};
use super::fields::{put_filter, put_group_settings, put_losses, put_queue, put_starts};
use super::fields::{take_filter, take_group_settings, take_losses, take_queue, take_starts};
use super::flow::{put_flow, take_flow};
use super::given_ids::{self, put_given_ids, take_given_ids};
use super::lanes::{needs_version_2, put_extension, take_extension};
use super::operated::{self, put_operated};
use super::parts::{self, put_part, take_part};
use super::restoration::{RESTORED, put_restoration, take_restoration};
use super::sharing::{put_sharing, take_sharing};
use super::transaction::{self, put_transaction, take_transaction};
use super::{Change, Fate, OnExpired, OnFailure, PluginLimits, Record, TopicSettings, kind};

/// The highest version of a kind. Every version below it is read, too.
fn version(kind: u16) -> u16 {
    match kind {
        // Version 2 says what becomes of the messages that the plugin fails on.
        kind::PLUGIN_BOUND => 2,
        // Version 2 says how long messages live.
        kind::TOPIC_CREATED => 2,
        // Version 2 speaks of priorities and order.
        kind::GRANTED | kind::FRONTIER_MOVED | kind::CULPRIT_DECIDED | operated::DEAD_LETTERS_DEALT => 2,
        // Version 2 says what groups lost.
        kind::TRIMMED => 2,
        // Version 3 says who gets the messages.
        kind::GROUP_CREATED => 3,
        _ => 1,
    }
}

/// The version in which a change is written: the lowest that has room for what it says, where there is a choice.
fn written_version(change: &Change) -> u16 {
    if let Change::GroupCreated { settings, .. } = change {
        return settings.version().into();
    }
    match number(change) {
        kind::TOPIC_CREATED
        | kind::GRANTED
        | kind::FRONTIER_MOVED
        | kind::CULPRIT_DECIDED
        | kind::TRIMMED
        | operated::DEAD_LETTERS_DEALT => 1 + u16::from(needs_version_2(change)),
        kind => version(kind),
    }
}

/// Kind, version and the two clocks.
pub const RECORD_HEADER_BYTES: usize = 20;

/// Bytes that are not a record this version can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A kind that this version does not know.
    #[error("record kind {0} is not known: a newer version wrote this log")]
    Kind(u16),
    /// A version of a kind that this version does not know.
    #[error("record kind {kind} has version {version}, which is not known: a newer version wrote this log")]
    Version {
        /// The kind.
        kind: u16,
        /// Its version.
        version: u16,
    },
    /// The fields do not fit the bytes.
    #[error("a record is malformed: {0}")]
    Malformed(#[from] WireError),
}

/// The beginning of an encoded record: its kind's number and its stamp.
pub fn peek(record: &[u8]) -> Result<(u16, Now), RecordError> {
    let mut reader = Reader::new(record);
    let kind = reader.u16()?;
    check_version(kind, reader.u16()?)?;
    Ok((
        kind,
        Now {
            wall_ms: reader.i64()?,
            mono_ms: reader.u64()?,
        },
    ))
}

/// Whether records of this kind may have a batch.
pub(super) fn may_store(kind: u16) -> bool {
    matches!(
        kind,
        kind::APPENDED | kind::DEAD_LETTERED | kind::CULPRIT_DECIDED | kind::DELAYED | kind::RELEASED
    ) || transaction::may_store(kind)
}

/// Demands that a version of a kind can be read.
fn check_version(kind: u16, found: u16) -> Result<u16, RecordError> {
    if (1..=version(kind)).contains(&found) {
        Ok(found)
    } else {
        Err(RecordError::Version { kind, version: found })
    }
}

impl Record {
    /// The record as the log holds it.
    pub fn encode(&self) -> Bytes {
        let batch_bytes = match &self.change {
            Change::Appended { batch, .. }
            | Change::DeadLettered { batch, .. }
            | Change::CulpritDecided {
                fate: Fate::DeadLettered { batch, .. },
                ..
            } => batch.len(),
            Change::Delayed { due_ms, batch, .. } => 8 * due_ms.len() + batch.len(),
            Change::Released { due, batch, .. } => 16 * due.len() + batch.len(),
            Change::Transaction(transaction) => transaction::large_bytes(transaction),
            Change::GivenIds(given) => given_ids::large_bytes(given),
            Change::Restored(restoration) => 16 * restoration.numbers.len(),
            Change::Parts(change) => parts::large_bytes(change),
            _ => 64,
        };
        let mut out = Writer::with_capacity(RECORD_HEADER_BYTES + 64 + batch_bytes);
        self.encode_into(&mut out);
        out.finish()
    }

    /// Writes the record as the log holds it at the end of `out`.
    pub fn encode_into(&self, out: &mut Writer) {
        out.u16(number(&self.change))
            .u16(written_version(&self.change))
            .i64(self.at.wall_ms)
            .u64(self.at.mono_ms);
        put_definition(&self.change, out);
        put_flow(&self.change, out);
        put_delay(&self.change, out);
        put_expiry(&self.change, out);
        if let Change::Transaction(transaction) = &self.change {
            put_transaction(out, transaction);
        }
        if let Change::GivenIds(given) = &self.change {
            put_given_ids(out, given);
        }
        if let Change::Restored(restoration) = &self.change {
            put_restoration(out, restoration);
        }
        if let Change::Parts(change) = &self.change {
            put_part(out, change);
        }
    }

    /// Reads a record that fills `bytes` whole. Batches share the memory of `bytes`.
    ///
    /// # Errors
    /// [`RecordError`] for an unknown kind or version and for fields that do not fit.
    pub fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        let (number, at) = peek(bytes)?;
        let mut from = Reader::new(&bytes[RECORD_HEADER_BYTES..]);
        let version = u16::from_le_bytes([bytes[2], bytes[3]]);
        let change = take_change(number, version, &mut from, bytes)?;
        from.finish()?;
        Ok(Self { at, change })
    }
}

/// The number of a change's kind.
fn number(change: &Change) -> u16 {
    match change {
        Change::Opened { .. } => kind::OPENED,
        Change::TopicCreated { .. } => kind::TOPIC_CREATED,
        Change::TopicDeleted { .. } => kind::TOPIC_DELETED,
        Change::GroupCreated { .. } => kind::GROUP_CREATED,
        Change::GroupDeleted { .. } => kind::GROUP_DELETED,
        Change::Subscribed { .. } => kind::SUBSCRIBED,
        Change::PluginBound { .. } => kind::PLUGIN_BOUND,
        Change::Appended { .. } => kind::APPENDED,
        Change::Granted { .. } => kind::GRANTED,
        Change::FrontierMoved { .. } => kind::FRONTIER_MOVED,
        Change::Settled { .. } => kind::SETTLED,
        Change::Returned { .. } => kind::RETURNED,
        Change::Extended { .. } => kind::EXTENDED,
        Change::DeadLettered { .. } => kind::DEAD_LETTERED,
        Change::Sought { .. } => kind::SOUGHT,
        Change::Trimmed { .. } => kind::TRIMMED,
        Change::ProducerForgotten { .. } => kind::PRODUCER_FORGOTTEN,
        Change::CulpritDecided { .. } => kind::CULPRIT_DECIDED,
        Change::SubscriptionHeld { .. } => kind::SUBSCRIPTION_HELD,
        Change::SubscriptionResumed { .. } => kind::SUBSCRIPTION_RESUMED,
        Change::Operated(operated) => operated::number(operated),
        Change::Transaction(transaction) => transaction::number(transaction),
        Change::GivenIds(given) => given_ids::number(given),
        Change::Restored(_) => RESTORED,
        Change::Parts(change) => parts::number(change),
        Change::Delayed { .. } => kind::DELAYED,
        Change::Released { .. } => kind::RELEASED,
        Change::Recalled { .. } => kind::RECALLED,
        Change::Prioritized { .. } => kind::PRIORITIZED,
        Change::Expiring { .. } => kind::EXPIRING,
        Change::DeadlinesFound { .. } => kind::DEADLINES_FOUND,
        Change::Expired { .. } => kind::EXPIRED,
    }
}

/// Writes the fields of a change to what there is: topics, groups, plugins, and where reading and keeping begin.
fn put_definition(change: &Change, out: &mut Writer) {
    match change {
        Change::Opened { epoch } => {
            out.u32(epoch.0);
        }
        Change::TopicCreated { topic, name, settings } => {
            out.u64(topic.0)
                .text(name)
                .u16(settings.queues)
                .u64(settings.retention_ms)
                .u64(settings.retention_bytes);
            if settings.is_extended() {
                put_lifetime(out, settings);
            }
        }
        Change::TopicDeleted { topic } => {
            out.u64(topic.0);
        }
        Change::GroupCreated { group, name, settings } => {
            put_group_settings(out.u64(group.0).text(name), settings);
            if settings.version() > 1 {
                put_extension(out, settings);
            }
            if settings.version() > 2 {
                put_sharing(out, settings.sharing);
            }
        }
        Change::GroupDeleted { group } => {
            out.u64(group.0);
        }
        Change::Subscribed {
            group,
            topic,
            filter,
            starts,
        } => {
            put_filter(out.u64(group.0).u64(topic.0), filter);
            put_starts(out, starts);
        }
        Change::PluginBound {
            name,
            digest,
            limits,
            on_failure,
        } => {
            out.text(name).bytes(&digest.0);
            out.u64(limits.fuel_per_run)
                .u64(limits.fuel_per_message)
                .u32(limits.run_ms)
                .u64(limits.memory_bytes);
            put_on_failure(out, *on_failure);
        }
        Change::SubscriptionHeld {
            group,
            topic,
            digest,
            reason,
        } => {
            out.u64(group.0).u64(topic.0).bytes(&digest.0).text(reason);
        }
        Change::SubscriptionResumed { group, topic } => {
            out.u64(group.0).u64(topic.0);
        }
        Change::Sought {
            group,
            topic,
            pass,
            starts,
        } => {
            put_starts(out.u64(group.0).u64(topic.0).u32(pass.0), starts);
        }
        Change::Trimmed { queue, start, lost } => {
            put_queue(out, *queue).u64(start.0);
            if needs_version_2(change) {
                put_losses(out, lost);
            }
        }
        Change::Operated(operated) => put_operated(out, operated),
        Change::ProducerForgotten { producer } => {
            out.u128(producer.0);
        }
        Change::Prioritized {
            queue,
            first,
            end,
            priorities,
        } => {
            put_queue(out, *queue).u64(first.0).u64(end.0).u16(*priorities);
        }
        Change::Appended { .. }
        | Change::Granted { .. }
        | Change::FrontierMoved { .. }
        | Change::Settled { .. }
        | Change::Returned { .. }
        | Change::Extended { .. }
        | Change::DeadLettered { .. }
        | Change::CulpritDecided { .. }
        | Change::Delayed { .. }
        | Change::Released { .. }
        | Change::Recalled { .. }
        | Change::Expiring { .. }
        | Change::DeadlinesFound { .. }
        | Change::Expired { .. }
        | Change::Transaction(_)
        | Change::GivenIds(_)
        | Change::Restored(_)
        | Change::Parts(_) => {}
    }
}

/// Reads the fields of a change, in the order in which they are written.
fn take_change(number: u16, version: u16, from: &mut Reader<'_>, whole: &Bytes) -> Result<Change, RecordError> {
    Ok(match number {
        kind::OPENED => Change::Opened { epoch: Epoch(from.u32()?) },
        kind::TOPIC_CREATED => {
            let (topic, name) = (TopicId(from.u64()?), from.text()?.to_string());
            let mut settings = TopicSettings {
                queues: from.u16()?,
                retention_ms: from.u64()?,
                retention_bytes: from.u64()?,
                ttl_ms: 0,
                on_expired: OnExpired::Skip,
            };
            if version > 1 {
                take_lifetime(from, &mut settings)?;
            }
            Change::TopicCreated { topic, name, settings }
        }
        kind::TOPIC_DELETED => Change::TopicDeleted {
            topic: TopicId(from.u64()?),
        },
        kind::GROUP_CREATED => {
            let (group, name) = (GroupId(from.u64()?), from.text()?.to_string());
            let mut settings = take_group_settings(from)?;
            if version > 1 {
                take_extension(from, &mut settings)?;
            }
            if version > 2 {
                settings.sharing = take_sharing(from)?;
            }
            Change::GroupCreated { group, name, settings }
        }
        kind::GROUP_DELETED => Change::GroupDeleted {
            group: GroupId(from.u64()?),
        },
        kind::SUBSCRIBED => Change::Subscribed {
            group: GroupId(from.u64()?),
            topic: TopicId(from.u64()?),
            filter: take_filter(from)?,
            starts: take_starts(from)?,
        },
        kind::PLUGIN_BOUND => {
            let (name, digest) = (from.text()?.to_string(), Digest(from.array()?));
            let (fuel_per_run, fuel_per_message, run_ms) = (from.u64()?, from.u64()?, from.u32()?);
            Change::PluginBound {
                name,
                digest,
                limits: PluginLimits {
                    fuel_per_run,
                    fuel_per_message,
                    run_ms,
                    memory_bytes: from.u64()?,
                },
                on_failure: match version {
                    1 => OnFailure::DeadLetter,
                    _ => take_on_failure(from)?,
                },
            }
        }
        kind::SUBSCRIPTION_HELD => Change::SubscriptionHeld {
            group: GroupId(from.u64()?),
            topic: TopicId(from.u64()?),
            digest: Digest(from.array()?),
            reason: from.text()?.to_string(),
        },
        kind::SUBSCRIPTION_RESUMED => Change::SubscriptionResumed {
            group: GroupId(from.u64()?),
            topic: TopicId(from.u64()?),
        },
        kind::SOUGHT => Change::Sought {
            group: GroupId(from.u64()?),
            topic: TopicId(from.u64()?),
            pass: Pass(from.u32()?),
            starts: take_starts(from)?,
        },
        kind::TRIMMED => Change::Trimmed {
            queue: take_queue(from)?,
            start: QueueOffset(from.u64()?),
            lost: if version > 1 { take_losses(from)? } else { Vec::new() },
        },
        kind::PRODUCER_FORGOTTEN => Change::ProducerForgotten {
            producer: ProducerId(from.u128()?),
        },
        kind::PRIORITIZED => Change::Prioritized {
            queue: take_queue(from)?,
            first: QueueOffset(from.u64()?),
            end: QueueOffset(from.u64()?),
            priorities: from.u16()?,
        },
        kind::DELAYED | kind::RELEASED | kind::RECALLED => return take_delay(number, from, whole),
        kind::EXPIRING | kind::DEADLINES_FOUND | kind::EXPIRED => return take_expiry(number, from),
        other if parts::is_part(other) => Change::Parts(take_part(other, from)?),
        RESTORED => Change::Restored(take_restoration(from)?),
        other if given_ids::is_given_ids(other) => Change::GivenIds(take_given_ids(other, from)?),
        other if transaction::is_transaction(other) => Change::Transaction(take_transaction(other, from, whole)?),
        other => return take_flow(other, version, from, whole),
    })
}
