//! What operators see over HTTP: `/metrics`, `/live` and `/ready`, for few visitors and not for long.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Sleep;

use crate::health::Health;
use crate::limits;
use crate::listen::ListenError;

/// The media type of the OpenMetrics text format, which Prometheus reads.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const NO_SUCH_PAGE: &str = "there is no such page; there are /metrics, /live and /ready\n";

/// The monitor's task. It ends when this is dropped, unless it was let go.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) address: SocketAddr,
    task: JoinSet<()>,
    end: AbortHandle,
}

impl Monitor {
    /// Serves the pages at `address`; port 0 takes a free one. Must be called within the runtime.
    ///
    /// # Errors
    /// [`ListenError::Bind`].
    pub(crate) fn serve(address: SocketAddr, health: Arc<Health>) -> Result<Self, ListenError> {
        let bind = |source| ListenError::Bind {
            key: "metrics_listen",
            address,
            source,
        };
        let listener = std::net::TcpListener::bind(address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let listener = TcpListener::from_std(listener).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let door = Door {
            listener,
            places: Arc::new(Semaphore::new(limits::MONITOR_CONNECTIONS_MAX)),
        };
        let mut task = JoinSet::new();
        let end = task.spawn(async move {
            // It accepts until it is ended; what goes wrong with one visitor concerns no other.
            let _ = axum::serve(door, pages(health)).await;
        });
        Ok(Self { address, task, end })
    }

    /// Lets it serve until the handle ends it.
    pub(crate) fn let_go(mut self) -> AbortHandle {
        self.task.detach_all();
        self.end
    }
}

fn pages(health: Arc<Health>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .fallback(async || (StatusCode::NOT_FOUND, NO_SUCH_PAGE))
        .with_state(health)
}

async fn metrics(State(health): State<Arc<Health>>) -> Response {
    match health.scrape().await {
        Some(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "starting: nothing is counted yet\n").into_response(),
    }
}

async fn live(State(health): State<Arc<Health>>) -> Response {
    said(health.live(), "live\n")
}

async fn ready(State(health): State<Arc<Health>>) -> Response {
    said(health.ready(), "ready\n")
}

fn said(state: Result<(), impl std::error::Error>, good: &'static str) -> Response {
    match state {
        Ok(()) => good.into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// Lets in as many visitors as there are places.
struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Listener for Door {
    type Io = Visitor;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visitor, SocketAddr) {
        let place = self.places.clone().acquire_owned().await;
        let place = place.expect("the places are never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let visitor = Visitor {
            stream,
            until: Box::pin(tokio::time::sleep(limits::MONITOR_CONNECTION_TIMEOUT)),
            _place: place,
        };
        (visitor, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when its time is over, whatever it is at.
struct Visitor {
    stream: TcpStream,
    until: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Visitor {
    fn in_time(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        match self.until.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Visitor {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.in_time(context)?.poll_read(context, into)
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(context)?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(context)?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(context)?.poll_shutdown(context)
    }
}
