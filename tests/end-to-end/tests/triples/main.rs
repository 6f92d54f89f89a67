//! Three kinds of messages at once, drawn by a seed: on one topic and in one group each keeps the promise that it makes alone.

mod load;
mod reading;

use std::fmt;

use sluice_client::Filter;
use sluice_client::admin::GroupSettings;
use sluice_end_to_end::chance::Chance;
use sluice_end_to_end::scene::{Scene, giving_up_after, only, ordered, strict};

use load::Load;
use reading::Group;

/// Draws the triples and all that happens in them. Printed, so that another one can be told from it.
const SEED: u64 = 20_261_126;
/// How many triples are drawn.
const TRIPLES: usize = 20;
/// After how many deliveries a group gives a message up, where it does.
const ATTEMPTS_MAX: u16 = 2;

/// What can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Delay,
    Priority,
    Ordered,
    Transaction,
    Filter,
    DeadLetter,
    Replay,
    Broadcast,
    Retention,
}

const KINDS: [Kind; 9] = [
    Kind::Delay,
    Kind::Priority,
    Kind::Ordered,
    Kind::Transaction,
    Kind::Filter,
    Kind::DeadLetter,
    Kind::Replay,
    Kind::Broadcast,
    Kind::Retention,
];

/// Three kinds that meet.
#[derive(Clone, Copy)]
struct Triple([Kind; 3]);

impl Triple {
    /// Whether a kind is among them.
    fn has(&self, kind: Kind) -> bool {
        self.0.contains(&kind)
    }
}

impl fmt::Debug for Triple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0).finish()
    }
}

/// Different triples, as many as asked for.
fn drawn(chance: &Chance, count: usize) -> Vec<Triple> {
    let mut all = Vec::new();
    for (first, one) in KINDS.into_iter().enumerate() {
        for (second, two) in KINDS.into_iter().enumerate().skip(first + 1) {
            all.extend(KINDS.into_iter().skip(second + 1).map(|three| Triple([one, two, three])));
        }
    }
    for place in 0..count {
        let other = chance.between(place as u64, all.len() as u64 - 1);
        all.swap(place, other as usize);
    }
    all.truncate(count);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_triples_drawn_by_seed_keep_what_each_kind_promises() {
    println!("seed {SEED}");
    let chance = Chance::new(SEED);
    for triple in drawn(&chance, TRIPLES) {
        println!("{triple:?}");
        hold(triple, &chance).await;
    }
}

#[test]
fn the_triples_are_different_and_every_kind_is_among_them() {
    let triples = drawn(&Chance::new(SEED), TRIPLES);
    for kind in KINDS {
        assert!(triples.iter().any(|triple| triple.has(kind)), "{kind:?} is in none of {triples:?}");
    }
    for (nth, triple) in triples.iter().enumerate() {
        assert!(triples[..nth].iter().all(|other| other.0 != triple.0), "{triple:?} was drawn twice");
    }
}

/// Has three kinds meet and checks what each promises.
async fn hold(triple: Triple, chance: &Chance) {
    let scene = match triple.has(Kind::Retention) {
        true => Scene::forgetful().await,
        false => Scene::new().await,
    };
    let settings = if triple.has(Kind::Ordered) { ordered() } else { strict() };
    let settings = match triple.has(Kind::DeadLetter) {
        true => giving_up_after(ATTEMPTS_MAX.into(), settings),
        false => settings,
    };
    let broadcast = triple.has(Kind::Broadcast);
    scene.group("g", GroupSettings { broadcast, ..settings }).await;
    let filter = if triple.has(Kind::Filter) { only("red") } else { Filter::All };
    let mut group = Group::new(triple, &scene, &filter).await;
    let load = Load::publish(triple, &scene, chance, &group).await;
    group.read(&load, chance).await;
    load.is_kept(triple, &scene).await;
    if triple.has(Kind::DeadLetter) {
        group.send_back(&load).await;
    }
    if triple.has(Kind::Replay) {
        group.read_again(&load, chance).await;
    }
    drop(group);
    scene.end().await;
}
