//! What keeps the core a value: the crates it may name and the words that may not stand in it.

use super::{Complaint, Source};

/// All that the core may depend on.
const DEPENDENCIES: &[&str] = &["bytes", "siphasher", "sluice-log", "sluice-protocol", "thiserror"];

/// A clock, a thread, a lock, a file, a socket, chance, or an order that differs from run to run.
const BANNED: &[&str] = &[
    "std::time",
    "std::thread",
    "std::fs",
    "std::net",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::env",
    "tokio",
    "HashMap",
    "HashSet",
    "RandomState",
    "rand::",
    "getrandom",
    "wasmtime",
    "prost",
];

/// The parts of the log that are formats; the rest of it touches disks.
const LOG_FORMATS: &[&str] = &["frame", "record", "planted"];

/// Looks through the core's manifest and sources.
pub(crate) fn check(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("broker/core/")) {
        if source.path == "broker/core/Cargo.toml" {
            complaints.extend(check_manifest(source));
        } else if source.path.starts_with("broker/core/src/") {
            complaints.extend(check_source(source));
        }
    }
    complaints
}

fn check_manifest(source: &Source) -> Vec<Complaint> {
    let section = source.text.split("[dependencies]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let names = section
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty());
    names
        .filter(|name| !DEPENDENCIES.contains(name) && !name.starts_with('#'))
        .map(|name| Complaint {
            path: source.path.clone(),
            text: format!("the core may not depend on {name}"),
        })
        .collect()
}

fn check_source(source: &Source) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for banned in BANNED.iter().filter(|banned| code.contains(**banned)) {
            let text = format!("line {}: `{banned}` has no place in the core", number + 1);
            complaints.push(Complaint {
                path: source.path.clone(),
                text,
            });
        }
        for part in code.split("sluice_log::").skip(1) {
            let module: String = part.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
            if !LOG_FORMATS.contains(&module.as_str()) && !module.is_empty() {
                let text = format!("line {}: of sluice-log the core uses the formats alone, not `{module}`", number + 1);
                complaints.push(Complaint {
                    path: source.path.clone(),
                    text,
                });
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Vec<Complaint> {
        check(&[Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }])
    }

    #[test]
    fn a_clock_in_the_core_is_found() {
        assert_eq!(source("broker/core/src/a.rs", "//! A.\nuse std::time::Instant;\n").len(), 1);
        assert_eq!(source("broker/core/src/a.rs", "//! No std::time here.\n").len(), 0);
    }

    #[test]
    fn the_disk_side_of_the_log_is_found() {
        assert_eq!(
            source("broker/core/src/a.rs", "//! A.\nuse sluice_log::storage::Storage;\n").len(),
            1
        );
        assert_eq!(source("broker/core/src/a.rs", "//! A.\nuse sluice_log::record::Record;\n").len(), 0);
    }

    #[test]
    fn a_new_dependency_of_the_core_is_found() {
        assert_eq!(
            source(
                "broker/core/Cargo.toml",
                "[dependencies]\ntokio.workspace = true\n\n[dev-dependencies]\nproptest = \"1\"\n"
            )
            .len(),
            1
        );
    }
}
