//! One connection that has been welcomed: its limits, its requests, and the deliveries that the broker opens on it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::{Connection, EndpointConfig, RecvStream, SendStream};
use sluice_protocol::control;
use sluice_protocol::frame::FrameKind;
use sluice_protocol::ids::ProducerId;
use socket2::SockRef;

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::limits;
use crate::router::Router;
use crate::tls;
use crate::wire::{self, Frame, FrameReader};

/// The protocol version spoken here.
const VERSION: u32 = 1;

/// The largest frame before the welcome has said how large one may be.
const FIRST_FRAME_BYTES_MAX: u32 = sluice_protocol::limits::CONTROL_FRAME_BYTES_MAX as u32;

/// A welcomed connection.
pub(crate) struct Session {
    /// Counts the connections of this client from 1.
    pub(crate) number: u64,
    /// Where the broker was found.
    pub(crate) address: SocketAddr,
    /// What the broker calls itself.
    pub(crate) server: String,
    /// Which start of the broker this is.
    pub(crate) epoch: u32,
    /// What the broker takes.
    pub(crate) limits: control::Limits,
    /// Who gets which delivery stream.
    pub(crate) router: Router,
    pub(crate) connection: Connection,
    /// Kept, since a connection ends with the last handle of its endpoint.
    endpoint: quinn::Endpoint,
}

/// The first stream of a connection, kept open as long as it.
pub(crate) struct FirstStream {
    _send: SendStream,
    pub(crate) frames: FrameReader,
}

impl Session {
    /// Connects, shakes hands and is welcomed, within the time that the endpoint allows.
    pub(crate) async fn open(endpoint: &Endpoint, producer: ProducerId, number: u64) -> Result<(Arc<Self>, FirstStream), Error> {
        let unreachable = |reason: String| Error::Unreachable {
            address: endpoint.shown(),
            reason,
        };
        match tokio::time::timeout(endpoint.connect_within, Self::greet(endpoint, producer, number)).await {
            Ok(Err(Error::Unknown { reason })) => Err(unreachable(reason)),
            Ok(result) => result,
            Err(_) => Err(unreachable(format!("no answer within {:?}", endpoint.connect_within))),
        }
    }

    async fn greet(endpoint: &Endpoint, producer: ProducerId, number: u64) -> Result<(Arc<Self>, FirstStream), Error> {
        let (quic, connection, address) = dial(endpoint).await?;
        let (mut send, receive) = connection.open_bi().await.map_err(wire::lost)?;
        let hello = control::Hello {
            version_min: VERSION,
            version_max: VERSION,
            client_name: endpoint.client_name.clone(),
            producer_id: producer.0.to_le_bytes().to_vec().into(),
        };
        wire::send(&mut send, FrameKind::Hello, &hello).await?;
        let mut frames = FrameReader::new(receive, FIRST_FRAME_BYTES_MAX);
        let welcome: control::Welcome = wire::expect(frames.answer().await?, FrameKind::Welcome)?;
        if welcome.version != VERSION {
            return Err(Error::Protocol(format!(
                "the broker chose protocol version {}, which was not offered",
                welcome.version
            )));
        }
        let limits = welcome
            .limits
            .ok_or_else(|| Error::Protocol("the welcome has no limits".to_owned()))?;
        let session = Self {
            number,
            address,
            server: welcome.server,
            epoch: welcome.epoch,
            limits,
            router: Router::default(),
            connection,
            endpoint: quic,
        };
        Ok((Arc::new(session), FirstStream { _send: send, frames }))
    }

    /// Opens a stream of this client, whose answers are read by the reader.
    pub(crate) async fn open_stream(&self) -> Result<(SendStream, FrameReader), Error> {
        let (send, receive) = self.connection.open_bi().await.map_err(wire::lost)?;
        Ok((send, FrameReader::new(receive, self.limits.frame_bytes_max)))
    }

    /// Asks one question on a stream of its own and returns the answer; a refusal is an error. Dropping the future takes the question
    /// back where the broker has not yet answered it.
    pub(crate) async fn request(&self, kind: FrameKind, message: &impl prost::Message) -> Result<Frame, Error> {
        let (mut send, mut frames) = self.open_stream().await?;
        wire::send(&mut send, kind, message).await?;
        let mut asked = Asked { send, answered: false };
        let answer = frames.answer().await;
        asked.answered = true;
        answer
    }

    /// A reader of a delivery stream.
    pub(crate) fn delivery_reader(&self, stream: RecvStream) -> FrameReader {
        FrameReader::new(stream, self.limits.frame_bytes_max)
    }

    /// Ends the connection and waits until the broker has been told.
    pub(crate) async fn close(&self) {
        self.connection.close(0_u32.into(), b"closed by the client");
        self.endpoint.wait_idle().await;
    }
}

/// A question under way: taken back when it is dropped before the answer.
struct Asked {
    send: SendStream,
    answered: bool,
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Either fails only when the stream is over already, and then there is nothing to tell.
        let _ = if self.answered {
            self.send.finish()
        } else {
            self.send.reset(0_u32.into())
        };
    }
}

/// Tries the addresses of the endpoint one after the other.
async fn dial(endpoint: &Endpoint) -> Result<(quinn::Endpoint, Connection, SocketAddr), Error> {
    let (address, trust) = endpoint.resolve()?;
    let config = tls::client_config(&trust)?;
    let host = endpoint.server_name.clone().unwrap_or_else(|| host_of(&address).to_owned());
    let mut last = Error::Unknown {
        reason: format!("{address:?} has no address"),
    };
    let found = tokio::net::lookup_host(&address).await;
    for found in found.map_err(|error| Error::Endpoint(format!("cannot find {address:?}: {error}; give it as host:port")))? {
        match dial_one(found, &host, config.clone()).await {
            Ok((quic, connection)) => return Ok((quic, connection, found)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial_one(address: SocketAddr, host: &str, config: quinn::ClientConfig) -> Result<(quinn::Endpoint, Connection), Error> {
    let local: SocketAddr = if address.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let quic = open(local).map_err(|error| Error::Endpoint(format!("cannot open a UDP socket: {error}")))?;
    let connecting = quic.connect_with(config, address, host);
    let connection = connecting.map_err(|error| Error::Endpoint(format!("cannot connect to {address} as {host:?}: {error}")))?;
    Ok((quic, connection.await.map_err(wire::lost)?))
}

/// A QUIC endpoint on a socket of its own that takes large datagrams, and bursts of them.
fn open(local: SocketAddr) -> std::io::Result<quinn::Endpoint> {
    let socket = UdpSocket::bind(local)?;
    let buffers = SockRef::from(&socket);
    let enlarged = buffers
        .set_recv_buffer_size(limits::SOCKET_BUFFER_BYTES)
        .and_then(|()| buffers.set_send_buffer_size(limits::SOCKET_BUFFER_BYTES));
    if let Err(error) = enlarged {
        tracing::debug!(%error, "the socket keeps the buffers that the system gave it");
    }
    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(limits::DATAGRAM_BYTES_MAX)
        .expect("the bound is above the least that QUIC asks");
    quinn::Endpoint::new(config, None, socket, Arc::new(quinn::TokioRuntime))
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Whether a lost connection was ended by this side.
pub(crate) fn closed_here(error: &quinn::ConnectionError) -> bool {
    matches!(error, quinn::ConnectionError::LocallyClosed)
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn the_host_is_the_address_without_port_and_brackets() {
        assert_eq!(host_of("localhost:9470"), "localhost");
        assert_eq!(host_of("[::1]:9470"), "::1");
        assert_eq!(host_of("127.0.0.1:1"), "127.0.0.1");
    }
}
