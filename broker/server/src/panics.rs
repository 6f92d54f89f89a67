//! A panic in a task ends that task alone: it is caught at the task's boundary, logged once and answered as a failure.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::error;

/// A task panicked. What it owned may be half done and must not be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker failed while {0}; its log says more")]
pub(crate) struct Panicked(&'static str);

/// Runs a task. `doing` says what it does, as in "judging messages". The caller drops what the task could have left half done.
///
/// # Errors
/// [`Panicked`], logged already.
pub(crate) fn caught<T>(doing: &'static str, run: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
        error!(panic = said, "a task failed while {doing}");
        Panicked(doing)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_caller_goes_on() {
        assert_eq!(caught("counting", || 1 + 1), Ok(2));
        let failed = caught("counting", || -> u32 { panic!("out of fingers") });
        assert_eq!(failed, Err(Panicked("counting")));
        let failed = caught("counting", || -> u32 { panic!("out of {}", "toes") });
        assert_eq!(
            failed.unwrap_err().to_string(),
            "the broker failed while counting; its log says more"
        );
    }
}
