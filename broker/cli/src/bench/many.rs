//! Very many connections to a broker that say hello and nothing more: what a fleet of idle clients looks like to it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sluice_protocol::control::Hello;
use sluice_protocol::frame::{self, FrameKind};
use sluice_server::Ready;
use tokio::task::JoinSet;

/// Sockets that the connections share.
const ENDPOINTS: usize = 4;
/// Handshakes under way at a time.
const HANDSHAKES: usize = 64;

/// Open connections. They end when this is dropped.
pub(super) struct Idle {
    connections: Vec<Welcomed>,
    _endpoints: Vec<Endpoint>,
}

/// A connection with its first stream, which stays open as long.
struct Welcomed {
    connection: Connection,
    _first: (SendStream, RecvStream),
}

impl Idle {
    /// Opens connections until there are `count`, each welcomed.
    ///
    /// # Errors
    /// The broker cannot be reached or refuses one of them.
    pub(super) async fn open(ready: &Ready, count: usize) -> Result<Self> {
        let address: SocketAddr = ready.listen.parse().context("understand the broker's address")?;
        let config = client_config(&ready.certificate)?;
        let mut endpoints = Vec::new();
        for _ in 0..ENDPOINTS {
            let mut endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).context("open a socket")?;
            endpoint.set_default_client_config(config.clone());
            endpoints.push(endpoint);
        }
        let mut connections = Vec::with_capacity(count);
        let mut opening = JoinSet::new();
        for nth in 0..count {
            if opening.len() == HANDSHAKES
                && let Some(opened) = opening.join_next().await
            {
                connections.push(opened.context("open a connection")??);
            }
            opening.spawn(welcomed(endpoints[nth % ENDPOINTS].clone(), address, nth));
        }
        for opened in opening.join_all().await {
            connections.push(opened?);
        }
        Ok(Self {
            connections,
            _endpoints: endpoints,
        })
    }

    /// How many are still open.
    pub(super) fn alive(&self) -> usize {
        let open = self
            .connections
            .iter()
            .filter(|welcomed| welcomed.connection.close_reason().is_none());
        open.count()
    }
}

async fn welcomed(endpoint: Endpoint, address: SocketAddr, nth: usize) -> Result<Welcomed> {
    let connection = endpoint
        .connect(address, "localhost")
        .context("connect")?
        .await
        .context("connect")?;
    let (mut send, mut receive) = connection.open_bi().await.context("open the first stream")?;
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        client_name: format!("idle-{nth}"),
        producer_id: (nth as u128).to_le_bytes().to_vec().into(),
    };
    send.write_all(&frame::message(FrameKind::Hello, &hello))
        .await
        .context("say hello")?;
    // The first bytes are the welcome, or a refusal after which the connection is closed.
    match receive.read_chunk(1 << 16, true).await.context("hear the welcome")? {
        Some(_) if connection.close_reason().is_none() => Ok(Welcomed {
            connection,
            _first: (send, receive),
        }),
        Some(_) | None => bail!("the broker refused a connection"),
    }
}

fn client_config(certificate: &Path) -> Result<quinn::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).context("read the broker's certificate")?)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![sluice_server::ALPN.to_vec()];
    Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)))
}
