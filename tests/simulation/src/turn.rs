//! Turns of the core: inputs go in under the eyes of the oracle, effects come out and go where they belong.

use sluice_core::effect::{Answer, Effect, PartWork};
use sluice_core::input::{Input, RequestId, SubscriptionId};

use crate::laws::Law;
use crate::network::Event;
use crate::shell::DiskJob;
use crate::world::{Route, World};

impl World {
    /// Whether the core wants to be woken by now.
    pub(crate) fn tick_is_due(&self) -> bool {
        let deadline = self.shell.as_ref().and_then(|shell| shell.core.next_deadline());
        deadline.is_some_and(|mono_ms| mono_ms <= self.clock.now().mono_ms)
    }

    /// Hands inputs to the core as one turn and sorts what comes out.
    pub(crate) fn turn(&mut self, inputs: Vec<Input>) {
        let now = self.clock.now();
        for input in inputs {
            self.note_input(&input);
            self.oracle.input(now, &input);
            let Some(shell) = &mut self.shell else { return };
            shell.core.handle(now, input);
            if self.random.chance(1, 2) {
                self.drain();
            }
        }
        let Some(shell) = &mut self.shell else { return };
        shell.core.end_turn(now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(effect) = self.shell.as_mut().and_then(|shell| shell.core.poll_effect()) {
            self.note_effect(&effect);
            self.oracle.effect(self.clock.now(), &effect);
            self.sort(effect);
        }
    }

    fn note_input(&mut self, input: &Input) {
        match input {
            Input::Publish { request, topic, batches } => {
                for batch in batches {
                    self.history.bytes("publish", &(request, topic), batch.bytes());
                }
            }
            Input::Subscribe { .. }
            | Input::Credit { .. }
            | Input::SettleStream { .. }
            | Input::Unsubscribe { .. }
            | Input::Receive { .. }
            | Input::SettleHandles { .. }
            | Input::Recall { .. }
            | Input::Decide { .. }
            | Input::Undelivered { .. }
            | Input::Cancelled { .. }
            | Input::Disconnected { .. }
            | Input::Admin { .. }
            | Input::Synced { .. }
            | Input::Verdicts { .. }
            | Input::Fetched { .. }
            | Input::DueFetched { .. }
            | Input::Part(_)
            | Input::Located { .. }
            | Input::Asked { .. }
            | Input::NotAsked { .. }
            | Input::Checkpointed
            | Input::Trim { .. }
            | Input::FetchFailed { .. }
            | Input::Tick => self.history.note("input", &(self.clock.now(), input)),
        }
    }

    fn note_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Write { position, records } => {
                for record in records {
                    self.history.bytes("record", position, record);
                }
            }
            Effect::Judge { .. }
            | Effect::Deliver(_)
            | Effect::Answer { .. }
            | Effect::StreamEnded { .. }
            | Effect::StreamReset { .. }
            | Effect::Fetch { .. }
            | Effect::FetchDue { .. }
            | Effect::Parts(_)
            | Effect::Ask(_)
            | Effect::Locate { .. }
            | Effect::Checkpoint(_) => self.history.note("effect", effect),
        }
    }

    fn sort(&mut self, effect: Effect) {
        let Some(shell) = &mut self.shell else { return };
        match effect {
            Effect::Write { position, records } => shell.disk.push_back(DiskJob::Write {
                position,
                records,
                appended: false,
            }),
            Effect::Parts(PartWork::Remove { part }) => shell.disk.push_back(DiskJob::RemovePart(part)),
            Effect::Checkpoint(step) => shell.disk.push_back(DiskJob::Checkpoint(step)),
            Effect::Answer { request, answer } => {
                if let (true, Ok(Answer::Group { group, cursors, .. })) = (self.finished, &answer) {
                    self.oracle.described(group, cursors);
                }
                self.answer(request, Event::Answered { request, answer });
            }
            Effect::Judge { .. }
            | Effect::Deliver(_)
            | Effect::StreamEnded { .. }
            | Effect::StreamReset { .. }
            | Effect::Fetch { .. }
            | Effect::FetchDue { .. }
            | Effect::Parts(_)
            | Effect::Ask(_)
            | Effect::Locate { .. } => shell.jobs.push(effect),
        }
    }

    /// An answer starts on its way to whoever asked.
    pub(crate) fn answer(&mut self, request: RequestId, event: Event) {
        match self.routes.remove(&request) {
            Some(Route {
                client,
                connection,
                stream: None,
            }) => self.network.answer(&mut self.random, client, connection, event),
            Some(Route {
                client,
                connection,
                stream: Some(stream),
            }) => self.network.push(client, connection, stream.0, event),
            None => {
                self.oracle.court.demand(Law::NoFailureOfItsOwn, false, || {
                    format!("{request:?} was answered twice, or never asked")
                });
            }
        }
    }

    /// Something starts on its way to the reader of a stream.
    pub(crate) fn push(&mut self, subscription: SubscriptionId, event: Event) {
        if let Some(Route { client, connection, .. }) = self.streams.get(&subscription) {
            self.network.push(*client, *connection, subscription.0, event);
        }
    }
}
