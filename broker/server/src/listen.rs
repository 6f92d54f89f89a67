//! The QUIC endpoint: TLS 1.3, protocol `sluice/1`, windows and bounds; accepts connections until the broker drains.

use std::net::UdpSocket;
use std::sync::Arc;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicServerConfig};
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig};
use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::certificate::Certificate;
use crate::config::Config;
use crate::connection;
use crate::limits;
use crate::serving::Serving;

/// The protocol's name in the TLS handshake (RFC 7301).
pub const ALPN: &[u8] = b"sluice/1";

/// Why the endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be used.
    #[error("cannot listen on {key} = {address}: {source}; end what uses it, or set another {key}")]
    Bind {
        /// The setting.
        key: &'static str,
        /// The configured address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate and key do not serve.
    #[error("the certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// No cipher suite for QUIC.
    #[error("the cipher suites lack the one that QUIC begins with: {0}")]
    CipherSuite(#[from] NoInitialCipherSuite),
}

/// Opens the endpoint of a broker.
///
/// # Errors
/// An address in use or not of this machine; a certificate that does not fit its key.
pub(crate) fn open(config: &Config, certificate: &Certificate) -> Result<quinn::Endpoint, ListenError> {
    let server = server(config, certificate)?;
    let mut endpoint = EndpointConfig::default();
    endpoint
        .max_udp_payload_size(limits::DATAGRAM_BYTES_TAKEN_MAX)
        .expect("the bound is above the least that QUIC asks");
    let bind = |source| ListenError::Bind {
        key: "listen",
        address: config.listen,
        source,
    };
    let socket = UdpSocket::bind(config.listen).map_err(bind)?;
    enlarge_buffers(&socket);
    quinn::Endpoint::new(endpoint, Some(server), socket, Arc::new(quinn::TokioRuntime)).map_err(bind)
}

/// What new connections get: the certificate, and the bounds of the transport.
///
/// # Errors
/// A certificate that does not fit its key.
pub(crate) fn server(config: &Config, certificate: &Certificate) -> Result<quinn::ServerConfig, ListenError> {
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls(certificate)?));
    server.transport_config(Arc::new(transport(config)));
    Ok(server)
}

/// Asks for room in the socket; what the system allows is good enough to go on with.
fn enlarge_buffers(socket: &UdpSocket) {
    let socket = socket2::SockRef::from(socket);
    let enlarged = socket
        .set_recv_buffer_size(limits::SOCKET_BUFFER_BYTES)
        .and_then(|()| socket.set_send_buffer_size(limits::SOCKET_BUFFER_BYTES));
    if let Err(error) = enlarged {
        debug!(%error, "the socket keeps the buffers that the system gave it");
    }
}

fn tls(certificate: &Certificate) -> Result<QuicServerConfig, ListenError> {
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(certificate.chain.clone(), certificate.key.clone_key())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.ignore_client_order = true;
    Ok(QuicServerConfig::try_from(tls)?)
}

/// AES before ChaCha20, and the shorter key first: a fifth of the cost on machines that have the instructions.
fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => 1,
        _ => 2,
    });
    provider
}

fn transport(config: &Config) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(limits::DATAGRAM_BYTES_MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(
            IdleTimeout::try_from(limits::IDLE_TIMEOUT).expect("the idle timeout is far below the bound of QUIC"),
        ))
        .keep_alive_interval(Some(limits::KEEP_ALIVE))
        .stream_receive_window(limits::STREAM_WINDOW_BYTES.into())
        .receive_window(limits::CONNECTION_WINDOW_BYTES.into())
        .send_window(limits::CONNECTION_WINDOW_BYTES.into())
        .max_concurrent_bidi_streams(limits::streams_at_first(config.limits.streams).into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(discovery));
    transport
}

/// Accepts connections until the broker drains, then waits for those that are open.
pub(crate) async fn accept(serving: Arc<Serving>, endpoint: quinn::Endpoint) {
    let mut connections = JoinSet::new();
    let mut draining = serving.draining();
    let mut full = false;
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => admit(&serving, &mut connections, &mut full, incoming),
                None => break,
            },
            Some(ended) = connections.join_next() => report(ended),
            () = draining.begun() => break,
        }
    }
    endpoint.set_server_config(None);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

/// Serves a connection, or refuses it. `full` is whether the one before was refused: the log tells of the first.
fn admit(serving: &Arc<Serving>, connections: &mut JoinSet<()>, full: &mut bool, incoming: quinn::Incoming) {
    if connections.len() >= serving.config.limits.connections as usize {
        serving.metrics.connections_refused.one();
        let remote = incoming.remote_address();
        match std::mem::replace(full, true) {
            false => warn!(%remote, "connections are refused: there are as many as limits.connections allows"),
            true => debug!(%remote, "connection refused: there are as many as limits.connections allows"),
        }
        incoming.refuse();
        return;
    }
    *full = false;
    connections.spawn(connection::serve(serving.clone(), incoming));
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task failed");
    }
}
