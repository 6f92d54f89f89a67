//! Wrong histories: for each law one that is caught by it, beside a right one that is not.

use super::*;

const ID: MessageId = MessageId {
    producer: 7,
    sequence: sluice_protocol::ids::Sequence(1),
};

fn sent() -> Sent {
    Sent {
        digest: 5,
        prepared: false,
        may_expire: false,
        poison: false,
    }
}

fn delivered() -> Delivered {
    Delivered {
        id: ID,
        place: (0, 0),
        digest: 5,
        prepared: false,
        due_ms: None,
        expires_ms: None,
        ordered: None,
        asked_ms: 100,
        at_ms: 100,
    }
}

fn other(sequence: u64) -> MessageId {
    MessageId {
        sequence: sluice_protocol::ids::Sequence(sequence),
        ..ID
    }
}

/// Which law a history breaks.
fn broken(history: impl FnOnce(&mut Audit)) -> Option<String> {
    let mut audit = Audit::default();
    audit.reader("g", true);
    history(&mut audit);
    let said = audit.violation()?;
    said.split(':').next().map(str::to_owned)
}

fn breaks(law: Law, history: impl FnOnce(&mut Audit)) {
    assert_eq!(broken(history).as_deref(), Some(law.name()));
}

#[test]
fn a_right_history_breaks_nothing() {
    let right = |audit: &mut Audit| {
        audit.confirm(ID, sent());
        audit.deliver("g", &delivered());
        audit.deliver("g", &delivered());
        audit.ack_asked("g", [ID]);
        audit.acked("g", [ID]);
        audit.drained("g", &[]);
        audit.undecided(&HashSet::new());
    };
    assert_eq!(broken(right), None);
}

#[test]
fn a_confirmed_message_that_never_comes_is_lost() {
    breaks(Law::NothingLost, |audit| {
        audit.confirm(ID, sent());
        audit.drained("g", &[]);
    });
}

#[test]
fn a_delayed_message_that_waits_no_more_before_its_time_is_lost() {
    breaks(Law::NothingLost, |audit| {
        audit.confirm(ID, sent());
        audit.not_waiting(ID, 100, 99);
    });
}

#[test]
fn a_message_in_two_places_and_one_with_another_body_are_seen() {
    breaks(Law::StoredOnce, |audit| {
        audit.deliver("g", &delivered());
        audit.deliver(
            "h",
            &Delivered {
                place: (0, 1),
                ..delivered()
            },
        );
    });
    breaks(Law::StoredOnce, |audit| {
        audit.confirm(ID, sent());
        audit.deliver("g", &Delivered { digest: 6, ..delivered() });
    });
}

#[test]
fn a_millisecond_early_is_seen() {
    let due = |due_ms| Delivered {
        due_ms: Some(due_ms),
        ..delivered()
    };
    breaks(Law::NotEarly, |audit| audit.deliver("g", &due(101)));
    assert_eq!(broken(|audit| audit.deliver("g", &due(100))), None);
}

#[test]
fn a_recalled_message_that_comes_is_seen_before_and_after() {
    breaks(Law::RecalledNever, |audit| {
        audit.confirm(ID, sent());
        audit.done(ID, Ask::Recall);
        audit.deliver("g", &delivered());
    });
    breaks(Law::RecalledNever, |audit| {
        audit.confirm(ID, sent());
        audit.deliver("g", &delivered());
        audit.done(ID, Ask::Recall);
    });
}

fn prepared() -> Sent {
    Sent { prepared: true, ..sent() }
}

#[test]
fn a_prepared_message_that_comes_undecided_or_is_gone_is_seen() {
    breaks(Law::PreparedUnseen, |audit| {
        audit.confirm(ID, prepared());
        audit.deliver("g", &delivered());
    });
    let unconfirmed = Delivered {
        prepared: true,
        ..delivered()
    };
    breaks(Law::PreparedUnseen, |audit| audit.deliver("g", &unconfirmed));
    breaks(Law::PreparedUnseen, |audit| {
        audit.confirm(ID, prepared());
        audit.undecided(&HashSet::new());
    });
}

