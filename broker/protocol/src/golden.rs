//! Test support: the checked-in bytes of each version of each format, added and never edited.

use std::path::PathBuf;
use std::{env, fs};

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "golden", name].iter().collect()
}

/// The bytes of a golden file.
pub(crate) fn read(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap_or_else(|error| panic!("golden/{name}: {error}"))
}

/// Demands that a golden file holds `bytes`. With `SLUICE_ADD_GOLDENS` set a file that does not exist is written.
pub(crate) fn check(name: &str, bytes: &[u8]) {
    if env::var_os("SLUICE_ADD_GOLDENS").is_some() && !path(name).exists() {
        fs::create_dir_all(path("")).unwrap();
        fs::write(path(name), bytes).unwrap();
    }
    assert!(read(name) == bytes, "golden/{name} holds other bytes than are written now");
}
