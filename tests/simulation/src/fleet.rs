//! Many runs on all processors, with results that do not depend on how many there are.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

/// Does `work` for each number below `count` on several threads. The results come in order and end with the first failure, if there is one.
pub fn sail<T: Send, E: Send>(count: u64, work: impl Fn(u64) -> Result<T, E> + Sync) -> (Vec<T>, Option<(u64, E)>) {
    let threads = thread::available_parallelism()
        .map_or(1, |threads| threads.get() as u64)
        .min(count.max(1));
    let (next, stop) = (AtomicU64::new(0), AtomicU64::new(count));
    let done = Mutex::new(BTreeMap::new());
    let keep = |number: u64, result: Result<T, E>| {
        if result.is_err() {
            stop.fetch_min(number, Relaxed);
        }
        done.lock()
            .expect("nothing panics while it holds the results")
            .insert(number, result);
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    // What comes after a failure does not count, what came before it is still under way elsewhere.
                    if number >= stop.load(Relaxed) {
                        break;
                    }
                    keep(number, work(number));
                }
            });
        }
    });
    let mut results = Vec::new();
    for (number, result) in done.into_inner().expect("nothing panics while it holds the results") {
        match result {
            Ok(result) => results.push(result),
            Err(error) => return (results, Some((number, error))),
        }
    }
    (results, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_up_to_the_first_failure() {
        let (results, failure) = sail(1_000, |number| if number % 300 == 299 { Err("failed") } else { Ok(number) });
        assert_eq!(results, (0..299).collect::<Vec<u64>>());
        assert_eq!(failure, Some((299, "failed")));
        assert_eq!(sail(3, Ok::<u64, ()>), (vec![0, 1, 2], None));
    }
}
