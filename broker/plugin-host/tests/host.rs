//! The host against guests that are sound, and against guests that are not.

mod guests;

use guests::{Guest, SOUND};
use sluice_plugin_host::{
    Attribute, CompileError, FilterHandle, Hint, Host, HostConfig, LoadError, PluginLimits, RunFailure, Verdicts, View, ViewWriter, Worker,
    builtin, digest,
};

/// Never ends.
const SPIN: &str = "(loop (br 0))";

fn host() -> Host {
    Host::new(HostConfig { instances_max: 16 }).expect("address space for 16 instances")
}

fn tag(host: &Host, expression: &str) -> Result<FilterHandle, CompileError> {
    host.filter(&digest(builtin::FILTER_TAG), expression, PluginLimits::default())
}

fn filter(host: &Host, guest: Guest, limits: PluginLimits) -> FilterHandle {
    let module = host.load(&guest.component()).expect("the guest passes its self-test");
    host.filter(module.digest(), "", limits)
        .expect("the guest accepts every expression")
}

/// A run of messages with these tags, for a filter that asks for the tag alone.
fn run<'writer>(writer: &'writer mut ViewWriter, tags: &[Option<&str>]) -> View<'writer> {
    writer.begin(1);
    for tag in tags {
        if let Some(tag) = tag {
            writer.text(0, tag.as_bytes());
        }
        let _ = writer.end_message();
    }
    writer.finish().expect("a run with messages")
}

/// A run of messages for a filter without columns.
fn blank_run(writer: &mut ViewWriter, messages: usize) -> View<'_> {
    writer.begin(0);
    for _ in 0..messages {
        let _ = writer.end_message();
    }
    writer.finish().expect("a run with messages")
}

fn judge(host: &Host, guest: Guest, limits: PluginLimits) -> (Result<Verdicts, RunFailure>, u64) {
    let mut worker = Worker::new(host);
    let result = worker.evaluate(&filter(host, guest, limits), blank_run(&mut ViewWriter::new(), 10));
    (result, worker.discarded())
}

#[test]
fn the_tag_filter_judges_runs_of_1_and_of_256_alike() {
    let host = host();
    let filter = tag(&host, "a || b").expect("two tags");
    assert_eq!(filter.columns(), [Attribute::Tag]);
    assert_eq!(filter.hint(), Some(&Hint::TagOneOf(vec!["a".to_owned(), "b".to_owned()])));
    let tags: Vec<_> = (0..256)
        .map(|number| [Some("a"), None, Some("c"), Some("b"), Some("")][number % 5])
        .collect();
    let (mut worker, mut writer) = (Worker::new(&host), ViewWriter::new());
    let whole = worker.evaluate(&filter, run(&mut writer, &tags)).expect("a verdict");
    for (message, tag) in tags.iter().enumerate() {
        let alone = worker.evaluate(&filter, run(&mut writer, &[*tag])).expect("a verdict");
        assert_eq!(alone.is_delivered(0), matches!(tag, Some("a" | "b")));
        assert_eq!(alone.is_delivered(0), whole.is_delivered(message));
    }
    assert_eq!((whole.failed_count(), worker.discarded()), (0, 0));
}

#[test]
fn a_refused_expression_names_its_place() {
    let Err(CompileError::Refused(refusal)) = tag(&host(), "a || || b") else {
        panic!("an empty tag is refused")
    };
    assert_eq!(refusal.at, Some(4));
    assert!(refusal.message.starts_with("a tag is missing"), "{}", refusal.message);
}

#[test]
fn more_expressions_than_an_instance_keeps_are_all_judged() {
    let host = host();
    let (mut worker, mut writer) = (Worker::new(&host), ViewWriter::new());
    for number in (0..1_100).chain(0..3) {
        let name = format!("t{number}");
        let verdicts = worker.evaluate(&tag(&host, &name).expect("a tag"), run(&mut writer, &[Some(&name), Some("other")]));
        assert_eq!(verdicts.expect("a verdict").deliver[0], 1);
    }
    assert_eq!(worker.discarded(), 0);
}

