//! The broker's process: the binary as it was built, on a folder that outlives it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sluice_client::Endpoint;

/// How long a broker may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running broker; killed when dropped.
pub(crate) struct Broker {
    child: std::sync::Mutex<Child>,
    ready_file: PathBuf,
}

/// The binary beside this one.
///
/// # Errors
/// It was not built.
pub(crate) fn built() -> Result<PathBuf> {
    let this = std::env::current_exe().context("find this binary")?;
    let sluice = this.parent().context("this binary lies in a folder")?.join("sluice");
    if !sluice.exists() {
        bail!("{} is missing; run `cargo build --package sluice` first", sluice.display());
    }
    Ok(sluice)
}

impl Broker {
    /// Starts the broker and waits until it serves.
    ///
    /// # Errors
    /// It ended or did not serve; its log is in the folder.
    pub(crate) async fn start(sluice: &Path, folder: &Path) -> Result<Self> {
        let ready_file = folder.join("ready.json");
        // A ready file of an earlier start would be believed.
        let _ = std::fs::remove_file(&ready_file);
        let log_path = folder.join("broker.log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .context("open the broker's log")?;
        let mut child = Command::new(sluice)
            .arg("serve")
            .arg("--data")
            .arg(folder.join("data"))
            .args(["--listen", "127.0.0.1:0", "--ready-file"])
            .arg(&ready_file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the broker's log")?)
            .stderr(log)
            .spawn()
            .context("start the broker")?;
        let begun = Instant::now();
        while !ready_file.exists() {
            if let Some(status) = child.try_wait().context("look after the broker")? {
                let log = std::fs::read_to_string(&log_path).unwrap_or_default();
                bail!("the broker ended ({status}) before it served:\n{log}");
            }
            if begun.elapsed() > READY_WITHIN {
                bail!("the broker did not serve within {} s", READY_WITHIN.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Self {
            child: std::sync::Mutex::new(child),
            ready_file,
        })
    }

    /// Where it is.
    pub(crate) fn endpoint(&self, client_name: &str) -> Endpoint {
        Endpoint::ready_file(&self.ready_file).client_name(client_name)
    }

    /// Sends SIGKILL; the process may be gone before its clients notice.
    pub(crate) fn signal_kill(&self) -> Result<()> {
        self.child
            .lock()
            .expect("nobody panics with the child")
            .kill()
            .context("kill the broker")
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(self) -> Result<()> {
        self.signal_kill()?;
        self.child
            .lock()
            .expect("nobody panics with the child")
            .wait()
            .context("wait for the killed broker")?;
        Ok(())
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