#[test]
fn a_committed_message_is_to_come_and_one_that_was_rolled_back_is_not() {
    let decided = |ask| {
        move |audit: &mut Audit| {
            audit.confirm(ID, prepared());
            audit.ask(ID, ask);
            audit.deliver("g", &delivered());
            audit.done(ID, ask);
            audit.drained("g", &[]);
        }
    };
    assert_eq!(broken(decided(Ask::Commit)), None);
    breaks(Law::PreparedUnseen, decided(Ask::RollBack));
    breaks(Law::RolledBackNever, |audit| {
        audit.confirm(ID, prepared());
        audit.done(ID, Ask::RollBack);
        audit.deliver("g", &delivered());
    });
    breaks(Law::NothingLost, |audit| {
        audit.confirm(ID, prepared());
        audit.done(ID, Ask::Commit);
        audit.drained("g", &[]);
    });
}

fn numbered(number: u64) -> Delivered {
    Delivered {
        id: other(number),
        place: (0, number),
        ordered: Some(("m".to_owned(), number)),
        ..delivered()
    }
}

#[test]
fn an_order_that_is_not_kept_is_seen() {
    breaks(Law::OrderKept, |audit| {
        audit.deliver("g", &numbered(2));
        audit.deliver("g", &numbered(1));
    });
    breaks(Law::OrderKept, |audit| {
        audit.deliver("g", &numbered(1));
        audit.deliver("g", &numbered(2));
    });
    let kept = |audit: &mut Audit| {
        audit.deliver("g", &numbered(1));
        audit.deliver("g", &numbered(1));
        audit.ack_asked("g", [other(1)]);
        audit.deliver("g", &numbered(2));
    };
    assert_eq!(broken(kept), None);
}

#[test]
fn an_expired_message_that_comes_is_seen() {
    let asked = |asked_ms| Delivered {
        expires_ms: Some(50),
        asked_ms,
        ..delivered()
    };
    breaks(Law::ExpiredNever, |audit| audit.deliver("g", &asked(51 + STAMP_BEFORE_QUESTION_MS)));
    assert_eq!(broken(|audit| audit.deliver("g", &asked(50))), None);
}

#[test]
fn an_acknowledged_message_that_comes_again_is_seen() {
    breaks(Law::AckedNever, |audit| {
        audit.deliver("g", &delivered());
        audit.acked("g", [ID]);
        audit.deliver("g", &delivered());
    });
    breaks(Law::AckedNever, |audit| {
        audit.acked("g", [ID]);
        audit.drained("g", &[ID]);
    });
}

#[test]
fn dead_letters_that_are_missing_or_doubled_are_seen() {
    let poison = Sent { poison: true, ..sent() };
    breaks(Law::DeadLettered, |audit| {
        audit.confirm(ID, poison);
        audit.deliver("g", &delivered());
        audit.drained("g", &[]);
    });
    breaks(Law::DeadLettered, |audit| audit.drained("g", &[ID, ID]));
}

#[test]
fn what_does_not_come_again_after_a_seek_is_seen() {
    let read = |audit: &mut Audit| {
        audit.confirm(ID, sent());
        audit.deliver("g", &delivered());
        audit.acked("g", [ID]);
        audit.seek_asked("g");
    };
    breaks(Law::SeekKept, |audit| {
        read(audit);
        audit.sought("g");
        audit.drained("g", &[]);
    });
    let again = |audit: &mut Audit| {
        read(audit);
        audit.sought("g");
        audit.deliver("g", &delivered());
        audit.acked("g", [ID]);
        audit.drained("g", &[]);
    };
    assert_eq!(broken(again), None);
    let unanswered = |audit: &mut Audit| {
        read(audit);
        audit.drained("g", &[]);
    };
    assert_eq!(broken(unanswered), None, "it may have begun anew or not");
    breaks(Law::AckedNever, |audit| {
        again(audit);
        audit.deliver("g", &delivered());
    });
}

#[test]
fn a_growth_that_was_undone_is_seen() {
    breaks(Law::GrowthKept, |audit| {
        audit.grown(5);
        audit.has_queues(4);
    });
    let kept = |audit: &mut Audit| {
        audit.grown(5);
        audit.has_queues(5);
        audit.has_queues(6);
    };
    assert_eq!(broken(kept), None);
}
