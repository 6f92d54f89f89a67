//! The decoder of a checkpoint's entries.

use sluice_core::state::State;
use sluice_protocol::wire::Reader;

use super::{Target, nothing_to_repair};

/// One entry of each kind, and more of some, each behind its length, in the versions that there were.
const ENTRIES: [&[u8]; 13] = [
    include_bytes!("../../../../broker/core/golden/entries-1.bin"),
    include_bytes!("../../../../broker/core/golden/entries-2.bin"),
    include_bytes!("../../../../broker/core/golden/operated-1.bin"),
    include_bytes!("../../../../broker/core/golden/begun-1.bin"),
    include_bytes!("../../../../broker/core/golden/entries-transaction-1.bin"),
    include_bytes!("../../../../broker/core/golden/entries-broadcast-1.bin"),
    include_bytes!("../../../../broker/core/golden/entries-calendar-1.bin"),
    include_bytes!("../../../../broker/core/golden/entries-expiry-1.bin"),
    include_bytes!("../../../../broker/core/golden/entries-given-ids-1.bin"),
    include_bytes!("../../../../broker/core/golden/entries-restored-1.bin"),
    include_bytes!("../../../../broker/core/golden/entries-lanes-1.bin"),
    include_bytes!("../../../../broker/core/golden/growth-1.bin"),
    include_bytes!("../../../../broker/core/golden/entries-parts-1.bin"),
];

pub(super) const ENTRY: Target = Target {
    name: "core-entry",
    valid: entries,
    repair: nothing_to_repair,
    run: |input| {
        let mut state = State::default();
        if state.restore(input).is_ok() {
            let (mut again, mut last) = (State::default(), None);
            while let Some(key) = state.next_key(last.as_ref()) {
                let entry = state.encode_entry(&key).expect("a key that state named has an entry");
                again.restore(&entry).expect("an entry survives its own bytes");
                last = Some(key);
            }
            assert_eq!(again, state, "a state survives its entries");
        }
    },
    accepts: |input| State::default().restore(input).is_ok(),
};

fn entries() -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    for mut from in ENTRIES.map(Reader::new) {
        while from.remaining() > 0 {
            let bytes = from.u32().expect("the golden file holds a length before each entry");
            entries.push(from.bytes(bytes as usize).expect("the golden file is whole").to_vec());
        }
    }
    entries
}
