//! The language's reference cases and its bounds, through the plugin inside its sandbox.

use sluice_sql_oracle::{Case, Expected, Outcome, Properties, Refused, Sandbox, compare};

fn sandbox() -> Sandbox {
    Sandbox::new().expect("plugins run here")
}

fn properties(pairs: &[(&str, &str)]) -> Properties {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn outcome(sandbox: &mut Sandbox, expression: &str, pairs: &[(&str, &str)]) -> Outcome {
    let judged = sandbox.compile(expression).expect("the plugin works").expect("it is legal");
    sandbox.run(&judged, &[&properties(pairs)]).expect("the run works")[0]
}

/// A case of the file: number, expression, `name=value;name=value`, result.
fn case(line: &str) -> Case {
    let fields: Vec<_> = line.split('\t').collect();
    let [_, expression, pairs, result] = fields[..] else {
        panic!("{line:?} has not four fields")
    };
    let pairs = pairs.split(';').filter(|pair| !pair.is_empty());
    let pairs: Vec<_> = pairs.map(|pair| pair.split_once('=').expect("a case writes name=value")).collect();
    let (messages, expected) = match result {
        "PARSE_ERROR" => (vec![], Expected::Refused(Refused::ParseError)),
        "TRUE" => (vec![properties(&pairs)], Expected::Each(vec![Outcome::True])),
        "FALSE" => (vec![properties(&pairs)], Expected::Each(vec![Outcome::False])),
        "NULL" => (vec![properties(&pairs)], Expected::Each(vec![Outcome::Null])),
        "EVAL_ERROR" => (vec![properties(&pairs)], Expected::Each(vec![Outcome::EvalError])),
        other => panic!("{other} is no result"),
    };
    Case {
        expression: expression.replace("\\n", "\n"),
        messages,
        expected,
    }
}

#[test]
fn every_reference_case_has_its_result_inside_wasm() {
    let mut sandbox = sandbox();
    let cases = include_str!("../../../plugins/filter-sql/tests/cases.tsv");
    let mut compared = 0;
    for line in cases.lines().skip(1) {
        let mismatches = compare(&mut sandbox, &case(line)).mismatches;
        assert!(mismatches.is_empty(), "{line}: {mismatches:?}");
        compared += 1;
    }
    assert_eq!(compared, 151);
}

#[test]
fn a_hundred_parentheses_inside_two_negations_are_judged() {
    let nested = format!("NOT (NOT ({}a = 1{}))", "(".repeat(100), ")".repeat(100));
    let mut sandbox = sandbox();
    assert_eq!(outcome(&mut sandbox, &nested, &[("a", "1")]), Outcome::True);
    assert_eq!(outcome(&mut sandbox, &nested, &[]), Outcome::Null);
    assert_eq!(outcome(&mut sandbox, &nested, &[("a", "x")]), Outcome::EvalError);
}

#[test]
fn nesting_and_lengths_beyond_all_bounds_are_refused() {
    let sandbox = sandbox();
    for expression in [
        "(".repeat(1_000_000),
        "(".repeat(60_000),
        "NOT ".repeat(16_000),
        format!("a = {}", "-".repeat(60_000)),
        format!("{}a{}", "(".repeat(30_000), ")".repeat(30_000)),
    ] {
        let refused = sandbox.compile(&expression).expect("the plugin works");
        assert!(refused.is_err(), "{} of {:.4}", expression.len(), expression);
    }
}

#[test]
fn chains_of_five_thousand_operands_fit_the_default_limits() {
    let mut sandbox = sandbox();
    let all = vec!["a = 1"; 5_000].join(" AND ");
    let any = vec!["a = 2"; 5_000].join(" OR ");
    let tests = format!("a = 1{}", " = TRUE".repeat(5_000));
    let elements = format!("a IN ('0'{})", ", 'x'".repeat(5_000));
    for (expression, for_1, for_2) in [
        (all, Outcome::True, Outcome::False),
        (any, Outcome::False, Outcome::True),
        (tests, Outcome::True, Outcome::False),
        (elements, Outcome::False, Outcome::False),
    ] {
        let judged = sandbox.compile(&expression).expect("the plugin works").expect("it is legal");
        let messages = [properties(&[("a", "1")]), properties(&[("a", "2")])];
        let run: Vec<_> = (0..256).map(|place| &messages[place % 2]).collect();
        let outcomes = sandbox.run(&judged, &run).expect("the run is within its limits");
        let expected: Vec<_> = (0..256).map(|place| [for_1, for_2][place % 2]).collect();
        assert_eq!(outcomes, expected, "{:.30}", expression);
    }
}

#[test]
fn a_difference_is_told() {
    let wrong = Case {
        expression: "a = 1".to_owned(),
        messages: vec![properties(&[("a", "1")]), properties(&[])],
        expected: Expected::Each(vec![Outcome::False, Outcome::Null]),
    };
    let compared = compare(&mut sandbox(), &wrong);
    assert_eq!((compared.pairs, compared.mismatches.len()), (2, 1));
    assert_eq!(compared.mismatches[0].got, "True in a run of 1");
    let refused = Case {
        expected: Expected::Refused(Refused::ParseError),
        ..wrong
    };
    assert_eq!(compare(&mut sandbox(), &refused).mismatches.len(), 1);
}