#[test]
fn a_spinning_guest_is_stopped_by_fuel() {
    let limits = PluginLimits {
        fuel_per_run: 1_000,
        fuel_per_message: 100,
        ..PluginLimits::default()
    };
    let (result, discarded) = judge(&host(), Guest { evaluate: SPIN, ..SOUND }, limits);
    assert_eq!((result, discarded), (Err(RunFailure::Fuel(2_000)), 2));
}

#[test]
fn a_spinning_guest_is_stopped_by_time_when_fuel_does_not_stop_it() {
    let limits = PluginLimits {
        fuel_per_run: u64::MAX,
        run_ms: 20,
        ..PluginLimits::default()
    };
    let (result, _) = judge(&host(), Guest { evaluate: SPIN, ..SOUND }, limits);
    assert_eq!(result, Err(RunFailure::Time(20)));
}

#[test]
fn a_guest_that_wants_too_much_memory_is_stopped() {
    let hoard = "(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    let limits = PluginLimits {
        memory_bytes: 8 << 20,
        ..PluginLimits::default()
    };
    let (result, _) = judge(&host(), Guest { evaluate: hoard, ..SOUND }, limits);
    assert_eq!(result, Err(RunFailure::Memory(8 << 20)));
}

#[test]
fn a_guest_that_begins_with_too_much_memory_is_not_started() {
    let host = host();
    let module = host.load(&SOUND.component()).expect("it fits the default limits");
    let limits = PluginLimits {
        memory_bytes: 1 << 20,
        ..PluginLimits::default()
    };
    let refused = host
        .filter(module.digest(), "", limits)
        .expect_err("40 pages do not fit a mebibyte");
    assert_eq!(refused, CompileError::Failed(RunFailure::Memory(1 << 20)));
}

#[test]
fn a_guest_that_recurses_without_end_traps() {
    let (result, _) = judge(
        &host(),
        Guest {
            evaluate: "(drop (call $deep (i32.const 0)))",
            ..SOUND
        },
        PluginLimits::default(),
    );
    assert!(matches!(result, Err(RunFailure::Trap(_) | RunFailure::Fuel(_))), "{result:?}");
}

#[test]
fn a_run_that_traps_on_every_instance_fails() {
    let (result, discarded) = judge(
        &host(),
        Guest {
            evaluate: "unreachable",
            ..SOUND
        },
        PluginLimits::default(),
    );
    assert!(matches!(result, Err(RunFailure::Trap(_))), "{result:?}");
    assert_eq!(discarded, 2);
}

#[test]
fn an_instance_that_traps_is_replaced_and_the_run_judged_again() {
    let host = host();
    let once = "(if (i32.gt_u (global.get $calls) (i32.const 1)) (then unreachable))";
    let filter = filter(&host, Guest { evaluate: once, ..SOUND }, PluginLimits::default());
    let (mut worker, mut writer) = (Worker::new(&host), ViewWriter::new());
    for discarded in 0..3 {
        let verdicts = worker
            .evaluate(&filter, blank_run(&mut writer, 70))
            .expect("the fresh instance judges");
        assert_eq!((verdicts.delivered_count(), worker.discarded()), (70, discarded));
    }
}

#[test]
fn an_answer_of_another_length_is_refused() {
    for deliver_length in ["(i32.const 3)", "(i32.const 0)", "(i32.const 2000000)", "(i32.const -1)"] {
        let (result, _) = judge(&host(), Guest { deliver_length, ..SOUND }, PluginLimits::default());
        assert!(matches!(result, Err(RunFailure::BadOutput(_))), "{deliver_length}: {result:?}");
    }
}

#[test]
fn a_plugin_that_asks_for_a_column_twice_or_for_too_many_is_refused() {
    let host = host();
    let twice = host.load(&Guest { columns: 2, ..SOUND }.component()).expect_err("the tag twice");
    assert!(
        matches!(&twice, LoadError::SelfTest(RunFailure::BadOutput(why)) if why.contains("twice")),
        "{twice}"
    );
    let module = host
        .load(&Guest { columns: 257, ..SOUND }.component())
        .expect("refusing an expression is no failure");
    let refused = host.filter(module.digest(), "", PluginLimits::default()).expect_err("257 columns");
    assert!(matches!(refused, CompileError::Refused(_)), "{refused}");
}

