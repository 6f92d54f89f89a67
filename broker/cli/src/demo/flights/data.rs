//! The flights of the demonstration and what a plain scan of them says each group must get.

use anyhow::{Context, Result};
use serde_json::json;

use crate::draw::Draw;

/// 20,000 real flights; where they come from is told beside the file.
const CSV: &[u8] = include_bytes!("../../../../../demo/flights-2001q1.csv");

/// One row of the file, under the file's own column names.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Flight {
    /// Local time of departure, as text.
    pub(crate) departed_at: String,
    /// Minutes late; negative when early.
    pub(crate) delay_min: i64,
    /// How far.
    pub(crate) distance_miles: i64,
    /// Where from; the message's tag.
    pub(crate) origin: String,
    /// Where to.
    pub(crate) destination: String,
}

impl Flight {
    /// The row as JSON: what the message carries.
    pub(crate) fn body(&self) -> Vec<u8> {
        json!({
            "departed_at": self.departed_at,
            "delay_min": self.delay_min,
            "distance_miles": self.distance_miles,
            "origin": self.origin,
            "destination": self.destination,
        })
        .to_string()
        .into_bytes()
    }

    /// The properties that the filters read.
    pub(crate) fn properties(&self) -> Vec<(String, String)> {
        vec![
            ("delay_min".to_owned(), self.delay_min.to_string()),
            ("distance_miles".to_owned(), self.distance_miles.to_string()),
            ("destination".to_owned(), self.destination.clone()),
            ("origin".to_owned(), self.origin.clone()),
        ]
    }
}

/// All flights, in the order of the file.
///
/// # Errors
/// The file inside this binary is not what it should be.
pub(crate) fn all() -> Result<Vec<Flight>> {
    csv::Reader::from_reader(CSV)
        .deserialize()
        .collect::<Result<_, _>>()
        .context("read the flights inside this binary")
}

/// A group of the demonstration: what it asks the broker, and the same question put in Rust.
pub(crate) struct Question {
    /// The group's name.
    pub(crate) group: String,
    /// The plugin that answers.
    pub(crate) plugin: &'static str,
    /// What the plugin is asked.
    pub(crate) expression: String,
    /// What the authors of the data counted with SQLite, where the question is a fixed one.
    pub(crate) counted: Option<usize>,
    /// The question as a plain function, which shares nothing with the plugins.
    pub(crate) wanted: Box<dyn Fn(&Flight) -> bool + Send + Sync>,
}

/// The five questions whose answers are known, and one with thresholds drawn at random from `seed`.
pub(crate) fn questions(seed: u64) -> Vec<Question> {
    let fixed = |group: &str, plugin, expression: &str, counted, wanted: fn(&Flight) -> bool| Question {
        group: group.to_owned(),
        plugin,
        expression: expression.to_owned(),
        counted: Some(counted),
        wanted: Box::new(wanted),
    };
    vec![
        fixed("hubs", "tag", "ATL || ORD", 1941, |flight| {
            flight.origin == "ATL" || flight.origin == "ORD"
        }),
        fixed(
            "late-medium-haul",
            "sql",
            "delay_min > 60 AND distance_miles BETWEEN 500 AND 1500",
            497,
            |flight| flight.delay_min > 60 && (500..=1500).contains(&flight.distance_miles),
        ),
        fixed(
            "california",
            "sql",
            "destination IN ('LAX','SFO') AND NOT (delay_min < 0)",
            609,
            |flight| ["LAX", "SFO"].contains(&flight.destination.as_str()) && flight.delay_min >= 0,
        ),
        fixed("detroit-or-very-late", "sql", "origin = 'DTW' OR delay_min >= 120", 747, |flight| {
            flight.origin == "DTW" || flight.delay_min >= 120
        }),
        fixed("late-to-l", "sql", "destination STARTSWITH 'L' AND delay_min > 30", 261, |flight| {
            flight.destination.starts_with('L') && flight.delay_min > 30
        }),
        drawn(seed),
    ]
}

/// A question with thresholds of its own for each seed.
fn drawn(seed: u64) -> Question {
    let mut draw = Draw::new(seed);
    let delay = draw.between(-10, 90);
    let nearest = draw.between(100, 900);
    let farthest = nearest + draw.between(50, 1200);
    let letter = char::from(b'A' + u8::try_from(draw.between(0, 25)).expect("a letter's number fits"));
    let expression = format!(
        "(delay_min >= {delay} AND distance_miles NOT BETWEEN {nearest} AND {farthest}) OR destination ENDSWITH '{letter}' AND delay_min < {delay}"
    );
    Question {
        group: "drawn".to_owned(),
        plugin: "sql",
        expression,
        counted: None,
        wanted: Box::new(move |flight| {
            let far_or_near = flight.distance_miles < nearest || flight.distance_miles > farthest;
            (flight.delay_min >= delay && far_or_near) || (flight.destination.ends_with(letter) && flight.delay_min < delay)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_scan_counts_what_sqlite_counted() {
        let flights = all().expect("the flights can be read");
        assert_eq!(flights.len(), 20_000);
        for question in questions(1) {
            if let Some(counted) = question.counted {
                assert_eq!(
                    flights.iter().filter(|flight| (question.wanted)(flight)).count(),
                    counted,
                    "{}",
                    question.expression
                );
            }
        }
    }

    #[test]
    fn the_drawn_question_differs_with_the_seed() {
        assert_ne!(drawn(1).expression, drawn(2).expression);
    }
}
