//! What operators do with a topic and with a group's messages: growth, pause and resume, skip, purge, and see who holds what.

use sluice_protocol::control;
use sluice_protocol::frame::FrameKind;

use crate::admin::{DeadLetter, DeadLettersDealt, LeaseInfo, MessageState};
use crate::client::Client;
use crate::error::Error;

/// As the other calls of operators, each answers when what it did is durable, and none is tried twice.
impl Client {
    /// Gives a topic so many queues, more than it has, while messages flow. What is published from then on is spread over all of them, and a
    /// retried send meets its first try. Groups read the new queues from their beginning; ordered groups keep the order of each message
    /// group. Where it has so many already nothing changes.
    ///
    /// # Errors
    /// `NoSuchTopic`, `FewerQueues`, `BadSetting`, `LimitExceeded`.
    pub async fn grow_topic(&self, name: &str, queues: u16) -> Result<(), Error> {
        let (name, queues) = (name.to_owned(), queues.into());
        self.done(FrameKind::GrowTopic, &control::GrowTopic { name, queues }).await
    }

    /// Hands nothing out to a group any more, in one topic or in all that it reads or will read. What it holds may be settled, runs out as
    /// usual and waits; its members stay connected. Where it is paused already nothing changes.
    ///
    /// # Errors
    /// `NoSuchGroup`, `NoSuchTopic`.
    pub async fn pause_group(&self, name: &str, topic: Option<&str>) -> Result<(), Error> {
        let (name, topic) = (name.to_owned(), topic.unwrap_or_default().to_owned());
        self.done(FrameKind::PauseGroup, &control::PauseGroup { name, topic }).await
    }

    /// Goes on with a group that is paused, or held for the fault of a plugin - what was set aside or held is judged again -, in one topic
    /// or in all. Where nothing holds it nothing changes.
    ///
    /// # Errors
    /// `NoSuchGroup`, `NoSuchTopic`; `GroupPaused` for one topic of a group that is paused in all.
    pub async fn resume_group(&self, name: &str, topic: Option<&str>) -> Result<(), Error> {
        let (name, topic) = (name.to_owned(), topic.unwrap_or_default().to_owned());
        self.done(FrameKind::ResumeGroup, &control::ResumeGroup { name, topic }).await
    }

    /// Settles one message for a group, whatever its state; a running lease of it becomes stale. Says what it was before.
    ///
    /// # Errors
    /// `NoSuchGroup`, `NoSuchTopic`, `NoSuchQueue`, `NoSuchOffset`.
    pub async fn skip_message(&self, group: &str, topic: &str, queue: u16, offset: u64) -> Result<MessageState, Error> {
        let ask = control::SkipMessage {
            group: group.to_owned(),
            topic: topic.to_owned(),
            queue: queue.into(),
            offset,
        };
        let skipped: control::Skipped = self.query(FrameKind::SkipMessage, &ask, FrameKind::Skipped).await?;
        MessageState::try_from(skipped.was).map_err(|error| Error::Protocol(error.to_string()))
    }

    /// Passes over all that a topic holds for a group: a new pass at the end of every queue. Says how many messages were passed over that
    /// the group had neither settled nor skipped.
    ///
    /// # Errors
    /// `NoSuchGroup`, `NoSuchTopic`.
    pub async fn purge_group(&self, group: &str, topic: &str) -> Result<u64, Error> {
        let (group, topic) = (group.to_owned(), topic.to_owned());
        let ask = control::PurgeGroup { group, topic };
        let purged: control::Purged = self.query(FrameKind::PurgeGroup, &ask, FrameKind::Purged).await?;
        Ok(purged.messages)
    }

