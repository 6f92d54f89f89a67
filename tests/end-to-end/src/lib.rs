//! The real binary, real QUIC, real files: how the tests start a broker, run commands against it, and kill it.

pub mod chance;
mod document;
pub mod holding;
mod page;
pub mod scene;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_client::{Client, Endpoint};
use tempfile::TempDir;

pub use document::quoted;
pub use page::page;

/// How long a broker may take to serve or to stop. Only a broken one comes near it.
const WITHIN: Duration = Duration::from_secs(60);

/// The `sluice` binary, built once for all tests of a process, in the profile that they were built in.
pub fn sluice() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let directory = profile_directory();
        // Cargo calls the directory of the profile `dev` by this name, and every other by the profile's own.
        let profile = match directory.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        // The selection that the tests were built with: cargo unites features over the packages selected, and for any other selection it
        // would build wasmtime once more.
        let everything = ["build", "--workspace", "--all-targets", "--locked", "--profile", profile];
        cargo(&everything, &target_directory());
        directory.join("sluice")
    })
}

/// The example plugin of the SDK, built from source: it delivers messages that have the property and value its expression names.
pub fn property_equals() -> &'static Path {
    static MODULE: OnceLock<PathBuf> = OnceLock::new();
    MODULE.get_or_init(|| {
        let target = target_directory().join("guests");
        let example = ["--package", "sluice-plugin", "--example", "property-equals"];
        cargo(
            &[&["build", "--release", "--target", "wasm32-unknown-unknown"], &example[..]].concat(),
            &target,
        );
        target.join("wasm32-unknown-unknown/release/examples/property_equals.wasm")
    })
}

fn cargo(arguments: &[&str], target: &Path) {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let status = command
        .args(arguments)
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(
        status.expect("cargo runs these tests, so it can be run").success(),
        "cargo {arguments:?} failed"
    );
}

/// The target directory that this test was built in.
fn target_directory() -> PathBuf {
    let profile = profile_directory();
    profile
        .parent()
        .expect("a profile's directory lies in the target directory")
        .to_path_buf()
}

/// The directory of the profile that this test was built in: its own binary lies in `deps` of it.
fn profile_directory() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a file");
    let profile = own.ancestors().nth(2);
    profile
        .expect("cargo puts tests two levels below their profile's directory")
        .to_path_buf()
}

/// A broker of one test, with a data directory of its own.
pub struct Broker {
    directory: TempDir,
    child: Option<Child>,
}

