//! Which broker a command speaks to, and how it is found.

use std::path::PathBuf;

use clap::Args;
use sluice_client::{Client, Endpoint, Error, Trust};

use crate::failure::Failure;

/// The file in a data directory that a broker writes when it serves, unless told another place.
pub(crate) const READY_FILE: &str = "ready.json";

// Where the broker is. Not a documentation comment, since clap would take it for the whole command's.
#[derive(Args)]
pub(crate) struct Broker {
    /// Address of the broker, host:port
    #[arg(long, global = true, value_name = "ADDR")]
    server: Option<String>,
    /// PEM file with the broker's certificate, or with the authority that signed it
    #[arg(long, global = true, value_name = "FILE", requires = "server")]
    ca: Option<PathBuf>,
    /// SHA-256 of the broker's certificate, as `sluice serve` prints it
    #[arg(long, global = true, value_name = "HEX", requires = "server", conflicts_with = "ca")]
    pin: Option<String>,
}

impl Broker {
    /// Connects.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(self.endpoint()?).await?)
    }

    /// Where to connect.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Failure> {
        let endpoint = match (&self.server, &self.ca, &self.pin) {
            (Some(server), Some(ca), _) => Endpoint::new(server, Trust::CaFile(ca.clone())),
            (Some(server), None, Some(pin)) => Endpoint::new(
                server,
                Trust::sha256(pin).map_err(|error: Error| Failure::Usage(error.to_string()))?,
            ),
            (Some(_), None, None) => {
                return Err(Failure::Usage(
                    "--server needs --ca FILE or --pin HEX, so that the broker can prove itself".to_owned(),
                ));
            }
            (None, _, _) => Endpoint::ready_file(ready_file()),
        };
        Ok(endpoint.client_name(format!("sluice-cli-{}", std::process::id())))
    }
}

/// The ready file of the broker that is meant when nothing is said.
fn ready_file() -> PathBuf {
    match std::env::var_os("SLUICE_READY_FILE") {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        Some(_) | None => sluice_server::Config::default().data_dir.join(READY_FILE),
    }
}
