//! The face of a filter that judges whole columns at once.

use crate::asked::{Attribute, Hint, Refusal};
use crate::view::{MESSAGES_MAX, View};

/// One bit a message of a run, message `i` at bit `i % 64` of word `i / 64`.
pub type Bits = [u64; MESSAGES_MAX / 64];

/// A filter that judges a run of messages by columns.
///
/// Make it the plugin with [`export_column_filter!`](crate::export_column_filter).
pub trait ColumnFilter: Sized + 'static {
    /// Compiles an expression, or says what is wrong with it and where.
    fn compile(expression: &str) -> Result<Self, Refusal>;

    /// What `evaluate` reads, in the order in which the view is to hold it. Asked once for each compiled expression.
    fn columns(&self) -> Vec<Attribute>;

    /// What a message must have to be delivered at all.
    fn hint(&self) -> Option<Hint> {
        None
    }

    /// Judges the messages of a run. `verdicts` comes with nothing delivered and nothing failed.
    fn evaluate(&self, view: &View<'_>, verdicts: &mut Verdicts);
}

/// What a filter says of each message of a run. A message in both sets counts as failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// The message is to be delivered. Bits beyond the run's messages are ignored.
    pub deliver: Bits,
    /// The evaluation failed: not delivered, and counted. Bits beyond the run's messages are ignored.
    pub failed: Bits,
}

impl Verdicts {
    /// Delivers message `message` of the run.
    pub fn deliver(&mut self, message: usize) {
        self.deliver[message / 64] |= 1 << (message % 64);
    }

    /// Fails message `message` of the run.
    pub fn fail(&mut self, message: usize) {
        self.failed[message / 64] |= 1 << (message % 64);
    }
}
