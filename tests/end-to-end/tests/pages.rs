//! Reading without a group on the real broker: every stored message in order, from any place, by any filter, and nothing leased.

use serde_json::Value;
use sluice_client::{Filter, Message, ReadFrom, ReadTo, Reading};
use sluice_end_to_end::{Broker, numbers};

fn place(message: &Message) -> (i64, u16, u64) {
    (message.stored_ms(), message.queue(), message.offset())
}

fn number(message: &Message) -> u64 {
    let body: Value = serde_json::from_slice(&message.body()).expect("the body is JSON");
    body["n"].as_u64().expect("it has a number")
}

/// All messages of a reading, in pages of so many.
async fn all(broker: &Broker, reading: &Reading, page: usize) -> Vec<Message> {
    let client = broker.client().await;
    let mut pages = client.read(reading);
    let mut messages = Vec::new();
    while let Some(next) = pages.next(page).await.expect("the broker serves") {
        assert!(next.messages.len() <= page);
        messages.extend(next.messages);
    }
    client.close().await;
    messages
}

#[tokio::test]
async fn pages_of_any_size_hold_every_message_once_in_one_order() {
    let mut broker = Broker::start();
    broker.produce("numbers", 0, 1_500);
    broker.kill();
    broker.serve();
    broker.produce("numbers", 1_500, 2_000);
    let whole = all(&broker, &Reading::of("numbers"), 1_000).await;
    assert_eq!(whole.len(), 2_000);
    assert!(whole.is_sorted_by_key(place), "they come in the order in which they were stored");
    assert!(whole.iter().all(|message| message.has_body() && message.attempt() == 0));
    let bare = Reading {
        bodies: false,
        ..Reading::of("numbers")
    };
    let small = all(&broker, &bare, 7).await;
    assert_eq!(
        small.iter().map(place).collect::<Vec<_>>(),
        whole.iter().map(place).collect::<Vec<_>>()
    );
    assert!(small.iter().all(|message| !message.has_body() && message.body().is_empty()));
    assert_eq!(small[0].body_bytes(), whole[0].body().len());
}

#[tokio::test]
async fn a_reading_begins_and_ends_where_it_is_told() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "one", "--queues", "1"]);
    broker.produce("one", 0, 300);
    let between = |from, to| Reading {
        from,
        to,
        ..Reading::of("one")
    };
    let offsets = |messages: &[Message]| messages.iter().map(Message::offset).collect::<Vec<_>>();
    let middle = all(&broker, &between(ReadFrom::Offset(100), ReadTo::BeforeOffset(110)), 4).await;
    assert_eq!(offsets(&middle), (100..110).collect::<Vec<_>>());
    let whole = all(&broker, &Reading::of("one"), 1_000).await;
    let since = whole[200].stored_ms();
    let later = all(&broker, &between(ReadFrom::Time(since), ReadTo::End), 50).await;
    let expected: Vec<_> = whole.iter().filter(|message| message.stored_ms() >= since).map(place).collect();
    assert_eq!(later.iter().map(place).collect::<Vec<_>>(), expected);
    let earlier = all(&broker, &between(ReadFrom::Earliest, ReadTo::BeforeTime(since)), 50).await;
    assert_eq!(earlier.len() + later.len(), 300);
    assert!(all(&broker, &between(ReadFrom::Offset(300), ReadTo::End), 50).await.is_empty());
}

#[tokio::test]
async fn any_filter_reads_what_a_group_with_it_would_get() {
    let broker = Broker::start();
    broker.produce("numbers", 0, 1_000);
    let filters = [
        (Filter::Tag("red || blue".to_owned()), "--tag=red || blue"),
        (
            Filter::Sql("n < 100 AND color = 'green'".to_owned()),
            "--sql=n < 100 AND color = 'green'",
        ),
    ];
    for (filter, option) in filters {
        let reading = Reading {
            filter,
            ..Reading::of("numbers")
        };
        let mut read: Vec<u64> = all(&broker, &reading, 100).await.iter().map(number).collect();
        read.sort_unstable();
        let printed = broker.run(&["message", "list", "numbers", option, "--json", "--body", "--limit", "5000"]);
        assert_eq!(read, numbers(&printed), "{option}");
        assert_eq!(
            read,
            broker.consume("numbers", option.split_at(5).0.trim_matches('-'), &[option]),
            "{option}"
        );
    }
}

#[tokio::test]
async fn a_key_finds_its_messages_within_a_time() {
    let mut broker = Broker::start();
    broker.produce("numbers", 0, 1_000);
    broker.produce("numbers", 500, 520);
    broker.kill();
    broker.serve();
    broker.produce("numbers", 510, 530);
    let found = |arguments: &[&str]| {
        let search = ["message", "search", "numbers", "--json", "--body"];
        numbers(&broker.run(&[&search[..], arguments].concat()))
    };
    assert_eq!(found(&["--key", "515"]), [515, 515, 515]);
    assert_eq!(found(&["--key", "7"]), [7]);
    assert_eq!(found(&["--key", "1000"]), [0_u64; 0]);
    assert_eq!(found(&["--key", "515", "--limit", "2"]), [515, 515]);
    assert_eq!(found(&["--key", "515", "--sql", "n > 600"]), [0_u64; 0]);
    assert_eq!(found(&["--key", "515", "--tag", "blue"]), [515, 515, 515]);
    assert_eq!(found(&["--key", "515", "--until", "0"]), [0_u64; 0]);
    let reading = Reading {
        key: Some("515".to_owned()),
        ..Reading::of("numbers")
    };
    let all_of_it = all(&broker, &reading, 1).await;
    assert!(all_of_it.is_sorted_by_key(place) && all_of_it.len() == 3);
    let since = Reading {
        from: ReadFrom::Time(all_of_it[1].stored_ms() + 1),
        ..reading
    };
    assert_eq!(all(&broker, &since, 10).await.len(), 1);
}

#[test]
fn a_list_leases_nothing_and_settles_nothing() {
    let broker = Broker::start();
    broker.produce("numbers", 0, 50);
    let printed = broker.run(&["message", "list", "numbers", "--json", "--limit", "10"]);
    assert_eq!(printed.lines().count(), 10);
    assert!(
        printed
            .lines()
            .all(|line| line.contains("\"body_bytes\"") && !line.contains("\"body\""))
    );
    assert_eq!(broker.run(&["group", "list", "--json"]), "", "no group came to be");
    assert_eq!(broker.consume("numbers", "later", &[]).len(), 50);
    assert_eq!(
        broker.run(&["message", "list", "numbers", "--json"]).lines().count(),
        50,
        "they are stored still"
    );
    let people = broker.run(&["message", "list", "numbers", "--limit", "1"]);
    assert!(people.ends_with(" bytes\n"), "{people}");
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "one", "--queues", "1"]);
    let refused = |arguments: &[&str], name: &str| {
        let (exit, said) = broker.fail(&[&["message", "list"], arguments].concat());
        assert!(exit == 1 && said.contains(name), "{said}");
    };
    refused(&["nothing"], "NoSuchTopic");
    refused(&["one", "--queue", "1"], "NoSuchQueue");
    refused(&["one", "--sql", "n = = 1"], "BadExpression");
    refused(&["one", "--filter", "nobody", "--expression", "x"], "NoSuchPlugin");
}
