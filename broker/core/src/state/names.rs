//! The names of topics and groups, and the incarnations that had each of them.

use std::collections::BTreeMap;

/// The incarnations of each name, the newest last: during a replay an older one may come back for a while.
pub(super) type Names<I> = BTreeMap<String, Vec<I>>;

pub(super) fn add_name<I: Ord + Copy>(names: &mut Names<I>, name: &str, id: I) {
    let ids = names.entry(name.to_owned()).or_default();
    if let Err(place) = ids.binary_search(&id) {
        ids.insert(place, id);
    }
}

pub(super) fn remove_name<I: Ord + Copy>(names: &mut Names<I>, name: &str, id: I) {
    if let Some(ids) = names.get_mut(name) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            names.remove(name);
        }
    }
}
