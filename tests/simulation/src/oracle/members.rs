//! What must hold of broadcast groups: where members begin, what rules them, what concerns all of them, and when they are forgotten.

use std::collections::{BTreeMap, BTreeSet};

use sluice_core::effect::{Answer, Effect, Taker};
use sluice_core::input::{Admin, ConnectionId, Consume, Input, NamedBy, RequestId, SubscriptionId};
use sluice_log::record::{CursorId, Filter, GroupSettings, QueueStart, Sharing, StartPoint};
use sluice_protocol::ids::{GroupId, Pass, QueueId, TopicId};

use super::book::Book;
use super::cursor::Cursor;
use crate::laws::{Court, Law};

/// Longer than a receive waits, with what it may wait for beyond that.
const RECEIVE_MS_MAX: u64 = 4_500;

/// What is known of members from outside of the log.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// After so long one is forgotten.
    pub absent_ms: u64,
    opening: BTreeMap<RequestId, (SubscriptionId, Open)>,
    open: BTreeMap<SubscriptionId, Open>,
    receives: BTreeMap<RequestId, (u64, String)>,
    /// When each was surely there last, on the monotonic clock.
    seen_mono_ms: BTreeMap<String, u64>,
    /// Until when each may have been there.
    maybe_mono_ms: BTreeMap<String, u64>,
    /// The passes of the members when a seek or a purge of their group was asked for.
    seeks: BTreeMap<RequestId, Vec<(CursorId, Pass)>>,
    /// Where retention was asked to go to, as far as that was stored.
    trims: BTreeSet<(QueueId, u64)>,
    started_mono_ms: u64,
    now_mono_ms: u64,
}

/// A stream of a member.
#[derive(Clone, Debug)]
struct Open {
    name: String,
    topic: String,
    connection: ConnectionId,
    since_mono_ms: u64,
    /// Since when it may be over: another member asked for another filter then, and the broker has not said what came of it.
    maybe_over_mono_ms: Option<u64>,
    filter: Filter,
}

fn name_of(ask: &Consume) -> String {
    format!("{}/{}", ask.group, ask.member)
}

impl Members {
    /// An input is about to be handed to the core.
    pub(super) fn hears(&mut self, mono_ms: u64, input: &Input, book: &Book) {
        self.now_mono_ms = mono_ms;
        match input {
            Input::Subscribe {
                request,
                subscription,
                connection,
                ask,
                ..
            } if ask.named_by == NamedBy::Member => {
                self.maybe_ended(mono_ms, ask);
                let open = Open {
                    maybe_over_mono_ms: None,
                    filter: ask.filter.clone(),
                    name: name_of(ask),
                    topic: ask.topic.clone(),
                    connection: *connection,
                    since_mono_ms: mono_ms,
                };
                self.maybe_mono_ms.insert(name_of(ask), mono_ms);
                self.opening.insert(*request, (*subscription, open));
            }
            Input::Receive { request, ask, .. } if ask.named_by == NamedBy::Member => {
                self.maybe_ended(mono_ms, ask);
                self.maybe_mono_ms.insert(name_of(ask), mono_ms + RECEIVE_MS_MAX);
                self.receives.insert(*request, (mono_ms, name_of(ask)));
            }
            Input::Unsubscribe { subscription, .. } => self.left(|id, _| id == *subscription, Some(mono_ms)),
            Input::Disconnected { connection } => {
                self.opening.retain(|_, (_, open)| open.connection != *connection);
                self.left(|_, open| open.connection == *connection, Some(mono_ms));
            }
            Input::Admin {
                request,
                admin: Admin::Seek { group, topic, queue, .. },
            } => {
                let all = book.of_members(group, topic);
                let meant = all.filter(|(cursor, _)| queue.is_none_or(|queue| cursor.queue.index == queue));
                self.seeks.insert(*request, meant.collect());
            }
            Input::Admin {
                request,
                admin: Admin::PurgeGroup { group, topic },
            } => drop(self.seeks.insert(*request, book.of_members(group, topic).collect())),
            _ => {}
        }
    }

