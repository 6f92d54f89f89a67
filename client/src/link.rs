//! The connection kept: built, watched, built again after a loss with a growing wait, and each change told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use sluice_protocol::control::DeliveryStart;
use sluice_protocol::frame::FrameKind;
use sluice_protocol::ids::ProducerId;
use tokio::sync::{broadcast, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::deciding::Deciding;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::event::Event;
use crate::limits;
use crate::router::Opened;
use crate::sequences::Sequences;
use crate::session::{FirstStream, Session, closed_here};
use crate::wire::{self, Frame};

/// What there is to work with at present.
#[derive(Clone)]
pub(crate) enum State {
    /// A welcomed connection.
    Up(Arc<Session>),
    /// None; the reason is that of the last failure.
    Down(String),
    /// None any more.
    Closed,
}

/// What all parts of a client share.
pub(crate) struct Link {
    pub(crate) endpoint: Endpoint,
    pub(crate) producer: ProducerId,
    pub(crate) sequences: Sequences,
    pub(crate) deciding: Deciding,
    state: watch::Sender<State>,
    events: broadcast::Sender<Event>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Link {
    /// Connects for the first time and keeps the connection from then on.
    pub(crate) async fn open(endpoint: Endpoint) -> Result<Arc<Self>, Error> {
        let producer = ProducerId(u128::from_le_bytes(random()?));
        let (session, first) = Session::open(&endpoint, producer, 1).await?;
        let link = Arc::new(Self {
            endpoint,
            producer,
            sequences: Sequences::new(session.limits.producer_unconfirmed_max),
            deciding: Deciding::default(),
            state: watch::Sender::new(State::Up(session.clone())),
            events: broadcast::Sender::new(limits::EVENTS_KEPT),
            keeper: Mutex::new(None),
        });
        // The keeper holds the link weakly between connections, so that a forgotten client ends.
        let keeper = tokio::spawn(keep(Arc::downgrade(&link), session, first));
        *link.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
        Ok(link)
    }

    /// The changes of the connection from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Tells an event to whoever listens, and to the log.
    pub(crate) fn tell(&self, event: Event) {
        event.log();
        // Without listeners there is nobody to tell.
        let _ = self.events.send(event);
    }

    /// The connection as it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The welcomed connection, waited for as long as it takes; `Error::Closed` when there will be none.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, Error> {
        let mut state = self.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Up(session) => return Ok(session.clone()),
                State::Closed => return Err(Error::Closed),
                State::Down(_) => {}
            }
            if state.changed().await.is_err() {
                return Err(Error::Closed);
            }
        }
    }

    /// The welcomed connection, waited for at most so long.
    pub(crate) async fn session_within(&self, within: Duration) -> Result<Arc<Session>, Error> {
        match tokio::time::timeout(within, self.session()).await {
            Ok(session) => session,
            Err(_) => {
                let reason = match &*self.state.borrow() {
                    State::Down(reason) => reason.clone(),
                    State::Up(_) | State::Closed => format!("no connection within {within:?}"),
                };
                Err(Error::Unreachable {
                    address: self.endpoint.shown(),
                    reason,
                })
            }
        }
    }

    /// Asks one question over the connection there is or will be, and waits for the answer, `longer` than usual where the question
    /// itself waits. A refusal is an error.
    pub(crate) async fn ask(&self, kind: FrameKind, message: &impl prost::Message, longer: Duration) -> Result<Frame, Error> {
        let within = self.endpoint.answer_within;
        let session = self.session_within(within).await?;
        let waited = within.saturating_add(longer);
        tokio::time::timeout(waited, session.request(kind, message))
            .await
            .map_err(|_| Error::TimedOut { waited })?
    }

    /// Ends the connection for good and waits until the broker has been told.
    pub(crate) async fn close(&self) {
        let last = self.state.send_replace(State::Closed);
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            keeper.abort();
        }
        if let State::Up(session) = last {
            session.close().await;
        }
        self.tell(Event::Closed);
    }

    /// Records a change, unless the client was closed meanwhile.
    fn set(&self, to: State) -> bool {
        self.state.send_if_modified(|state| {
            let open = !matches!(state, State::Closed);
            if open {
                *state = to;
            }
            open
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let State::Up(session) = &*self.state.borrow() {
            session.connection.close(0_u32.into(), b"the client is gone");
        }
        if let Some(keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            keeper.abort();
        }
    }
}

/// Watches a connection until it is lost, then builds the next, until the link is closed or forgotten.
async fn keep(link: std::sync::Weak<Link>, mut session: Arc<Session>, mut first: FirstStream) {
    loop {
        if let Some(link) = link.upgrade() {
            link.tell(Event::Connected {
                address: session.address,
                server: session.server.clone(),
                epoch: session.epoch,
            });
        }
        let lost = attend(&session, &mut first).await;
        let Some(reason) = lost else { return };
        let number = session.number + 1;
        {
            let Some(link) = link.upgrade() else { return };
            if !link.set(State::Down(reason.clone())) {
                return;
            }
            link.tell(Event::Disconnected { reason });
        }
        match again(&link, number).await {
            Some(next) => (session, first) = next,
            None => return,
        }
    }
}

/// Tries to connect until it succeeds; `None` when the link is closed or forgotten.
async fn again(link: &std::sync::Weak<Link>, number: u64) -> Option<(Arc<Session>, FirstStream)> {
    let mut wait = limits::RECONNECT_FIRST;
    loop {
        let (endpoint, producer) = {
            let link = link.upgrade()?;
            (link.endpoint.clone(), link.producer)
        };
        match Session::open(&endpoint, producer, number).await {
            Ok(next) => return link.upgrade()?.set(State::Up(next.0.clone())).then_some(next),
            Err(error) => {
                let link = link.upgrade()?;
                if !link.set(State::Down(error.to_string())) {
                    return None;
                }
                link.tell(Event::Retrying {
                    reason: error.to_string(),
                    wait,
                });
            }
        }
        tokio::time::sleep(jittered(wait)).await;
        wait = (wait * 2).min(limits::RECONNECT_MAX);
    }
}

/// Takes the broker's delivery streams until the connection is over; the reason, or `None` when it was closed here.
async fn attend(session: &Arc<Session>, first: &mut FirstStream) -> Option<String> {
    let mut opening: JoinSet<()> = JoinSet::new();
    let mut first_open = true;
    loop {
        tokio::select! {
            stream = session.connection.accept_uni() => match stream {
                Ok(stream) => {
                    let session = session.clone();
                    opening.spawn(async move { open_delivery(&session, stream).await });
                }
                Err(error) if closed_here(&error) => return None,
                Err(error) => return Some(error.to_string()),
            },
            Some(_) = opening.join_next() => {}
            frame = first.frames.next(), if first_open => match frame {
                Ok(Some(frame)) if frame.kind == FrameKind::Refused => {
                    let why = wire::refusal(frame.payload).map_or_else(|error| error.to_string(), |refusal| refusal.to_string());
                    tracing::warn!(why, "the broker ends the connection");
                    first_open = false;
                }
                Ok(Some(_)) => {}
                // The connection goes on; its end is seen above.
                Ok(None) | Err(_) => first_open = false,
            },
        }
    }
}

/// Reads the first frame of a delivery stream and hands it over.
async fn open_delivery(session: &Session, stream: quinn::RecvStream) {
    let mut frames = session.delivery_reader(stream);
    let start = match frames.next().await {
        Ok(Some(frame)) if frame.kind == FrameKind::DeliveryStart => DeliveryStart::decode(frame.payload).map_err(wire::protocol),
        Ok(Some(frame)) => Err(wire::unexpected(&frame)),
        Ok(None) => return,
        Err(error) => Err(error),
    };
    match start {
        Ok(start) => session.router.route(start.subscription, Opened { start, frames }),
        Err(error) => tracing::warn!(%error, "a delivery stream could not be opened"),
    }
}

/// A wait between half of `wait` and all of it, so that the clients of a broker do not all come back at once.
pub(crate) fn jittered(wait: Duration) -> Duration {
    let share = random::<1>().map_or(255, |byte| byte[0]);
    wait / 2 + wait / 2 * u32::from(share) / 255
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Endpoint(format!("the system gives no random numbers: {error}")))?;
    Ok(bytes)
}
