//! The face of a filter that judges one message at a time.

use crate::asked::{Attribute, Column, Columns, Hint, Refusal};
use crate::column_filter::{ColumnFilter, Verdicts};
use crate::view::View;

/// A filter that judges one message at a time.
///
/// Make it the plugin with [`export_filter!`](crate::export_filter).
pub trait Filter: Sized + 'static {
    /// Compiles an expression and asks for the columns that [`deliver`](Self::deliver) reads, or says what is wrong with the
    /// expression and where.
    fn compile(expression: &str, columns: &mut Columns) -> Result<Self, Refusal>;

    /// Whether the message is to be delivered. [`Failed`] where the filter does not apply to it: it is not delivered, and counted.
    fn deliver(&self, message: &Message<'_>) -> Result<bool, Failed>;

    /// What a message must have to be delivered at all.
    fn hint(&self) -> Option<Hint> {
        None
    }
}

/// The evaluation of one message failed, for example because a property is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// One message of a run.
#[derive(Clone, Copy, Debug)]
pub struct Message<'run> {
    view: &'run View<'run>,
    place: usize,
}

impl<'run> Message<'run> {
    /// The message's value of a column, `None` where it has none.
    ///
    /// # Panics
    ///
    /// When the column was asked for by another filter, or the view holds no UTF-8 (the broker writes none such).
    pub fn text(&self, column: Column) -> Option<&'run str> {
        self.view.column(column.0).text(self.place)
    }
}

/// A [`Filter`] as a [`ColumnFilter`].
#[derive(Debug)]
pub struct Rows<F> {
    filter: F,
    columns: Vec<Attribute>,
}

impl<F: Filter> ColumnFilter for Rows<F> {
    fn compile(expression: &str) -> Result<Self, Refusal> {
        let mut columns = Columns::default();
        let filter = F::compile(expression, &mut columns)?;
        Ok(Self {
            filter,
            columns: columns.asked().to_vec(),
        })
    }

    fn columns(&self) -> Vec<Attribute> {
        self.columns.clone()
    }

    fn hint(&self) -> Option<Hint> {
        self.filter.hint()
    }

    fn evaluate(&self, view: &View<'_>, verdicts: &mut Verdicts) {
        for place in 0..view.messages() {
            match self.filter.deliver(&Message { view, place }) {
                Ok(true) => verdicts.deliver(place),
                Ok(false) => {}
                Err(Failed) => verdicts.fail(place),
            }
        }
    }
}
