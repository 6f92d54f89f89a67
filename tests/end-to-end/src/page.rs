//! A page that a broker serves over HTTP, as an operator's programs ask for it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use serde_json::Value;

/// The answer, head and body, of the broker whose ready file this is.
///
/// # Panics
/// When it does not answer.
pub fn page(ready_file: &Path, path: &str) -> String {
    let text = std::fs::read(ready_file).expect("it serves");
    let ready: Value = serde_json::from_slice(&text).expect("it is JSON");
    let address = ready["metrics"].as_str().expect("metrics are served");
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}