    /// An effect came out of the core.
    pub(super) fn says(&mut self, effect: &Effect, book: &Book, court: &mut Court) {
        match effect {
            Effect::Answer { request, answer } => {
                let opening = self.opening.remove(request);
                self.receives.remove(request);
                let seek = self.seeks.remove(request).unwrap_or_default();
                match answer {
                    Ok(Answer::Subscribed { .. }) => self.open.extend(opening),
                    Ok(Answer::Done | Answer::Purged { .. }) => {
                        for (cursor, pass) in seek {
                            let now = book.cursors.get(&cursor).map(|model| model.pass);
                            court.demand(Law::SeekOfAllMembers, now.is_none_or(|now| now > pass), || {
                                format!("{cursor:?} was in {pass:?} before a seek of its group, and is in {now:?}")
                            });
                        }
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            Effect::Deliver(delivery) => {
                if let Taker::Receive { request, .. } = &delivery.taker
                    && let Some((asked_mono_ms, name)) = self.receives.remove(request)
                {
                    self.was_there(name, asked_mono_ms);
                }
            }
            Effect::StreamEnded { subscription, .. } => self.left(|id, _| id == *subscription, None),
            _ => {}
        }
    }

    /// A filter that is new to its group may end the streams of the others at once, though that is told when it is durable.
    fn maybe_ended(&mut self, mono_ms: u64, ask: &Consume) {
        let of_group = format!("{}/", ask.group);
        let others = self
            .open
            .values_mut()
            .filter(|open| open.topic == ask.topic && open.name.starts_with(&of_group));
        for open in others.filter(|open| open.filter != ask.filter) {
            open.maybe_over_mono_ms.get_or_insert(mono_ms);
        }
    }

    fn was_there(&mut self, name: String, mono_ms: u64) {
        let seen = self.seen_mono_ms.entry(name).or_default();
        *seen = mono_ms.max(*seen);
    }

    /// These streams are over, at a time that is known or at some time since they were opened.
    fn left(&mut self, which: impl Fn(SubscriptionId, &Open) -> bool, at_mono_ms: Option<u64>) {
        let gone: Vec<SubscriptionId> = self.open.iter().filter(|(id, open)| which(**id, open)).map(|(id, _)| *id).collect();
        for open in gone.into_iter().filter_map(|id| self.open.remove(&id)).collect::<Vec<_>>() {
            self.maybe_mono_ms.insert(open.name.clone(), self.now_mono_ms);
            let over = open.maybe_over_mono_ms.or(at_mono_ms);
            self.was_there(open.name, over.unwrap_or(open.since_mono_ms));
        }
    }

    /// Another filter rules a member, or its topic is gone: its streams end.
    pub(super) fn ended(&mut self, name: Option<&String>, topic: Option<&String>) {
        let meant = |open: &Open| name.is_none_or(|name| open.name == *name) && Some(&open.topic) == topic;
        self.left(|_, open| meant(open), None);
    }

    /// A member was forgotten.
    pub(super) fn forgotten(&mut self, name: &str, mono_ms: u64, court: &mut Court) {
        let present = self.open.values().any(|open| open.name == name);
        let seen = self.seen_mono_ms.get(name).copied().unwrap_or(0);
        let long = seen > mono_ms || mono_ms - seen >= self.absent_ms;
        court.demand(Law::PresentIsKept, !present && long, || {
            format!("{name} is forgotten at {mono_ms}, was seen at {seen}, has a stream: {present}")
        });
        self.seen_mono_ms.remove(name);
    }

    /// Retention is to go to an offset, of which so much is stored.
    pub(super) fn trims(&mut self, queue: QueueId, start: u64) {
        self.trims.insert((queue, start));
    }

    /// Retention went to an offset.
    pub(super) fn trimmed(&self, queue: QueueId, start: u64, court: &mut Court) {
        court.demand(Law::RetentionIsNotHeldBack, self.trims.contains(&(queue, start)), || {
            format!("retention of {queue} went to {start}, asked was {:?}", self.trims)
        });
    }

    /// The broker went down.
    pub(super) fn crashed(&mut self) {
        let now_mono_ms = self.now_mono_ms;
        self.left(|_, _| true, Some(now_mono_ms));
        self.opening.clear();
        self.receives.clear();
        self.seeks.clear();
    }

    /// The broker started at this time, and the log says `book`; what counted as durable may be `lost`.
    pub(super) fn recovered(&mut self, mono_ms: u64, lost: bool, book: &Book) {
        self.started_mono_ms = mono_ms;
        self.now_mono_ms = mono_ms;
        self.maybe_mono_ms.clear();
        if lost {
            self.seen_mono_ms.clear();
        }
        for (name, seen) in &mut self.seen_mono_ms {
            let noted = book.group_named(name).and_then(|group| book.absent.get(&group));
            *seen = (*seen).min(mono_ms).min(noted.copied().unwrap_or(u64::MAX));
        }
    }

    /// The members of which the broker should not know any more, at this time.
    pub(super) fn overdue(&self, mono_ms: u64, book: &Book) -> Vec<String> {
        let late = |name: &&String| {
            let present = self.open.values().any(|open| open.name == **name);
            let maybe = self.maybe_mono_ms.get(*name).copied().unwrap_or(0);
            let seen = self
                .seen_mono_ms
                .get(*name)
                .copied()
                .unwrap_or(0)
                .max(self.started_mono_ms)
                .max(maybe);
            !present && mono_ms > seen + 2 * self.absent_ms + 1_000
        };
        let names = book
            .groups
            .values()
            .filter(|group| is_member(&group.settings))
            .map(|group| &group.name);
        names.filter(late).cloned().collect()
    }
}

fn is_member(settings: &GroupSettings) -> bool {
    matches!(settings.sharing, Sharing::MemberOf(_))
}

impl Book {
    /// The broadcast group whose member's group this is.
    pub fn parent_of(&self, group: GroupId) -> Option<GroupId> {
        match self.groups.get(&group)?.settings.sharing {
            Sharing::MemberOf(parent) => Some(parent),
            Sharing::Shared | Sharing::Broadcast => None,
        }
    }

    /// The name of a group, and that of the broadcast group whose member's it is.
    pub(super) fn names_of(&self, group: GroupId) -> Vec<String> {
        let groups = [Some(group), self.parent_of(group)].into_iter().flatten();
        groups.filter_map(|group| Some(self.groups.get(&group)?.name.clone())).collect()
    }

    /// The name of the topic of what a group gives up.
    pub(super) fn letters_name(&self, group: GroupId) -> Option<String> {
        self.names_of(group).last().map(|name| format!("%DLQ%{name}"))
    }

    /// The places of the members of a broadcast group in a topic, with their passes.
    fn of_members<'a>(&'a self, group: &'a str, topic: &'a str) -> impl Iterator<Item = (CursorId, Pass)> + 'a {
        let (parent, topic) = (self.group_named(group), self.topic_named(topic));
        let meant = move |id: &CursorId| parent.is_some() && self.parent_of(id.group) == parent && Some(id.queue.topic) == topic;
        self.cursors
            .iter()
            .filter(move |(id, _)| meant(id))
            .map(|(id, model)| (*id, model.pass))
    }

    /// A member's group is as its broadcast group says.
    pub(super) fn member_created(&self, name: &str, settings: &GroupSettings, court: &mut Court) {
        let Sharing::MemberOf(parent) = settings.sharing else { return };
        let expected = self.groups.get(&parent).map(|group| {
            let own = GroupSettings {
                sharing: settings.sharing,
                ..group.settings.clone()
            };
            (own, name.starts_with(&format!("{}/", group.name)))
        });
        let lawful = expected == Some((settings.clone(), true)) && settings.start == StartPoint::Latest;
        court.demand(Law::MemberStartsAtTheEnd, lawful, || format!("{name} is {settings:?}"));
    }

    /// A filter rules a group in a topic, and the group has places there.
    pub(super) fn subscribed(&mut self, group: GroupId, topic: TopicId, filter: &Filter, starts: &[QueueStart], court: &mut Court) {
        if self.rules.insert((group, topic), filter.clone()).as_ref() != Some(filter) {
            self.alarms.remove(&(group, topic));
            let cursors = self.cursors.iter_mut();
            cursors
                .filter(|(id, _)| id.group == group && id.queue.topic == topic)
                .for_each(|(_, cursor)| cursor.judged_anew());
        }
        for start in starts {
            let end = self.queues.get(&start.queue).map_or(0, |queue| queue.rows.len() as u64);
            court.demand(Law::SeekGoesWhereAsked, start.offset.0 <= end, || {
                format!("{start:?} lies behind the end {end}")
            });
            self.member_begins(group, start.offset.0, end, court);
            self.cursors
                .entry(CursorId { group, queue: start.queue })
                .or_insert_with(|| Cursor::new(start.offset.0));
        }
    }

    /// Where a member begins.
    fn member_begins(&self, group: GroupId, start: u64, end: u64, court: &mut Court) {
        if self.parent_of(group).is_some() {
            court.demand(Law::MemberStartsAtTheEnd, start == end, || {
                format!("a member begins at {start}, the queue ends at {end}")
            });
        }
    }

    /// All members are given what one filter lets pass.
    pub(super) fn ruled_alike(&self, group: GroupId, topic: TopicId, court: &mut Court) {
        let Some(parent) = self.parent_of(group) else { return };
        let rules = self.rules.iter().filter(|((_, of), _)| *of == topic);
        let mut of_all = rules.filter(|((other, _), _)| self.parent_of(*other) == Some(parent));
        let first = of_all.next().map(|(_, rule)| rule);
        court.demand(Law::MembersShareTheRule, first == self.rules.get(&(group, topic)), || {
            format!(
                "{group:?} is given what {:?} lets pass, {first:?} rules",
                self.rules.get(&(group, topic))
            )
        });
    }
}
