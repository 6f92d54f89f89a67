//! The shop's story, as `sluice demo shop` and as the client's example tell it, held to the story as it is written down.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::process::Command;

use sluice_end_to_end::{Broker, sluice, text};

/// What is printed, with N for the numbers that differ from one telling to the next.
const STORY: &str = include_str!("demo-shop.txt");

/// The same text with N for what was measured: milliseconds, seconds with a fraction, rates, and what the tills have served so far.
fn without_measures(printed: &str) -> String {
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let measured = |place: usize| {
            let next = words.get(place + 1).copied().unwrap_or_default();
            let unit = next.trim_end_matches([',', ';', ':']);
            let is_number = words[place].parse::<f64>().is_ok();
            let is_measured = ["ms", "orders/s"].contains(&unit)
                || (unit == "s" && words[place].contains('.'))
                || (unit == "of" && words.get(place + 2) == Some(&"them"));
            is_number && is_measured
        };
        let shown = (0..words.len()).map(|place| if measured(place) { "N" } else { words[place] });
        shown.collect::<Vec<_>>().join(" ")
    };
    printed.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_demonstration_tells_the_shops_story_on_a_broker_of_its_own() {
    let output = Command::new(sluice()).args(["demo", "shop"]).output().unwrap();
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", text(&output.stderr));
    let (head, story) = told.split_once("\n\n").unwrap();
    assert!(head.starts_with("Sluice demonstration of a shop, data in "), "{head}");
    let end = "\n\nAll as expected; nothing lost, nothing twice, nothing early.\n";
    let story = story.strip_suffix(end).unwrap();
    assert_eq!(without_measures(story), STORY.trim_end(), "told:\n{told}");
}

#[test]
fn the_clients_example_tells_the_same_story_once_a_name() {
    let broker = Broker::start();
    let example = sluice().with_file_name("examples").join("shop");
    let tell = || {
        let mut command = Command::new(&example);
        command.env("SLUICE_READY_FILE", broker.ready_file()).output().unwrap()
    };
    let output = tell();
    let story = text(&output.stdout);
    assert!(output.status.success(), "{story}\n{}", text(&output.stderr));
    assert_eq!(without_measures(&story), STORY.trim_end(), "told:\n{story}");
    let again = tell();
    let said = text(&again.stderr);
    assert!(
        !again.status.success() && said.contains("a story needs a name that was not used before"),
        "{said}"
    );
}
