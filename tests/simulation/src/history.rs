//! The hash of everything that happened in a run: two runs of one seed must end with the same one.

use std::fmt::{self, Debug, Write};

/// Takes in events in order; optionally prints them.
#[derive(Debug)]
pub struct History {
    hash: u64,
    events: u64,
    verbose: bool,
}

impl History {
    /// An empty history; a verbose one prints each event as it comes.
    pub fn new(verbose: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            verbose,
        }
    }

    /// Takes in an event by its debug form.
    pub fn note(&mut self, kind: &str, event: &dyn Debug) {
        if self.verbose {
            println!("{:>6} {kind} {event:?}", self.events);
        }
        self.events += 1;
        write!(self, "{kind}{event:?}").expect("hashing cannot fail");
    }

    /// Takes in raw bytes, whose debug form would be long.
    pub fn bytes(&mut self, kind: &str, label: &dyn Debug, bytes: &[u8]) {
        if self.verbose {
            println!("{:>6} {kind} {label:?} ({} bytes)", self.events, bytes.len());
        }
        self.events += 1;
        write!(self, "{kind}{label:?}").expect("hashing cannot fail");
        self.absorb(bytes);
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    fn absorb(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

impl Write for History {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.absorb(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_events_changes_the_hash() {
        let hash = |events: [u32; 2]| {
            let mut history = History::new(false);
            events.iter().for_each(|event| history.note("event", event));
            history.hash()
        };
        assert_ne!(hash([1, 2]), hash([2, 1]));
        assert_eq!(hash([1, 2]), hash([1, 2]));
    }
}
