//! What the shell does with the parts of the calendar: writes, merges, reads and removes them.

use sluice_core::effect::{FoundIn, PartDone, PartRead, PartSource, PartWork};
use sluice_core::input::Input;
use sluice_log::record::{Due, FarOff, PartFacts, PartId};
use sluice_log::{Following, LogError, SeenDelayed};
use sluice_protocol::ids::QueueOffset;

use crate::laws::Law;
use crate::shell::Shell;
use crate::world::World;

impl World {
    /// Does what the core wants done with parts.
    pub(crate) fn part_work(&mut self, work: PartWork) {
        // What would need room on a full disk is not begun, as by the server.
        let refused = !self.has_room() || (!self.healed && self.random.chance(1, 30));
        let Some(shell) = &self.shell else { return };
        let done = match work {
            PartWork::Write { part, .. } if refused => Ok(failed(part)),
            PartWork::Write { part, source } => match source {
                PartSource::Log { messages } => shell.reader.write_part(part, &messages).map(|written| match written {
                    Ok(written) => PartDone::Written {
                        part,
                        facts: Some(written.facts.unwrap_or_default()),
                        left_out: written.left_out,
                    },
                    Err(_) => failed(part),
                }),
                PartSource::Parts { parts, dead, topics } => {
                    let merged = shell.reader.merge_parts(part, &parts, &dead, &topics);
                    merged.map(|merged| merged.map_or_else(|_| failed(part), |facts| written(part, facts)))
                }
            },
            PartWork::Read { job, .. } if refused => Ok(PartDone::Read { job, found: None }),
            PartWork::Read {
                job,
                part,
                after,
                until_ms,
                most,
            } => {
                let most = if self.random.chance(1, 3) {
                    self.random.within(1..4) as usize
                } else {
                    most
                };
                let read = shell.reader.read_part(part, after, until_ms, most);
                let found = read.map(|read| read.map(followed));
                found.map(|found| PartDone::Read { job, found })
            }
            PartWork::Find { job, message, parts } => {
                let found = shell.reader.find_in_parts(message, &parts);
                let found = found.map(|found| found.map_or(FoundIn::None, FoundIn::Part));
                found.map(|found| PartDone::Found { job, found })
            }
            PartWork::Remove { .. } => unreachable!("the disk's thread removes parts"),
        };
        match done {
            Ok(done) => self.turn(vec![Input::Part(done)]),
            Err(error) => self.disk_failed("part", &error),
        }
    }

    /// Removes a part of which nothing is needed any more.
    pub(crate) fn remove_part(&mut self, part: PartId) {
        let Some(shell) = &mut self.shell else { return };
        if let Err(error) = shell.writer.remove_part(part) {
            self.disk_failed("remove a part", &error);
        }
    }

    /// Whatever waits retention leaves alone, or a part has it; and where it `took` segments, it can be read still.
    pub(crate) fn look_for_waiting(&mut self, took: bool) {
        let Some(shell) = &self.shell else { return };
        let state = shell.core.state();
        let parts: Vec<PartId> = state.parts.iter().map(|(part, _)| part).collect();
        let mut seen = SeenDelayed::default();
        for (&(topic, number), &at_ms) in &self.oracle.book.delays.waiting {
            let number = QueueOffset(number);
            let message = FarOff::new(topic, Due { at_ms, number });
            let is_left_alone = state.calendar_start(topic).is_some_and(|start| start <= number);
            let is_stored = match (took, is_left_alone) {
                (true, _) => matches!(shell.reader.delayed(message, &parts, &mut seen), Ok(Some(_))),
                (false, true) => true,
                (false, false) => matches!(shell.reader.find_in_parts(message, &parts), Ok(Some(_))),
            };
            self.oracle.court.demand(Law::WaitingIsStored, is_stored, || {
                format!("{message:?} waits, is in none of {parts:?}, and retention may take it from the log")
            });
        }
    }

    /// Once the shell has nothing to do any more there are the parts that state names, and no others.
    pub(crate) fn count_parts(&mut self) {
        let idle = |shell: &&Shell| shell.jobs.is_empty() && shell.disk.is_empty();
        let Some(shell) = self.shell.as_ref().filter(idle) else { return };
        let files = shell.reader.parts().map_err(|error: LogError| error.to_string());
        let named: Vec<PartId> = shell.core.state().parts.iter().map(|(part, _)| part).collect();
        self.oracle.court.demand(Law::NoPartIsLeft, files.as_ref() == Ok(&named), || {
            format!("there are the parts {files:?}, and state names {named:?}")
        });
    }
}

fn followed(following: Following) -> PartRead {
    let Following {
        messages,
        lost,
        point,
        next_ms,
        ..
    } = following;
    PartRead {
        messages,
        lost,
        point,
        next_ms,
    }
}

fn failed(part: PartId) -> PartDone {
    PartDone::Written {
        part,
        facts: None,
        left_out: Vec::<FarOff>::new(),
    }
}

fn written(part: PartId, facts: PartFacts) -> PartDone {
    PartDone::Written {
        part,
        facts: Some(facts),
        left_out: Vec::new(),
    }
}
