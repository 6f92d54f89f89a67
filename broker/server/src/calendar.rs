//! What the core wants done with the files of far-off messages: writing, merging and reading them, where blocking is allowed.

use sluice_core::effect::{FoundIn, PartDone, PartJobId, PartRead, PartSource, PartWork};
use sluice_core::input::Input;
use sluice_log::record::{PartFacts, PartId};
use sluice_log::{Following, LogError, LogReader};

use crate::lookup::Lookup;
use crate::panics::caught;
use crate::shard::StorageRoom;

impl Lookup {
    /// Does it, and tells the shard. The core has a bounded number of these under way. Removals are the disk's.
    pub(crate) fn part_work(&self, work: PartWork) {
        let Self { reader, shard, .. } = self.clone();
        let needs_room = matches!(work, PartWork::Write { .. } | PartWork::Read { .. });
        if needs_room && shard.storage_room() < StorageRoom::Enough {
            // What is read is recorded, and the reserve is not for that.
            return shard.tell(Input::Part(failed(&work)));
        }
        self.runtime.spawn_blocking(move || {
            let failed = failed(&work);
            match caught("working on a part of the calendar", || done(&reader, work)) {
                Ok(Ok(done)) => shard.tell(Input::Part(done)),
                Ok(Err(error)) => shard.storage_failed(error.to_string()),
                // The panic was logged.
                Err(_) => shard.tell(Input::Part(failed)),
            }
        });
    }
}

fn failed(work: &PartWork) -> PartDone {
    match work {
        PartWork::Write { part, .. } | PartWork::Remove { part } => unwritten(*part),
        PartWork::Read { job, .. } => unread(*job),
        PartWork::Find { job, .. } => PartDone::Found {
            job: *job,
            found: FoundIn::Unreadable,
        },
    }
}

fn unwritten(part: PartId) -> PartDone {
    PartDone::Written {
        part,
        facts: None,
        left_out: Vec::new(),
    }
}

fn unread(job: PartJobId) -> PartDone {
    PartDone::Read { job, found: None }
}

/// Does it; the disk's failure to write is an error.
fn done(reader: &LogReader, work: PartWork) -> Result<PartDone, LogError> {
    Ok(match work {
        PartWork::Write { part, source } => written(reader, part, source)?,
        PartWork::Read {
            job,
            part,
            after,
            until_ms,
            most,
        } => match reader.read_part(part, after, until_ms, most) {
            Ok(read) => PartDone::Read {
                job,
                found: read.map(followed),
            },
            Err(error) => {
                tracing::error!(%error, "messages that are nearly due cannot be read: they are late, and tried again");
                unread(job)
            }
        },
        PartWork::Find { job, message, parts } => PartDone::Found {
            job,
            found: match reader.find_in_parts(message, &parts) {
                Ok(found) => found.map_or(FoundIn::None, FoundIn::Part),
                Err(error) => {
                    tracing::error!(%error, "a message that is to be recalled cannot be looked for");
                    FoundIn::Unreadable
                }
            },
        },
        PartWork::Remove { part } => unwritten(part),
    })
}

fn written(reader: &LogReader, part: PartId, source: PartSource) -> Result<PartDone, LogError> {
    let (facts, left_out) = match source {
        PartSource::Log { messages } => match reader.write_part(part, &messages)? {
            Ok(written) => {
                if let Some(error) = written.unread {
                    tracing::error!(%error, messages = written.left_out.len(), "delayed messages cannot be read: they stay in the log");
                }
                (Ok(written.facts.unwrap_or_default()), written.left_out)
            }
            Err(error) => (Err(error), Vec::new()),
        },
        PartSource::Parts { parts, dead, topics } => (reader.merge_parts(part, &parts, &dead, &topics)?, Vec::new()),
    };
    Ok(PartDone::Written {
        part,
        facts: facts.map_err(log_failure).ok(),
        left_out,
    })
}

fn followed(following: Following) -> PartRead {
    let Following {
        messages,
        lost,
        damage,
        point,
        next_ms,
    } = following;
    if let Some(error) = damage {
        tracing::error!(%error, lost, "delayed messages are lost: which they are cannot be read any more");
    }
    PartRead {
        messages,
        lost,
        point,
        next_ms,
    }
}

fn log_failure(error: LogError) {
    match error {
        LogError::NoRoom { .. } => tracing::warn!("there is no room for a part of the calendar; it is tried again"),
        error => tracing::error!(%error, "parts of the calendar cannot be merged: they stay as they are"),
    }
}

/// The parts that state names, and what each is to hold.
pub(crate) fn named(core: &sluice_core::Core) -> std::collections::BTreeMap<PartId, PartFacts> {
    core.state().parts.iter().map(|(part, of)| (part, of.facts)).collect()
}
