//! The group that reads: every delivery is held to a plain model of which messages may come next.

use std::collections::{BTreeMap, BTreeSet};

use sluice_client::admin::SeekTo;
use sluice_client::{ErrorCode, Filter};
use sluice_end_to_end::chance::Chance;
use sluice_end_to_end::scene::{Reader, Scene, TOPIC, body};

use super::load::{Load, Told};
use super::{ATTEMPTS_MAX, Kind, Triple};

/// The group, with what it has given up.
pub(super) struct Group<'a> {
    triple: Triple,
    scene: &'a Scene,
    reader: Reader<'a>,
    given_up: BTreeSet<u64>,
}

/// What has yet to come in a pass.
struct Coming {
    ordered: bool,
    /// How often each was delivered before.
    deliveries: BTreeMap<u64, u16>,
    told: BTreeMap<u64, Told>,
}

impl<'a> Group<'a> {
    /// It has read nothing yet.
    pub(super) fn new(triple: Triple, scene: &'a Scene, filter: Filter) -> Self {
        Self {
            triple,
            scene,
            reader: scene.reader("g", filter),
            given_up: BTreeSet::new(),
        }
    }

    /// Takes a message and never settles it, so that retention finds it leased.
    pub(super) async fn hold_one(&self) {
        self.reader.lease().await;
    }

    /// The first pass: what is broken is given back each time, until it is given up.
    pub(super) async fn read(&mut self, load: &Load, chance: &Chance) {
        let mut coming = self.coming(load.wanted(), 0);
        self.pass(&mut coming, chance, true).await;
        let letters = self.scene.letters("g", self.given_up.len()).await;
        let origins: BTreeSet<u64> = letters.iter().map(|letter| letter.origin_offset).collect();
        assert_eq!(origins, self.given_up, "just what was given up is a dead letter");
        assert!(
            letters.iter().all(|letter| letter.attempts == u32::from(ATTEMPTS_MAX)),
            "{letters:?}"
        );
    }

    /// Sends the dead letters back: they come once more, or it is refused by name.
    pub(super) async fn send_back(&mut self, load: &Load) {
        let dealt = self.scene.client.resend_dead_letters("g", 0, None, 1_000).await;
        if self.triple.has(Kind::Ordered) {
            let refused = dealt.expect_err("they would come after those that they were to come before");
            assert_eq!(refused.code(), Some(ErrorCode::NotOffered));
            return;
        }
        assert_eq!(dealt.expect("they are sent back").sent_back, self.given_up.len() as u64);
        let back = load.wanted().into_iter().filter(|(offset, _)| self.given_up.contains(offset));
        let mut coming = self.coming(back.collect(), ATTEMPTS_MAX);
        self.pass(&mut coming, &Chance::new(0), false).await;
    }

    /// A further pass: all of it comes again, in the same order, its attempts counted anew.
    pub(super) async fn read_again(&mut self, load: &Load, chance: &Chance) {
        self.scene
            .client
            .seek("g", TOPIC, None, SeekTo::Earliest)
            .await
            .expect("it begins anew");
        let mut coming = self.coming(load.wanted(), 0);
        self.pass(&mut coming, chance, false).await;
    }

    fn coming(&self, told: BTreeMap<u64, Told>, delivered: u16) -> Coming {
        Coming {
            ordered: self.triple.has(Kind::Ordered),
            deliveries: told.keys().map(|&offset| (offset, delivered)).collect(),
            told,
        }
    }

    /// Reads until nothing is left, a few at a time.
    async fn pass(&mut self, coming: &mut Coming, chance: &Chance, breaks: bool) {
        while !coming.deliveries.is_empty() {
            let max = chance.between(1, 4) as u16;
            let got = self.reader.lease_all(max).await;
            let places: Vec<u64> = got.iter().map(|message| message.offset()).collect();
            let expected = coming.next(got.len());
            assert_eq!(places, expected, "{:?}: what comes next of {:?}", self.triple, coming.deliveries);
            let mut letters = self.given_up.len();
            for message in got {
                let offset = message.offset();
                let told = &coming.told[&offset];
                let delivered = coming.deliveries[&offset] + 1;
                assert_eq!(
                    (body(&message), message.attempt()),
                    (told.body.clone(), delivered),
                    "{:?}",
                    self.triple
                );
                if !(breaks && told.broken) {
                    self.reader.ack(message).await;
                    coming.deliveries.remove(&offset);
                    continue;
                }
                self.reader.nack(message).await;
                coming.deliveries.insert(offset, delivered);
                if delivered == ATTEMPTS_MAX {
                    coming.deliveries.remove(&offset);
                    self.given_up.insert(offset);
                    letters += 1;
                }
            }
            if breaks {
                // The next of a message group waits for the copy of what was given up.
                self.scene.letters("g", letters).await;
            }
        }
        self.reader.is_done().await;
    }
}

impl Coming {
    /// The offsets that come next, if so many come at once: the highest priority first, in it the lowest offset, and of each message group
    /// of an ordered group the first alone.
    fn next(&self, count: usize) -> Vec<u64> {
        let mut groups = BTreeSet::new();
        let mut may_come: Vec<(u8, u64)> = Vec::new();
        for offset in self.deliveries.keys() {
            let told = &self.told[offset];
            let is_head = match &told.group {
                Some(group) if self.ordered => groups.insert(group),
                Some(_) | None => true,
            };
            if is_head {
                may_come.push((told.priority, *offset));
            }
        }
        may_come.sort_unstable_by_key(|(priority, offset)| (u8::MAX - priority, *offset));
        may_come.into_iter().map(|(_, offset)| offset).take(count).collect()
    }
}
