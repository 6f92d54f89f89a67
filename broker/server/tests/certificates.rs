//! A certificate is replaced while the broker serves; a bad one is not taken.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::{Path, PathBuf};

use sluice_client::{Client, Endpoint, Trust};
use sluice_server::{Certificate, Config, Ready, Renewed, Running, Server};
use support::{STOP_BOUND, config};

mod support;

/// A new self-signed certificate with its key, and its fingerprint.
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        Self {
            certificate: parameters.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn within(directory: &Path) -> Self {
        Self {
            certificate: directory.join("tls.crt"),
            key: directory.join("tls.key"),
        }
    }

    /// Writes them; the fingerprint of the certificate.
    fn write(&self, certificate: &str, key: &str) -> Option<String> {
        std::fs::write(&self.certificate, certificate).unwrap();
        std::fs::write(&self.key, key).unwrap();
        Certificate::read(&self.certificate, &self.key).ok().map(|read| read.sha256)
    }
}

async fn connects(running: &Running, sha256: &str) -> Result<Client, sluice_client::Error> {
    let trust = Trust::sha256(sha256).unwrap();
    Client::connect(Endpoint::new(running.addresses()[0].to_string(), trust)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_get_a_new_certificate_and_those_that_are_open_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::within(directory.path());
    let (first, second) = (Pair::new(), Pair::new());
    let before = files.write(&first.certificate, &first.key).unwrap();
    let ready_file = directory.path().join("ready.json");
    let running = Server::start(Config {
        certificate_file: Some(files.certificate.clone()),
        key_file: Some(files.key.clone()),
        ready_file: Some(ready_file.clone()),
        ..config(directory.path())
    })
    .await
    .unwrap();
    let open = connects(&running, &before).await.unwrap();
    assert_eq!(running.renew_certificate().await.unwrap(), Renewed::Same);

    let after = files.write(&second.certificate, &second.key).unwrap();
    assert_eq!(running.renew_certificate().await.unwrap(), Renewed::Taken);
    let new = connects(&running, &after).await.unwrap();
    assert!(
        connects(&running, &before).await.is_err(),
        "the one before is shown to nobody any more"
    );
    open.topics().await.unwrap();
    let ready: Ready = serde_json::from_slice(&std::fs::read(&ready_file).unwrap()).unwrap();
    assert_eq!((ready.certificate_sha256, running.certificate_sha256()), (after.clone(), after));
    assert!(running.metrics().certificates_taken.get() >= 1);
    open.close().await;
    new.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_certificate_is_refused_and_the_one_before_goes_on_serving() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::within(directory.path());
    let (first, second) = (Pair::new(), Pair::new());
    let before = files.write(&first.certificate, &first.key).unwrap();
    let running = Server::start(Config {
        certificate_file: Some(files.certificate.clone()),
        key_file: Some(files.key.clone()),
        ..config(directory.path())
    })
    .await
    .unwrap();
    for (certificate, key, why) in [
        ("nonsense", second.key.as_str(), "holds no certificate"),
        (&second.certificate, "nonsense", "cannot read"),
        (&second.certificate, &first.key, "the certificate cannot be used"),
    ] {
        files.write(certificate, key);
        let refused = running.renew_certificate().await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
        connects(&running, &before).await.unwrap().close().await;
    }
    assert!(
        running.metrics().certificates_refused.get() >= 3,
        "those that are noticed by themselves count too"
    );
    assert_eq!(running.certificate_sha256(), before);
    running.stop(STOP_BOUND).await.unwrap();
}
