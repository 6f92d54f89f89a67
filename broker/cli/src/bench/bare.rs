//! The yardstick of batched transfers: the same number of bytes over a bare QUIC stream, without a broker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};

/// One write of the sender.
const WRITE_BYTES: usize = 64 << 10;
/// Windows as the broker has them: 100 ms at 1 Gbit/s and more.
const WINDOW_BYTES: u32 = 16 << 20;
/// The largest datagram that path discovery tries, as the client does.
const DATAGRAM_BYTES_MAX: u16 = 9000;
/// What the sockets may hold, as those of broker and client.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// What each connection carries before the clock starts, so that the path's datagram size and window are found.
const WARM_UP_BYTES: u64 = 8 << 20;

/// Sends `bytes` over one stream of each of `connections` connections on the loopback and returns how long it took. The receiver has threads
/// of its own, as a broker in another process has.
///
/// # Errors
/// No socket, or the transfer failed.
pub(super) async fn transfer(bytes: u64, connections: u64) -> Result<Duration> {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).context("make a certificate")?;
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let certificate = certified.cert.der().clone();
    let (address_sender, address) = tokio::sync::oneshot::channel();
    let sink = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("get threads")?;
        runtime.block_on(async {
            let server = server(certificate, key)?;
            // Whoever waited for it has failed and says why.
            let _ = address_sender.send(server.local_addr().context("find the port")?);
            receive_all(server, connections).await
        })
    });
    let address = address.await.context("the receiver did not start")?;
    let client = client(certified.cert.der().clone())?;
    let mut opened = Vec::new();
    for _ in 0..connections {
        let connection = client.connect(address, "localhost").context("connect")?.await.context("connect")?;
        send(&connection, WARM_UP_BYTES).await?;
        opened.push(connection);
    }
    let begun = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for connection in opened {
        senders.spawn(async move { send(&connection, bytes / connections).await });
    }
    for sent in senders.join_all().await {
        sent?;
    }
    let took = begun.elapsed();
    tokio::task::spawn_blocking(move || sink.join())
        .await
        .context("wait for the receiver")?
        .map_err(|_| anyhow!("the receiver failed"))??;
    Ok(took)
}

/// Sends so many bytes on a stream of their own; over when the last has arrived.
async fn send(connection: &quinn::Connection, mut left: u64) -> Result<()> {
    let mut stream = connection.open_uni().await.context("open a stream")?;
    let chunk = bytes::Bytes::from(vec![7_u8; WRITE_BYTES]);
    while left > 0 {
        let now = left.min(WRITE_BYTES as u64);
        stream.write_chunk(chunk.slice(..now as usize)).await.context("send")?;
        left -= now;
    }
    stream.finish().context("finish")?;
    stream.stopped().await.context("wait for the last byte")?;
    Ok(())
}

async fn receive_all(server: quinn::Endpoint, connections: u64) -> Result<()> {
    let mut receivers = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let connection = server.accept().await.context("no connection came")?.await.context("accept")?;
        receivers.spawn(async move {
            // The sender closes when it knows that all has arrived.
            while let Ok(mut stream) = connection.accept_uni().await {
                let mut chunks = [const { bytes::Bytes::new() }; 32];
                while stream.read_chunks(&mut chunks).await.context("receive")?.is_some() {}
            }
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
