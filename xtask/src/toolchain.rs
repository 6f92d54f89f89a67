//! What must be on the machine before plugins can be built, and what to do where it is not.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The target that guests are compiled for.
const GUEST_TARGET: &str = "wasm32-unknown-unknown";

/// Sees to it that guests can be compiled, by `rustup` where it is there.
///
/// # Errors
/// Says what to do when the target is missing and cannot be installed.
pub(crate) fn ensure_guest_target() -> Result<()> {
    if has_guest_target()? {
        return Ok(());
    }
    eprintln!("installing the {GUEST_TARGET} target with rustup");
    let installed = Command::new("rustup").args(["target", "add", GUEST_TARGET]).status();
    if !installed.is_ok_and(|status| status.success()) || !has_guest_target()? {
        bail!("plugins are built for {GUEST_TARGET}, which this toolchain lacks; run `rustup target add {GUEST_TARGET}`");
    }
    Ok(())
}

fn has_guest_target() -> Result<bool> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", GUEST_TARGET])
        .output()
        .context("run rustc")?;
    Ok(output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}
