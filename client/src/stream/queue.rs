//! One queue's delivery stream: frames become chunks, as far as there is room for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message as _;
use sluice_protocol::control::DeliveryStart;
use sluice_protocol::delivery::Delivery;
use sluice_protocol::frame::FrameKind;
use tokio::sync::{Semaphore, mpsc};

use super::{Chunk, Pushed, Shared};
use crate::error::Error;
use crate::router::Opened;
use crate::wire;

/// The newest pass of each queue. What belongs to an older one is void.
#[derive(Default)]
pub(crate) struct Passes {
    newest: Mutex<HashMap<u16, u32>>,
}

impl Passes {
    /// The newest pass of a queue.
    pub(crate) fn newest(&self, queue: u16) -> Option<u32> {
        self.lock().get(&queue).copied()
    }

    /// Notes the pass that a delivery stream tells of; whether it follows another one.
    fn begin(&self, queue: u16, pass: u32) -> bool {
        self.lock().insert(queue, pass).is_some_and(|before| before != pass)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u16, u32>> {
        // No code panics while it holds this lock.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all queue readers of a stream need.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) session: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) room_bytes: usize,
    pub(crate) push: mpsc::Sender<Pushed>,
    /// Told of each new pass: the queue and the pass.
    pub(crate) resets: mpsc::UnboundedSender<(u16, u32)>,
}

impl Reader {
    /// Reads a delivery stream to its end. Its end is not the end of the subscription.
    pub(crate) async fn run(self, opened: Opened) -> Result<(), Error> {
        let Opened { start, mut frames } = opened;
        let (queue, mut pass) = self.start(&start)?;
        while let Some(frame) = frames.next().await? {
            match frame.kind {
                FrameKind::DeliveryStart => (_, pass) = self.start(&DeliveryStart::decode(frame.payload).map_err(wire::protocol)?)?,
                FrameKind::Delivery => {
                    let bytes = frame.payload.len().clamp(1, self.room_bytes);
                    let Ok(room) = self.room.clone().acquire_many_owned(bytes as u32).await else {
                        return Ok(());
                    };
                    let delivery = Delivery::decode(frame.payload).map_err(wire::protocol)?;
                    let chunk = Chunk {
                        session: self.session,
                        queue,
                        pass,
                        delivery,
                        _room: room,
                    };
                    if self.push.send(Pushed::Chunk(chunk)).await.is_err() {
                        return Ok(());
                    }
                }
                _ => return Err(wire::unexpected(&frame)),
            }
        }
        Ok(())
    }

    fn start(&self, start: &DeliveryStart) -> Result<(u16, u32), Error> {
        let queue = u16::try_from(start.queue).map_err(wire::protocol)?;
        if self.shared.passes.begin(queue, start.pass) {
            // The receiver goes with the stream.
            let _ = self.resets.send((queue, start.pass));
        }
        Ok((queue, start.pass))
    }
}
