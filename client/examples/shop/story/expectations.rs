//! What the story expects: said where it holds, and the end of the story where it does not.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

/// Says what holds, or fails with it.
///
/// # Errors
/// It does not hold.
pub(crate) fn expect(holds: bool, what: &str) -> Result<()> {
    if !holds {
        bail!("this was expected and does not hold: {what}");
    }
    println!("   ok: {what}");
    Ok(())
}

/// What came, and how often.
pub(crate) struct Tally<T> {
    times: BTreeMap<T, usize>,
}

impl<T: Ord> Tally<T> {
    /// Nothing came yet.
    pub(crate) fn new() -> Self {
        Self { times: BTreeMap::new() }
    }

    /// Counts one that came.
    pub(crate) fn add(&mut self, one: T) {
        *self.times.entry(one).or_default() += 1;
    }

    /// How many different ones came.
    pub(crate) fn len(&self) -> usize {
        self.times.len()
    }

    /// Says that just what was wanted came, each once, or fails with what differs.
    ///
    /// # Errors
    /// Something is missing, came without being wanted, or came twice.
    pub(crate) fn expect_just(&self, wanted: &BTreeSet<T>, what: &str) -> Result<()> {
        let missing = wanted.iter().filter(|one| !self.times.contains_key(one)).count();
        let unwanted = self.times.keys().filter(|one| !wanted.contains(one)).count();
        let twice = self.times.values().filter(|times| **times > 1).count();
        if missing + unwanted + twice > 0 {
            bail!("this was expected and does not hold: {what} (missing {missing}, unwanted {unwanted}, twice {twice})");
        }
        println!("   ok: {what}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(came: &[u32]) -> Tally<u32> {
        let mut tally = Tally::new();
        came.iter().for_each(|one| tally.add(*one));
        tally
    }

    #[test]
    fn what_is_missing_unwanted_or_twice_fails_by_name() {
        let wanted = BTreeSet::from([1, 2, 3]);
        assert!(tally(&[3, 1, 2]).expect_just(&wanted, "all come").is_ok());
        for (came, differs) in [
            (&[1, 2][..], "(missing 1, unwanted 0, twice 0)"),
            (&[1, 2, 3, 4], "(missing 0, unwanted 1, twice 0)"),
            (&[1, 2, 2, 3], "(missing 0, unwanted 0, twice 1)"),
        ] {
            let failed = tally(came).expect_just(&wanted, "all come").expect_err("it differs").to_string();
            assert_eq!(failed, format!("this was expected and does not hold: all come {differs}"));
        }
    }

    #[test]
    fn an_expectation_that_does_not_hold_is_named() {
        let failed = expect(false, "points has nothing left").expect_err("it does not hold");
        assert!(failed.to_string().ends_with("points has nothing left"), "{failed}");
    }
}
