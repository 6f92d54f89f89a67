//! Compiles the built-in plugins from source to WebAssembly components, which the host then carries.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use wit_component::ComponentEncoder;

const TARGET: &str = "wasm32-unknown-unknown";
const GUESTS: [&str; 2] = ["filter-tag", "filter-sql"];

fn main() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .context("the workspace's folder")?;
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    watch(&workspace);
    ensure_target()?;
    // A folder of its own, because the cargo that runs this script holds the lock of the other.
    let target_dir = out.join("guests");
    compile(&workspace, &target_dir)?;
    for guest in GUESTS {
        let module = target_dir
            .join(TARGET)
            .join("release")
            .join(guest.replace('-', "_"))
            .with_extension("wasm");
        let module = fs::read(&module).with_context(|| format!("reading {}", module.display()))?;
        let component = ComponentEncoder::default()
            .validate(true)
            .module(&module)
            .and_then(|mut encoder| encoder.encode());
        let component = component.with_context(|| format!("making a component of {guest}"))?;
        fs::write(out.join(guest).with_extension("wasm"), component).with_context(|| format!("writing the component {guest}"))?;
    }
    Ok(())
}

/// Names all that the guests are made from.
fn watch(workspace: &Path) {
    let shared = [
        "plugin-sdk/rust/src",
        "plugin-sdk/rust/examples",
        "plugin-sdk/rust/Cargo.toml",
        "plugin-sdk/wit",
        "Cargo.lock",
    ]
    .map(PathBuf::from);
    let own = GUESTS
        .iter()
        .flat_map(|guest| ["src", "Cargo.toml"].map(|part| Path::new("plugins").join(guest).join(part)));
    for path in shared.into_iter().chain(own).chain(["broker/plugin-host/build.rs".into()]) {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
}

/// Makes sure that the standard library for the guests' target is there, by installing it if need be.
fn ensure_target() -> Result<()> {
    if has_target()? {
        return Ok(());
    }
    let installed = Command::new("rustup")
        .args(["target", "add", TARGET])
        .status()
        .is_ok_and(|status| status.success());
    ensure!(
        installed && has_target()?,
        "the built-in plugins need the Rust target {TARGET}, and `rustup target add {TARGET}` failed: install it, then build again"
    );
    Ok(())
}

fn has_target() -> Result<bool> {
    let rustc = env::var_os("RUSTC").context("cargo sets RUSTC")?;
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .context("running rustc")?;
    Ok(output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

fn compile(workspace: &Path, target_dir: &Path) -> Result<()> {
    let mut cargo = Command::new(env::var_os("CARGO").context("cargo sets CARGO")?);
    cargo
        .arg("build")
        .args(["--release", "--locked", "--lib", "--target", TARGET])
        .arg("--manifest-path")
        .arg(workspace.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(target_dir);
    for guest in GUESTS {
        cargo.args(["--package", guest]);
    }
    // What the SDK's README shows is not carried; the tests load it from where cargo leaves it, as anyone would.
    cargo.args(["--package", "sluice-plugin", "--example", "property-equals"]);
    // What the outer build is told about its own target or tools (clippy, coverage) is not meant for the guests.
    for inherited in [
        "RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_TARGET_DIR",
    ] {
        cargo.env_remove(inherited);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+simd128");
    cargo
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat");
    cargo
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort");
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "none");
    // The generator of the bindings runs once: optimising it takes longer than it ever saves.
    cargo
        .env("CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_CODEGEN_UNITS", "256");
    if !cargo.status().context("running cargo for the built-in plugins")?.success() {
        bail!("the built-in plugins did not compile, for the reason given above");
    }
    Ok(())
}
