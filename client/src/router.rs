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

/// The open subscriptions of one connection, and what delivery streams are handed over as.
pub(crate) struct Router<S = Opened> {
    routes: Mutex<HashMap<u64, Route<S>>>,
}

enum Route<S> {
    /// Streams that came before the subscription was answered.
    Early(Vec<S>),
    /// The subscription takes them as they come.
    Open(mpsc::UnboundedSender<S>),
}

impl<S> Default for Router<S> {
    fn default() -> Self {
        Self { routes: Mutex::default() }
    }
}

impl<S> Route<S> {
    /// How many streams it keeps.
    fn early(&self) -> usize {
        match self {
            Self::Early(streams) => streams.len(),
            Self::Open(_) => 0,
        }
    }
}

impl<S> Router<S> {
    /// Sends the streams of `subscription` to the returned receiver from now on, those that came early included. The number of
    /// streams is bounded by the connection.
    pub(crate) fn register(&self, subscription: u64) -> mpsc::UnboundedReceiver<S> {
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
    pub(crate) fn route(&self, subscription: u64, stream: S) {
        let mut routes = self.lock();
        if let Some(Route::Open(sender)) = routes.get(&subscription) {
            // The subscription may have ended meanwhile.
            let _ = sender.send(stream);
            return;
        }
        let early = routes.values().map(Route::early).sum::<usize>();
        if early >= limits::DELIVERY_STREAMS_EARLY_MAX {
            // Numbers ascend: the oldest belong to a subscription that is over, or was given up before it was answered.
            let oldest = routes.iter().filter(|(_, route)| route.early() > 0).map(|(&id, _)| id).min();
            if let Some(oldest) = oldest {
                tracing::debug!(subscription = oldest, "delivery streams that nobody asked for were dropped");
                routes.remove(&oldest);
            }
        }
        let route = routes.entry(subscription).or_insert_with(|| Route::Early(Vec::new()));
        if let Route::Early(streams) = route {
            streams.push(stream);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Route<S>>> {
        // No code panics while it holds this lock.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_come_before_their_subscription_is_answered_are_kept_for_it() {
        let router = Router::default();
        router.route(7, "early");
        let mut streams = router.register(7);
        router.route(7, "later");
        assert_eq!((streams.try_recv(), streams.try_recv()), (Ok("early"), Ok("later")));
    }

    #[test]
    fn streams_of_subscriptions_that_are_over_do_not_take_the_place_of_those_to_come() {
        let router = Router::default();
        for subscription in 0..limits::DELIVERY_STREAMS_EARLY_MAX as u64 + 10 {
            drop(router.register(subscription));
            router.remove(subscription);
            router.route(subscription, "late");
        }
        router.route(1 << 20, "early");
        assert_eq!(router.register(1 << 20).try_recv(), Ok("early"));
        let kept: usize = router.lock().values().map(Route::early).sum();
        assert!(kept <= limits::DELIVERY_STREAMS_EARLY_MAX);
    }
}