    /// What a group holds in one topic or in all, by queue and offset: who has it and until when, what waits for another delivery, and what
    /// is held for the failure of a plugin. At least `most` ranges, if there are so many; a page may bring some more.
    ///
    /// # Errors
    /// `NoSuchGroup`, `NoSuchTopic`.
    pub async fn leases(&self, group: &str, topic: Option<&str>, most: usize) -> Result<Vec<LeaseInfo>, Error> {
        let mut ask = control::ListLeases {
            group: group.to_owned(),
            topic: topic.unwrap_or_default().to_owned(),
            from: None,
        };
        let mut leases = Vec::new();
        loop {
            let page: control::Leases = self.query(FrameKind::ListLeases, &ask, FrameKind::Leases).await?;
            leases.extend(page.leases);
            let place = |place: &control::LeasePlace| (place.topic, place.queue, place.offset);
            let (from, next) = (ask.from.as_ref().map(place), page.next.as_ref().map(place));
            if next.is_none() || leases.len() >= most {
                return Ok(leases);
            }
            if next <= from {
                return Err(Error::Protocol(format!(
                    "the page from {from:?} says that the next begins at {next:?}"
                )));
            }
            ask.from = page.next;
        }
    }

    /// The dead letters of a group that were not dealt with, from this offset of its dead-letter topic on and before `to`: `most` at most.
    ///
    /// # Errors
    /// `NoSuchGroup`.
    pub async fn dead_letters(&self, group: &str, from: u64, to: Option<u64>, most: usize) -> Result<Vec<DeadLetter>, Error> {
        let (group, mut letters) = (group.to_owned(), Vec::new());
        let mut ask = control::ListDeadLetters { group, from, to };
        loop {
            let page: control::DeadLetters = self.query(FrameKind::ListDeadLetters, &ask, FrameKind::DeadLetters).await?;
            letters.extend(page.letters);
            let next = further(ask.from, page.next)?;
            if letters.len() >= most || next.is_none() {
                letters.truncate(most);
                return Ok(letters);
            }
            ask.from = next.unwrap_or(ask.from);
        }
    }

    /// Has dead letters delivered to their group again, as further attempts at the messages where they came from: to that group alone, under
    /// the ids that they had. Those that were dealt with are passed over, so it may be asked again when an answer was lost.
    ///
    /// # Errors
    /// `NoSuchGroup`, `LimitExceeded`.
    pub async fn resend_dead_letters(&self, group: &str, from: u64, to: Option<u64>, most: u64) -> Result<DeadLettersDealt, Error> {
        self.deal(FrameKind::ResendDeadLetters, group, from, to, most).await
    }

    /// Takes dead letters off the list; they stay in the dead-letter topic until its retention takes them.
    ///
    /// # Errors
    /// `NoSuchGroup`, `LimitExceeded`.
    pub async fn discard_dead_letters(&self, group: &str, from: u64, to: Option<u64>, most: u64) -> Result<DeadLettersDealt, Error> {
        self.deal(FrameKind::DiscardDeadLetters, group, from, to, most).await
    }

    async fn deal(&self, kind: FrameKind, group: &str, from: u64, to: Option<u64>, most: u64) -> Result<DeadLettersDealt, Error> {
        let (group, mut all) = (group.to_owned(), DeadLettersDealt::default());
        let mut ask = control::DealWithDeadLetters { group, from, to, most };
        loop {
            let page: DeadLettersDealt = self.query(kind, &ask, FrameKind::DeadLettersDealt).await?;
            all.sent_back += page.sent_back;
            all.under_way += page.under_way;
            all.gone += page.gone;
            all.left += page.left;
            all.discarded += page.discarded;
            all.next = page.next;
            let met = page.sent_back + page.under_way + page.gone + page.left + page.discarded;
            ask.most = ask.most.saturating_sub(met);
            match further(ask.from, page.next)? {
                Some(next) if ask.most > 0 && page.left == 0 => ask.from = next,
                Some(_) | None => return Ok(all),
            }
        }
    }
}

/// Where the page after one that began at `from` begins, if there is one.
fn further(from: u64, next: Option<u64>) -> Result<Option<u64>, Error> {
    match next {
        Some(next) if next <= from => Err(Error::Protocol(format!("the page from {from} says that the next begins at {next}"))),
        next => Ok(next),
    }
}
