//! Asking for a page of the monitor over HTTP, by hand.

#![allow(dead_code, reason = "each test file takes what it needs")]

use sluice_server::Running;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The status and the body of a page.
pub(crate) async fn page(running: &Running, path: &str) -> (u16, String) {
    let address = running.ready().metrics.unwrap();
    asked(&address, path).await
}

/// The status and the body of a page at this address.
pub(crate) async fn asked(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let question = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The value of a series, by its name with its labels as the page writes them.
pub(crate) fn value(page: &str, series: &str) -> f64 {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(series).and_then(|rest| rest.strip_prefix(' ')));
    line.unwrap_or_else(|| panic!("{series} is not in:\n{page}")).parse().unwrap()
}
