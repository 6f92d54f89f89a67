//! Where the broker is, how it proves who it is, and what this client is called.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::limits;

/// Where and how to connect.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub(crate) place: Place,
    pub(crate) client_name: String,
    pub(crate) server_name: Option<String>,
    pub(crate) connect_within: Duration,
    pub(crate) answer_within: Duration,
}

/// How the broker's address and certificate are found, anew for each connection.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// As given.
    Fixed { address: String, trust: Trust },
    /// From the file that a running broker writes; a broker that restarts on another port is found again.
    ReadyFile(PathBuf),
}

/// How the broker proves that it is the one meant.
#[derive(Clone, Debug)]
pub enum Trust {
    /// A PEM file. Its certificates are authorities for certificates that name the server, and are trusted themselves whatever
    /// they name: the broker's own certificate does.
    CaFile(PathBuf),
    /// The same, from memory.
    Pem(Vec<u8>),
    /// The SHA-256 of the broker's certificate (its DER bytes), as `sluice serve` prints it. Names and dates are not looked at.
    Sha256([u8; 32]),
}

impl Trust {
    /// A pinned certificate from the text of its SHA-256: 64 hexadecimal digits, colons allowed. Another text is `Error::Endpoint`.
    pub fn sha256(text: &str) -> Result<Self, Error> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        let bad = || Error::Endpoint(format!("not a SHA-256 fingerprint: {text:?}; 64 hexadecimal digits are expected"));
        let mut digest = [0; 32];
        if digits.len() != 64 {
            return Err(bad());
        }
        for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or_else(bad);
            *byte = (digit(0)? * 16 + digit(1)?) as u8;
        }
        Ok(Trust::Sha256(digest))
    }
}

/// What a ready file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyFile {
    /// Where the broker listens, `host:port`.
    pub address: String,
    /// The broker's certificate, PEM.
    pub certificate: PathBuf,
    /// The process that wrote it, where it says so.
    pub pid: Option<u32>,
}

impl ReadyFile {
    /// Reads the JSON file that `sluice serve --ready-file` writes. `Error::Endpoint` says what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bad = |why: &dyn std::fmt::Display| Error::Endpoint(format!("cannot use the ready file {}: {why}", path.display()));
        let text = std::fs::read(path).map_err(|error| bad(&error))?;
        let json: serde_json::Value = serde_json::from_slice(&text).map_err(|error| bad(&error))?;
        let word = |key: &str| json.get(key).and_then(|value| value.as_str());
        let first = json.get("addresses").and_then(|list| list.get(0)).and_then(|value| value.as_str());
        let address = first.or_else(|| word("listen")).ok_or_else(|| bad(&"it has no address"))?;
        let certificate = word("certificate").ok_or_else(|| bad(&"it names no certificate"))?;
        let pid = json
            .get("pid")
            .and_then(serde_json::Value::as_u64)
            .and_then(|pid| u32::try_from(pid).ok());
        Ok(Self {
            address: address.to_owned(),
            certificate: PathBuf::from(certificate),
            pid,
        })
    }
}

impl Endpoint {
    /// A broker at `host:port`.
    pub fn new(address: impl Into<String>, trust: Trust) -> Self {
        Self::at(Place::Fixed {
            address: address.into(),
            trust,
        })
    }

    /// The broker that wrote this ready file. The file is read again for each connection.
    pub fn ready_file(path: impl Into<PathBuf>) -> Self {
        Self::at(Place::ReadyFile(path.into()))
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            client_name: format!("client-{}", std::process::id()),
            server_name: None,
            connect_within: limits::CONNECT_WITHIN,
            answer_within: limits::ANSWER_WITHIN_DEFAULT,
        }
    }

    /// The name shown to operators, and the member's name of its subscriptions unless they give another: 1 to 128 bytes.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = name.into();
        self
    }

    /// The name that the broker's certificate must carry, where it is not the host of the address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// How long one try to connect may take; 5 seconds unless set.
    pub fn connect_within(mut self, within: Duration) -> Self {
        self.connect_within = within;
        self
    }

    /// How long a request may wait for its answer, a reconnect included; 30 seconds unless set. A long poll adds its own wait.
    pub fn answer_within(mut self, within: Duration) -> Self {
        self.answer_within = within;
        self
    }

    /// The address and the trust as they are now.
    pub(crate) fn resolve(&self) -> Result<(String, Trust), Error> {
        match &self.place {
            Place::Fixed { address, trust } => Ok((address.clone(), trust.clone())),
            Place::ReadyFile(path) => {
                let ready = ReadyFile::read(path)?;
                Ok((ready.address, Trust::CaFile(ready.certificate)))
            }
        }
    }

    /// Where the broker is looked for, for messages to people.
    pub(crate) fn shown(&self) -> String {
        match &self.place {
            Place::Fixed { address, .. } => address.clone(),
            Place::ReadyFile(path) => {
                ReadyFile::read(path).map_or_else(|_| format!("the address in {}", path.display()), |ready| ready.address)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_with_and_without_colons() {
        let plain = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        for text in [plain, colons] {
            assert!(matches!(Trust::sha256(&text), Ok(Trust::Sha256(digest)) if digest == [0xab; 32]));
        }
        assert!(Trust::sha256("abc").is_err());
        assert!(Trust::sha256(&"é".repeat(32)).is_err());
    }

    #[test]
    fn a_missing_ready_file_is_named() {
        let error = ReadyFile::read(Path::new("/nowhere/ready.json")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/ready.json"), "{error}");
    }
}
