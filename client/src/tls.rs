//! How the broker's certificate is judged: by authorities, by being one of the given certificates, or by its fingerprint.

use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, CipherSuite, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::endpoint::Trust;
use crate::error::Error;
use crate::limits;

/// The application protocol that both sides must name.
const ALPN: &[u8] = b"sluice/1";

/// The QUIC settings of a client that trusts as told. `Error::Endpoint` when the trust cannot be used.
pub(crate) fn client_config(trust: &Trust) -> Result<quinn::ClientConfig, Error> {
    let provider = Arc::new(provider());
    let verifier = Arc::new(Verifier::new(trust, &provider)?);
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::Endpoint(format!("TLS 1.3 is not available: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let quic = QuicClientConfig::try_from(tls).map_err(|error| Error::Endpoint(format!("TLS cannot carry QUIC: {error}")))?;
    let mut config = quinn::ClientConfig::new(Arc::new(quic));
    config.transport_config(Arc::new(transport()));
    Ok(config)
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

fn transport() -> quinn::TransportConfig {
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(limits::DATAGRAM_BYTES_MAX);
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_idle_timeout(quinn::IdleTimeout::try_from(limits::IDLE_TIMEOUT).ok())
        .keep_alive_interval(Some(limits::KEEP_ALIVE))
        .stream_receive_window(limits::STREAM_WINDOW_BYTES.into())
        .receive_window(limits::CONNECTION_WINDOW_BYTES.into())
        .send_window(u64::from(limits::CONNECTION_WINDOW_BYTES))
        .max_concurrent_uni_streams(limits::DELIVERY_STREAMS_MAX.into())
        .max_concurrent_bidi_streams(0_u32.into())
        .mtu_discovery_config(Some(discovery));
    transport
}

/// Judges the broker's certificate.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// Trusted whatever they name.
    pinned: Vec<[u8; 32]>,
    /// Whose signature is trusted for certificates that name the server.
    authorities: Option<Arc<WebPkiServerVerifier>>,
}

impl Verifier {
    fn new(trust: &Trust, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        match trust {
            Trust::Sha256(digest) => Ok(Self {
                provider: provider.clone(),
                pinned: vec![*digest],
                authorities: None,
            }),
            Trust::Pem(pem) => Self::from_pem(pem, "the PEM text", provider),
            Trust::CaFile(path) => {
                let pem = std::fs::read(path)
                    .map_err(|error| Error::Endpoint(format!("cannot read the broker's certificate {}: {error}", path.display())))?;
                Self::from_pem(&pem, &path.display().to_string(), provider)
            }
        }
    }

    fn from_pem(pem: &[u8], origin: &str, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| Error::Endpoint(format!("{origin} is not PEM: {error}")))?;
        if certificates.is_empty() {
            return Err(Error::Endpoint(format!("{origin} holds no certificate")));
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        let authorities = match WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build() {
            Ok(verifier) => Some(verifier),
            Err(VerifierBuilderError::NoRootAnchors) => None,
            Err(error) => return Err(Error::Endpoint(format!("the certificates of {origin} cannot be used: {error}"))),
        };
        Ok(Self {
            provider: provider.clone(),
            pinned: certificates.iter().map(fingerprint).collect(),
            authorities,
        })
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate.as_ref()).into()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pinned.contains(&fingerprint(certificate)) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.authorities {
            Some(authorities) => authorities.verify_server_cert(certificate, intermediates, name, ocsp, now),
            None => Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str) -> rcgen::CertifiedKey<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap()
    }

    fn verdict(trust: &Trust, shown: &CertificateDer<'_>, name: &'static str) -> bool {
        let verifier = Verifier::new(trust, &Arc::new(provider())).unwrap();
        verifier
            .verify_server_cert(shown, &[], &ServerName::try_from(name).unwrap(), &[], UnixTime::now())
            .is_ok()
    }

    #[test]
    fn the_brokers_own_certificate_is_trusted_whatever_it_names() {
        let broker = made("broker.example");
        let trust = Trust::Pem(broker.cert.pem().into_bytes());
        assert!(verdict(&trust, broker.cert.der(), "localhost"));
    }

    #[test]
    fn another_certificate_is_refused_even_with_the_right_name() {
        let (broker, other) = (made("localhost"), made("localhost"));
        assert!(!verdict(&Trust::Pem(broker.cert.pem().into_bytes()), other.cert.der(), "localhost"));
        assert!(!verdict(
            &Trust::Sha256(fingerprint(broker.cert.der())),
            other.cert.der(),
            "localhost"
        ));
    }

    #[test]
    fn a_pinned_fingerprint_is_trusted() {
        let broker = made("anything");
        assert!(verdict(
            &Trust::Sha256(fingerprint(broker.cert.der())),
            broker.cert.der(),
            "localhost"
        ));
    }

    #[test]
    fn a_file_without_a_certificate_is_refused() {
        assert!(matches!(
            client_config(&Trust::Pem(b"nothing here".to_vec())),
            Err(Error::Endpoint(_))
        ));
    }
}
