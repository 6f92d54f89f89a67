//! Holds what the broker confirmed and delivered against what it promises. It knows nothing of the broker but the answers.

mod law;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use sluice_client::{RecallHandle, TransactionHandle};
use sluice_protocol::ids::MessageId;

pub(crate) use law::{Counts, Law};

/// The stamp by which a message expires is taken before what is asked reaches the core: by so much it may lie before the question.
const STAMP_BEFORE_QUESTION_MS: i64 = 1_000;

/// What was asked about a message after it was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Recall,
    Commit,
    RollBack,
}

/// What is to become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is to be delivered.
    Stored,
    /// It is prepared, and nobody has decided.
    Undecided,
    /// What was asked and not answered: done or not.
    Asked(Ask),
    Recalled,
    RolledBack,
}

/// A message as it was sent and confirmed.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) digest: u64,
    pub(crate) prepared: bool,
    /// Whether its time to live may be over before anybody asks for it.
    pub(crate) may_expire: bool,
    /// Whether consumers always give it back.
    pub(crate) poison: bool,
}

/// What decides about a message that waits.
#[derive(Clone, Debug)]
pub(crate) enum Handle {
    Recall(RecallHandle, i64),
    Transaction(TransactionHandle),
}

/// A message as it was delivered.
#[derive(Clone, Debug)]
pub(crate) struct Delivered {
    pub(crate) id: MessageId,
    pub(crate) place: (u16, u64),
    pub(crate) digest: u64,
    pub(crate) prepared: bool,
    pub(crate) due_ms: Option<i64>,
    /// When its time to live is over.
    pub(crate) expires_ms: Option<i64>,
    /// Its message group, and its number among the sends to it.
    pub(crate) ordered: Option<(String, u64)>,
    /// When it was asked for, and when it was here.
    pub(crate) asked_ms: i64,
    pub(crate) at_ms: i64,
}

/// A group's view.
#[derive(Default)]
struct Reader {
    seen: HashSet<MessageId>,
    ack_asked: HashSet<MessageId>,
    nacked: HashSet<MessageId>,
    acked: HashSet<MessageId>,
    /// The newest of each message group, in a group that keeps their order.
    newest: Option<HashMap<String, (u64, MessageId)>>,
    /// Whether it was asked to begin anew: in each pass a message may become a dead letter.
    sought: bool,
}

/// Everything confirmed and delivered since the last check, and the first promise that was broken.
#[derive(Default)]
pub(crate) struct Audit {
    sent: HashMap<MessageId, (Sent, Standing)>,
    places: HashMap<MessageId, (u16, u64)>,
    readers: BTreeMap<&'static str, Reader>,
    /// What somebody may still decide about, and what was asked about and not answered.
    pub(crate) waiting: Vec<(MessageId, Handle)>,
    pub(crate) unanswered: Vec<(MessageId, TransactionHandle, Ask)>,
    /// The most queues to which the topic grew.
    queues: usize,
    violation: Option<String>,
    counts: Counts,
}

impl Audit {
    /// A group that reads; whether it keeps the order of message groups.
    pub(crate) fn reader(&mut self, name: &'static str, ordered: bool) {
        self.readers.entry(name).or_default().newest = ordered.then(HashMap::new);
    }

    /// A message is confirmed.
    pub(crate) fn confirm(&mut self, id: MessageId, sent: Sent) {
        let standing = if sent.prepared { Standing::Undecided } else { Standing::Stored };
        if self.sent.insert(id, (sent, standing)).is_some() {
            self.violate(Law::StoredOnce, format!("two messages were confirmed as {id}"));
        }
    }

    /// Something is asked about a message.
    pub(crate) fn ask(&mut self, id: MessageId, ask: Ask) {
        if let Some((_, standing)) = self.sent.get_mut(&id) {
            *standing = Standing::Asked(ask);
        }
    }

    /// What was asked is confirmed.
    pub(crate) fn done(&mut self, id: MessageId, ask: Ask) {
        let Some((_, standing)) = self.sent.get_mut(&id) else { return };
        let law = match ask {
            Ask::Recall => Law::RecalledNever,
            Ask::RollBack => Law::RolledBackNever,
            Ask::Commit => Law::PreparedUnseen,
        };
        *standing = match ask {
            Ask::Recall => Standing::Recalled,
            Ask::RollBack => Standing::RolledBack,
            Ask::Commit => Standing::Stored,
        };
        self.count(law);
        if *self.standing(id) != Standing::Stored && self.places.contains_key(&id) {
            self.violate(law, format!("message {id} was delivered before, and {ask:?} is confirmed"));
        }
    }

