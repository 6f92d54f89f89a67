//! How a file begins, how long it is, and what may not stand in any.

use super::{Complaint, Source};

/// Longer files are read by no one.
const LINES_MAX: usize = 500;

/// Files that are longer all the same, each with its length; the list may only shrink.
const LONG_FILES: &str = include_str!("long-files.txt");

/// Marks of work that is not finished, and of tests that do not count.
const BANNED: &[&str] = &["todo!(", "unimplemented!(", "TODO", "FIXME", "#[ignore"];

/// Looks at each Rust file, and at every text for the paths of a machine.
pub(crate) fn check(sources: &[Source]) -> Vec<Complaint> {
    check_with(sources, LONG_FILES)
}

fn check_with(sources: &[Source], long_files: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in sources {
        let mut complain = |text: String| {
            complaints.push(Complaint {
                path: source.path.clone(),
                text,
            })
        };
        if let Some(path) = machine_path(&source.text).filter(|_| !source.path.starts_with("xtask/src/tidy")) {
            complain(format!("`{path}` is a path of one machine"));
        }
        if !source.path.ends_with(".rs") {
            continue;
        }
        if !opens_with_a_sentence(&source.text) {
            complain("begin with a `//!` sentence that says what the file is for, with a full stop".to_owned());
        }
        let lines = source.text.lines().count();
        let recorded = recorded(long_files, &source.path);
        match recorded {
            Some(most) if lines > most => complain(format!("{lines} lines, {most} are recorded: split it")),
            Some(most) if lines < most => complain(format!(
                "{lines} lines, {most} are recorded: lower it in xtask/src/tidy/long-files.txt"
            )),
            None if lines > LINES_MAX => complain(format!("{lines} lines: split it at its second purpose (the bound is {LINES_MAX})")),
            Some(_) | None => {}
        }
        if !source.path.starts_with("xtask/src/tidy") {
            for banned in BANNED.iter().filter(|banned| source.text.contains(**banned)) {
                complain(format!("`{banned}` marks unfinished work: finish it or take it out"));
            }
        }
    }
    for (path, _) in long_files.lines().filter_map(|line| line.split_once(' ')) {
        if !sources.iter().any(|source| source.path == path) && !sources.is_empty() && sources.len() > 1 {
            complaints.push(Complaint {
                path: path.to_owned(),
                text: "recorded as long but gone: take it off the list".to_owned(),
            });
        }
    }
    complaints
}

fn recorded(long_files: &str, path: &str) -> Option<usize> {
    long_files
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(known, _)| *known == path)?
        .1
        .trim()
        .parse()
        .ok()
}

/// Whether the first lines are a `//!` paragraph whose first sentence ends.
fn opens_with_a_sentence(text: &str) -> bool {
    let paragraph: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//! ")).collect();
    paragraph.join(" ").contains(['.', ':']) && paragraph.first().is_some_and(|line| line.len() > 10)
}

/// The first absolute path in the text that only one machine has.
fn machine_path(text: &str) -> Option<&'static str> {
    ["/work/", "/root/", "/home/"].into_iter().find(|path| {
        text.match_indices(path).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            !before.is_some_and(|char| char.is_alphanumeric() || "_./-\"`~".contains(char))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(text: &str, long: &str) -> Vec<String> {
        let source = Source {
            path: "a.rs".to_owned(),
            text: text.to_owned(),
        };
        check_with(&[source], long).into_iter().map(|complaint| complaint.text).collect()
    }

    #[test]
    fn a_file_without_an_opening_sentence_is_found() {
        assert_eq!(complaints("use std::fmt;\n", "").len(), 1);
        assert!(complaints("//! What this file is for.\n", "").is_empty());
    }

    #[test]
    fn a_long_file_is_found_and_its_record_may_only_shrink() {
        let long = format!("//! What this file is for.\n{}", "//\n".repeat(600));
        assert_eq!(complaints(&long, "").len(), 1);
        assert!(complaints(&long, "a.rs 601").is_empty());
        assert_eq!(complaints(&long, "a.rs 600").len(), 1);
        assert_eq!(complaints(&long, "a.rs 602").len(), 1);
    }

    #[test]
    fn a_path_of_one_machine_is_found() {
        assert_eq!(machine_path("see /home/ann/x"), Some("/home/"));
        assert_eq!(machine_path("see docs/work/x"), None);
    }
}
