//! A stream on which a client is asked about prepared messages: each ask goes out with its message, and counts when the client has heard it.

mod unheard;

use std::sync::Arc;

use bytes::Bytes;
use quinn::SendStream;
use sluice_core::effect::{Ask, AskId};
use sluice_core::input::Input;
use sluice_protocol::control::{self, AnswerStart, Empty, Heard};
use sluice_protocol::delivery::AskedMessage;
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, FrameKind};
use sluice_protocol::names::check_user_name;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::{Instant, sleep_until, timeout};

use crate::connection::{Client, unexpected};
use crate::delivery;
use crate::frames::{self, Broken, FrameReader};
use crate::limits::{ASKS_WAITING_MAX, HEARD_WITHIN};
use crate::serving::shutting_down;
use unheard::Unheard;

/// Asks the client until it has enough or is gone. What it has not heard by then counts as not asked.
///
/// # Errors
/// `BadName`, `ReservedName`; a malformed or misplaced frame; `Overloaded` when it does not take what it is asked.
pub(crate) async fn run(client: &Arc<Client>, send: &mut SendStream, reader: &mut FrameReader, start: AnswerStart) -> Result<(), Broken> {
    check_user_name(&start.topic)?;
    let (sender, asks) = mpsc::channel(ASKS_WAITING_MAX);
    let number = client.serving.shard.number();
    client.serving.shard.answers(start.topic.clone(), number, sender);
    let mut session = Session {
        client,
        topic: start.topic,
        number,
        asks,
        unheard: Unheard::default(),
    };
    frames::write(send, frame::message(FrameKind::Done, &Empty {})).await?;
    session.serve(send, reader).await
}

struct Session<'a> {
    client: &'a Arc<Client>,
    topic: String,
    number: u64,
    asks: Receiver<Ask>,
    unheard: Unheard,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let shard = &self.client.serving.shard;
        shard.answers_no_more(std::mem::take(&mut self.topic), self.number);
        self.asks.close();
        while let Ok(ask) = self.asks.try_recv() {
            shard.tell(Input::NotAsked { ask: ask.ask });
        }
        for ask in self.unheard.take_all() {
            shard.tell(Input::NotAsked { ask });
        }
    }
}

impl Session<'_> {
    async fn serve(&mut self, send: &mut SendStream, reader: &mut FrameReader) -> Result<(), Broken> {
        let mut draining = self.client.serving.draining();
        loop {
            let overdue = self.unheard.next_overdue();
            // Whatever comes first, the others lose nothing.
            tokio::select! {
                Some(ask) = self.asks.recv() => self.ask(send, ask).await?,
                frame = reader.next() => match frame? {
                    Some((kind @ FrameKind::Heard, frame)) => {
                        let heard: Heard = frame.message(kind).map_err(Refusal::from)?;
                        self.heard(AskId(heard.ask));
                    }
                    Some((kind, _)) => return Err(unexpected(kind)),
                    None => {
                        frames::finish(send).await;
                        return Ok(());
                    }
                },
                () = sleep_until(overdue.unwrap_or_else(Instant::now)), if overdue.is_some() => {
                    if let Some(ask) = self.unheard.take_overdue(Instant::now()) {
                        self.client.serving.shard.tell(Input::NotAsked { ask });
                    }
                }
                () = draining.begun() => return Err(shutting_down().into()),
            }
        }
    }

    fn heard(&mut self, heard: AskId) {
        // One that comes too late was told as not asked before.
        if self.unheard.take(heard) {
            self.client.serving.shard.tell(Input::Asked { ask: heard });
        }
    }

    async fn ask(&mut self, send: &mut SendStream, ask: Ask) -> Result<(), Broken> {
        self.unheard.asked(ask.ask, Instant::now());
        let Some(mut pieces) = self.frame(&ask).await else {
            // The core was told of no ask, and tries again.
            self.unheard.take(ask.ask);
            self.client.serving.shard.tell(Input::NotAsked { ask: ask.ask });
            return Ok(());
        };
        match timeout(HEARD_WITHIN, send.write_all_chunks(&mut pieces)).await {
            Ok(written) => written.map_err(|_| Broken::Gone),
            Err(_) => {
                let text = "the client does not take what it is asked";
                Err(Refusal::new(ErrorCode::Overloaded, text).into())
            }
        }
    }

    /// The ask with its message; `None` when that cannot be read, which is logged, or was decided about meanwhile.
    async fn frame(&self, ask: &Ask) -> Option<Vec<Bytes>> {
        let (queue, number) = ask.place;
        let batch = delivery::one(&self.client.serving, queue, number).await.ok()?;
        let head = AskedMessage::encode_head(&control::Ask {
            ask: ask.ask.0,
            handle: Bytes::copy_from_slice(&ask.handle),
            topic: ask.topic.clone(),
            prepared_wall_ms: ask.undecided.prepared_wall_ms,
            asks: ask.undecided.asks.into(),
            deliver_at_ms: ask.undecided.due_ms,
        });
        Some(delivery::framed(FrameKind::Ask, head, batch))
    }
}
