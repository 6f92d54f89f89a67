//! The broker's process: one of two binaries, on a folder that outlives it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sluice_client::Endpoint;

/// How long a broker may take until it serves, or until it has stopped.
const WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether it serves.
const LOOK: Duration = Duration::from_millis(1);

/// Which binary, and what differs from one start to the next.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) storage: Storage,
    pub(crate) segment_bytes: u64,
    /// How far off a message must be, by half, to wait in a part of the calendar.
    pub(crate) near_ms: u64,
}

/// What the log lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// `sluice` as it is shipped: a kill leaves the page cache behind.
    Files,
    /// `sluice-holding`: a kill takes what was not synced.
    Holding { seed: u64, never_sync: bool },
}

/// Where the binaries and the data are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) sluice: PathBuf,
    pub(crate) holding: PathBuf,
    pub(crate) folder: PathBuf,
}

/// A broker's process; killed when dropped.
pub(crate) struct Broker {
    child: Mutex<Child>,
    ready_file: PathBuf,
    log_file: PathBuf,
}

impl Place {
    /// The binaries beside this one.
    ///
    /// # Errors
    /// One was not built.
    pub(crate) fn beside(folder: PathBuf) -> Result<Self> {
        let this = std::env::current_exe().context("find this binary")?;
        let beside = |name| {
            let path = this.with_file_name(name);
            match path.exists() {
                true => Ok(path),
                false => bail!("{} is missing; run `cargo build --workspace --all-targets` first", path.display()),
            }
        };
        Ok(Self {
            sluice: beside("sluice")?,
            holding: beside("sluice-holding")?,
            folder,
        })
    }

    /// Whether there are parts of the calendar now.
    pub(crate) fn has_parts(&self) -> bool {
        let files = std::fs::read_dir(self.folder.join("data").join("log"));
        let is_part = |name: std::ffi::OsString| name.to_string_lossy().starts_with("part-");
        files.is_ok_and(|files| files.flatten().any(|file| is_part(file.file_name())))
    }
}

impl Broker {
    /// Starts the process and does not wait for it.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn spawn(place: &Place, program: &Program) -> Result<Self> {
        let folder = &place.folder;
        let (ready_file, log_file, config) = (folder.join("ready.json"), folder.join("broker.log"), folder.join("sluice.toml"));
        // A ready file of an earlier start would be believed.
        let _ = std::fs::remove_file(&ready_file);
        let settings = format!(
            "data_dir = {:?}\nready_file = {ready_file:?}\nlisten = \"127.0.0.1:0\"\nsegment_bytes = {}\n[delays]\nnear_ms = {}\n",
            folder.join("data"),
            program.segment_bytes,
            program.near_ms
        );
        std::fs::write(&config, settings).context("write the configuration")?;
        let log = std::fs::File::create(&log_file).context("make the broker's log")?;
        let mut command = match program.storage {
            Storage::Files => {
                let mut command = Command::new(&place.sluice);
                command.arg("serve");
                command
            }
            Storage::Holding { seed, never_sync } => {
                let mut command = Command::new(&place.holding);
                command
                    .args(["--seed", &seed.to_string()])
                    .args(never_sync.then_some("--never-sync"));
                command
            }
        };
        let child = command
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Ok(Self {
            child: Mutex::new(child.context("start the broker")?),
            ready_file,
            log_file,
        })
    }

    /// Starts the broker and waits until it serves.
    ///
    /// # Errors
    /// It ended or did not serve, with what it logged.
    pub(crate) async fn start(place: &Place, program: &Program) -> Result<Self> {
        let broker = Self::spawn(place, program)?;
        let begun = Instant::now();
        while !broker.ready_file.exists() {
            let ended = broker.child.lock().expect("nobody panics with the child").try_wait();
            if let Some(status) = ended.context("look after the broker")? {
                bail!("the broker ended ({status}) before it served:\n{}", broker.log());
            }
            if begun.elapsed() > WITHIN {
                bail!("the broker did not serve within {} s:\n{}", WITHIN.as_secs(), broker.log());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(broker)
    }

    /// Where it is.
    pub(crate) fn endpoint(&self, client_name: &str) -> Endpoint {
        Endpoint::ready_file(&self.ready_file).client_name(client_name)
    }

    /// Asks it to stop in good order, and does not wait for it.
    pub(crate) fn signal_stop(&self) -> Result<()> {
        let pid = self.child.lock().expect("nobody panics with the child").id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status().context("run kill")?;
        match asked.success() {
            true => Ok(()),
            false => bail!("the broker could not be asked to stop:\n{}", self.log()),
        }
    }

    /// Sends SIGKILL; the process may be gone before its clients notice.
    pub(crate) fn signal_kill(&self) -> Result<()> {
        let mut child = self.child.lock().expect("nobody panics with the child");
        child.kill().context("kill the broker")
    }

    /// Kills it and waits until it is gone. Whether it had ended by itself before, in good order.
    ///
    /// # Errors
    /// It had failed by itself before, with what it logged.
    pub(crate) fn kill(self) -> Result<bool> {
        self.signal_kill()?;
        let status = self.child.lock().expect("nobody panics with the child").wait();
        let status = status.context("wait for the killed broker")?;
        if status.code().is_some_and(|code| code != 0) {
            bail!("the broker ended by itself ({status}):\n{}", self.log());
        }
        Ok(status.success())
    }

    /// Stops it in good order.
    ///
    /// # Errors
    /// It does not, with what it logged.
    pub(crate) async fn stop(self) -> Result<()> {
        self.signal_stop()?;
        let begun = Instant::now();
        loop {
            let ended = self.child.lock().expect("nobody panics with the child").try_wait();
            match ended.context("look after the broker")? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the broker did not stop in good order ({status}):\n{}", self.log()),
                None if begun.elapsed() > WITHIN => bail!("the broker does not stop:\n{}", self.log()),
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log_file).unwrap_or_default()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            // Already gone is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a folder holds data of an earlier run.
pub(crate) fn has_data(folder: &Path) -> bool {
    folder.join("data").exists()
}
