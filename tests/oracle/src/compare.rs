//! One case through the plugin, in short runs and in full ones, beside what the oracle says.

use std::fmt;

use crate::generated::{Case, Expected};
use crate::sandbox::{Judged, Outcome, Properties, RUN_MAX, Sandbox};

/// What the plugin did otherwise than the oracle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The message; `None` when it is about the expression as a whole.
    pub message: Option<Properties>,
    /// What the oracle says.
    pub expected: String,
    /// What the plugin did.
    pub got: String,
}

/// What became of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Pairs of expression and message that were looked at; a refused expression is one.
    pub pairs: u64,
    /// Pairs that differ, at most one mismatch each.
    pub mismatches: Vec<Mismatch>,
    /// Messages that the broker would drop by the hint.
    pub pruned: u64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(message) = &self.message {
            writeln!(formatter, "  message    {message:?}")?;
        }
        writeln!(formatter, "  expected   {}", self.expected)?;
        write!(formatter, "  got        {}", self.got)
    }
}

/// Compares all messages of a case: each in a run of its own, and all of them in a full run, some there more than once.
pub fn compare(sandbox: &mut Sandbox, case: &Case) -> Compared {
    let pairs = case.messages.len().max(1) as u64;
    let mismatch = |expected: &dyn fmt::Debug, got: String| Compared {
        pairs,
        mismatches: vec![Mismatch {
            message: None,
            expected: format!("{expected:?}"),
            got,
        }],
        pruned: 0,
    };
    match (sandbox.compile(&case.expression), &case.expected) {
        (Ok(Ok(judged)), Expected::Each(expected)) => each(sandbox, &judged, &case.messages, expected),
        (Ok(Err(_)), Expected::Refused(_)) => Compared {
            pairs,
            ..Compared::default()
        },
        (Ok(Ok(_)), Expected::Refused(refused)) => mismatch(refused, "the expression is accepted".to_owned()),
        (Ok(Err(refusal)), Expected::Each(outcomes)) => mismatch(outcomes, format!("the expression is refused: {refusal}")),
        (Err(error), expected) => mismatch(expected, format!("{error:#}")),
    }
}

fn each(sandbox: &mut Sandbox, judged: &Judged, messages: &[Properties], expected: &[Outcome]) -> Compared {
    let mut compared = Compared {
        pairs: messages.len() as u64,
        ..Compared::default()
    };
    let mut differs = vec![None; messages.len()];
    if messages.len() != expected.len() {
        compared.mismatches.push(Mismatch {
            message: None,
            expected: format!("{} outcomes", messages.len()),
            got: format!("{} from the oracle", expected.len()),
        });
        return compared;
    }
    let singles: Vec<_> = (0..messages.len()).map(|message| vec![message]).collect();
    for places in singles.into_iter().chain(full_run(messages.len())) {
        let run: Vec<_> = places.iter().map(|&message| &messages[message]).collect();
        match sandbox.run(judged, &run) {
            Ok(outcomes) => {
                for (&message, outcome) in places.iter().zip(outcomes) {
                    if outcome != expected[message] {
                        differs[message].get_or_insert_with(|| format!("{outcome:?} in a run of {}", places.len()));
                    }
                }
            }
            Err(error) => {
                differs[places[0]].get_or_insert_with(|| format!("a run of {} failed: {error:#}", places.len()));
            }
        }
    }
    for (place, message) in messages.iter().enumerate() {
        if judged.is_pruned(message) {
            compared.pruned += 1;
            if matches!(expected[place], Outcome::True | Outcome::EvalError) {
                differs[place].get_or_insert_with(|| "dropped by the hint".to_owned());
            }
        }
    }
    let differing = differs.into_iter().enumerate();
    compared.mismatches = differing
        .filter_map(|(place, got)| {
            Some(Mismatch {
                message: Some(messages[place].clone()),
                expected: format!("{:?}", expected[place]),
                got: got?,
            })
        })
        .collect();
    compared
}

/// The places of a run of 256 made of these messages, in no simple order, so that neighbours and words of bits vary.
fn full_run(messages: usize) -> Option<Vec<usize>> {
    (messages > 0).then(|| (0..RUN_MAX).map(|place| (place * 7 + place / 5 + place / 64) % messages).collect())
}
