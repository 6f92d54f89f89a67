//! Whether the table of kinds together has a row for each pair, with its meaning and a test of its name, or the decision that refuses it.

use super::{Complaint, Source};

/// What can meet, in the order of the table.
const KINDS: &[&str] = &[
    "delay",
    "priority",
    "ordered",
    "transaction",
    "filter",
    "dead letter",
    "replay",
    "broadcast",
    "retention",
];

/// Pairs that may be refused, each with a decision that argues it.
const REFUSED_MAX: usize = 4;

const TABLE: &str = "docs/composition.md";
const TESTS: &str = "tests/end-to-end/tests/";

/// Looks at the table, and for the tests and decisions that it names.
pub(crate) fn check(sources: &[Source]) -> Vec<Complaint> {
    let Some(table) = sources.iter().find(|source| source.path == TABLE) else {
        return vec![complaint("is not there".to_owned())];
    };
    let rows: Vec<Row<'_>> = table.text.lines().filter_map(Row::read).collect();
    let mut complaints = Vec::new();
    let mut refused = 0;
    for (nth, first) in KINDS.iter().enumerate() {
        for second in &KINDS[nth + 1..] {
            let pair = format!("{first}, {second}");
            let Some(row) = rows.iter().find(|row| row.pair == pair) else {
                complaints.push(complaint(format!("the pair `{pair}` has no row")));
                continue;
            };
            if row.meaning.is_empty() {
                complaints.push(complaint(format!("the pair `{pair}` has no meaning")));
            }
            let name = format!("{first}_with_{second}").replace(' ', "_");
            match row.held_by.strip_prefix("refused: ") {
                Some(decision) if names_decision(sources, decision) => refused += 1,
                Some(_) => complaints.push(complaint(format!("the pair `{pair}` is refused without a decision that is there"))),
                None if row.held_by != format!("`{name}`") || !has_test(sources, &name) => {
                    complaints.push(complaint(format!("the pair `{pair}` has no test `{name}` in {TESTS}")));
                }
                None => {}
            }
        }
    }
    if refused > REFUSED_MAX {
        complaints.push(complaint(format!("{refused} pairs are refused, {REFUSED_MAX} may be")));
    }
    complaints
}

/// A row of the table.
struct Row<'a> {
    pair: &'a str,
    meaning: &'a str,
    held_by: &'a str,
}

impl<'a> Row<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut cells = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim);
        match [cells.next()?, cells.next()?, cells.next()?] {
            [pair, meaning, held_by] => Some(Self { pair, meaning, held_by }),
        }
    }
}

/// Whether a link leads to one of the decisions.
fn names_decision(sources: &[Source], link: &str) -> bool {
    let Some((_, path)) = link.split_once("](") else { return false };
    let path = format!("docs/{}", path.trim_end_matches([')', '.']));
    path.starts_with("docs/adr/") && sources.iter().any(|source| source.path == path)
}

fn has_test(sources: &[Source], name: &str) -> bool {
    let begins = format!("async fn {name}(");
    let mut tests = sources.iter().filter(|source| source.path.starts_with(TESTS));
    tests.any(|source| source.text.contains(&begins))
}

fn complaint(text: String) -> Complaint {
    Complaint {
        path: TABLE.to_owned(),
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with a row for each pair, whose last cell is what `held_by` says of the test's name.
    fn sources(held_by: impl Fn(&str) -> String) -> Vec<Source> {
        let (mut table, mut tests) = (String::new(), String::new());
        for (nth, first) in KINDS.iter().enumerate() {
            for second in &KINDS[nth + 1..] {
                let name = format!("{first}_with_{second}").replace(' ', "_");
                table.push_str(&format!("| {first}, {second} | Both. | {} |\n", held_by(&name)));
                tests.push_str(&format!("async fn {name}() {{}}\n"));
            }
        }
        let source = |path: &str, text: String| Source {
            path: path.to_owned(),
            text,
        };
        vec![
            source(TABLE, table),
            source("tests/end-to-end/tests/pairs.rs", tests),
            source("docs/adr/0001-a.md", String::new()),
        ]
    }

    #[test]
    fn a_full_table_is_left_alone() {
        assert_eq!(check(&sources(|name| format!("`{name}`"))).len(), 0);
    }

    #[test]
    fn a_pair_without_row_meaning_or_test_is_found() {
        let changed = |change: fn(&mut Vec<Source>)| {
            let mut all = sources(|name| format!("`{name}`"));
            change(&mut all);
            check(&all).len()
        };
        let row = "| delay, priority | Both. | `delay_with_priority` |\n";
        assert!(sources(|name| format!("`{name}`"))[0].text.starts_with(row));
        assert_eq!(
            changed(|all| all[0].text = all[0].text.split_once('\n').unwrap_or_default().1.to_owned()),
            1
        );
        assert_eq!(changed(|all| all[0].text = all[0].text.replacen("Both.", "", 1)), 1);
        assert_eq!(
            changed(|all| all[1].text = all[1].text.replacen("delay_with_priority", "other", 1)),
            1
        );
        assert_eq!(changed(|all| all.clear()), 1);
    }

    #[test]
    fn few_pairs_may_be_refused_and_each_by_a_decision() {
        let refused = |names: &'static [&'static str], decision: &'static str| {
            check(&sources(move |name| match names.contains(&name) {
                true => format!("refused: {decision}"),
                false => format!("`{name}`"),
            }))
            .len()
        };
        let four = &[
            "delay_with_priority",
            "delay_with_ordered",
            "delay_with_filter",
            "delay_with_replay",
        ];
        assert_eq!(refused(four, "[ADR 1](adr/0001-a.md)"), 0);
        assert_eq!(refused(&four[..1], "[ADR 2](adr/0002-b.md)"), 1);
        let five = &[
            "delay_with_priority",
            "delay_with_ordered",
            "delay_with_filter",
            "delay_with_replay",
            "delay_with_retention",
        ];
        assert_eq!(refused(five, "[ADR 1](adr/0001-a.md)"), 1);
    }
}
