//! A broker of one's own in a child process: what `demo` and `bench` start, measure, kill and start again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sluice_client::Endpoint;
use sluice_server::Ready;

/// How long a broker may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running broker; killed when dropped.
pub(crate) struct Broker {
    child: Child,
    ready_file: PathBuf,
    folder: PathBuf,
    ready_after: Duration,
}

impl Broker {
    /// Starts this binary as a broker on `folder`, on a loopback port that the system chooses, with further arguments for `serve`.
    ///
    /// # Errors
    /// It did not start; what it said is in `folder/broker.log`.
    pub(crate) async fn start(folder: &Path, arguments: &[&str]) -> Result<Self> {
        let ready_file = folder.join("ready.json");
        // A ready file of an earlier start would be believed.
        let _ = std::fs::remove_file(&ready_file);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("broker.log"))
            .context("open the broker's log")?;
        let begun = Instant::now();
        let child = Command::new(std::env::current_exe().context("find this binary")?)
            .arg("serve")
            .arg("--data")
            .arg(folder.join("data"))
            .args(["--listen", "127.0.0.1:0", "--ready-file"])
            .arg(&ready_file)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the broker's log")?)
            .stderr(log)
            .spawn()
            .context("start the broker")?;
        let mut broker = Self {
            child,
            ready_file,
            folder: folder.to_path_buf(),
            ready_after: Duration::ZERO,
        };
        broker.wait_until_ready().await?;
        broker.ready_after = begun.elapsed();
        Ok(broker)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        while !self.ready_file.exists() {
            if let Some(status) = self.child.try_wait().context("look after the broker")? {
                let log = std::fs::read_to_string(self.folder.join("broker.log")).unwrap_or_default();
                bail!("the broker ended ({status}) before it served:\n{log}");
            }
            if begun.elapsed() > READY_WITHIN {
                bail!(
                    "the broker did not serve within {} s; see {}",
                    READY_WITHIN.as_secs(),
                    self.folder.join("broker.log").display()
                );
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// How long it took from the start of the process until it served.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// What its ready file says.
    pub(crate) fn ready(&self) -> Result<Ready> {
        let text = std::fs::read(&self.ready_file).context("read the ready file")?;
        serde_json::from_slice(&text).context("understand the ready file")
    }

    /// Where it is.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::ready_file(&self.ready_file)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end in good order and waits until it has.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let asked = Command::new("kill").arg("-TERM").arg(self.pid().to_string()).status();
        ensure!(
            asked.context("ask the broker to end")?.success(),
            "the broker could not be asked to end"
        );
        while self.child.try_wait().context("wait for the broker")?.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Ends it as a power cut would: SIGKILL, no chance to write anything.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill().context("kill the broker")?;
        self.child.wait().context("wait for the killed broker")?;
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
