//! Refusals that the documentation quotes: a test that gets another one fails, and says what the document is to say.

#![allow(dead_code, reason = "each test file takes what it needs")]

use sluice_protocol::errors::Refusal;

/// Demands that a row of the table in docs/bad-input.md has this refusal's code and text; a remark in parentheses may follow.
pub(crate) fn quoted(refusal: &Refusal) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/bad-input.md");
    let document = std::fs::read_to_string(path).unwrap();
    let row = format!("| {} | {}", refusal.code.name(), refusal.text);
    assert!(
        document.contains(&format!("{row} |")) || document.contains(&format!("{row} (")),
        "docs/bad-input.md has no row that goes on with\n{row} |\n"
    );
}
