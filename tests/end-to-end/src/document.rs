//! Answers that the documentation quotes: a test that gets another answer fails, and says what the document is to say.

/// Demands that docs/bad-input.md quotes this answer, line for line.
///
/// Where an answer names what differs from run to run, such as a directory, the caller puts a word in its place.
///
/// # Panics
/// When the document does not hold it.
pub fn quoted(answer: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/bad-input.md");
    let document = std::fs::read_to_string(path).expect("the document is part of the project");
    let answer = answer.trim_end();
    assert!(
        document.contains(answer),
        "docs/bad-input.md does not quote this answer:\n{answer}\n"
    );
}
