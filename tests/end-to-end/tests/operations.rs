//! What an operator sees and does with the real binary: pages over HTTP, a log of JSON lines, a certificate replaced while it serves.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_client::{Client, Endpoint};
use sluice_end_to_end::{Broker, page, sluice};

const WITHIN: Duration = Duration::from_secs(60);

/// A broker with a configuration of its own.
struct Served {
    directory: tempfile::TempDir,
    child: Child,
}

impl Served {
    fn start(configuration: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory for a test can be made");
        let file = directory.path().join("sluice.toml");
        std::fs::write(&file, configuration).expect("a file for a test can be written");
        let log = std::fs::File::create(directory.path().join("log.txt")).expect("a log for a test can be made");
        let mut command = Command::new(sluice());
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&file);
        command.arg("--data").arg(directory.path().join("data")).env_remove("RUST_LOG");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let served = Self {
            child: child.expect("the binary was just built"),
            directory,
        };
        served.until("it serves", || served.ready_file().exists().then_some(()));
        served
    }

    fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(begun.elapsed() < WITHIN, "not within a minute: {what}; {}", self.log());
            std::thread::yield_now();
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn ready_file(&self) -> PathBuf {
        self.data().join("ready.json")
    }

    fn ready(&self) -> Value {
        let text = std::fs::read(self.ready_file()).expect("it serves");
        serde_json::from_slice(&text).expect("it is JSON")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log.txt")).unwrap_or_default()
    }

    /// The first event of this message.
    fn logged(&self, message: &str) -> Option<Value> {
        let log = self.log();
        let whole = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        whole.into_iter().find(|event| event["message"] == message)
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.expect("every system has kill").success());
    }

    fn page(&self, path: &str) -> String {
        page(&self.ready_file(), path)
    }

    fn trusts(&self, certificate: &Path) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let address = self.ready()["listen"].as_str().expect("it has an address").to_owned();
        let trust = sluice_client::Trust::CaFile(certificate.to_path_buf());
        runtime.expect("there are threads").block_on(async {
            let client = Client::connect(Endpoint::new(address, trust).connect_within(Duration::from_secs(10))).await;
            client.map_err(|error| error.to_string())?.close().await;
            Ok(())
        })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // One that has ended needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_operator_reads_pages_and_a_log_whose_facts_are_fields() {
    let mut served = Served::start("log_format = \"json\"\n");
    for (page, body) in [("/live", "live\n"), ("/ready", "ready\n")] {
        let answer = served.page(page);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(body), "{answer}");
    }
    let metrics = served.page("/metrics");
    assert!(metrics.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(metrics.contains("sluice_ready 1\n") && metrics.contains("# EOF\n"), "{metrics}");
    served.signal("-TERM");
    assert!(served.child.wait().expect("it can be waited for").success(), "{}", served.log());
    for line in served.log().lines() {
        let event: Value = serde_json::from_str(line).expect("a line of the log is JSON");
        assert!(
            event["timestamp"].is_string() && event["level"].is_string() && event["message"].is_string(),
            "{line}"
        );
    }
    let serving = served.logged("serving").expect("it says that it serves");
    assert!(
        serving["listen"].is_string() && serving["metrics"].is_string() && serving["epoch"] == 1,
        "{serving}"
    );
    assert!(served.logged("stopping").is_some() && served.logged("stopped").is_some());
}

#[test]
fn a_certificate_is_replaced_by_a_signal_and_a_bad_one_is_not() {
    let served = Served::start("log_format = \"json\"\n");
    let (certificate, key) = (served.data().join("certificate.pem"), served.data().join("key.pem"));
    let before = served.directory.path().join("before.pem");
    std::fs::copy(&certificate, &before).unwrap();

    std::fs::write(&certificate, "nonsense").unwrap();
    served.signal("-HUP");
    let refused = served.until("the bad one is refused", || {
        served.logged("the certificate was read again and is refused: the one before goes on serving")
    });
    assert!(
        refused["level"] == "ERROR" && refused["error"].as_str().unwrap().contains("certificate.pem"),
        "{refused}"
    );
    served.trusts(&before).unwrap();

    let other = Broker::start();
    std::fs::copy(other.data().join("certificate.pem"), &certificate).unwrap();
    std::fs::copy(other.data().join("key.pem"), &key).unwrap();
    served.signal("-HUP");
    let taken = served.until("the new one is taken", || {
        served.logged("the certificate was read again: new connections get it")
    });
    served.until("the ready file pins it", || {
        (served.ready()["certificate_sha256"] == taken["certificate_sha256"]).then_some(())
    });
    served.trusts(&certificate).unwrap();
    assert!(served.trusts(&before).is_err(), "the one before is shown to nobody any more");
    assert!(served.page("/metrics").contains("sluice_certificates_taken_total 1\n"));
}
