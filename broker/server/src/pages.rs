//! Reading without a group: pages of stored messages from any offset or time, of which nothing is leased and nothing settled.

use std::sync::Arc;

use bytes::Bytes;
use sluice_core::effect::{Answer, QueueInfo, Rule};
use sluice_core::input::Admin;
use sluice_log::record::Filter;
use sluice_log::{LogError, LogReader};
use sluice_protocol::batch::{BatchMerger, MergeError};
use sluice_protocol::control::read_messages::{From, To};
use sluice_protocol::control::{MessagePlace, Messages, ReadMessages};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::FrameKind;
use sluice_protocol::ids::{QueueIndex, QueueOffset, TopicId};
use sluice_protocol::limits::{KEY_BYTES_MAX, PAGE_MESSAGES_MAX};
use sluice_protocol::names;
use sluice_protocol::page::MessagePage;

use crate::connection::Client;
use crate::delivery::{framed, unreadable};
use crate::judge::Judge;
use crate::plugins::{PluginFailure, Plugins};
use crate::serving::Serving;
use crate::walk::{Found, Line, Place, Step, Walk, WalkError, Wanted};
use crate::{admission, request};

/// What a page is asked for: form and names were checked.
struct Asked {
    ask: ReadMessages,
    topic: TopicId,
    /// What rules now: it is asked about all messages of the page.
    filter: Option<Rule>,
    after: Option<Place>,
    /// The queues to be read, with what is stored of them.
    queues: Vec<QueueInfo>,
    frame_bytes: usize,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
enum PageError {
    #[error(transparent)]
    Walk(#[from] WalkError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error(transparent)]
    Plugin(#[from] PluginFailure),
}

/// The frame that answers a reading, in pieces.
///
/// # Errors
/// `NoSuchTopic`, `TopicDeleted`, `NoSuchQueue`, `LimitExceeded`, what is wrong with the filter, `FilterFailed`; `Internal` when the messages cannot be
/// read.
pub(crate) async fn answer(client: &Arc<Client>, ask: ReadMessages) -> Result<Vec<Bytes>, Refusal> {
    let serving = &client.serving;
    let asked = admit(serving, ask).await?;
    let (reader, plugins) = (serving.reader.clone(), serving.plugins.clone());
    let _turn = serving.pages.acquire().await.expect("the right to make pages is never closed");
    let page = tokio::task::spawn_blocking(move || match asked.page(&reader, &plugins) {
        Err(PageError::Walk(WalkError::Filter(failure))) => Ok(Err(Refusal::new(ErrorCode::FilterFailed, failure.to_string()))),
        page => page.map(Ok),
    });
    let (head, batch) = unreadable(page.await)??;
    Ok(framed(FrameKind::Messages, MessagePage::encode_head(&head), batch))
}

async fn admit(serving: &Serving, ask: ReadMessages) -> Result<Asked, Refusal> {
    names::owner(&ask.topic)?;
    if !(1..=PAGE_MESSAGES_MAX as u32).contains(&ask.max) {
        let text = format!("a page has 1 to {PAGE_MESSAGES_MAX} messages, not {}", ask.max);
        return Err(Refusal::new(ErrorCode::LimitExceeded, text));
    }
    if ask.key.len() > KEY_BYTES_MAX {
        let text = format!("a key has at most {KEY_BYTES_MAX} bytes, not {}", ask.key.len());
        return Err(Refusal::new(ErrorCode::LimitExceeded, text));
    }
    let filter = rule(serving, admission::filter(ask.filter.clone())?).await?;
    let name = ask.topic.clone();
    let Answer::Topic { topic, mut queues } = request::ask_admin(serving, Admin::DescribeTopic { name }).await? else {
        unreachable!("the core answers a question for a topic with a topic");
    };
    if ask.topic_id != 0 && ask.topic_id != topic.id.0 {
        return Err(Refusal::plain(ErrorCode::TopicDeleted));
    }
    if ask.one_queue {
        let wanted = admission::queue_index(ask.queue)?;
        queues.retain(|info| info.queue.index == wanted);
        if queues.is_empty() {
            return Err(Refusal::plain(ErrorCode::NoSuchQueue));
        }
    }
    Ok(Asked {
        after: ask.after.as_ref().map(place).transpose()?,
        ask,
        topic: topic.id,
        filter,
        queues,
        frame_bytes: serving.config.limits.frame_bytes as usize,
    })
}

/// The version that is bound now with the expression, which it compiles.
async fn rule(serving: &Serving, filter: Filter) -> Result<Option<Rule>, Refusal> {
    request::check_filter(serving, &filter).await?;
    let Filter::Plugin { plugin, expression } = filter else {
        return Ok(None);
    };
    let (digest, limits) = serving
        .plugins
        .binding(&plugin)
        .ok_or_else(|| Refusal::plain(ErrorCode::NoSuchPlugin))?;
    Ok(Some(Rule {
        digest,
        limits,
        expression,
    }))
}

impl Asked {
    /// The page: its head, and the batch in pieces. Blocks while it reads.
    fn page(&self, reader: &LogReader, plugins: &Plugins) -> Result<(Messages, Vec<Bytes>), PageError> {
        let compile = |rule: &Rule| plugins.filter(rule.digest, rule.limits, &rule.expression);
        let filter = self.filter.as_ref().map(compile).transpose()?;
        let filter = filter.map(|filter| (Judge::new(plugins.host()), filter));
        let lines: Vec<Line> = self.queues.iter().map(|info| self.line(reader, info)).collect::<Result<_, _>>()?;
        let key = Some(self.ask.key.clone()).filter(|key| !key.is_empty());
        let mut walk = Walk::new(reader, lines, Wanted { key, filter })?;
        let mut page = Page {
            reader,
            merger: BatchMerger::new(),
            places: Vec::new(),
            bodies: self.ask.bodies,
            bytes_max: self.frame_bytes - self.frame_bytes / 8,
        };
        let next = loop {
            if page.places.len() >= self.ask.max as usize {
                break walk.front();
            }
            match walk.next()? {
                Step::Found(found) if page.take(&found)? => {}
                Step::Found(found) => break Some(found.place()),
                Step::Spent => break walk.front(),
                Step::Over => break None,
            }
        };
        let head = Messages {
            topic: self.ask.topic.clone(),
            topic_id: self.topic.0,
            places: page.places.iter().map(wire).collect(),
            next: next.as_ref().map(wire),
            judged: walk.judged,
            failed: walk.failed,
        };
        if page.places.is_empty() {
            return Ok((head, Vec::new()));
        }
        let parts = page.merger.take();
        Ok((head, [parts.attributes].into_iter().chain(parts.bodies).collect()))
    }

    /// What is to be read of a queue.
    fn line(&self, reader: &LogReader, info: &QueueInfo) -> Result<Line, LogError> {
        let queue = info.queue;
        let (mut next, mut end) = (info.start, info.end);
        match self.ask.from {
            Some(From::Offset(offset)) => next = next.max(QueueOffset(offset)),
            // The place to go on from lies behind the time to begin at.
            Some(From::WallMs(wall_ms)) if self.after.is_none() => next = next.max(reader.locate_time(queue, wall_ms)?),
            Some(From::WallMs(_)) | None => {}
        }
        match self.ask.to {
            Some(To::BeforeOffset(offset)) => end = end.min(QueueOffset(offset)),
            Some(To::BeforeWallMs(wall_ms)) => end = end.min(reader.locate_time(queue, wall_ms)?),
            None => {}
        }
        if let Some(after) = self.after {
            let behind = match queue.index.cmp(&after.queue) {
                // All that was stored at that time is before the place.
                std::cmp::Ordering::Less => reader.locate_time(queue, after.stored_wall_ms.saturating_add(1))?,
                std::cmp::Ordering::Equal => after.offset,
                std::cmp::Ordering::Greater => reader.locate_time(queue, after.stored_wall_ms)?,
            };
            next = next.max(behind);
        }
        Ok(Line::new(queue, next, end))
    }
}

/// A page that is being put together.
struct Page<'a> {
    reader: &'a LogReader,
    merger: BatchMerger,
    places: Vec<Place>,
    bodies: bool,
    bytes_max: usize,
}

impl Page<'_> {
    /// Takes a message, unless the page has no room for it. One that is no longer stored is left out.
    fn take(&mut self, found: &Found) -> Result<bool, PageError> {
        let attributes = match self.reader.sparse_attributes(&found.batch) {
            Err(LogError::Gone { .. }) => return Ok(true),
            attributes => attributes?,
        };
        let index = found.row();
        let row = attributes.row(index).ok_or(MergeError::NoSuchRows)?;
        let (before, more) = match self.bodies {
            true => (self.merger.total_bytes(), row.attribute_bytes() + row.body_len()),
            false => (self.merger.attribute_bytes(), row.attribute_bytes()),
        };
        if !self.places.is_empty() && before + more > self.bytes_max {
            return Ok(false);
        }
        let rows = index..index + 1;
        let added = if self.bodies {
            let range = attributes.bodies_range(rows.clone()).ok_or(MergeError::NoSuchRows)?;
            match self.reader.read(&found.batch, range.start as u32..range.end as u32) {
                Err(LogError::Gone { .. }) => return Ok(true),
                body => self.merger.add(&attributes, rows, body?),
            }
        } else {
            self.merger.add_without_bodies(&attributes, rows)
        };
        match added {
            Err(MergeError::Full) if !self.places.is_empty() => Ok(false),
            added => {
                added?;
                self.places.push(found.place());
                Ok(true)
            }
        }
    }
}

fn wire(place: &Place) -> MessagePlace {
    MessagePlace {
        stored_wall_ms: place.stored_wall_ms,
        queue: place.queue.0.into(),
        offset: place.offset.0,
    }
}

fn place(place: &MessagePlace) -> Result<Place, Refusal> {
    let queue: QueueIndex = admission::queue_index(place.queue)?;
    Ok(Place {
        stored_wall_ms: place.stored_wall_ms,
        queue,
        offset: QueueOffset(place.offset),
    })
}
