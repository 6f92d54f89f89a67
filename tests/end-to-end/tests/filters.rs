//! Filters on the real broker: tags, SQL, a plugin loaded from a file, and what a bad expression gets.

use sluice_end_to_end::{Broker, property_equals};

fn where_(count: u64, wanted: impl Fn(u64) -> bool) -> Vec<u64> {
    (0..count).filter(|number| wanted(*number)).collect()
}

#[test]
fn each_group_gets_what_its_filter_says() {
    let broker = Broker::start();
    broker.produce("numbers", 0, 1_000);
    assert_eq!(broker.consume("numbers", "all", &[]), where_(1_000, |_| true));
    assert_eq!(
        broker.consume("numbers", "tag", &["--tag", "red || blue"]),
        where_(1_000, |number| number % 3 != 1)
    );
    assert_eq!(
        broker.consume("numbers", "sql", &["--sql", "n < 100 AND color = 'green'"]),
        where_(100, |number| number % 3 == 1)
    );
}

#[test]
fn a_plugin_loaded_from_a_file_filters() {
    let broker = Broker::start();
    broker.produce("numbers", 0, 300);
    let module = property_equals().display().to_string();
    broker.run(&["plugin", "load", &module, "--name", "equals"]);
    assert!(broker.run(&["plugin", "list"]).contains("equals"));
    let filter = ["--filter", "equals", "--expression", "color=blue"];
    assert_eq!(broker.consume("numbers", "plugin", &filter), where_(300, |number| number % 3 == 2));
}

#[test]
fn a_bad_expression_is_refused_with_its_place() {
    let broker = Broker::start();
    broker.produce("numbers", 0, 1);
    let (exit, said) = broker.fail(&["consume", "numbers", "--group", "g", "--sql", "n = = 1"]);
    assert_eq!(exit, 1, "{said}");
    assert!(said.contains("BadExpression") && said.contains("at byte 4"), "{said}");
}

#[test]
fn a_filter_that_is_not_loaded_is_refused_by_name() {
    let broker = Broker::start();
    broker.produce("numbers", 0, 1);
    let (exit, said) = broker.fail(&["consume", "numbers", "--group", "g", "--filter", "nobody", "--expression", "x"]);
    assert!(exit == 1 && said.contains("NoSuchPlugin"), "{said}");
}

#[test]
fn a_module_that_is_no_plugin_is_refused() {
    let broker = Broker::start();
    let module = broker.file("module.wasm", "this is no module").display().to_string();
    let (exit, said) = broker.fail(&["plugin", "load", &module, "--name", "x"]);
    assert!(exit == 1 && said.contains("BadPlugin"), "{said}");
}
