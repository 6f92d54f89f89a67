//! The language, case by case and by its laws, through the same columns that the broker hands to the plugin.

use filter_sql::SqlFilter;
use proptest::prelude::*;
use sluice_plugin::ColumnFilter;
use sluice_plugin::testing::{Outcome, Row, assert_pure, judge};

fn row(properties: &str) -> Row {
    properties
        .split(';')
        .filter(|property| !property.is_empty())
        .fold(Row::new(), |row, property| {
            let (name, value) = property.split_once('=').expect("a case writes name=value");
            match name {
                "TAGS" => row.tag(value),
                "KEYS" => row.keys(value),
                _ => row.property(name, value),
            }
        })
}

/// TRUE, FALSE, NULL, EVAL_ERROR or PARSE_ERROR; FALSE and NULL are told apart by the negation.
fn result(expression: &str, properties: &str) -> &'static str {
    let rows = [row(properties)];
    let judged = |expression: &str| judge::<SqlFilter>(expression, &rows).map(|outcomes| outcomes[0]);
    match judged(expression) {
        Err(_) => "PARSE_ERROR",
        Ok(Outcome::Failed) => "EVAL_ERROR",
        Ok(Outcome::Deliver) => "TRUE",
        Ok(Outcome::Skip) => match judged(&format!("NOT ({expression})")) {
            Ok(Outcome::Deliver) => "FALSE",
            Ok(Outcome::Skip) => "NULL",
            other => panic!("{expression} is FALSE or NULL, its negation {other:?}"),
        },
    }
}

fn check(cases: &str) -> usize {
    let mut checked = 0;
    for line in cases.lines().skip(1) {
        let fields: Vec<_> = line.split('\t').collect();
        let [number, expression, properties, expected] = fields[..] else {
            panic!("{line:?} has not four fields")
        };
        let expression = expression.replace("\\n", "\n");
        assert_eq!(
            result(&expression, properties),
            expected,
            "case {number}: {expression} for {properties:?}"
        );
        checked += 1;
    }
    checked
}

#[test]
fn every_reference_case_has_its_result() {
    assert_eq!(check(include_str!("cases.tsv")), 151);
}

#[test]
fn every_example_of_the_definition_has_its_result() {
    assert_eq!(check(include_str!("examples.tsv")), 60);
}

#[test]
fn a_chain_of_thousands_is_judged() {
    assert_eq!(result(&format!("{}TRUE", "a = 1 AND ".repeat(5_000)), "a=1"), "TRUE");
    assert_eq!(result(&format!("{}b = 1", "a = 2 OR ".repeat(5_000)), "a=1;b=1"), "TRUE");
    assert_eq!(result(&format!("a = 1{}", " = TRUE".repeat(5_000)), "a=1"), "TRUE");
}

#[test]
fn a_negated_test_within_a_between_is_evaluated_once_a_level() {
    let nested = (0..70).fold("a = 1".to_owned(), |inner, _| format!("-({inner}) BETWEEN b AND c"));
    assert_eq!(result(&nested, "a=1"), "NULL");
    assert_eq!(result(&nested, "a=x"), "EVAL_ERROR");
}

#[test]
fn the_right_side_of_an_ordering_is_evaluated_only_where_the_left_is_there() {
    assert_eq!(result("b > -(a > 1)", "a=bad"), "NULL");
    assert_eq!(result("b > -(a > 1)", "a=bad;b=1"), "EVAL_ERROR");
    assert_eq!(result("(b > -(a > 1 OR c > 1)) OR d = 'x'", "a=1;d=x"), "TRUE");
    assert_eq!(result("-(a > 1) > -(b > 1)", "a=1;b=bad"), "NULL");
}

#[test]
fn tags_and_keys_are_read_as_properties() {
    assert_eq!(result("TAGS = 'a' AND KEYS CONTAINS 'k2'", "TAGS=a;KEYS=k1 k2"), "TRUE");
}

#[test]
fn an_expression_of_literals_asks_for_no_column() {
    assert!(SqlFilter::compile("1 = 1.0").expect("it is legal").columns().is_empty());
    assert_eq!(
        SqlFilter::compile("a = 1 OR a = 2 OR a = 3").expect("it is legal").columns().len(),
        1
    );
}

/// Conditions over three properties, with whatever evaluates differently from message to message.
fn condition() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("a = '1'"),
        Just("a > 1"),
        Just("b > 1.5"),
        Just("a < b"),
        Just("c = TRUE"),
        Just("TRUE = c"),
        Just("a"),
        Just("NULL OR a = b"),
        Just("a = b"),
        Just("b IN ('1', '', '2', 'true', 'x', 'y')"),
        Just("c CONTAINS 'r'"),
        Just("c NOT ENDSWITH 'e'"),
        Just("a IS NULL"),
        Just("a BETWEEN 1 AND 2"),
        Just("b NOT BETWEEN a AND 5"),
        Just("-(a > 1) < b"),
        Just("b > -(a > 1)"),
    ]
    .prop_map(str::to_owned);
    leaf.prop_recursive(5, 24, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left}) AND ({right})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left}) OR ({right})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("(({left}) IS NULL) = ({right})")),
            inner.clone().prop_map(|inner| format!("NOT ({inner})")),
            inner.prop_map(|inner| format!("({inner}) IS NOT NULL")),
        ]
    })
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let value = prop_oneof![Just(None), "1|2|1.5|bad||true|-3|NaN".prop_map(Some)];
    let row = [value.clone(), value.clone(), value].prop_map(|values| {
        let named = ["a", "b", "c"].into_iter().zip(values);
        named.fold(Row::new(), |row, (name, value)| match value {
            Some(value) => row.property(name, value),
            None => row,
        })
    });
    proptest::collection::vec(row, 1..400)
}

proptest! {
    #[test]
    fn a_message_is_judged_alike_in_runs_of_any_size(expression in condition(), rows in rows()) {
        assert_pure::<SqlFilter>(&expression, &rows);
    }

    #[test]
    fn what_decides_on_the_left_spares_the_right_side_and_its_errors(expression in condition(), rows in rows()) {
        let left = judge::<SqlFilter>(&expression, &rows).expect("it is legal");
        let not = judge::<SqlFilter>(&format!("NOT ({expression})"), &rows).expect("it is legal");
        let or = judge::<SqlFilter>(&format!("({expression}) OR 'x' = 1"), &rows).expect("it is legal");
        let and = judge::<SqlFilter>(&format!("({expression}) AND 'x' = 1"), &rows).expect("it is legal");
        for (((left, not), or), and) in left.iter().zip(&not).zip(&or).zip(&and) {
            let expected = match (left, not) {
                (Outcome::Failed, _) => (Outcome::Failed, Outcome::Failed),
                (Outcome::Deliver, _) => (Outcome::Deliver, Outcome::Failed),
                (Outcome::Skip, Outcome::Deliver) => (Outcome::Failed, Outcome::Skip),
                (Outcome::Skip, _) => (Outcome::Failed, Outcome::Failed),
            };
            prop_assert_eq!((*or, *and), expected);
        }
    }

    #[test]
    fn any_text_is_compiled_or_refused_within_itself(text in "[ -~]{0,40}|(\\PC|[()'\n*/-]){0,20}") {
        if let Err(refusal) = SqlFilter::compile(&text) {
            prop_assert!(refusal.at.is_some_and(|at| text.is_char_boundary(at as usize)), "{:?}", refusal);
        }
    }
}
