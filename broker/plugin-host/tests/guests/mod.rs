//! Guests with a fault, written in WebAssembly text around the calls of the `filter` world.

#![allow(dead_code, reason = "each test file takes what it needs")]

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A world that wants the time as well; given to guests that are to be refused.
const WORLD_WITH_IMPORT: &str = "package test:guests; world curious { import now: func() -> u64; export sluice:plugin/filtering@1.0.0; }";

/// What a guest does in the places where tests differ; each is instructions in WebAssembly text.
#[derive(Clone, Copy)]
pub(crate) struct Guest {
    /// Before an expression is accepted, with its address and length in locals 0 and 1.
    pub(crate) compile: &'static str,
    /// Before the messages are accepted, with the view's address in local 1; `$calls` counts the calls of this instance.
    pub(crate) evaluate: &'static str,
    /// The length of the list `deliver`, when local 3 holds the right one.
    pub(crate) deliver_length: &'static str,
    /// How many columns it asks for: the tag again and again.
    pub(crate) columns: u32,
}

/// A guest that delivers every message.
pub(crate) const SOUND: Guest = Guest {
    compile: "",
    evaluate: "",
    deliver_length: "(local.get 3)",
    columns: 0,
};

/// Traps where a tag of the run has an exclamation mark.
pub(crate) const POISONED: Guest = Guest {
    evaluate: "
        (local.set 3 (i32.add (local.get 1) (i32.load offset=24 (local.get 1))))
        (local.set 2 (i32.add (local.get 3) (i32.load offset=28 (local.get 1))))
        (block $done (loop $next
            (br_if $done (i32.ge_u (local.get 3) (local.get 2)))
            (if (i32.eq (i32.load8_u (local.get 3)) (i32.const 33)) (then unreachable))
            (local.set 3 (i32.add (local.get 3) (i32.const 1)))
            (br $next)))",
    columns: 1,
    ..SOUND
};

/// Traps on whatever it is asked.
pub(crate) const TRAPPING: Guest = Guest {
    evaluate: "unreachable",
    ..SOUND
};

impl Guest {
    /// As a core module that carries its component type.
    pub(crate) fn module(&self) -> Vec<u8> {
        let mut module = self.bare_module("");
        let (resolve, package) = resolve();
        let world = resolve
            .select_world(&[package], Some("filter"))
            .expect("the contract has a world `filter`");
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("the module fits its world");
        module
    }

    /// As a component.
    pub(crate) fn component(&self) -> Vec<u8> {
        encode(&self.module())
    }

    /// As a component that imports a function.
    pub(crate) fn component_with_import(&self) -> Vec<u8> {
        let mut module = self.bare_module(r#"(import "$root" "now" (func (result i64)))"#);
        let (mut resolve, _) = resolve();
        let package = resolve.push_str("curious.wit", WORLD_WITH_IMPORT).expect("the world above is WIT");
        let world = resolve.select_world(&[package], Some("curious")).expect("it is there");
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("the module fits its world");
        encode(&module)
    }

    /// As a core module that says nothing of its world.
    pub(crate) fn bare_module(&self, import: &str) -> Vec<u8> {
        let Self {
            compile,
            evaluate,
            deliver_length,
            columns,
        } = self;
        let text = format!(
            r#"(module
                {import}
                (import "[export]sluice:plugin/filtering@1.0.0" "[resource-new]predicate" (func $new (param i32) (result i32)))
                (memory (export "memory") 40)
                (global $calls (mut i32) (i32.const 0))
                (func $deep (param i32) (result i32) (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
                (func (export "sluice:plugin/filtering@1.0.0#compile") (param i32 i32) (result i32)
                    {compile}
                    (i32.store (i32.const 4) (call $new (i32.const 7)))
                    (i32.const 0))
                (func (export "sluice:plugin/filtering@1.0.0#[method]predicate.columns") (param i32) (result i32)
                    (i32.store (i32.const 32) (i32.const 1024))
                    (i32.store (i32.const 36) (i32.const {columns}))
                    (i32.const 32))
                (func (export "sluice:plugin/filtering@1.0.0#[method]predicate.hint") (param i32) (result i32) (i32.const 48))
                (func (export "sluice:plugin/filtering@1.0.0#[method]predicate.evaluate") (param i32 i32 i32) (result i32)
                    (local i32)
                    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
                    {evaluate}
                    (local.set 3 (i32.div_u (i32.add (i32.load offset=4 (local.get 1)) (i32.const 7)) (i32.const 8)))
                    (memory.fill (i32.const 128) (i32.const 255) (i32.const 32))
                    (i32.store (i32.const 64) (i32.const 128))
                    (i32.store (i32.const 68) {deliver_length})
                    (i32.store (i32.const 72) (i32.const 256))
                    (i32.store (i32.const 76) (local.get 3))
                    (i32.const 64)))"#
        );
        wat::parse_str(&text).expect("the text above is WebAssembly")
    }
}

fn resolve() -> (Resolve, wit_parser::PackageId) {
    let mut resolve = Resolve::default();
    let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugin-sdk/wit");
    let (package, _) = resolve.push_dir(contract).expect("the contract is WIT");
    (resolve, package)
}

fn encode(module: &[u8]) -> Vec<u8> {
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .expect("a component")
}
