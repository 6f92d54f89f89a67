//! The server's certificate: read from the configured files, or made once in the data directory and kept.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

/// The file of the certificate that is made in the data directory.
pub(crate) const MADE: &str = "certificate.pem";

/// The file of its key.
pub(crate) const MADE_KEY: &str = "key.pem";

/// A certificate chain with its key, and how a client pins it.
#[derive(Debug)]
pub struct Certificate {
    /// The chain, the server's own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
    /// The PEM file that holds the chain.
    pub path: PathBuf,
    /// The SHA-256 of the server's own certificate (DER) in lower-case hexadecimal digits.
    pub sha256: String,
}

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the PEM reader said.
        source: rustls::pki_types::pem::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds no certificate.
    #[error("{path} holds no certificate in PEM form")]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// Only one file of the pair is there.
    #[error("{present} is there but {missing} is not; restore it, or remove both to have a new pair made")]
    Half {
        /// The file that exists.
        present: PathBuf,
        /// The file that does not.
        missing: PathBuf,
    },
    /// A self-signed certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

impl Certificate {
    /// Reads a certificate chain and its key from PEM files.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no certificate or key.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let read = |path: &Path| {
            let path = path.to_path_buf();
            move |source| CertificateError::Read { path, source }
        };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(read(certificate))?;
        let own = chain.first().ok_or_else(|| CertificateError::Empty {
            path: certificate.to_path_buf(),
        })?;
        let sha256 = hexadecimal(&Sha256::digest(own));
        let key = PrivateKeyDer::from_pem_file(key).map_err(read(key))?;
        let path = std::path::absolute(certificate).unwrap_or_else(|_| certificate.to_path_buf());
        Ok(Self { chain, key, path, sha256 })
    }

    /// Reads `certificate.pem` and `key.pem` in the data directory; makes both at the first start, for loopback and `listen`.
    ///
    /// # Errors
    /// As `read`, and when only one of the two is there or they cannot be written.
    pub fn read_or_make(data_dir: &Path, listen: IpAddr) -> Result<Self, CertificateError> {
        let certificate = data_dir.join(MADE);
        let key = data_dir.join(MADE_KEY);
        match (certificate.exists(), key.exists()) {
            (true, true) => {}
            (false, false) => make(&certificate, &key, listen)?,
            (true, false) => {
                return Err(CertificateError::Half {
                    present: certificate,
                    missing: key,
                });
            }
            (false, true) => {
                return Err(CertificateError::Half {
                    present: key,
                    missing: certificate,
                });
            }
        }
        Self::read(&certificate, &key)
    }
}

fn make(certificate: &Path, key: &Path, listen: IpAddr) -> Result<(), CertificateError> {
    let pair = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(vec!["localhost".to_owned()])?;
    let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16])];
    if !listen.is_unspecified() && !addresses.contains(&listen) {
        addresses.push(listen);
    }
    parameters.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "sluice self-signed");
    let made = parameters.self_signed(&pair)?;
    // The key first: a certificate without its key would be shown to clients in vain.
    write_new(key, pair.serialize_pem().as_bytes(), 0o600)?;
    write_new(certificate, made.pem().as_bytes(), 0o644)?;
    // Clients pin what was made, so it must be there after a power cut.
    let directory = certificate.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| CertificateError::Write {
        path: directory.to_path_buf(),
        source,
    })
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CertificateError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| CertificateError::Write {
        path: path.to_path_buf(),
        source,
    })
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let listen = IpAddr::from([192, 0, 2, 7]);
        let first = Certificate::read_or_make(directory.path(), listen).unwrap();
        let again = Certificate::read_or_make(directory.path(), listen).unwrap();
        assert_eq!(first.sha256, again.sha256);
        assert_eq!(first.sha256.len(), 64);
    }

    #[test]
    fn half_a_pair_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let listen = IpAddr::from([127, 0, 0, 1]);
        Certificate::read_or_make(directory.path(), listen).unwrap();
        std::fs::remove_file(directory.path().join("key.pem")).unwrap();
        let refused = Certificate::read_or_make(directory.path(), listen).unwrap_err().to_string();
        assert!(refused.contains("certificate.pem is there but"), "{refused}");
    }
}
