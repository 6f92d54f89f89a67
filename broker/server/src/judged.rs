//! What filters that judge the same messages together have made of them so far.

use sluice_core::input::{Culprit, CulpritKind, Link};
use sluice_plugin_host::{Attribute, FilterHandle, RunFailure, Verdicts};
use sluice_protocol::ids::QueueOffset;

use crate::columns::Pruning;
use crate::judge::Stretch;

/// What became of a stretch of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// The offsets to deliver, ascending.
    pub deliver: Vec<QueueOffset>,
    /// Where it was asked, what else there is to know of each of these.
    pub links: Vec<Link>,
    /// How many of the others were evaluation errors.
    pub failed: u32,
    /// How many were dropped by the hint, without a call.
    pub pruned: u64,
    /// How many the plugin was asked about.
    pub evaluated: u32,
    /// Those on which it failed alone too, ascending.
    pub culprits: Vec<Culprit>,
    /// One past the last that was judged: where a plugin fails a stretch may end early.
    pub to: QueueOffset,
}

/// What each of several filters made of the same messages. Where it is a failure nothing is known of any of them.
pub type Outcomes = Vec<Result<Judged, RunFailure>>;

/// The filters that judge a stretch together: one transposition serves them all.
pub(crate) struct Together<'a> {
    pub(crate) pruning: Pruning<'a>,
    /// Which messages are meant, and what is asked of each.
    pub(crate) stretch: Stretch,
    /// What any of them asks for, each once.
    pub(crate) columns: Vec<Attribute>,
    pub(crate) asked: Vec<Asked<'a>>,
    /// How many were dropped by the hint.
    pub(crate) pruned: u64,
    /// How many more may be judged by a call.
    pub(crate) left: u64,
}

/// One of them.
pub(crate) struct Asked<'a> {
    pub(crate) filter: &'a FilterHandle,
    /// Which of the columns are its own, in its order.
    pub(crate) own: Vec<usize>,
    pub(crate) judged: Judged,
    /// Its stretch ended early; it is asked no further.
    pub(crate) ended: Option<Ended>,
}

/// Where a stretch ended early. All before is judged; the failure, if any, is met again when the rest is asked about.
pub(crate) struct Ended {
    at: QueueOffset,
    failure: Option<RunFailure>,
}

impl Ended {
    /// This message is the last that was judged.
    pub(crate) fn after(last: QueueOffset) -> Self {
        Self {
            at: QueueOffset(last.0 + 1),
            failure: None,
        }
    }

    /// This message is the first that was not judged.
    pub(crate) fn before(at: QueueOffset, failure: RunFailure) -> Self {
        Self {
            at,
            failure: Some(failure),
        }
    }
}

impl<'a> Together<'a> {
    /// # Panics
    /// When the filters differ in their hints.
    pub(crate) fn new(filters: &'a [FilterHandle], stretch: Stretch) -> Self {
        let hint = filters.first().and_then(FilterHandle::hint);
        assert!(
            filters.iter().all(|filter| filter.hint() == hint),
            "filters that judge together give the same hint"
        );
        let mut columns: Vec<Attribute> = Vec::new();
        let mut slot = |column: &Attribute| {
            columns.iter().position(|known| known == column).unwrap_or_else(|| {
                columns.push(column.clone());
                columns.len() - 1
            })
        };
        let asked = filters.iter().map(|filter| Asked {
            filter,
            own: filter.columns().iter().map(&mut slot).collect(),
            judged: Judged::default(),
            ended: None,
        });
        Self {
            asked: asked.collect(),
            pruning: Pruning::new(hint),
            stretch,
            columns,
            pruned: 0,
            left: stretch.calls_max,
        }
    }

    /// Whether no filter is asked any further.
    pub(crate) fn is_over(&self) -> bool {
        self.asked.iter().all(|asked| asked.ended.is_some())
    }

    /// What is known of the messages `from..to`.
    pub(crate) fn finish(self, from: QueueOffset, to: QueueOffset) -> Outcomes {
        let outcome = |asked: Asked<'_>| {
            let end = match asked.ended {
                None => to,
                Some(Ended {
                    at,
                    failure: Some(failure),
                }) if at <= from => return Err(failure),
                Some(Ended { at, .. }) => at.min(to),
            };
            Ok(Judged {
                to: end,
                pruned: self.pruned,
                ..asked.judged
            })
        };
        self.asked.into_iter().map(outcome).collect()
    }
}

impl Judged {
    /// Takes in the verdicts on the messages at these offsets, with their links where these are asked for.
    pub(crate) fn take(&mut self, offsets: &[QueueOffset], links: &[Link], verdicts: &Verdicts) {
        self.evaluated += offsets.len() as u32;
        for (word, mut bits) in verdicts.deliver.into_iter().enumerate() {
            while bits != 0 {
                let message = word * 64 + bits.trailing_zeros() as usize;
                self.deliver.push(offsets[message]);
                self.links.extend(links.get(message));
                bits &= bits - 1;
            }
        }
        self.failed += verdicts.failed_count();
    }

    /// The plugin failed on this message alone.
    pub(crate) fn blame(&mut self, offset: QueueOffset, link: Link, kind: CulpritKind, failure: &RunFailure) {
        self.evaluated += 1;
        self.culprits.push(Culprit {
            offset,
            link,
            kind,
            reason: failure.to_string(),
        });
    }
}

/// How a plugin failed on a message that it was given alone; `None` when that says nothing of the message.
pub(crate) fn culprit_kind(failure: &RunFailure) -> Option<CulpritKind> {
    match failure {
        RunFailure::Trap(_) => Some(CulpritKind::Trap),
        RunFailure::Fuel(_) => Some(CulpritKind::Fuel),
        RunFailure::Memory(_) => Some(CulpritKind::Memory),
        RunFailure::BadOutput(_) => Some(CulpritKind::Answer),
        RunFailure::Time(_) | RunFailure::NoInstance(_) => None,
    }
}
