//! The project's own style, as a check: who may depend on whom, what the core may not touch, how files begin and how long they are,
//! and that kinds of messages have a test for each pair.

mod arrows;
mod composition;
mod core;
mod files;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// One thing that is not as it should be.
pub(crate) struct Complaint {
    /// The file, from the root.
    pub(crate) path: String,
    /// What is wrong, and what to do.
    pub(crate) text: String,
}

/// A text file of the project.
pub(crate) struct Source {
    /// From the root, with forward slashes.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
}

/// Runs every check over the checkout at `root`.
///
/// # Errors
/// Lists every complaint, one a line.
pub(crate) fn check(root: &Path) -> Result<()> {
    let sources = read_all(root)?;
    let mut complaints = arrows::check(&sources);
    complaints.extend(composition::check(&sources));
    complaints.extend(core::check(&sources));
    complaints.extend(files::check(&sources));
    if complaints.is_empty() {
        println!("tidy: {} files, nothing to complain of", sources.len());
        return Ok(());
    }
    let mut list = String::new();
    for complaint in &complaints {
        write!(list, "\n  {}: {}", complaint.path, complaint.text).expect("writing to a string cannot fail");
    }
    bail!("tidy found {} things:{list}", complaints.len())
}

fn read_all(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !(name.starts_with('.') && name != ".ci" && name != ".cargo") {
                    folders.push(path);
                }
            } else if is_read(&name) {
                sources.push(read(root, &path)?);
            }
        }
    }
    sources.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(sources)
}

fn is_read(name: &str) -> bool {
    [".rs", ".toml", ".md", ".py", ".wit", ".proto", ".txt"]
        .iter()
        .any(|ending| name.ends_with(ending))
        || name == "run"
}

fn read(root: &Path, path: &PathBuf) -> Result<Source> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let path = path
        .strip_prefix(root)
        .expect("listed under the root")
        .to_string_lossy()
        .replace('\\', "/");
    Ok(Source { path, text })
}
