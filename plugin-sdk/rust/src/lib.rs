//! Write a Sluice plugin in Rust: a filter is a struct, two functions and one macro line.
//!
//! ```
//! use sluice_plugin::{Column, Columns, Failed, Filter, Message, Refusal};
//!
//! struct InRegion {
//!     region: Column,
//!     wanted: String,
//! }
//!
//! impl Filter for InRegion {
//!     fn compile(expression: &str, columns: &mut Columns) -> Result<Self, Refusal> {
//!         Ok(Self { region: columns.property("region"), wanted: expression.to_owned() })
//!     }
//!
//!     fn deliver(&self, message: &Message<'_>) -> Result<bool, Failed> {
//!         Ok(message.text(self.region) == Some(self.wanted.as_str()))
//!     }
//! }
//!
//! sluice_plugin::export_filter!(InRegion);
//! ```
//!
//! There are two faces. [`Filter`] looks at one message at a time and is what most plugins want. [`ColumnFilter`] is handed whole
//! columns of up to 256 messages and is for filters that must be fast.
//!
//! # What a filter may rely on, and what it must keep
//!
//! A filter is *pure*: the same expression and messages give the same verdicts, in any order and in runs of any size. The broker
//! tests this; [`testing::assert_pure`] does so in a unit test. There is no clock, file, network, environment or randomness.
//!
//! Each call has *fuel* (roughly one unit an instruction: so much a run and so much a message), a wall-clock backstop, and a bound on
//! memory; the operator sets them when a plugin is bound. A filter that uses them up, panics, or answers nonsense is stopped, its
//! instance is thrown away and the run is tried once more on a fresh one; when that fails too the plugin is at fault and the group is
//! told so. So a panic is for bugs. What is wrong with *one message* (a price that is no number) is [`Failed`]: the message is
//! not delivered, it is counted, and the others go on. What is wrong with the *expression* is a [`Refusal`], given to whoever
//! subscribes.
//!
//! Build with `cargo build --release --target wasm32-unknown-unknown`, crate type `cdylib`. The README one folder up goes on from there.

mod asked;
mod column_filter;
mod filter;
mod view;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use asked::{Attribute, Column, Columns, Hint, Refusal};
pub use column_filter::{Bits, ColumnFilter, Verdicts};
pub use filter::{Failed, Filter, Message, Rows};
pub use view::{BadView, MESSAGES_MAX, TextColumn, View};

/// Makes a [`Filter`] the plugin that this crate compiles to. Natively it only checks that it is one, so plugins
/// unit-test as any crate does.
#[macro_export]
macro_rules! export_filter {
    ($filter:ty) => {
        $crate::export_column_filter!($crate::Rows<$filter>);
    };
}

/// Makes a [`ColumnFilter`] the plugin that this crate compiles to. Natively it only checks that it is one.
#[macro_export]
macro_rules! export_column_filter {
    ($filter:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Exported = $crate::guest::Plugin<$filter>;
    $crate::guest::export_generated!(Exported with_types_in $crate::guest);
        };
        // Natively only tests call a plugin; this keeps it from being taken for dead code.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(&str) -> Result<$filter, $crate::Refusal> = <$filter as $crate::ColumnFilter>::compile;
    };
}
