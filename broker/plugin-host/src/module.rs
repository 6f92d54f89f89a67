//! From a plugin's bytes to code that can be instantiated.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};
use wit_component::ComponentEncoder;

use crate::error::LoadError;
use crate::instance::Guard;
use crate::limits::MODULE_BYTES_MAX;

const INTERFACE: &str = "sluice:plugin/filtering@1.0.0";

/// The SHA-256 of a plugin's bytes as they were given: its name wherever a version is meant.
pub type Digest = [u8; 32];

/// The digest of a plugin's bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// A verified and compiled plugin. Cheap to clone.
#[derive(Clone)]
pub struct Module(Arc<Compiled>);

struct Compiled {
    digest: Digest,
    instance: InstancePre<Guard>,
    exports: Exports,
}

/// Where the functions of the interface are.
#[derive(Clone, Copy)]
pub(crate) struct Exports {
    pub(crate) compile: ComponentExportIndex,
    pub(crate) columns: ComponentExportIndex,
    pub(crate) hint: ComponentExportIndex,
    pub(crate) evaluate: ComponentExportIndex,
}

impl Module {
    /// Compiles a component, or a core module that carries its component type. It is not run yet.
    pub(crate) fn compile(engine: &Engine, digest: Digest, bytes: &[u8]) -> Result<Self, LoadError> {
        if bytes.len() > MODULE_BYTES_MAX {
            return Err(LoadError::TooLong { bytes: bytes.len() });
        }
        let component = Component::from_binary(engine, &component(bytes)?).map_err(|error| LoadError::Invalid(format!("{error:#}")))?;
        if let Some((import, _)) = component.component_type().imports(engine).next() {
            return Err(LoadError::Import(import.to_owned()));
        }
        let exports = exports(&component)?;
        let instance = Linker::new(engine)
            .instantiate_pre(&component)
            .map_err(|error| LoadError::Invalid(format!("{error:#}")))?;
        Ok(Self(Arc::new(Compiled { digest, instance, exports })))
    }

    /// The digest of the bytes that it was loaded from.
    pub fn digest(&self) -> &Digest {
        &self.0.digest
    }

    pub(crate) fn instance(&self) -> &InstancePre<Guard> {
        &self.0.instance
    }

    pub(crate) fn exports(&self) -> Exports {
        self.0.exports
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Module(")?;
        self.0.digest.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        formatter.write_str(")")
    }
}

/// The bytes as a component.
fn component(bytes: &[u8]) -> Result<Cow<'_, [u8]>, LoadError> {
    // After the magic number comes the version, in which components and core modules differ.
    match bytes.get(..8) {
        Some(b"\0asm\x0d\0\x01\0") => Ok(Cow::Borrowed(bytes)),
        Some(b"\0asm\x01\0\0\0") => {
            let encoded = ComponentEncoder::default()
                .validate(true)
                .module(bytes)
                .and_then(|mut encoder| encoder.encode());
            encoded
                .map(Cow::Owned)
                .map_err(|error| LoadError::NoComponent(format!("{error:#}")))
        }
        _ => Err(LoadError::Invalid("it does not begin as one".to_owned())),
    }
}

fn exports(component: &Component) -> Result<Exports, LoadError> {
    let missing = |name: &str| LoadError::NoFilter(format!("`{name}` is missing"));
    let interface = component.get_export_index(None, INTERFACE).ok_or_else(|| missing(INTERFACE))?;
    let function = |name| component.get_export_index(Some(&interface), name).ok_or_else(|| missing(name));
    Ok(Exports {
        compile: function("compile")?,
        columns: function("[method]predicate.columns")?,
        hint: function("[method]predicate.hint")?,
        evaluate: function("[method]predicate.evaluate")?,
    })
}
