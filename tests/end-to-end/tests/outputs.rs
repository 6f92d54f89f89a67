//! What the commands print, for people and for programs, word for word: ids, times and what a machine decides are masked.

use sluice_end_to_end::Broker;

/// Hexadecimal digits in a row that are an id, a digest or a handle.
const ID_DIGITS: usize = 16;

/// The text with every id as `<id>`, every time as `<time>` and the name of a command's client as `<client>`.
fn masked(text: &str) -> String {
    let words = text.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric());
    let mut masked: String = words.map(masked_word).collect();
    // A time for people: date, clock and milliseconds.
    while let Some(at) = time_in(&masked) {
        masked.replace_range(at, "<time>");
    }
    while let Some(at) = client_in(&masked) {
        masked.replace_range(at, "<client>");
    }
    masked
}

/// Where the name of a command's client is, which has the number of its process.
fn client_in(text: &str) -> Option<std::ops::Range<usize>> {
    const NAME: &str = "sluice-cli-";
    let from = text.find(NAME)?;
    let digits = text[from + NAME.len()..].bytes().take_while(u8::is_ascii_digit).count();
    Some(from..from + NAME.len() + digits)
}

fn masked_word(word: &str) -> String {
    let end = word.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
    let rest = &word[end.len()..];
    let is_id = end.len() >= ID_DIGITS && end.bytes().all(|byte| byte.is_ascii_hexdigit());
    // Milliseconds since 1970 have thirteen digits until the year 2286.
    let is_time = end.len() == 13 && end.bytes().all(|byte| byte.is_ascii_digit());
    match (is_id, is_time) {
        (true, _) => format!("<id>{rest}"),
        (_, true) => format!("<time>{rest}"),
        _ => word.to_owned(),
    }
}

/// Where a time such as `2001-01-31 23:59:59.123Z` is.
fn time_in(text: &str) -> Option<std::ops::Range<usize>> {
    const SHAPE: &[u8] = b"0000-00-00 00:00:00.000Z";
    let bytes = text.as_bytes();
    let fits = |window: &[u8]| {
        window
            .iter()
            .zip(SHAPE)
            .all(|(byte, shape)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == shape })
    };
    let at = bytes.windows(SHAPE.len()).position(fits)?;
    Some(at..at + SHAPE.len())
}

/// Runs commands one after the other, and writes down each with what it prints.
struct Session<'a> {
    broker: &'a Broker,
    written: String,
}

impl Session<'_> {
    fn run(&mut self, line: &str) -> String {
        let arguments: Vec<&str> = line.split(' ').collect();
        let printed = self.broker.run(&arguments);
        self.written.push_str(&format!("$ sluice {line}\n{}\n", masked(&printed)));
        printed
    }

    /// For people and for programs.
    fn both(&mut self, line: &str) {
        self.run(line);
        self.run(&format!("--json {line}"));
    }
}

#[test]
fn topics_groups_and_messages_are_shown_as_ever() {
    let broker = Broker::start();
    let mut session = Session {
        broker: &broker,
        written: String::new(),
    };
    session.run("topic create orders --queues 1 --retention 72h --ttl 12h");
    session.both("topic list");
    session.both("topic describe orders");
    session.run("group create billing --attempts 3 --backoff 1s");
    session.run("group create ledger --ordered");
    session.run("group create screens --broadcast");
    broker.produce("orders", 0, 3);
    session.run("consume orders --group billing --count 3 --json");
    session.both("group list");
    session.both("group describe billing");
    session.both("group leases billing");
    session.run("group pause billing");
    session.run("group resume billing");
    session.run("group seek billing --topic orders --earliest");
    session.run("group purge billing --topic orders");
    session.both("group dead-letters list billing");
    session.both("message list orders");
    session.both("transaction list orders");
    session.run("topic grow orders --queues 2");
    session.both("plugin list");
    session.run("group delete billing");
    session.run("topic delete orders");
    insta::assert_snapshot!("commands", session.written);
}

#[test]
fn a_message_is_explained_as_ever() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "orders", "--queues", "1"]);
    broker.produce("orders", 0, 2);
    broker.run(&["consume", "orders", "--group", "billing", "--count", "1"]);
    let mut session = Session {
        broker: &broker,
        written: String::new(),
    };
    let listed = broker.run(&["--json", "message", "list", "orders"]);
    for line in listed.lines() {
        let message: serde_json::Value = serde_json::from_str(line).expect("it prints JSON");
        let id = message["id"].as_str().expect("it has an id");
        let explain = format!("message explain {id} --group billing");
        for line in [explain.clone(), format!("--json {explain}")] {
            let printed = broker.run(&line.split(' ').collect::<Vec<_>>());
            session
                .written
                .push_str(&format!("$ sluice {}\n{}\n", masked(&line), masked(&printed)));
        }
    }
    insta::assert_snapshot!("explanations", session.written);
}
