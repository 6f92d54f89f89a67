//! A client that speaks frames by hand, and breaks rules where a test wants it.

#![allow(dead_code, reason = "each test file takes what it needs")]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, TransportConfig};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sluice_protocol::batch::{BatchBuilder, NewMessage};
use sluice_protocol::control::{Confirm, Empty, Hello, PublishStart, Refused, Welcome};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, Frame, FrameKind, Kind};
use sluice_protocol::ids::{ProducerId, Sequence};
use sluice_server::Running;

pub(crate) const PRODUCER: u128 = 0x0102_0304;

/// A connection that speaks frames by hand.
pub(crate) struct Raw {
    _endpoint: quinn::Endpoint,
    pub(crate) connection: Connection,
}

impl Raw {
    pub(crate) async fn connect(running: &Running) -> Self {
        Self::try_connect(running).await.unwrap()
    }

    pub(crate) async fn try_connect(running: &Running) -> Result<Self, ConnectionError> {
        Self::connect_with(running, TransportConfig::default()).await
    }

    /// A client with windows of its own, such as one that has room for next to nothing.
    async fn connect_with(running: &Running, transport: TransportConfig) -> Result<Self, ConnectionError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(running.certificate()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![sluice_server::ALPN.to_vec()];
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        config.transport_config(Arc::new(transport));
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let connection = endpoint.connect_with(config, running.addresses()[0], "localhost").unwrap().await?;
        Ok(Self {
            _endpoint: endpoint,
            connection,
        })
    }

    pub(crate) async fn welcomed(running: &Running) -> Self {
        Self::connect(running).await.introduced().await
    }

    /// A client in good order whose streams have room for so many unread bytes each.
    pub(crate) async fn with_windows(running: &Running, stream_bytes: u32) -> Self {
        let mut transport = TransportConfig::default();
        transport
            .stream_receive_window(stream_bytes.into())
            .max_concurrent_uni_streams(10_000_u32.into());
        Self::connect_with(running, transport).await.unwrap().introduced().await
    }

    async fn introduced(self) -> Self {
        let raw = self;
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            client_name: "raw".into(),
            producer_id: PRODUCER.to_le_bytes().to_vec().into(),
        };
        let mut stream = raw.open(&frame::message(FrameKind::Hello, &hello)).await;
        let (kind, payload) = stream.next().await.unwrap();
        assert_eq!(kind, FrameKind::Welcome);
        let welcome: Welcome = prost::Message::decode(payload).unwrap();
        assert_eq!(welcome.version, 1);
        raw
    }

    pub(crate) async fn open(&self, bytes: &[u8]) -> Stream {
        let (mut send, receive) = self.connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        Stream {
            send,
            answers: Answers {
                receive,
                buffer: BytesMut::new(),
            },
        }
    }

    pub(crate) async fn lives(&self) {
        let mut stream = self.open(&frame::message(FrameKind::ListTopics, &Empty {})).await;
        assert_eq!(stream.next().await.unwrap().0, FrameKind::Topics);
    }
}

pub(crate) struct Stream {
    pub(crate) send: SendStream,
    pub(crate) answers: Answers,
}

/// The half of a stream that the broker writes.
pub(crate) struct Answers {
    receive: RecvStream,
    buffer: BytesMut,
}

impl Answers {
    /// The next frame; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<(FrameKind, Bytes)> {
        loop {
            if let Some(Frame {
                kind: Kind::Known(kind),
                payload,
            }) = frame::decode(&mut self.buffer, 1 << 24).unwrap()
            {
                return Some((kind, payload));
            }
            let chunk = self.receive.read_chunk(1 << 16, true).await.unwrap()?;
            self.buffer.extend_from_slice(&chunk.bytes);
        }
    }

    /// The confirm that comes next.
    pub(crate) async fn confirm(&mut self) -> Confirm {
        let (kind, payload) = self.next().await.unwrap();
        assert_eq!(kind, FrameKind::Confirm);
        prost::Message::decode(payload).unwrap()
    }
}

impl Stream {
    /// The next frame; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<(FrameKind, Bytes)> {
        self.answers.next().await
    }

    pub(crate) async fn refused(&mut self) -> ErrorCode {
        self.refusal().await.code
    }

    /// The refusal that ends the stream.
    pub(crate) async fn refusal(&mut self) -> Refusal {
        let (kind, payload) = self.next().await.unwrap();
        assert_eq!(kind, FrameKind::Refused);
        let refused: Refused = prost::Message::decode(payload).unwrap();
        assert!(self.next().await.is_none(), "a refusal is the last frame");
        Refusal::from(refused)
    }

    /// The confirm that comes next.
    pub(crate) async fn confirm(&mut self) -> Confirm {
        self.answers.confirm().await
    }
}

pub(crate) fn batch(producer: u128, first: u64, count: u32) -> Bytes {
    batch_of(producer, first, count, b"body")
}

/// The frame that opens a producer's stream.
pub(crate) fn publish_start(topic: &str) -> Bytes {
    frame::message(
        FrameKind::PublishStart,
        &PublishStart {
            topic: topic.to_owned(),
            joined_confirms: false,
        },
    )
}

pub(crate) fn batch_of(producer: u128, first: u64, count: u32, body: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(1_000, ProducerId(producer), Sequence(first));
    for _ in 0..count {
        builder
            .push(
                &NewMessage {
                    tag: None,
                    keys: &[] as &[&str],
                    properties: &[],
                    born_ms: 1_000,
                    ..NewMessage::default()
                },
                body,
            )
            .unwrap();
    }
    builder.finish()
}

pub(crate) fn publish(payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    frame::encode(FrameKind::Publish, payload, &mut out);
    out
}
