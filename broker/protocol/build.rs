//! Generates the control messages from `control.proto` and the error registry from `errors.toml`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registry {
    error: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    code: u16,
    name: String,
    advice: String,
    text: String,
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=control.proto");
    println!("cargo::rerun-if-changed=errors.toml");
    control_messages();
    error_registry();
}

fn control_messages() {
    let descriptors = protox::compile(["control.proto"], ["."]).unwrap_or_else(|error| panic!("control.proto: {error}"));
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)
        .unwrap_or_else(|error| panic!("control.proto: no code could be generated: {error}"));
}

fn error_registry() {
    let text = fs::read_to_string("errors.toml").expect("errors.toml lies beside build.rs");
    let registry: Registry = toml::from_str(&text).unwrap_or_else(|error| panic!("errors.toml: {error}"));
    let (mut codes, mut names) = (BTreeSet::new(), BTreeSet::new());
    for entry in &registry.error {
        assert!(
            entry.code != 0 && codes.insert(entry.code),
            "errors.toml: code {} is zero or taken twice",
            entry.code
        );
        assert!(names.insert(entry.name.as_str()), "errors.toml: name {} is taken twice", entry.name);
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("errors.rs");
    fs::write(out, generate(&registry.error)).expect("OUT_DIR can be written");
}

fn generate(entries: &[Entry]) -> String {
    let mut out = String::from(
        "/// Everything that a client may be told, by a number that is never used again for another error.\n\
         #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]\n#[repr(u16)]\npub enum ErrorCode {\n",
    );
    for Entry { code, name, text, .. } in entries {
        let _ = writeln!(out, "    /// {}.\n    {name} = {code},", sentence(text));
    }
    out.push_str("}\n\nimpl ErrorCode {\n    /// Every code, ascending as the registry lists them.\n    pub const ALL: &[Self] = &[\n");
    for entry in entries {
        let _ = writeln!(out, "        Self::{},", entry.name);
    }
    out.push_str("    ];\n\n");
    let code = |entry: &Entry| format!("{} => Some(Self::{})", entry.code, entry.name);
    method(
        &mut out,
        "The code that `code` stands for, if this version knows it.",
        "from_code(code: u16) -> Option<Self>",
        "code",
        entries,
        code,
        "_ => None,",
    );
    let name = |entry: &Entry| format!("Self::{} => {:?}", entry.name, entry.name);
    method(
        &mut out,
        "The name, as the registry spells it.",
        "name(self) -> &'static str",
        "self",
        entries,
        name,
        "",
    );
    let text = |entry: &Entry| format!("Self::{} => {:?}", entry.name, entry.text);
    method(
        &mut out,
        "What the code means in general: lower case, no period.",
        "text(self) -> &'static str",
        "self",
        entries,
        text,
        "",
    );
    let advice = |entry: &Entry| format!("Self::{} => Advice::{}", entry.name, advice_variant(entry));
    method(
        &mut out,
        "What a client can do about it.",
        "advice(self) -> Advice",
        "self",
        entries,
        advice,
        "",
    );
    out.push_str("}\n");
    out
}

fn method(out: &mut String, doc: &str, signature: &str, over: &str, entries: &[Entry], arm: impl Fn(&Entry) -> String, last: &str) {
    let _ = writeln!(out, "    /// {doc}\n    pub const fn {signature} {{\n        match {over} {{");
    for entry in entries {
        let _ = writeln!(out, "            {},", arm(entry));
    }
    let _ = writeln!(out, "            {last}\n        }}\n    }}\n");
}

fn advice_variant(entry: &Entry) -> &'static str {
    match entry.advice.as_str() {
        "fix" => "Fix",
        "retry" => "Retry",
        "elsewhere" => "Elsewhere",
        other => panic!("errors.toml: {} has the unknown advice {other:?}", entry.name),
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}
