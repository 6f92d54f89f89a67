//! What the tests of the server share: a broker on a directory of its own, and clients of it.

use std::path::Path;
use std::time::Duration;

use sluice_client::{Client, Endpoint, Trust};
use sluice_server::{Config, Running, Server};

pub(crate) mod document;
pub(crate) mod http;
pub(crate) mod others;
pub(crate) mod raw;

/// How long a stop may take in a test.
pub(crate) const STOP_BOUND: Duration = Duration::from_secs(20);

/// A configuration on this directory and a free port.
pub(crate) fn config(directory: &Path) -> Config {
    Config {
        data_dir: directory.to_path_buf(),
        listen: ([127, 0, 0, 1], 0).into(),
        ..Config::default()
    }
}

/// Starts a broker on this directory.
#[allow(dead_code, reason = "each test file takes what it needs")]
pub(crate) async fn start(directory: &Path) -> Running {
    Server::start(config(directory)).await.unwrap()
}

/// Connects a client that trusts the broker by its fingerprint.
#[allow(dead_code, reason = "each test file takes what it needs")]
pub(crate) async fn connect(running: &Running) -> Client {
    let trust = Trust::sha256(&running.certificate_sha256()).unwrap();
    Client::connect(Endpoint::new(running.addresses()[0].to_string(), trust))
        .await
        .unwrap()
}