    /// A recall is refused, as one of a message that does not wait.
    pub(crate) fn not_waiting(&mut self, id: MessageId, due_ms: i64, at_ms: i64) {
        if at_ms < due_ms {
            self.violate(
                Law::NothingLost,
                format!("message {id} does not wait, {} ms before its time", due_ms - at_ms),
            );
        }
        if let Some((_, standing)) = self.sent.get_mut(&id) {
            *standing = Standing::Stored;
        }
    }

    /// A message came to a group.
    pub(crate) fn deliver(&mut self, name: &'static str, message: &Delivered) {
        let id = message.id;
        self.count(Law::StoredOnce);
        if *self.places.entry(id).or_insert(message.place) != message.place {
            self.violate(Law::StoredOnce, format!("message {id} is stored in two places"));
        }
        let known = self.sent.get(&id).map(|(sent, standing)| (sent.digest, *standing));
        if known.is_some_and(|(digest, _)| digest != message.digest) {
            self.violate(Law::StoredOnce, format!("message {id} was delivered other than it was sent"));
        }
        if let Some(due_ms) = message.due_ms {
            self.count(Law::NotEarly);
            if message.at_ms < due_ms {
                self.violate(Law::NotEarly, format!("message {id} came {} ms early", due_ms - message.at_ms));
            }
        }
        if let Some(expires_ms) = message.expires_ms {
            self.count(Law::ExpiredNever);
            if message.asked_ms > expires_ms + STAMP_BEFORE_QUESTION_MS {
                let late = message.asked_ms - expires_ms;
                self.violate(
                    Law::ExpiredNever,
                    format!("message {id} was over {late} ms before it was asked for"),
                );
            }
        }
        self.held_back(message, known.map(|(_, standing)| standing));
        self.read(name, message);
    }

    /// Whether a message that came was one to be held back.
    fn held_back(&mut self, message: &Delivered, standing: Option<Standing>) {
        let id = message.id;
        match standing {
            Some(Standing::Recalled) => self.violate(Law::RecalledNever, format!("message {id} came after its recall")),
            Some(Standing::RolledBack) => self.violate(Law::RolledBackNever, format!("message {id} came after its roll-back")),
            Some(Standing::Undecided | Standing::Asked(Ask::RollBack)) => {
                self.violate(Law::PreparedUnseen, format!("message {id} came, and nobody asked for its commit"));
            }
            None if message.prepared => self.violate(
                Law::PreparedUnseen,
                format!("message {id} came before it was confirmed as prepared"),
            ),
            None | Some(Standing::Stored | Standing::Asked(Ask::Recall | Ask::Commit)) => {}
        }
    }

    /// Whether the group was to get it now.
    fn read(&mut self, name: &'static str, message: &Delivered) {
        let id = message.id;
        let reader = self.readers.entry(name).or_default();
        let again = reader.acked.contains(&id);
        reader.seen.insert(id);
        let mut order = None;
        if let (Some(newest), Some((group, number))) = (&mut reader.newest, &message.ordered) {
            order = Some(match newest.get(group) {
                Some((before, _)) if before > number => Err(format!("message {number} of {group} came after message {before}")),
                Some((before, last)) if before < number && !reader.ack_asked.contains(last) && !reader.nacked.contains(last) => {
                    Err(format!("message {number} of {group} came while message {before} was under way"))
                }
                Some(_) | None => Ok(()),
            });
            newest.insert(group.clone(), (*number, id));
        }
        if again {
            self.violate(
                Law::AckedNever,
                format!("message {id} was delivered to {name} after its acknowledgement was confirmed"),
            );
        }
        if let Some(order) = order {
            self.count(Law::OrderKept);
            if let Err(what) = order {
                self.violate(Law::OrderKept, what);
            }
        }
    }

    /// A group asks to settle these.
    pub(crate) fn ack_asked(&mut self, name: &'static str, ids: impl IntoIterator<Item = MessageId>) {
        self.readers.entry(name).or_default().ack_asked.extend(ids);
    }

    /// A group gives these back.
    pub(crate) fn nack_asked(&mut self, name: &'static str, ids: impl IntoIterator<Item = MessageId>) {
        self.readers.entry(name).or_default().nacked.extend(ids);
    }

