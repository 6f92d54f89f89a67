//! What operators do and ask: topics, groups, seeks, plugins, and looking a message up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::control::{self, seek::To};
use sluice_protocol::delivery::FoundMessage;
use sluice_protocol::frame::FrameKind;

use crate::client::Client;
use crate::error::Error;
use crate::filter::Filter;
use crate::message::{Message, RecallHandle};
use crate::wire;

/// What a topic and a group are like, as the protocol says it. Their fields are documented in `docs/protocol.md`.
pub use sluice_protocol::control::{
    Alarm, Backoff, BackupCut, BackupFile as BackupSource, CursorInfo, DeadLetter, DeadLettersDealt, Evaluation, Explanation, GroupInfo,
    GroupSettings, LeaseInfo, MemberInfo, MessageState, OnFailure, Pause, PluginInfo, PluginLimits, QueueInfo, TopicInfo, TopicSettings,
};

/// Where a seek goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// The earliest stored message.
    Earliest,
    /// After the newest.
    Latest,
    /// This offset, or the nearest stored one.
    Offset(u64),
    /// The first message stored at this time (wall clock, milliseconds since 1970) or later.
    Time(i64),
}

/// Every call answers when what it did is durable. All fail with `Error::Refused` as the broker says, `Error::Unreachable` without a
/// connection, and `Error::Unknown` or `Error::TimedOut` when no answer came: then it may have been done. None is tried twice.
impl Client {
    /// Creates a topic. Settings left out take the broker's defaults.
    ///
    /// # Errors
    /// `TopicExists`, `BadName`, `BadSetting`.
    pub async fn create_topic(&self, name: &str, settings: Option<TopicSettings>) -> Result<(), Error> {
        self.done(
            FrameKind::CreateTopic,
            &control::CreateTopic {
                name: name.to_owned(),
                settings,
            },
        )
        .await
    }

