//! The coming and going of members: streams, receives, credit, and connections that are lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use sluice_log::record::{Filter, Holder, QueueStart, ReturnReason};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::Position;
use sluice_protocol::limits::{INVISIBLE_MS_MAX, INVISIBLE_MS_MIN, RECEIVE_MESSAGES_MAX, RECEIVE_WAIT_MS_MAX};

use super::locate::Waiting;
use super::subscribe::Entry;
use super::{MemberRef, ReadingKey, Receive, Stream};
use crate::broker::Core;
use crate::effect::{Answer, Effect};
use crate::input::{ConnectionId, Consume, RequestId, SubscriptionId};
use crate::limits::{CREDIT_MESSAGES_MAX, FIRST_VERDICTS_MS};

/// A request to open a stream.
#[derive(Clone, Debug)]
pub(super) struct OpenStream {
    pub(super) request: RequestId,
    pub(super) subscription: SubscriptionId,
    pub(super) connection: ConnectionId,
    pub(super) ask: Consume,
    pub(super) invisible_ms: u64,
    /// Credit that came before the stream was open.
    pub(super) credit: u64,
}

/// A request to receive.
#[derive(Clone, Debug)]
pub(super) struct OpenReceive {
    pub(super) request: RequestId,
    pub(super) connection: ConnectionId,
    pub(super) ask: Consume,
    pub(super) max: u64,
    pub(super) until_mono_ms: u64,
    pub(super) patient_until_mono_ms: u64,
    pub(super) invisible_ms: u64,
}

/// Demands that an invisible time lies within its bounds.
pub(super) fn check_invisible(invisible_ms: u64) -> Result<(), Refusal> {
    if (INVISIBLE_MS_MIN..=INVISIBLE_MS_MAX).contains(&invisible_ms) {
        return Ok(());
    }
    let text = format!("an invisible time is {INVISIBLE_MS_MIN} to {INVISIBLE_MS_MAX} milliseconds, not {invisible_ms}");
    Err(Refusal::new(ErrorCode::BadSetting, text))
}

impl Core {
    /// Opens a stream; 0 milliseconds ask for the default invisible time.
    pub(crate) fn subscribe(
        &mut self,
        request: RequestId,
        subscription: SubscriptionId,
        connection: ConnectionId,
        ask: Consume,
        invisible_ms: u64,
    ) {
        let invisible_ms = if invisible_ms == 0 {
            self.config.stream_invisible_ms
        } else {
            invisible_ms
        };
        let open = OpenStream {
            request,
            subscription,
            connection,
            ask,
            invisible_ms,
            credit: 0,
        };
        match check_invisible(invisible_ms) {
            Ok(()) => self.open_stream(open, None),
            Err(refusal) => self.refuse(request, refusal),
        }
    }

    /// Takes up to `max` messages, or waits for some.
    pub(crate) fn receive(
        &mut self,
        request: RequestId,
        connection: ConnectionId,
        ask: Consume,
        max: u16,
        wait_ms: u32,
        invisible_ms: u64,
    ) {
        let checked = check_invisible(invisible_ms).and_then(|()| {
            if !(1..=RECEIVE_MESSAGES_MAX).contains(&usize::from(max)) {
                return Err(Refusal::new(
                    ErrorCode::LimitExceeded,
                    format!("a receive takes 1 to {RECEIVE_MESSAGES_MAX} messages"),
                ));
            }
            if wait_ms > RECEIVE_WAIT_MS_MAX {
                return Err(Refusal::new(
                    ErrorCode::LimitExceeded,
                    format!("a receive waits {RECEIVE_WAIT_MS_MAX} milliseconds at most"),
                ));
            }
            Ok(())
        });
        let until_mono_ms = self.now.mono_ms + u64::from(wait_ms);
        let open = OpenReceive {
            request,
            connection,
            ask,
            max: u64::from(max),
            until_mono_ms,
            patient_until_mono_ms: self.now.mono_ms + FIRST_VERDICTS_MS,
            invisible_ms,
        };
        match checked {
            Ok(()) => self.open_receive(open, None),
            Err(refusal) => self.refuse(request, refusal),
        }
    }

    pub(super) fn open_stream(&mut self, open: OpenStream, located: Option<&[QueueStart]>) {
        let (key, depends) = match self.enter(&open.ask, located) {
            Ok(Entry::In { key, depends }) => (key, depends),
            Ok(Entry::Locate { topic, wall_ms }) => return self.locate(topic, None, wall_ms, Waiting::Stream(open)),
            Err(refusal) => return self.refuse(open.request, refusal),
        };
        let reading = self.consuming.readings.get_mut(&key).expect("entering made it");
        reading.streams.push(open.subscription);
        let queues = reading.lanes.len() as u16;
        let stream = Stream {
            connection: open.connection,
            key,
            holder: Arc::new(Holder::Stream { member: open.ask.member }),
            filter: open.ask.filter,
            invisible_ms: open.invisible_ms,
            credit: 0,
            sent: BTreeMap::new(),
        };
        self.consuming.add_stream(open.subscription, stream);
        self.add_credit(open.subscription, open.credit);
        self.answer(depends, open.request, Answer::Subscribed { topic: key.0, queues });
    }

