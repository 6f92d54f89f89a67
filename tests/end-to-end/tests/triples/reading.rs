//! The group that reads: every delivery is held to a plain model of which messages may come next.

use std::collections::{BTreeMap, BTreeSet};

use sluice_client::admin::{DeadLetter, SeekTo};
use sluice_client::{ErrorCode, Filter};
use sluice_end_to_end::chance::Chance;
use sluice_end_to_end::scene::{Reader, Scene, TOPIC, body};

use super::load::{Load, Told};
use super::{ATTEMPTS_MAX, Kind, Triple};

/// The group: one that shares the messages has one member here, of a broadcast group there are two.
pub(super) struct Group<'a> {
    triple: Triple,
    scene: &'a Scene,
    members: Vec<Member<'a>>,
}

/// Who gets all that the group is to get, with what it has given up.
struct Member<'a> {
    triple: Triple,
    scene: &'a Scene,
    /// As its dead letters name it.
    name: String,
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
    /// It has read nothing yet. Members of a broadcast group are known from now on, since they begin at the end.
    pub(super) async fn new(triple: Triple, scene: &'a Scene, filter: &Filter) -> Self {
        let member = |name: &str, reader| Member {
            triple,
            scene,
            name: name.to_owned(),
            reader,
            given_up: BTreeSet::new(),
        };
        let mut members = Vec::new();
        if triple.has(Kind::Broadcast) {
            for name in ["one", "two"] {
                let reader = scene.member("g", name, filter.clone());
                reader.is_done().await;
                members.push(member(&format!("g/{name}"), reader));
            }
        } else {
            members.push(member("g", scene.reader("g", filter.clone())));
        }
        Self { triple, scene, members }
    }

    /// Takes a message and never settles it, so that retention finds it leased.
    pub(super) async fn hold_one(&self) {
        self.members[0].reader.lease().await;
    }

    /// The first pass: what is broken is given back each time, until it is given up.
    pub(super) async fn read(&mut self, load: &Load, chance: &Chance) {
        for member in &mut self.members {
            member.read(load, chance).await;
        }
    }

    /// Sends the dead letters back: they come once more to who gave them up, or it is refused by name.
    pub(super) async fn send_back(&mut self, load: &Load) {
        let dealt = self.scene.client.resend_dead_letters("g", 0, None, 1_000).await;
        if self.triple.has(Kind::Ordered) {
            let refused = dealt.expect_err("they would come after those that they were to come before");
            assert_eq!(refused.code(), Some(ErrorCode::NotOffered));
            return;
        }
        let given_up: usize = self.members.iter().map(|member| member.given_up.len()).sum();
        assert_eq!(dealt.expect("they are sent back").sent_back, given_up as u64);
        for member in &mut self.members {
            member.get_back(load).await;
        }
    }

    /// A further pass: all of it comes again, in the same order, its attempts counted anew.
    pub(super) async fn read_again(&mut self, load: &Load, chance: &Chance) {
        self.scene
            .client
            .seek("g", TOPIC, None, SeekTo::Earliest)
            .await
            .expect("it begins anew");
        for member in &mut self.members {
            let mut coming = member.coming(load.wanted(), 0);
            member.pass(&mut coming, chance, false).await;
        }
    }
}

impl Member<'_> {
    async fn read(&mut self, load: &Load, chance: &Chance) {
        let mut coming = self.coming(load.wanted(), 0);
        self.pass(&mut coming, chance, true).await;
        let letters = self.letters(self.given_up.len()).await;
        let origins: BTreeSet<u64> = letters.iter().map(|letter| letter.origin_offset).collect();
        assert_eq!(origins, self.given_up, "just what was given up is a dead letter");
        assert!(
            letters.iter().all(|letter| letter.attempts == u32::from(ATTEMPTS_MAX)),
            "{letters:?}"
        );
    }

    /// Gets what it had given up once more.
    async fn get_back(&mut self, load: &Load) {
        let back = load.wanted().into_iter().filter(|(offset, _)| self.given_up.contains(offset));
        let mut coming = self.coming(back.collect(), ATTEMPTS_MAX);
        self.pass(&mut coming, &Chance::new(0), false).await;
    }

    /// Its dead letters that were not dealt with, once there are so many.
    async fn letters(&self, count: usize) -> Vec<DeadLetter> {
        let mut of_group = count;
        loop {
            let mut letters = self.scene.letters("g", of_group).await;
            of_group = letters.len() + 1;
            letters.retain(|letter| letter.group == self.name);
            if letters.len() >= count {
                return letters;
            }
        }
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
                self.letters(letters).await;
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