impl Broker {
    /// Starts a broker on an empty data directory and waits until it serves.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory for a test can be made");
        let mut broker = Self { directory, child: None };
        broker.serve();
        broker
    }

    /// Starts the broker, which must not be running, on the data that is there, and waits until it serves.
    pub fn serve(&mut self) {
        let mut command = Command::new(sluice());
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(self.data())
            .arg("--ready-file")
            .arg(self.ready_file());
        let settings = self.directory.path().join("sluice.toml");
        if settings.exists() {
            command.arg("--config").arg(settings);
        }
        self.run_server(command);
    }

    /// As `start`, with these settings, which later starts have too.
    pub fn start_with(settings: &str) -> Self {
        let mut broker = Self::stopped_with(settings);
        broker.serve();
        broker
    }

    /// A broker with these settings and no data yet, which is not started.
    pub fn stopped_with(settings: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory for a test can be made");
        let broker = Self { directory, child: None };
        broker.file("sluice.toml", settings);
        broker
    }

    /// Starts a broker with these settings on what a backup is restored to.
    pub fn restored(backup: &Path, settings: &str) -> Self {
        let mut broker = Self::stopped_with(settings);
        let restored = Command::new(sluice())
            .args(["backup", "restore"])
            .arg(backup)
            .arg("--data")
            .arg(broker.data())
            .output();
        let restored = restored.expect("the binary was just built");
        assert!(restored.status.success(), "{}", text(&restored.stderr));
        broker.serve();
        broker
    }

    /// As `start`, with the server of this binary over a disk on which the files of the log may take so many bytes: `sluice-holding`.
    pub fn start_with_room(binary: &str, settings: &str, bytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory for a test can be made");
        let mut broker = Self { directory, child: None };
        broker.set_room(bytes);
        let (data, ready_file) = (broker.data(), broker.ready_file());
        let config = format!("data_dir = {data:?}\nready_file = {ready_file:?}\nlisten = \"127.0.0.1:0\"\n{settings}");
        broker.file("sluice.toml", &config);
        broker.serve_with_room(binary);
        broker
    }

    /// Starts that server again.
    pub fn serve_with_room(&mut self, binary: &str) {
        let mut command = Command::new(binary);
        command
            .args(["--seed", "1", "--config"])
            .arg(self.directory.path().join("sluice.toml"));
        command.arg("--room").arg(self.directory.path().join("room"));
        self.run_server(command);
    }

    /// Says how many bytes the files of the log may take from now on.
    pub fn set_room(&self, bytes: u64) {
        self.file("room", &bytes.to_string());
    }

    fn run_server(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "the broker runs already");
        // A ready file of an earlier start would be believed.
        let _ = std::fs::remove_file(self.ready_file());
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log.txt"));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log for a test can be made"))
            .spawn();
        let mut child = child.expect("the binary was just built");
        let begun = Instant::now();
        while !self.ready_file().exists() {
            let ended = child.try_wait().expect("a child can be asked for its state");
            assert!(ended.is_none(), "the broker ended before it served: {}", self.log());
            assert!(begun.elapsed() < WITHIN, "the broker does not serve: {}", self.log());
            std::thread::yield_now();
        }
        self.child = Some(child);
    }

    /// Kills the broker as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a killed child ends");
        }
    }

    /// Asks the broker to stop with SIGTERM; whether it ended with exit code 0.
    pub fn terminate(&mut self) -> bool {
        let mut child = self.child.take().expect("the broker runs");
        let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(asked.expect("every system has kill").success());
        child.wait().expect("a child can be waited for").success()
    }

    /// The memory that the broker has resident.
    pub fn rss_bytes(&self) -> u64 {
        self.memory_bytes("VmRSS:")
    }

    /// The most memory that the broker had resident since it started.
    pub fn peak_rss_bytes(&self) -> u64 {
        self.memory_bytes("VmHWM:")
    }

    fn memory_bytes(&self, kind: &str) -> u64 {
        let pid = self.child.as_ref().expect("the broker runs").id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process has a status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(kind))
            .expect("it says what is resident");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("it is a number of kilobytes");
        kilobytes * 1_024
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What a page says that the broker serves over HTTP, its head included.
    pub fn page(&self, path: &str) -> String {
        page(&self.ready_file(), path)
    }

    /// A file of the test's own beside it.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("a file for a test can be written");
        path
    }

    /// What the broker logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log.txt")).unwrap_or_default()
    }

    /// The file that says where it serves.
    pub fn ready_file(&self) -> PathBuf {
        self.directory.path().join("ready.json")
    }

    /// A client of this broker, which finds it again after a restart.
    pub async fn client(&self) -> Client {
        Client::connect(Endpoint::ready_file(self.ready_file()))
            .await
            .expect("the broker serves")
    }

    /// Runs a command against this broker with this standard input.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(sluice());
        command.args(arguments).env("SLUICE_READY_FILE", self.ready_file());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary was just built");
        let mut stdin = child.stdin.take().expect("it is piped");
        // A command that does not read its input may end before it is written.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("a child can be waited for")
    }

    /// Runs a command that must succeed; what it printed.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.succeed(arguments, "")
    }

    /// Runs a command with this input that must succeed; what it printed.
    pub fn succeed(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run_with(arguments, input);
        assert!(output.status.success(), "{arguments:?}: {}\n{}", text(&output.stderr), self.log());
        text(&output.stdout)
    }

    /// Runs a command that must fail; its exit code and what it said.
    pub fn fail(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run_with(arguments, "");
        assert!(!output.status.success(), "{arguments:?} succeeded: {}", text(&output.stdout));
        (output.status.code().unwrap_or(-1), text(&output.stderr))
    }

    /// Publishes numbered messages `from..to` with the properties `n` and `color`, and `color` as the tag.
    pub fn produce(&self, topic: &str, from: u32, to: u32) {
        let color = |number: u32| ["red", "green", "blue"][number as usize % 3];
        let rows: String = (from..to)
            .map(|number| format!("{{\"n\":{number},\"color\":\"{}\"}}\n", color(number)))
            .collect();
        let columns = [
            "--tag-column",
            "color",
            "--key-column",
            "n",
            "--property",
            "n",
            "--property",
            "color",
        ];
        let told = self.succeed(&[&["produce", topic, "--jsonl", "-", "--json"], &columns[..]].concat(), &rows);
        let told: Value = serde_json::from_str(&told).expect("it prints JSON");
        assert_eq!((&told["stored"], &told["failed"]), (&Value::from(to - from), &Value::from(0)));
    }

    /// The numbers of all messages that a group gets until it has nothing left, ascending.
    pub fn consume(&self, topic: &str, group: &str, filter: &[&str]) -> Vec<u64> {
        let printed = self.run(&[&["consume", topic, "--group", group, "--until-empty", "--json"], filter].concat());
        numbers(&printed)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The numbers in the bodies of printed messages, ascending.
pub fn numbers(printed: &str) -> Vec<u64> {
    let number = |line: &str| {
        let message: Value = serde_json::from_str(line).expect("each line is JSON");
        let body: Value = serde_json::from_str(message["body"].as_str().expect("the body is text")).expect("the body is JSON");
        body["n"].as_u64().expect("the body has a number")
    };
    let mut numbers: Vec<u64> = printed.lines().map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
