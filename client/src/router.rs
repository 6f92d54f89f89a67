//! Which subscription gets which of the delivery streams that the broker opens; one may open before its subscription is answered.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sluice_protocol::control::DeliveryStart;
use tokio::sync::mpsc;

use crate::limits;
use crate::wire::FrameReader;

/// A delivery stream whose first frame has been read.
pub(crate) struct Opened {
    /// What the first frame says.
    pub(crate) start: DeliveryStart,
    /// The frames that follow.
    pub(crate) frames: FrameReader,
}

/// The open subscriptions of one connection.
#[derive(Default)]
pub(crate) struct Router {
    routes: Mutex<HashMap<u64, Route>>,
}

enum Route {
    /// Streams that came before the subscription was answered.
    Early(Vec<Opened>),
    /// The subscription takes them as they come.
    Open(mpsc::UnboundedSender<Opened>),
}

impl Router {
    /// Sends the streams of `subscription` to the returned receiver from now on, those that came early included. The number of
    /// streams is bounded by the connection.
    pub(crate) fn register(&self, subscription: u64) -> mpsc::UnboundedReceiver<Opened> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let early = self.lock().insert(subscription, Route::Open(sender.clone()));
        if let Some(Route::Early(streams)) = early {
            for stream in streams {
                // The receiver is held right here.
                let _ = sender.send(stream);
            }
        }
        receiver
    }

    /// Forgets a subscription.
    pub(crate) fn remove(&self, subscription: u64) {
        self.lock().remove(&subscription);
    }

    /// Hands over a stream; one that nobody wants is dropped, which tells the broker to stop.
    pub(crate) fn route(&self, opened: Opened) {
        let mut routes = self.lock();
        let early: usize = routes
            .values()
            .map(|route| if let Route::Early(streams) = route { streams.len() } else { 0 })
            .sum();
        match routes.entry(opened.start.subscription).or_insert_with(|| Route::Early(Vec::new())) {
            Route::Open(sender) => {
                // The subscription may have ended meanwhile.
                let _ = sender.send(opened);
            }
            Route::Early(streams) if early < limits::DELIVERY_STREAMS_EARLY_MAX => streams.push(opened),
            Route::Early(_) => tracing::warn!(
                subscription = opened.start.subscription,
                "a delivery stream nobody asked for was dropped"
            ),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Route>> {
        // No code panics while it holds this lock.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
