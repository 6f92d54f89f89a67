//! The ready file: what a program needs to know to speak to this broker, written when it serves.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What the ready file says, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The address that clients use.
    pub listen: String,
    /// All addresses that are listened on.
    pub addresses: Vec<String>,
    /// Where `/metrics`, `/live` and `/ready` are served over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// The broker's process.
    pub pid: u32,
    /// The PEM file with the certificate that clients trust.
    pub certificate: PathBuf,
    /// The SHA-256 of the certificate (DER), in hexadecimal digits, for pinning.
    pub certificate_sha256: String,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The broker's version.
    pub version: String,
    /// Bytes of log behind the checkpoint that this start replayed.
    #[serde(default)]
    pub replayed_bytes: u64,
    /// Records in them.
    #[serde(default)]
    pub replayed_records: u64,
}

/// How much log a start replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// From the first record after the checkpoint to the end.
    pub bytes: u64,
    /// Records in them, the start's own included.
    pub records: u64,
}

impl Ready {
    /// The facts of a broker that serves at `addresses`, and metrics at another.
    pub fn new(
        addresses: &[SocketAddr],
        metrics: Option<SocketAddr>,
        certificate: &crate::certificate::Certificate,
        data_dir: &Path,
        replayed: Replayed,
    ) -> Self {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        Self {
            listen: addresses.first().cloned().unwrap_or_default(),
            addresses,
            metrics: metrics.map(|address| address.to_string()),
            pid: std::process::id(),
            certificate: certificate.path.clone(),
            certificate_sha256: certificate.sha256.clone(),
            data_dir: std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_path_buf()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            replayed_bytes: replayed.bytes,
            replayed_records: replayed.records,
        }
    }

    /// Writes the file whole: a reader sees the old one or the new one, never a part.
    ///
    /// # Errors
    /// What the system says when the file cannot be written.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", self.pid));
        let part = path.with_file_name(name);
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // A new file: in a directory that others write to, too, a link of this name must not choose what is written over.
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&part)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(directory: &Path) -> Ready {
        Ready {
            listen: "127.0.0.1:9470".into(),
            addresses: vec!["127.0.0.1:9470".into()],
            metrics: Some("127.0.0.1:9471".into()),
            pid: 7,
            certificate: "certificate.pem".into(),
            certificate_sha256: "00".repeat(32),
            data_dir: directory.into(),
            version: "0.1.0".into(),
            replayed_bytes: 4_096,
            replayed_records: 3,
        }
    }

    #[test]
    fn a_link_beside_the_ready_file_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("ready.json"), directory.path().join("other"));
        std::fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, directory.path().join("ready.json.7.part")).unwrap();
        ready(directory.path()).write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "kept");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn a_ready_file_survives_its_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ready.json");
        let ready = ready(directory.path());
        ready.write(&path).unwrap();
        let read: Ready = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, ready);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