    /// Deletes a topic with its messages and every group's place in it.
    ///
    /// # Errors
    /// `NoSuchTopic`.
    pub async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        self.done(FrameKind::DeleteTopic, &named(name)).await
    }

    /// All topics, without their queues.
    ///
    /// # Errors
    /// None of its own.
    pub async fn topics(&self) -> Result<Vec<TopicInfo>, Error> {
        let (mut topics, mut from) = (Vec::new(), 0);
        loop {
            let page: control::Topics = self
                .query(FrameKind::ListTopics, &control::List { from }, FrameKind::Topics)
                .await?;
            topics.extend(page.topics);
            match later(from, page.next)? {
                Some(next) => from = next,
                None => return Ok(topics),
            }
        }
    }

    /// One topic with its queues.
    ///
    /// # Errors
    /// `NoSuchTopic`.
    pub async fn topic(&self, name: &str) -> Result<TopicInfo, Error> {
        self.query(FrameKind::DescribeTopic, &named(name), FrameKind::Topic).await
    }

    /// Creates a consumer group. Settings left out take the broker's defaults.
    ///
    /// # Errors
    /// `GroupExists`, `BadName`, `BadSetting`.
    pub async fn create_group(&self, name: &str, settings: Option<GroupSettings>) -> Result<(), Error> {
        self.done(
            FrameKind::CreateGroup,
            &control::CreateGroup {
                name: name.to_owned(),
                settings,
            },
        )
        .await
    }

    /// Deletes a group with its places in all topics.
    ///
    /// # Errors
    /// `NoSuchGroup`.
    pub async fn delete_group(&self, name: &str) -> Result<(), Error> {
        self.done(FrameKind::DeleteGroup, &named(name)).await
    }

    /// All groups, with a few of their subscriptions, without cursors and members.
    ///
    /// # Errors
    /// None of its own.
    pub async fn groups(&self) -> Result<Vec<GroupInfo>, Error> {
        let (mut groups, mut from) = (Vec::new(), 0);
        loop {
            let page: control::Groups = self
                .query(FrameKind::ListGroups, &control::List { from }, FrameKind::Groups)
                .await?;
            groups.extend(page.groups);
            match later(from, page.next)? {
                Some(next) => from = next,
                None => return Ok(groups),
            }
        }
    }

    /// One group with its cursors and members.
    ///
    /// # Errors
    /// `NoSuchGroup`.
    pub async fn group(&self, name: &str) -> Result<GroupInfo, Error> {
        let mut ask = control::DescribeGroup {
            name: name.to_owned(),
            from: 0,
        };
        let mut group: GroupInfo = self.query(FrameKind::DescribeGroup, &ask, FrameKind::Group).await?;
        while let Some(next) = later(ask.from, group.next)? {
            ask.from = next;
            let page: GroupInfo = self.query(FrameKind::DescribeGroup, &ask, FrameKind::Group).await?;
            group.subscriptions.extend(page.subscriptions);
            group.cursors.extend(page.cursors);
            group.members.extend(page.members);
            group.alarms.extend(page.alarms);
            // That of all topics is on every page.
            group.pauses.extend(page.pauses.into_iter().filter(|pause| !pause.topic.is_empty()));
            group.lag += page.lag;
            group.next = page.next;
        }
        Ok(group)
    }

    /// Has a delayed message not be released. When this is answered it never will be.
    ///
    /// # Errors
    /// `NotWaiting` when it was released or recalled before, `TopicDeleted`, `BadRecallHandle`.
    pub async fn recall(&self, handle: &RecallHandle) -> Result<(), Error> {
        let handle = handle.0.clone();
        self.done(FrameKind::Recall, &control::Recall { handle }).await
    }

    /// Begins a new pass of a group over one queue of a topic, or over all: running leases are void.
    ///
    /// # Errors
    /// `NoSuchGroup`, `NoSuchTopic`, `NoSuchQueue`.
    pub async fn seek(&self, group: &str, topic: &str, queue: Option<u16>, to: SeekTo) -> Result<(), Error> {
        let to = match to {
            SeekTo::Earliest => To::Earliest(true),
            SeekTo::Latest => To::Latest(true),
            SeekTo::Offset(offset) => To::Offset(offset),
            SeekTo::Time(wall_ms) => To::WallMs(wall_ms),
        };
        let seek = control::Seek {
            group: group.to_owned(),
            topic: topic.to_owned(),
            one_queue: queue.is_some(),
            queue: queue.unwrap_or(0).into(),
            to: Some(to),
        };
        self.done(FrameKind::Seek, &seek).await
    }

    /// Loads a plugin's module (a WebAssembly component, or a core module that carries its component type) and binds it to a name from
    /// now on. Limits left out take the broker's defaults. `on_failure` says what becomes of a message that the plugin fails on.
    ///
    /// # Errors
    /// `BadPlugin` with the reason, `BadName`.
    pub async fn load_plugin(
        &self,
        name: &str,
        module: impl Into<Bytes>,
        limits: Option<PluginLimits>,
        on_failure: OnFailure,
    ) -> Result<PluginInfo, Error> {
        let load = control::LoadPlugin {
            name: name.to_owned(),
            module: module.into(),
            limits,
            on_failure: on_failure.into(),
        };
        self.query(FrameKind::LoadPlugin, &load, FrameKind::Plugin).await
    }

    /// The plugins that are bound.
    ///
    /// # Errors
    /// None of its own.
    pub async fn plugins(&self) -> Result<Vec<PluginInfo>, Error> {
        let plugins: control::Plugins = self.query(FrameKind::ListPlugins, &control::Empty {}, FrameKind::Plugins).await?;
        Ok(plugins.plugins)
    }

    /// One plugin.
    ///
    /// # Errors
    /// `NoSuchPlugin`.
    pub async fn plugin(&self, name: &str) -> Result<PluginInfo, Error> {
        self.query(FrameKind::DescribePlugin, &named(name), FrameKind::Plugin).await
    }

    /// A stored message by its id.
    ///
    /// # Errors
    /// `NoSuchMessage`, `BadMessageId`; `Error::Protocol` when its body does not fit its checksum.
    pub async fn message(&self, id: &str) -> Result<Message, Error> {
        let ask = control::GetMessage { id: id.to_owned() };
        let frame = self.link.ask(FrameKind::GetMessage, &ask, Duration::ZERO).await?;
        if frame.kind != FrameKind::Found {
            return Err(wire::unexpected(&frame));
        }
        let FoundMessage { found, batch } = FoundMessage::decode(frame.payload).map_err(wire::protocol)?;
        let message = Message {
            topic: Arc::from(found.topic),
            queue: u16::try_from(found.queue).map_err(wire::protocol)?,
            offset: found.offset,
            attempt: 0,
            stored_ms: found.stored_wall_ms,
            batch,
            row: 0,
        };
        match message.verify() {
            true => Ok(message),
            false => Err(Error::Protocol("the body does not fit its checksum".to_owned())),
        }
    }

    /// What became of a message for a group: the step that decided, and what the filter that rules now says of it.
    ///
    /// # Errors
    /// `BadMessageId`, `BadName`.
    pub async fn explain(&self, id: &str, group: &str) -> Result<Explanation, Error> {
        let (id, group) = (id.to_owned(), group.to_owned());
        let ask = control::ExplainMessage { id, group };
        self.query(FrameKind::ExplainMessage, &ask, FrameKind::Explanation).await
    }

    pub(crate) async fn done(&self, kind: FrameKind, message: &impl prost::Message) -> Result<(), Error> {
        self.query::<control::Empty>(kind, message, FrameKind::Done).await.map(drop)
    }

    pub(crate) async fn query<A: prost::Message + Default>(
        &self,
        kind: FrameKind,
        message: &impl prost::Message,
        answer: FrameKind,
    ) -> Result<A, Error> {
        wire::expect(self.link.ask(kind, message, Duration::ZERO).await?, answer)
    }
}

/// The filter of a subscription as a group's description shows it.
pub fn filter_of(subscription: &control::Subscription) -> Filter {
    Filter::from_wire(subscription.filter.clone())
}

/// Where the page after one that began at `from` begins, if there is one.
fn later(from: u64, next: u64) -> Result<Option<u64>, Error> {
    match next {
        0 => Ok(None),
        next if next > from => Ok(Some(next)),
        next => Err(Error::Protocol(format!("the page from {from} says that the next begins at {next}"))),
    }
}

fn named(name: &str) -> control::Named {
    control::Named { name: name.to_owned() }
}
