//! What clients get that break the protocol: the stream at fault ends with a code, the connection goes on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sluice_protocol::batch::{BatchBuilder, NewMessage};
use sluice_protocol::control::{Confirm, Empty, Hello, PublishStart, Refused, Welcome};
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::frame::{self, Frame, FrameKind, Kind};
use sluice_protocol::ids::{ProducerId, Sequence};
use sluice_server::Running;
use support::{STOP_BOUND, start};

mod support;

const PRODUCER: u128 = 0x0102_0304;

/// A connection that speaks frames by hand.
struct Raw {
    _endpoint: quinn::Endpoint,
    connection: Connection,
}

impl Raw {
    async fn connect(running: &Running) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(running.certificate()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![sluice_server::ALPN.to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let connection = endpoint
            .connect_with(config, running.addresses()[0], "localhost")
            .unwrap()
            .await
            .unwrap();
        Self {
            _endpoint: endpoint,
            connection,
        }
    }

    async fn welcomed(running: &Running) -> Self {
        let raw = Self::connect(running).await;
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

    async fn open(&self, bytes: &[u8]) -> Stream {
        let (mut send, receive) = self.connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        Stream {
            send,
            receive,
            buffer: BytesMut::new(),
        }
    }

    async fn lives(&self) {
        let mut stream = self.open(&frame::message(FrameKind::ListTopics, &Empty {})).await;
        assert_eq!(stream.next().await.unwrap().0, FrameKind::Topics);
    }
}

struct Stream {
    send: SendStream,
    receive: RecvStream,
    buffer: BytesMut,
}

impl Stream {
    /// The next frame; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(FrameKind, Bytes)> {
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

    async fn refused(&mut self) -> ErrorCode {
        let (kind, payload) = self.next().await.unwrap();
        assert_eq!(kind, FrameKind::Refused);
        let refused: Refused = prost::Message::decode(payload).unwrap();
        assert!(self.next().await.is_none(), "a refusal is the last frame");
        ErrorCode::from_code(refused.code as u16).unwrap()
    }
}

fn batch(producer: u128, first: u64, count: u32) -> Bytes {
    let mut builder = BatchBuilder::new(1_000, ProducerId(producer), Sequence(first));
    for _ in 0..count {
        builder
            .push(
                &NewMessage {
                    tag: None,
                    keys: &[] as &[&str],
                    properties: &[],
                    born_ms: 1_000,
                },
                b"body",
            )
            .unwrap();
    }
    builder.finish()
}

fn publish(payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    frame::encode(FrameKind::Publish, payload, &mut out);
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_frame_ends_its_stream_alone() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let raw = Raw::welcomed(&running).await;
    let mut oversized = raw.open(&[255, 255, 255, 127, 16, 0, 0, 0]).await;
    assert_eq!(oversized.refused().await, ErrorCode::LimitExceeded);
    let mut unknown = raw.open(&[0, 0, 0, 0, 9, 9, 0, 0]).await;
    assert_eq!(unknown.refused().await, ErrorCode::UnknownFrame);
    let mut misplaced = raw.open(&frame::message(FrameKind::Credit, &Empty {})).await;
    assert_eq!(misplaced.refused().await, ErrorCode::UnexpectedFrame);
    let mut broken = raw.open(&[3, 0, 0, 0, 64, 0, 0, 0, 255, 255, 255]).await;
    assert_eq!(broken.refused().await, ErrorCode::MalformedFrame);
    let mut cut = raw.open(&[3, 0, 0, 0, 64, 0, 0, 0, 255]).await;
    cut.send.finish().unwrap();
    assert_eq!(cut.refused().await, ErrorCode::MalformedFrame);
    raw.lives().await;
    assert!(running.metrics().frames_refused.get() >= 4);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_may_be_skipped_is() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let raw = Raw::welcomed(&running).await;
    let mut bytes = BytesMut::from(&[2, 0, 0, 0, 9, 9, 1, 0, 1, 2][..]);
    frame::encode_message(FrameKind::ListTopics, &Empty {}, &mut bytes);
    assert_eq!(raw.open(&bytes).await.next().await.unwrap().0, FrameKind::Topics);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_hello_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let raw = Raw::connect(&running).await;
    let mut stream = raw.open(&frame::message(FrameKind::ListTopics, &Empty {})).await;
    assert_eq!(stream.refused().await, ErrorCode::UnexpectedFrame);
    assert!(matches!(
        raw.connection.closed().await,
        quinn::ConnectionError::ApplicationClosed(_)
    ));
    let raw = Raw::connect(&running).await;
    let hello = Hello {
        version_min: 2,
        version_max: 9,
        client_name: "new".into(),
        producer_id: vec![0; 16].into(),
    };
    let mut stream = raw.open(&frame::message(FrameKind::Hello, &hello)).await;
    assert_eq!(stream.refused().await, ErrorCode::UnsupportedVersion);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_a_malformed_batch_is_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let raw = Raw::welcomed(&running).await;
    let mut bytes = BytesMut::from(&frame::message(FrameKind::PublishStart, &PublishStart { topic: "t".into() })[..]);
    bytes.extend_from_slice(&publish(&batch(PRODUCER, 0, 3)));
    bytes.extend_from_slice(&publish(&batch(PRODUCER, 3, 2)));
    bytes.extend_from_slice(&publish(b"not a batch"));
    let mut stream = raw.open(&bytes).await;
    for count in [3, 2] {
        let (kind, payload) = stream.next().await.unwrap();
        assert_eq!(kind, FrameKind::Confirm);
        let confirm: Confirm = prost::Message::decode(payload).unwrap();
        assert_eq!(confirm.stored.iter().map(|run| run.count).sum::<u32>(), count);
    }
    assert_eq!(stream.refused().await, ErrorCode::MalformedFrame);
    raw.lives().await;
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_publish_is_answered_as_a_duplicate() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let raw = Raw::welcomed(&running).await;
    let mut bytes = BytesMut::from(&frame::message(FrameKind::PublishStart, &PublishStart { topic: "t".into() })[..]);
    bytes.extend_from_slice(&publish(&batch(PRODUCER, 0, 4)));
    bytes.extend_from_slice(&publish(&batch(PRODUCER, 0, 4)));
    let mut stream = raw.open(&bytes).await;
    let mut runs = Vec::new();
    for _ in 0..2 {
        let confirm: Confirm = prost::Message::decode(stream.next().await.unwrap().1).unwrap();
        runs.push(confirm.stored);
    }
    assert!(
        runs[0].iter().all(|run| !run.duplicate) && runs[1].iter().all(|run| run.duplicate),
        "{runs:?}"
    );
    assert_eq!(
        (runs[0][0].queue, runs[0][0].first_offset),
        (runs[1][0].queue, runs[1][0].first_offset)
    );
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_unconfirmed_messages_than_the_welcome_allows_are_refused_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut few = support::config(directory.path());
    few.limits.unconfirmed = 4;
    let running = sluice_server::Server::start(few).await.unwrap();
    let raw = Raw::welcomed(&running).await;
    let mut bytes = BytesMut::from(&frame::message(FrameKind::PublishStart, &PublishStart { topic: "t".into() })[..]);
    bytes.extend_from_slice(&publish(&batch(PRODUCER, 0, 5)));
    let mut stream = raw.open(&bytes).await;
    let confirm: Confirm = prost::Message::decode(stream.next().await.unwrap().1).unwrap();
    assert_eq!((confirm.stored.len(), confirm.refused.len()), (0, 5));
    let code = confirm.refused[0].refused.as_ref().unwrap().code;
    assert_eq!(ErrorCode::from_code(code as u16), Some(ErrorCode::TooManyUnconfirmed));
    stream.send.write_all(&publish(&batch(PRODUCER, 5, 4))).await.unwrap();
    let confirm: Confirm = prost::Message::decode(stream.next().await.unwrap().1).unwrap();
    assert_eq!(confirm.stored.iter().map(|run| run.count).sum::<u32>(), 4);
    running.stop(STOP_BOUND).await.unwrap();
}
