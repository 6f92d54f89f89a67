//! What bad input gets: from the binary at its start, and from a broker that runs.

use std::process::Command;

use sluice_end_to_end::{Broker, sluice, text};

/// Runs the binary without a broker; exit code and what it said.
fn alone(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(sluice())
        .args(arguments)
        .env("SLUICE_READY_FILE", "/nowhere/ready.json")
        .output()
        .expect("the binary was built, so it can be run");
    (output.status.code(), text(&output.stderr))
}

#[test]
fn an_unknown_configuration_key_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sluice.toml");
    std::fs::write(&file, "listn = \"127.0.0.1:0\"\n").unwrap();
    let (exit, said) = alone(&[
        "serve",
        "--config",
        file.to_str().unwrap(),
        "--data",
        directory.path().to_str().unwrap(),
    ]);
    assert!(exit == Some(1) && said.contains("listn") && said.contains("listen"), "{said}");
}

#[test]
fn a_second_broker_on_the_same_data_does_not_start() {
    let broker = Broker::start();
    let (exit, said) = alone(&["serve", "--listen", "127.0.0.1:0", "--data", broker.data().to_str().unwrap()]);
    assert!(exit == Some(1) && said.contains("in use"), "{said}");
}

#[test]
fn an_address_beyond_loopback_needs_the_flag() {
    let directory = tempfile::tempdir().unwrap();
    let (exit, said) = alone(&["serve", "--listen", "0.0.0.0:0", "--data", directory.path().to_str().unwrap()]);
    assert!(exit == Some(1) && said.contains("allow_unauthenticated_remote"), "{said}");
}

#[test]
fn without_a_broker_a_command_ends_with_3() {
    let (exit, said) = alone(&["topic", "list"]);
    assert!(exit == Some(3) && said.contains("sluice serve"), "{said}");
}

#[test]
fn wrong_usage_ends_with_2() {
    assert_eq!(alone(&["topic", "lst"]).0, Some(2));
    assert_eq!(alone(&["--server", "localhost:1", "topic", "list"]).0, Some(2));
}

#[test]
fn a_bad_name_is_refused_with_advice() {
    let broker = Broker::start();
    let (exit, said) = broker.fail(&["topic", "create", "%SYS%mine"]);
    assert!(exit == 1 && said.contains("ReservedName") && said.contains("help:"), "{said}");
    let (exit, said) = broker.fail(&["topic", "describe", "nothing"]);
    assert!(exit == 1 && said.contains("NoSuchTopic"), "{said}");
}

#[test]
fn a_message_is_found_by_its_id() {
    let broker = Broker::start();
    broker.produce("numbers", 0, 3);
    let printed = broker.run(&["consume", "numbers", "--group", "g", "--count", "1", "--json"]);
    let message: serde_json::Value = serde_json::from_str(printed.trim()).unwrap();
    let id = message["id"].as_str().unwrap();
    let found: serde_json::Value = serde_json::from_str(&broker.run(&["message", "get", id, "--json"])).unwrap();
    assert_eq!(
        (&found["body"], &found["offset"], &found["queue"]),
        (&message["body"], &message["offset"], &message["queue"])
    );
    let (exit, said) = broker.fail(&["message", "get", "00000000000000000000000000000000"]);
    assert!(exit == 1 && said.contains("NoSuchMessage"), "{said}");
}
