//! What a start gets that cannot be: a bad configuration, a data directory in use, of another version or damaged. Each answer is quoted.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sluice_end_to_end::{Broker, quoted, sluice, text};

/// A directory for one refused start.
struct Refused {
    directory: tempfile::TempDir,
}

impl Refused {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory for a test can be made");
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("a file for a test can be written");
        path
    }

    /// Starts a broker with this configuration, which must end with 1; what it said, with `DIR` for the directory.
    fn configured(&self, configuration: &str) -> String {
        let file = self.write("sluice.toml", configuration);
        self.served(&self.path("data"), &["--config", file.to_str().expect("the path is text")])
    }

    fn served(&self, data: &Path, arguments: &[&str]) -> String {
        let mut command = Command::new(sluice());
        command.args(["serve", "--data"]).arg(data).args(arguments);
        if !arguments.contains(&"--config") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let output = command.output().expect("the binary was built, so it can be run");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let said = text(&output.stderr).replace(&self.directory.path().display().to_string(), "DIR");
        // What is logged before is not the answer.
        said[said.find("error: ").expect("it says why")..].to_owned()
    }
}

#[test]
fn a_configuration_that_cannot_be_is_refused_by_what_is_wrong_in_it() {
    let refused = Refused::new();
    for configuration in [
        "listn = \"127.0.0.1:0\"\n",
        "[limits]\nbody_byte = 1024\n",
        "segment_bytes = \"64 MiB\"\n",
        "durability = \"fast\"\n",
        "metrics_listen = \"9471\"\n",
        "[topics]\nqueues = 0\n",
        "segment_bytes = 1024\n",
        "[delays]\nnear_ms = 10\n",
        "[transactions]\nasks_max = 0\n",
        "[transactions]\nask_first = 6000\n",
        "[limits]\nframe_bytes = 1048576\n",
        "listen = \"0.0.0.0:9470\"\n",
        "certificate_file = \"tls.crt\"\n",
        "data_dir = \n",
    ] {
        let answer = refused.configured(configuration);
        quoted(&format!("{configuration}```\n```text\n{answer}"));
        assert!(!refused.path("data").exists(), "nothing is made for a start that is refused");
    }
}

#[test]
fn a_configuration_file_that_is_not_there_is_named() {
    let refused = Refused::new();
    quoted(&refused.served(&refused.path("data"), &["--config", "/nowhere/sluice.toml"]));
}

#[test]
fn a_certificate_that_cannot_be_used_is_named() {
    let refused = Refused::new();
    let (certificate, key) = (refused.write("tls.crt", "nonsense"), refused.path("tls.key"));
    let configuration = format!(
        "listen = \"127.0.0.1:0\"\ncertificate_file = {:?}\nkey_file = {:?}\n",
        certificate.display(),
        key.display()
    );
    quoted(&refused.configured(&configuration));
}

#[test]
fn an_address_in_use_is_named_with_its_setting() {
    let refused = Refused::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let answer = refused.served(&refused.path("data"), &["--metrics-listen", &address]);
    quoted(&answer.replace(&address, "127.0.0.1:9470"));
}

#[test]
fn a_data_directory_that_cannot_be_one_is_named() {
    let refused = Refused::new();
    let file = refused.write("data", "a file");
    quoted(&refused.served(&file, &[]));
}

#[test]
fn a_data_directory_in_use_is_refused_and_its_broker_goes_on() {
    let broker = Broker::start();
    let refused = Refused::new();
    let answer = refused.served(&broker.data(), &[]);
    quoted(&answer.replace(&broker.data().display().to_string(), "DIR/data"));
    broker.produce("numbers", 0, 3);
}

#[test]
fn a_data_directory_of_another_version_is_refused_and_left_alone() {
    let mut broker = Broker::start();
    broker.produce("numbers", 0, 3);
    assert!(broker.terminate());
    let format = broker.data().join("log/format");
    let mut bytes = std::fs::read(&format).unwrap();
    bytes[8] = 9;
    std::fs::write(&format, &bytes).unwrap();
    let before = files(&broker.data());
    let answer = Refused::new().served(&broker.data(), &[]);
    quoted(&answer.replace(&broker.data().display().to_string(), "DIR/data"));
    assert_eq!(files(&broker.data()), before, "nothing was changed");
}

/// Every file below a directory with its content, but for the lock, which is empty.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("the directory is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let content = std::fs::read(&path).expect("it can be read");
            found.insert(path, content);
        }
    }
    found
}

/// The exit code of an inspection, its report, and what it said to a person.
fn inspected(data: &Path) -> (Option<i32>, Value, String) {
    let inspect = |arguments: &[&str]| {
        let output = Command::new(sluice()).arg("inspect").args(arguments).arg(data).output();
        output.expect("the binary was built, so it can be run")
    };
    let output = inspect(&["--json"]);
    let report = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    (output.status.code(), report, text(&inspect(&[]).stderr))
}

#[test]
fn a_damaged_segment_is_named_shown_as_far_as_it_can_be_read_and_left_alone() {
    let mut broker = Broker::start();
    for first in [0, 100, 200] {
        broker.produce("numbers", first, first + 100);
    }
    broker.kill();
    let (exit, healthy, _) = inspected(&broker.data());
    assert_eq!((exit, &healthy["can_start"]), (Some(0), &Value::from(true)));
    let segment = &healthy["segments"][0];
    let name = segment["file"].as_str().unwrap();
    let path = broker.data().join("log").join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    // In the middle of what was confirmed: the file's positions begin behind its head.
    let middle = (healthy["end"].as_u64().unwrap() - segment["base"].as_u64().unwrap()) / 2;
    bytes[middle as usize] ^= 0x40;
    std::fs::write(&path, &bytes).unwrap();
    let before = files(&broker.data());

    let answer = Refused::new().served(&broker.data(), &[]);
    let (exit, report, said) = inspected(&broker.data());
    assert_eq!((exit, &report["can_start"]), (Some(1), &Value::from(false)));
    let damage = &report["damage"][0];
    let (position, size) = (damage["position"].to_string(), damage["bytes"].to_string());
    assert!(answer.contains(&format!("position {position}, {size} bytes")), "{answer} {damage}");
    assert_eq!(damage["file"], name);
    let generic = |answer: &str| {
        let answer = answer.replace(&format!("position {position}, {size} bytes"), "position 26376, 1136 bytes");
        answer.replace(name, "segment-00000000")
    };
    quoted(&generic(&answer));
    quoted(&said);

    let readable: u64 = report["queues"]
        .as_array()
        .unwrap()
        .iter()
        .map(|queue| queue["end"].as_u64().unwrap())
        .sum();
    assert!(
        readable < 300 && report["end"].as_u64() == Some(damage["position"].as_u64().unwrap()),
        "{report}"
    );
    assert_eq!(files(&broker.data()), before, "nothing was dropped");
}
