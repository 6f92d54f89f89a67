//! Which crate may depend on which: the arrows of ARCHITECTURE.md, and no others.

use super::{Complaint, Source};

/// Each crate of the workspace, by the folder of its manifest, with the crates of the workspace that it may depend on.
/// Development dependencies are free, except that nothing depends on tests.
const ARROWS: &[(&str, &[&str])] = &[
    ("broker/protocol", &[]),
    ("broker/log", &["sluice-protocol"]),
    ("broker/core", &["sluice-log", "sluice-protocol"]),
    ("broker/plugin-host", &[]),
    (
        "broker/server",
        &["sluice-core", "sluice-log", "sluice-plugin-host", "sluice-protocol"],
    ),
    (
        "broker/cli",
        // The SQL filter compiled natively, and the SDK's face of it: the yardstick of `sluice bench filter`.
        &[
            "filter-sql",
            "sluice-client",
            "sluice-log",
            "sluice-plugin",
            "sluice-plugin-host",
            "sluice-protocol",
            "sluice-server",
        ],
    ),
    ("client", &["sluice-protocol"]),
    ("plugin-sdk/rust", &[]),
    ("plugins/filter-sql", &["sluice-plugin"]),
    ("plugins/filter-tag", &["sluice-plugin"]),
    ("xtask", &[]),
];

/// Crates under this folder may depend on all others.
const TESTS: &str = "tests/";

/// Names of the crates that nothing may depend on.
const TEST_CRATES: &[&str] = &["sluice-simulation", "sluice-end-to-end", "sluice-fuzz", "sluice-sql-oracle"];

/// Compares each manifest with the list.
pub(crate) fn check(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.path.ends_with("/Cargo.toml")) {
        let folder = source.path.trim_end_matches("/Cargo.toml");
        let allowed = ARROWS.iter().find(|(known, _)| *known == folder).map(|(_, allowed)| *allowed);
        if allowed.is_none() && !folder.starts_with(TESTS) && !folder.contains("/examples/") {
            complaints.push(complaint(
                source,
                "a new crate: say in xtask/src/tidy/arrows.rs what it may depend on".to_owned(),
            ));
            continue;
        }
        for dependency in dependencies(&source.text) {
            let to_tests = TEST_CRATES.contains(&dependency.name) && !folder.starts_with(TESTS);
            let new_arrow = allowed.is_some_and(|allowed| !dependency.development && !allowed.contains(&dependency.name));
            if to_tests || new_arrow {
                complaints.push(complaint(
                    source,
                    format!("the arrow to {} is not among those of ARCHITECTURE.md", dependency.name),
                ));
            }
        }
    }
    complaints
}

struct Dependency<'a> {
    name: &'a str,
    development: bool,
}

/// The dependencies of a manifest that are crates of this workspace.
fn dependencies(manifest: &str) -> Vec<Dependency<'_>> {
    let mut found = Vec::new();
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
            continue;
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        let ours = name.starts_with("sluice-") || name.starts_with("filter-");
        if ours && section.ends_with("dependencies") {
            found.push(Dependency {
                name,
                development: section.ends_with("dev-dependencies"),
            });
        }
    }
    found
}

fn complaint(source: &Source, text: String) -> Complaint {
    Complaint {
        path: source.path.clone(),
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(path: &str, text: &str) -> Vec<Complaint> {
        check(&[Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }])
    }

    #[test]
    fn a_new_arrow_is_found() {
        assert_eq!(
            manifest("broker/core/Cargo.toml", "[dependencies]\nsluice-plugin-host.workspace = true\n").len(),
            1
        );
        assert_eq!(
            manifest("broker/core/Cargo.toml", "[dependencies]\nsluice-log.workspace = true\n").len(),
            0
        );
    }

    #[test]
    fn nothing_depends_on_tests() {
        assert_eq!(
            manifest("client/Cargo.toml", "[dev-dependencies]\nsluice-simulation.workspace = true\n").len(),
            1
        );
    }

    #[test]
    fn a_crate_that_is_not_listed_is_found() {
        assert_eq!(manifest("broker/common/Cargo.toml", "").len(), 1);
    }
}
