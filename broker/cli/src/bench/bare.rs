//! The yardstick of batched transfers: the same number of bytes over a bare QUIC stream, without a broker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};

/// One write of the sender.
const WRITE_BYTES: usize = 64 << 10;
/// Windows as the broker has them: 100 ms at 1 Gbit/s and more.
const WINDOW_BYTES: u32 = 16 << 20;
/// The largest datagram that path discovery tries, as the client does.
const DATAGRAM_BYTES_MAX: u16 = 9000;
/// What the sockets may hold, as those of broker and client.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// Sends `bytes` over `streams` streams of one connection each on the loopback and returns how long it took.
///
/// # Errors
/// No socket, or the transfer failed.
pub(super) async fn transfer(bytes: u64, connections: u64) -> Result<Duration> {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).context("make a certificate")?;
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let server = server(certified.cert.der().clone(), key)?;
    let address = server.local_addr().context("find the port")?;
    let sink = tokio::spawn(receive_all(server, connections));
    let client = client(certified.cert.der().clone())?;
    let mut opened = Vec::new();
    for _ in 0..connections {
        let connection = client.connect(address, "localhost").context("connect")?.await.context("connect")?;
        let stream = connection.open_uni().await.context("open a stream")?;
        opened.push((connection, stream));
    }
    let begun = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for (connection, mut stream) in opened {
        senders.spawn(async move {
            let chunk = vec![7_u8; WRITE_BYTES];
            let mut left = bytes / connections;
            while left > 0 {
                let now = left.min(WRITE_BYTES as u64);
                stream.write_all(&chunk[..now as usize]).await.context("send")?;
                left -= now;
            }
            stream.finish().context("finish")?;
            stream.stopped().await.context("wait for the last byte")?;
            drop(connection);
            anyhow::Ok(())
        });
    }
    for sent in senders.join_all().await {
        sent?;
    }
    let took = begun.elapsed();
    sink.await.context("the receiver ended")??;
    Ok(took)
}

async fn receive_all(server: quinn::Endpoint, connections: u64) -> Result<()> {
    let mut receivers = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let connection = server.accept().await.context("no connection came")?.await.context("accept")?;
        receivers.spawn(async move {
            let mut stream = connection.accept_uni().await.context("accept a stream")?;
            while stream.read_chunk(usize::MAX, true).await.context("receive")?.is_some() {}
            // The sender closes when it knows that all has arrived.
            connection.closed().await;
            anyhow::Ok(())
        });
    }
    for received in receivers.join_all().await {
        received?;
    }
    Ok(())
}

fn transport() -> Arc<quinn::TransportConfig> {
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(DATAGRAM_BYTES_MAX);
    let mut transport = quinn::TransportConfig::default();
    transport
        .mtu_discovery_config(Some(discovery))
        .stream_receive_window(WINDOW_BYTES.into())
        .receive_window(WINDOW_BYTES.into())
        .send_window(u64::from(WINDOW_BYTES));
    Arc::new(transport)
}

fn endpoint_config() -> Result<quinn::EndpointConfig> {
    let mut config = quinn::EndpointConfig::default();
    config
        .max_udp_payload_size(DATAGRAM_BYTES_MAX)
        .context("set the size of datagrams")?;
    Ok(config)
}

fn socket() -> Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").context("open a socket")?;
    let buffers = socket2::SockRef::from(&socket);
    buffers
        .set_recv_buffer_size(SOCKET_BUFFER_BYTES)
        .and_then(|()| buffers.set_send_buffer_size(SOCKET_BUFFER_BYTES))
        .context("enlarge the socket's buffers")?;
    Ok(socket)
}

fn server(
    certificate: rustls::pki_types::CertificateDer<'static>,
    key: rustls::pki_types::PrivateKeyDer<'static>,
) -> Result<quinn::Endpoint> {
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport());
    quinn::Endpoint::new(endpoint_config()?, Some(config), socket()?, Arc::new(quinn::TokioRuntime)).context("open the receiver")
}

fn client(certificate: rustls::pki_types::CertificateDer<'static>) -> Result<quinn::Endpoint> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate)?;
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport());
    let mut endpoint =
        quinn::Endpoint::new(endpoint_config()?, None, socket()?, Arc::new(quinn::TokioRuntime)).context("open the sender")?;
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}
