//! The life of one message for one group: asks the core which step decided, and the filter that rules now where the answer lies with it.

mod history;

use std::sync::Arc;

use bytes::Bytes;
use sluice_core::effect::{Answer, LeaseState, Rule};
use sluice_core::input::{Admin, Letter};
use sluice_core::standing::{Ruling, Standing, Step, Waiting};
use sluice_log::record::{CursorId, Due, FarOff, OnFailure, PartId, before_release};
use sluice_log::{BatchPlace, LogError, LogReader};
use sluice_plugin_host::{Attribute, FilterHandle, RunFailure};
use sluice_protocol::batch::Row;
use sluice_protocol::control::{Column, Evaluation, ExplainMessage, Explanation, Verdict, column, explanation, lease_info};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, FrameKind};
use sluice_protocol::ids::{MessageId, QueueId, QueueIndex, QueueOffset};
use sluice_protocol::names;

use crate::assembly::ReadFailure;
use crate::connection::Client;
use crate::delivery::unreadable;
use crate::frames::Broken;
use crate::judge::{Among, Judge, JudgeError, Stretch};
use crate::limits::{FAR_OFF_LOOKED_THROUGH_MAX, LETTERS_LOOKED_THROUGH_MAX, LETTERS_OF_PAGE_MAX};
use crate::plugins::Plugins;
use crate::request::ask_admin;
use crate::{answers, letters, operate};

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Judge(#[from] JudgeError),
    #[error(transparent)]
    Letters(#[from] ReadFailure),
}

/// A stored message, and what the core says of it.
struct Asked {
    topic: String,
    group: String,
    queue: QueueId,
    offset: QueueOffset,
    standing: Standing,
}

/// The frame that answers a question for what became of a message.
///
/// # Errors
/// `BadMessageId`, `BadName`; `Internal` when the message cannot be read.
pub(crate) async fn answer(client: &Arc<Client>, ask: ExplainMessage) -> Result<Bytes, Broken> {
    let serving = &client.serving;
    let ExplainMessage { id, group } = ask;
    names::check_group(&group)?;
    let id: MessageId = id.parse().map_err(|_| Refusal::plain(ErrorCode::BadMessageId))?;
    let mut explained = None;
    let reader = serving.reader.clone();
    let found = unreadable(tokio::task::spawn_blocking(move || find(&reader, id)).await)?;
    if let Some(Found {
        queue,
        offset,
        priority,
        due_ms,
        parts,
    }) = found
    {
        let admin = Admin::Explain {
            group: group.clone(),
            queue,
            offset,
            priority,
            due_ms,
            parts,
        };
        let Answer::Standing(standing) = ask_admin(serving, admin).await? else {
            unreachable!("the core says what a message is for a group");
        };
        // An index entry of a deleted topic finds none.
        if let Some(topic) = standing.topic.clone() {
            let asked = Asked {
                topic,
                group,
                queue,
                offset,
                standing: *standing,
            };
            let (reader, plugins) = (serving.reader.clone(), serving.plugins.clone());
            let _turn = serving.pages.acquire().await.expect("the right to make pages is never closed");
            let explaining = tokio::task::spawn_blocking(move || match asked.explain(&reader, &plugins) {
                // Retention took it meanwhile.
                Err(ExplainError::Log(LogError::Gone { .. })) => Ok(None),
                explained => explained,
            });
            explained = unreadable(explaining.await)?;
        }
    }
    let explanation = explained.unwrap_or_else(|| Explanation {
        step: Some(explanation::Step::NotStored(true)),
        ..Explanation::default()
    });
    Ok(frame::message(FrameKind::Explanation, &explanation))
}

/// Where a message is, its priority, which says in which lane it is, when it is due, and which parts of the calendar hold it.
struct Found {
    queue: QueueId,
    offset: QueueOffset,
    priority: u8,
    due_ms: i64,
    parts: Vec<PartId>,
}

/// Finds a message by its id, in its queue or else where it waits for its time or a decision. Blocks while it reads.
fn find(reader: &LogReader, id: MessageId) -> Result<Option<Found>, LogError> {
    let found = reader.find(id)?;
    let Some((queue, offset)) = (if found.is_some() { found } else { reader.find_waiting(id)? }) else {
        return find_far(reader, id);
    };
    let place = reader.first_batch(queue, offset, QueueOffset(offset.0 + 1))?;
    let attributes = match place.map(|place| Ok((place, reader.sparse_attributes(&place)?))).transpose() {
        // Retention took it: no lane has it.
        Err(LogError::Gone { .. }) => None,
        attributes => attributes?,
    };
    let row = attributes
        .as_ref()
        .and_then(|(place, attributes)| attributes.row((offset.0 - place.first.0) as u32));
    if queue.index == QueueIndex::CALENDAR {
        return match row {
            // What waits is indexed under an id that another producer might have.
            Some(row) if row.message_id() != id => Ok(None),
            Some(row) => {
                let (at_ms, number) = (row.deliver_at_ms(), offset);
                waiting(reader, FarOff::new(queue.topic, Due { at_ms, number })).map(Some)
            }
            None => find_far(reader, id),
        };
    }
    let (priority, due_ms) = row.map_or((0, 0), |row| (row.priority(), row.deliver_at_ms()));
    Ok(Some(Found {
        queue,
        offset,
        priority,
        due_ms,
        parts: Vec::new(),
    }))
}

/// The same for a message that is far off, where the log has it no more.
fn find_far(reader: &LogReader, id: MessageId) -> Result<Option<Found>, LogError> {
    let found = reader.find_far(id, FAR_OFF_LOOKED_THROUGH_MAX)?;
    found.map(|message| waiting(reader, message)).transpose()
}

fn waiting(reader: &LogReader, message: FarOff) -> Result<Found, LogError> {
    Ok(Found {
        queue: message.topic.calendar(),
        offset: message.number,
        priority: 0,
        due_ms: message.at_ms,
        parts: reader.parts_with(message)?,
    })
}

impl Asked {
    /// What became of the message; `None` when it is no longer stored. Blocks while it reads and judges.
    fn explain(self, reader: &LogReader, plugins: &Plugins) -> Result<Option<Explanation>, ExplainError> {
        if self.queue.index == QueueIndex::CALENDAR {
            return self.explain_waiting(reader);
        }
        let end = QueueOffset(self.offset.0 + 1);
        let place = reader.first_batch(self.queue, self.offset, end)?;
        let mut told = Explanation {
            topic: self.topic.clone(),
            topic_id: self.queue.topic.0,
            queue: self.queue.index.0.into(),
            offset: self.offset.0,
            stored_wall_ms: place.map_or(0, |place| place.stored_wall_ms),
            pass: self.standing.ruling.as_ref().map_or(0, |ruling| ruling.pass.0),
            ..Explanation::default()
        };
        if let Step::Gone { start } = self.standing.step {
            told.step = Some(explanation::Step::GoneBefore(start.0));
            return Ok(Some(told));
        }
        let Some(place) = place else { return Ok(None) };
        if let Some(ruling) = &self.standing.ruling {
            told.evaluation = Some(self.evaluate(reader, plugins, &place, ruling)?);
        }
        if let Some(group) = self.standing.group {
            let cursor = CursorId { group, queue: self.queue };
            history::tell(reader, cursor, self.offset, &place, &mut told)?;
        }
        if self.standing.step == Step::Over {
            self.find_letter(reader, &place, &mut told)?;
        }
        told.step = Some(step(self.standing, &told));
        Ok(Some(told))
    }

    /// What a message waits for that has no place in a queue yet; `None` when it does not wait any more and has none.
    fn explain_waiting(self, reader: &LogReader) -> Result<Option<Explanation>, ExplainError> {
        let place = reader.first_batch(self.queue, self.offset, QueueOffset(self.offset.0 + 1))?;
        let mut told = Explanation {
            topic: self.topic.clone(),
            topic_id: self.queue.topic.0,
            stored_wall_ms: place.map_or(0, |place| place.stored_wall_ms),
            ..Explanation::default()
        };
        if let Some(place) = &place {
            history::tell(reader, before_release(self.queue.topic), self.offset, place, &mut told)?;
        }
        told.step = match &self.standing.step {
            Step::Left => history::end(&told.history),
            _ => Some(step(self.standing, &told)),
        };
        Ok(told.step.is_some().then_some(told))
    }

    /// Asks the filter that rules now.
    fn evaluate(&self, reader: &LogReader, plugins: &Plugins, place: &BatchPlace, ruling: &Ruling) -> Result<Evaluation, ExplainError> {
        let mut told = Evaluation {
            filter: Some(answers::filter(ruling.filter.clone())),
            changed: ruling.superseded || ruling.bound_wall_ms > place.stored_wall_ms,
            ..Evaluation::default()
        };
        let Some(Rule {
            digest,
            limits,
            expression,
        }) = &ruling.rule
        else {
            return Ok(told);
        };
        told.digest = Bytes::copy_from_slice(&digest.0);
        let filter = match plugins.filter(*digest, *limits, expression) {
            Ok(filter) => filter,
            Err(failure) => {
                told.set_verdict(Verdict::Fault);
                told.reason = failure.to_string();
                return Ok(told);
            }
        };
        let attributes = reader.sparse_attributes(place)?;
        if let Some(row) = attributes.row((self.offset.0 - place.first.0) as u32) {
            told.columns = filter.columns().iter().map(|attribute| column(&row, attribute)).collect();
        }
        let (verdict, reason) = self.verdict(reader, plugins, filter)?;
        told.set_verdict(verdict);
        told.reason = reason;
        Ok(told)
    }

    fn verdict(&self, reader: &LogReader, plugins: &Plugins, filter: FilterHandle) -> Result<(Verdict, String), ExplainError> {
        let stretch = Stretch {
            among: Among::All,
            ttl: None,
            queue: self.queue,
            from: self.offset,
            to: QueueOffset(self.offset.0 + 1),
            calls_max: 1,
        };
        let outcomes = Judge::new(plugins.host()).stored(reader, &[filter], stretch)?;
        let outcome: Result<_, RunFailure> = outcomes.into_iter().next().expect("there is an outcome for each filter");
        Ok(match outcome {
            Err(failure) => (Verdict::Fault, failure.to_string()),
            Ok(judged) => match judged.culprits.into_iter().next() {
                Some(culprit) => (Verdict::Fault, culprit.reason),
                None if judged.deliver.contains(&self.offset) => (Verdict::Deliver, String::new()),
                None if judged.failed > 0 => (Verdict::Error, String::new()),
                None => (Verdict::Skip, String::new()),
            },
        })
    }

    /// Looks through the group's dead letters for a copy of the message, the newest first. Those that were stored before it are none.
    fn find_letter(&self, reader: &LogReader, place: &BatchPlace, told: &mut Explanation) -> Result<(), ExplainError> {
        let Some((queue, start, end)) = self.standing.letters else {
            return Ok(());
        };
        let floor = start.max(QueueOffset(end.0.saturating_sub(LETTERS_LOOKED_THROUGH_MAX)));
        let mut to = end;
        while floor < to {
            let from = floor.max(QueueOffset(to.0.saturating_sub(LETTERS_OF_PAGE_MAX as u64)));
            let copies = letters::between(reader, queue, from, to)?;
            let is_older = copies
                .first()
                .is_some_and(|first| first.shown.stored_wall_ms < place.stored_wall_ms);
            let mut newest_first = copies.into_iter().rev();
            // Members of a broadcast group share the topic of what they give up.
            let same = |letter: &Letter| (letter.queue, letter.origin, &letter.group) == (self.queue, self.offset, &self.group);
            let copy = newest_first.find(|copy| same(&copy.letter));
            told.dead_letter = copy.map(|copy| copy.shown);
            if told.dead_letter.is_some() || is_older {
                return Ok(());
            }
            to = from;
        }
        told.more_letters = start < floor;
        Ok(())
    }
}

/// The step as clients see it. What the core is done with is told apart by what was found out.
fn step(standing: Standing, told: &Explanation) -> explanation::Step {
    match standing.step {
        Step::NoGroup => explanation::Step::NoGroup(true),
        Step::NeverRead => explanation::Step::NeverRead(true),
        Step::Gone { start } => explanation::Step::GoneBefore(start.0),
        // Of what left the calendar the log says more, or nothing.
        Step::Left => explanation::Step::NotStored(true),
        Step::BeforeStart { start, .. } => explanation::Step::StartAfter(start.0),
        Step::Open(state) => open(state),
        Step::SetAside { digest, reason } => explanation::Step::SetAside(explanation::SetAside {
            digest: Bytes::copy_from_slice(&digest.0),
            reason,
        }),
        Step::Waiting(waiting) => explanation::Step::Waiting(explanation::Waiting { what: Some(wait(waiting)) }),
        Step::Over
            if standing
                .ruling
                .as_ref()
                .is_some_and(|ruling| history::ends_expired(&told.history, ruling.pass)) =>
        {
            explanation::Step::Expired(true)
        }
        Step::Over if told.dead_letter.is_some() => explanation::Step::DeadLettered(true),
        Step::Over => {
            let on_failure = standing.ruling.map_or(OnFailure::Hold, |ruling| ruling.on_failure);
            match told.evaluation.as_ref().map_or(Verdict::Deliver, Evaluation::verdict) {
                Verdict::Deliver => explanation::Step::Settled(true),
                Verdict::Skip | Verdict::Error => explanation::Step::Skipped(true),
                Verdict::Fault => match on_failure {
                    OnFailure::Deliver => explanation::Step::Settled(true),
                    OnFailure::DeadLetter => explanation::Step::DeadLettered(true),
                    OnFailure::Skip | OnFailure::Hold => explanation::Step::Skipped(true),
                },
            }
        }
    }
}

fn open(state: LeaseState) -> explanation::Step {
    match operate::lease_state(state) {
        lease_info::State::Leased(leased) => explanation::Step::Leased(leased),
        lease_info::State::Retrying(retrying) => explanation::Step::Retrying(retrying),
        lease_info::State::Held(held) => explanation::Step::Held(held),
    }
}

fn wait(waiting: Waiting) -> explanation::waiting::What {
    use explanation::waiting::What;
    match waiting {
        Waiting::Paused(pause) => What::Paused(operate::pause(pause)),
        Waiting::Alarm(alarm) => What::Alarm(answers::alarm(alarm)),
        Waiting::Members => What::Members(true),
        Waiting::Retrial { reason } => What::Retrial(reason),
        Waiting::Verdict => What::Verdict(true),
        Waiting::Order => What::Order(true),
        Waiting::Growth => What::Growth(true),
        Waiting::Demand => What::Demand(true),
        Waiting::Due { at_wall_ms } => What::DueWallMs(at_wall_ms),
        Waiting::Decision => What::Decision(true),
    }
}

/// What the plugin sees of a message in one of its columns.
fn column(row: &Row<'_>, attribute: &Attribute) -> Column {
    let (of, value) = match attribute {
        Attribute::Tag => (column::Of::Tag(true), row.tag_bytes().map(Bytes::copy_from_slice)),
        Attribute::Keys => {
            let keys: Vec<&[u8]> = row.keys().collect();
            (column::Of::Keys(true), (!keys.is_empty()).then(|| keys.join(&b' ').into()))
        }
        Attribute::Property(name) => (column::Of::Property(name.clone()), row.property(name).map(Bytes::copy_from_slice)),
    };
    Column { of: Some(of), value }
}