    /// These acknowledgements are confirmed.
    pub(crate) fn acked(&mut self, name: &'static str, ids: impl IntoIterator<Item = MessageId>) {
        for id in ids {
            if self.readers.entry(name).or_default().acked.insert(id) {
                self.count(Law::AckedNever);
            }
        }
    }

    /// A group asks to begin anew: from now on everything may come again.
    pub(crate) fn seek_asked(&mut self, name: &'static str) {
        let reader = self.readers.entry(name).or_default();
        reader.sought = true;
        reader.acked.clear();
    }

    /// The seek is confirmed: from now on everything is to come again.
    pub(crate) fn sought(&mut self, name: &'static str) {
        self.readers.entry(name).or_default().seen.clear();
    }

    /// The topic is confirmed to have grown to so many queues.
    pub(crate) fn grown(&mut self, queues: usize) {
        self.count(Law::GrowthKept);
        self.queues = self.queues.max(queues);
    }

    /// So many queues the topic has.
    pub(crate) fn has_queues(&mut self, queues: usize) {
        if queues < self.queues {
            let grown = self.queues;
            self.violate(Law::GrowthKept, format!("the topic has {queues} queues, and had grown to {grown}"));
        }
    }

    /// A group has nothing left: holds what it got, and its dead letters, against all that was confirmed.
    pub(crate) fn drained(&mut self, name: &'static str, letters: &[MessageId]) {
        let reader = self.readers.remove(name).unwrap_or_default();
        let mut lettered = HashSet::new();
        for id in letters {
            if !lettered.insert(*id) && !reader.sought {
                self.violate(Law::DeadLettered, format!("message {id} is twice a dead letter of {name}"));
            }
            if reader.acked.contains(id) && !reader.sought {
                self.violate(
                    Law::AckedNever,
                    format!("message {id} is a dead letter of {name}, and was acknowledged"),
                );
            }
        }
        let (mut lost, mut unlettered, mut kept) = (0, 0, [0; 2]);
        for (id, (sent, standing)) in &self.sent {
            if *standing != Standing::Stored || sent.may_expire {
                continue;
            }
            kept[0] += 1;
            lost += u64::from(!reader.seen.contains(id) && !lettered.contains(id));
            kept[1] += u64::from(sent.poison);
            unlettered += u64::from(sent.poison && !lettered.contains(id));
        }
        let law = if reader.sought { Law::SeekKept } else { Law::NothingLost };
        self.counts[law as usize] += kept[0];
        self.counts[Law::DeadLettered as usize] += kept[1];
        if lost > 0 {
            self.violate(law, format!("{lost} of {} messages were never delivered to {name}", kept[0]));
        }
        if unlettered > 0 {
            self.violate(
                Law::DeadLettered,
                format!("{unlettered} of {} messages are no dead letters of {name}", kept[1]),
            );
        }
        self.readers.insert(name, reader);
    }

    /// Which prepared messages the broker says to be undecided.
    pub(crate) fn undecided(&mut self, listed: &HashSet<String>) {
        let mut gone = 0;
        for (id, (_, standing)) in &self.sent {
            if *standing == Standing::Undecided {
                self.counts[Law::PreparedUnseen as usize] += 1;
                gone += u64::from(!listed.contains(&id.to_string()));
            }
        }
        if gone > 0 {
            self.violate(Law::PreparedUnseen, format!("{gone} undecided messages are gone"));
        }
    }

    /// A promise was broken; the first is kept.
    pub(crate) fn violate(&mut self, law: Law, what: String) {
        self.violation.get_or_insert(format!("{}: {what}", law.name()));
    }

    /// The first broken promise.
    pub(crate) fn violation(&self) -> Option<String> {
        self.violation.clone()
    }

    /// How many messages are confirmed.
    pub(crate) fn confirmed(&self) -> usize {
        self.sent.len()
    }

    /// How many messages all groups got, and how many acknowledgements of theirs are confirmed.
    pub(crate) fn read_and_acked(&self) -> (usize, usize) {
        let readers = self.readers.values();
        readers.fold((0, 0), |(seen, acked), reader| {
            (seen + reader.seen.len(), acked + reader.acked.len())
        })
    }

    /// How often each law was put to the test.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    fn standing(&self, id: MessageId) -> &Standing {
        self.sent.get(&id).map_or(&Standing::Stored, |(_, standing)| standing)
    }

    fn count(&mut self, law: Law) {
        self.counts[law as usize] += 1;
    }
}

/// What makes a message the one that was sent.
pub(crate) fn digest(body: &[u8], priority: u8, group: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (body, priority, group).hash(&mut hasher);
    hasher.finish()
}