    pub(super) fn open_receive(&mut self, open: OpenReceive, located: Option<&[QueueStart]>) {
        let key = match self.enter(&open.ask, located) {
            Ok(Entry::In { key, .. }) => key,
            Ok(Entry::Locate { topic, wall_ms }) => return self.locate(topic, None, wall_ms, Waiting::Receive(open)),
            Err(refusal) => return self.refuse(open.request, refusal),
        };
        let reading = self.consuming.readings.get_mut(&key).expect("entering made it");
        reading.receives += 1;
        reading.waiting.push_back(MemberRef::Receive(open.request));
        let receive = Receive {
            connection: open.connection,
            key,
            holder: Holder::Receive { member: open.ask.member },
            filter: open.ask.filter,
            max: open.max,
            until_mono_ms: open.until_mono_ms,
            patient_until_mono_ms: open.patient_until_mono_ms,
            awaits: None,
            invisible_ms: open.invisible_ms,
        };
        self.consuming.add_receive(open.request, receive);
        self.consuming.wake(key);
    }

    /// Lets a stream push further messages; credit that comes before the stream is open waits with it.
    pub(crate) fn credit(&mut self, subscription: SubscriptionId, messages: u32) {
        if self.consuming.streams.contains_key(&subscription) {
            self.add_credit(subscription, u64::from(messages));
        } else if let Some(open) = self.locating_stream(subscription) {
            open.credit += u64::from(messages);
        }
    }

    fn add_credit(&mut self, subscription: SubscriptionId, messages: u64) {
        let Some(stream) = self.consuming.streams.get_mut(&subscription) else {
            return;
        };
        let waits = stream.credit > 0;
        stream.credit = (stream.credit + messages).min(CREDIT_MESSAGES_MAX);
        let key = stream.key;
        if !waits
            && stream.credit > 0
            && let Some(reading) = self.consuming.readings.get_mut(&key)
        {
            reading.waiting.push_back(MemberRef::Stream(subscription));
            self.consuming.wake(key);
        }
    }

    /// Closes a stream in good order: what it holds is due at once, and the attempts are not counted.
    pub(crate) fn unsubscribe(&mut self, request: RequestId, subscription: SubscriptionId) {
        if !self.consuming.streams.contains_key(&subscription) {
            if let Some(open) = self.forget_locating(|waiting| waiting.is_stream(subscription)) {
                self.refuse(
                    open,
                    Refusal::new(ErrorCode::UnexpectedFrame, "the stream was closed before it was open"),
                );
            }
            return self.answer(Position::default(), request, Answer::Done);
        }
        let depends = self.close_stream(subscription, ReturnReason::Closed);
        self.answer(depends, request, Answer::Done);
    }

    /// The client gave up waiting.
    pub(crate) fn cancel(&mut self, request: RequestId) {
        self.forget_receive(request);
        self.forget_locating(|waiting| waiting.request() == request);
    }

    /// A connection is gone with its receives and streams; what the streams hold is due at once and the attempt counts.
    pub(crate) fn disconnect(&mut self, connection: ConnectionId) {
        for member in self.consuming.members_of(connection) {
            match member {
                MemberRef::Receive(request) => {
                    self.forget_receive(request);
                }
                MemberRef::Stream(subscription) => {
                    self.close_stream(subscription, ReturnReason::ConnectionLost);
                }
            }
        }
        while self.forget_locating(|waiting| waiting.connection() == Some(connection)).is_some() {}
    }

    /// Ends the members of a reading by the broker's will: all, or those that ask for another filter than `but`.
    pub(crate) fn end_members(&mut self, key: ReadingKey, depends: Position, but: Option<&Filter>, refusal: &Refusal) {
        let Some(reading) = self.consuming.readings.get(&key) else { return };
        let streams: Vec<_> = reading.streams.clone();
        let mut receives: Vec<_> = reading.waiting_receives().collect();
        receives.sort_unstable();
        for subscription in streams {
            if self
                .consuming
                .streams
                .get(&subscription)
                .is_some_and(|stream| but != Some(&stream.filter))
            {
                let returned = self.close_stream(subscription, ReturnReason::Closed);
                self.journal.release(
                    depends.max(returned),
                    Effect::StreamEnded {
                        subscription,
                        refusal: refusal.clone(),
                    },
                );
            }
        }
        for request in receives {
            if self
                .consuming
                .receives
                .get(&request)
                .is_some_and(|receive| but != Some(&receive.filter))
            {
                self.forget_receive(request);
                self.refuse_after(depends, request, refusal.clone());
            }
        }
    }

    /// Drops a receive that waits; its answer, if any, is the caller's to give.
    pub(super) fn forget_receive(&mut self, request: RequestId) -> Option<Receive> {
        let receive = self.consuming.remove_receive(request)?;
        if let Some(reading) = self.consuming.readings.get_mut(&receive.key) {
            reading.receives -= 1;
            reading.waiting.retain(|member| *member != MemberRef::Receive(request));
            reading.seen_mono_ms = self.now.mono_ms;
        }
        Some(receive)
    }

    /// Drops a stream and returns what it holds; says where the records of that are.
    fn close_stream(&mut self, subscription: SubscriptionId, reason: ReturnReason) -> Position {
        let Some(stream) = self.consuming.remove_stream(subscription) else {
            return Position::default();
        };
        if let Some(reading) = self.consuming.readings.get_mut(&stream.key) {
            reading.streams.retain(|other| *other != subscription);
            reading.waiting.retain(|member| *member != MemberRef::Stream(subscription));
            reading.seen_mono_ms = self.now.mono_ms;
        }
        self.consuming.wake(stream.key);
        let mut depends = Position::default();
        for (queue, sent) in stream.sent {
            let cursor = super::cursor_of(stream.key, usize::from(queue.0));
            let held = self.still_held(cursor, &sent);
            depends = depends.max(self.give_back(cursor, held, Some(0), reason));
        }
        depends
    }
}
