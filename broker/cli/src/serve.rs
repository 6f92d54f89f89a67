//! `sluice serve`: a broker until a signal ends it.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use sluice_server::config::{Durability, LogFormat, MetricsListen};
use sluice_server::{Running, Server};
use tracing_subscriber::EnvFilter;

use crate::config;
use crate::connect::READY_FILE;
use crate::failure::Failure;
use crate::output::Output;
use crate::signals::{ReadAgain, Signals};

/// Serve a broker. Options rule over the configuration file, which `sluice config` explains.
#[derive(Args)]
pub(crate) struct Serve {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory; made at the first start
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where to serve /metrics, /live and /ready over HTTP: an address, "off", or "loopback" for the TCP port of the same number
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<MetricsListen>,
    /// Where to write the ready file; ready.json in the data directory unless given
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Allow an address that other machines reach, although nobody is authenticated yet
    #[arg(long)]
    allow_unauthenticated_remote: bool,
    /// Confirm what is written without waiting for the disk; a crash of the machine may lose the last 50 ms
    #[arg(long)]
    async_durability: bool,
}

impl Serve {
    /// Serves until a signal or a failure.
    pub(crate) async fn run(self, output: &mut Output) -> Result<(), Failure> {
        let config = self.effective()?;
        begin_log(&config);
        let bound = Duration::from_millis(config.drain_ms);
        let (mut signals, mut read_again) = (Signals::take()?, ReadAgain::take()?);
        let running = tokio::select! {
            started = Server::start(config) => started.map_err(|error| Failure::failed(format!("the broker does not start: {error}")))?,
            () = signals.next() => return Ok(()),
        };
        announce(&running, output)?;
        loop {
            tokio::select! {
                failed = running.wait() => return Err(Failure::failed(format!("the broker failed: {failed}"))),
                () = signals.next() => break,
                () = read_again.asked() => {
                    // What came of it is logged.
                    let _ = running.renew_certificate().await;
                }
            }
        }
        tracing::info!(?bound, "draining; a second signal ends the broker at once");
        tokio::select! {
            stopped = running.stop(bound) => stopped.map_err(|failed| Failure::failed(format!("the broker did not stop in good order: {failed}"))),
            () = signals.end_at_once() => Ok(()),
        }
    }

    fn effective(&self) -> Result<sluice_server::Config, Failure> {
        let mut config = config::read(self.config.as_deref())?;
        if let Some(data) = &self.data {
            config.data_dir = data.clone();
        }
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(metrics_listen) = self.metrics_listen {
            config.metrics_listen = metrics_listen;
        }
        config.allow_unauthenticated_remote |= self.allow_unauthenticated_remote;
        if self.async_durability {
            config.durability = Durability::Async;
        }
        let ready_file = self.ready_file.clone().or_else(|| config.ready_file.take());
        config.ready_file = Some(ready_file.unwrap_or_else(|| config.data_dir.join(READY_FILE)));
        config.validate().map_err(|error| Failure::failed(error.to_string()))?;
        Ok(config)
    }
}

/// From here on what happens is logged to standard error, a line an event.
fn begin_log(config: &sluice_server::Config) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(config.log_level.name()));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
    }
}

/// Says where the broker is and how a client knows it. Nobody need read it.
fn announce(running: &Running, output: &mut Output) -> Result<(), Failure> {
    let addresses: Vec<String> = running.addresses().iter().map(ToString::to_string).collect();
    let certificate = running.certificate().display().to_string();
    let metrics = running.ready().metrics;
    let json = || json!({ "addresses": addresses, "metrics": metrics, "pid": std::process::id(), "certificate": certificate, "certificate_sha256": running.certificate_sha256() });
    let human = || {
        let address = addresses.first().map_or("", String::as_str);
        let mut lines = vec![
            format!("sluice {} serves at {}", env!("CARGO_PKG_VERSION"), addresses.join(", ")),
            format!("  clients pin it with   --server {address} --ca {certificate}"),
            format!("  or                    --server {address} --pin {}", running.certificate_sha256()),
        ];
        lines.extend(
            metrics
                .iter()
                .map(|metrics| format!("  operators see it at     http://{metrics}/metrics, /live and /ready")),
        );
        lines
    };
    match output.show(json, human).and_then(|()| output.flush()) {
        Err(Failure::ClosedPipe) => Ok(()),
        other => other,
    }
}
