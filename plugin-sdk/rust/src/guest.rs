//! The exports of a plugin, generated from the WIT, and what lies between them and a [`ColumnFilter`].
//!
//! Only guests have this module. The `unsafe` of the workspace's one exception is in what `wit_bindgen::generate!` writes: the
//! canonical ABI hands over raw pointers. None is written by hand.

use std::marker::PhantomData;

use crate::asked::{Attribute, Hint, Refusal};
use crate::column_filter::{Bits, ColumnFilter, Verdicts};
use crate::view::View;

wit_bindgen::generate!({
    world: "filter",
    path: "../wit",
    pub_export_macro: true,
    export_macro_name: "export_generated",
});

use exports::sluice::plugin::filtering;

/// The plugin whose filter is `F`.
pub struct Plugin<F>(PhantomData<F>);

/// A compiled expression.
pub struct Predicate<F>(F);

impl<F: ColumnFilter> filtering::Guest for Plugin<F> {
    type Predicate = Predicate<F>;

    fn compile(expression: String) -> Result<filtering::Predicate, filtering::Refusal> {
        match F::compile(&expression) {
            Ok(filter) => Ok(filtering::Predicate::new(Predicate(filter))),
            Err(Refusal { message, at }) => Err(filtering::Refusal { message, at }),
        }
    }
}

impl<F: ColumnFilter> filtering::GuestPredicate for Predicate<F> {
    fn columns(&self) -> Vec<filtering::Column> {
        let attributes = self.0.columns().into_iter();
        attributes
            .map(|attribute| match attribute {
                Attribute::Tag => filtering::Column::Tag,
                Attribute::Keys => filtering::Column::Keys,
                Attribute::Property(name) => filtering::Column::Property(name),
            })
            .collect()
    }

    fn hint(&self) -> Option<filtering::Hint> {
        self.0.hint().map(|hint| match hint {
            Hint::TagOneOf(tags) => filtering::Hint::TagOneOf(tags),
            Hint::PropertyExists(name) => filtering::Hint::PropertyExists(name),
        })
    }

    fn evaluate(&self, view: Vec<u8>) -> filtering::Verdicts {
        let view = View::parse(&view).expect("the broker writes views as the contract has them");
        let mut verdicts = Verdicts::default();
        self.0.evaluate(&view, &mut verdicts);
        let bytes = view.messages().div_ceil(8);
        filtering::Verdicts {
            deliver: bit_list(verdicts.deliver, bytes),
            failed: bit_list(verdicts.failed, bytes),
        }
    }
}

fn bit_list(bits: Bits, bytes: usize) -> Vec<u8> {
    bits.map(u64::to_le_bytes).as_flattened()[..bytes].to_vec()
}