#[test]
fn core_modules_and_components_are_both_taken_and_told_apart_by_digest() {
    let host = host();
    for bytes in [SOUND.module(), SOUND.component()] {
        let module = host.load(&bytes).expect("a sound guest");
        assert_eq!(*module.digest(), digest(&bytes));
        let filter = host
            .filter(module.digest(), "", PluginLimits::default())
            .expect("it accepts every expression");
        let verdicts = Worker::new(&host)
            .evaluate(&filter, blank_run(&mut ViewWriter::new(), 256))
            .expect("a verdict");
        assert_eq!(verdicts.delivered_count(), 256);
    }
}

#[test]
fn a_plugin_that_imports_is_refused_by_the_name_of_the_import() {
    let refused = host().load(&SOUND.component_with_import()).expect_err("it wants the time");
    assert_eq!(refused, LoadError::Import("now".to_owned()));
}

#[test]
fn what_is_no_filter_is_refused() {
    let host = host();
    let load = |bytes: &[u8]| host.load(bytes).expect_err("no filter");
    assert!(matches!(load(b"#!/bin/sh\n"), LoadError::Invalid(_)));
    assert!(matches!(load(b""), LoadError::Invalid(_)));
    assert!(matches!(load(&SOUND.component()[..200]), LoadError::Invalid(_)));
    assert!(matches!(load(&SOUND.bare_module("")), LoadError::NoComponent(_)));
    assert!(matches!(load(b"\0asm\x0d\0\x01\0"), LoadError::NoFilter(_)));
    assert!(matches!(load(&vec![0; (32 << 20) + 1]), LoadError::TooLong { .. }));
}

#[test]
fn a_plugin_that_fails_to_compile_anything_is_refused() {
    let refused = host()
        .load(
            &Guest {
                compile: "unreachable",
                ..SOUND
            }
            .component(),
        )
        .expect_err("it traps");
    assert!(matches!(refused, LoadError::SelfTest(RunFailure::Trap(_))), "{refused}");
}

#[test]
fn a_plugin_that_cargo_built_is_loaded_from_its_file() {
    let file = concat!(
        env!("OUT_DIR"),
        "/guests/wasm32-unknown-unknown/release/examples/property_equals.wasm"
    );
    let host = host();
    let module = host
        .load(&std::fs::read(file).expect("the build script compiled it"))
        .expect("it passes its self-test");
    let filter = host
        .filter(module.digest(), "region = eu", PluginLimits::default())
        .expect("a name and a value");
    assert_eq!(filter.columns(), [Attribute::Property("region".to_owned())]);
    let mut writer = ViewWriter::new();
    let verdicts = Worker::new(&host)
        .evaluate(&filter, run(&mut writer, &[Some("eu"), Some("us"), None]))
        .expect("a verdict");
    assert_eq!((verdicts.deliver[0], verdicts.failed_count()), (0b001, 0));
    let refused = host
        .filter(module.digest(), "region", PluginLimits::default())
        .expect_err("it has no value");
    assert!(matches!(refused, CompileError::Refused(refusal) if refusal.at == Some(6)));
}

#[test]
fn a_digest_that_is_not_loaded_is_unknown() {
    let unknown = host()
        .filter(&[7; 32], "", PluginLimits::default())
        .expect_err("nothing has this digest");
    assert_eq!(unknown, CompileError::Unknown);
}

#[test]
fn workers_of_many_threads_share_one_host() {
    let host = host();
    let filter = tag(&host, "a").expect("a tag");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (mut worker, mut writer) = (Worker::new(&host), ViewWriter::new());
                for _ in 0..200 {
                    let verdicts = worker
                        .evaluate(&filter, run(&mut writer, &[Some("a"), Some("b")]))
                        .expect("a verdict");
                    assert_eq!(verdicts.deliver[0], 1);
                }
            });
        }
    });
}
