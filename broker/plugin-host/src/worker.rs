//! The instances of one thread that judges.

use std::collections::HashMap;

use crate::error::RunFailure;
use crate::filter::{FilterHandle, Verdicts};
use crate::host::Host;
use crate::instance::Instance;
use crate::limits::{INSTANCES_PER_WORKER_MAX, PluginLimits};
use crate::module::Digest;
use crate::view::View;

/// Runs filters on one thread: an instance for each plugin version and limits, kept between runs.
pub struct Worker {
    host: Host,
    instances: HashMap<(Digest, PluginLimits), Kept>,
    /// Counts runs, to find the instance unused for longest.
    uses: u64,
    discarded: u64,
}

struct Kept {
    instance: Instance,
    last_use: u64,
}

impl Worker {
    /// A worker without instances yet.
    pub fn new(host: &Host) -> Self {
        Self {
            host: host.clone(),
            instances: HashMap::new(),
            uses: 0,
            discarded: 0,
        }
    }

    /// Judges the messages of a run, whose columns must be those of the filter. Call it where waiting is allowed: it takes up to
    /// twice the limits' `run_ms`, and as long again as compiling does on first use.
    ///
    /// # Errors
    ///
    /// Why the run could not be judged, twice: after a failed call the instance is thrown away and the whole run is judged
    /// again by a fresh one. Where that passes the instance was to blame and the verdicts are as good as any.
    pub fn evaluate(&mut self, filter: &FilterHandle, view: View<'_>) -> Result<Verdicts, RunFailure> {
        self.attempt(filter, view).or_else(|failure| {
            tracing::debug!(plugin = ?filter.module, %failure, "a run failed and is judged again by a fresh instance");
            self.attempt(filter, view)
        })
    }

    /// How many instances were thrown away after a failed call.
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    fn attempt(&mut self, filter: &FilterHandle, view: View<'_>) -> Result<Verdicts, RunFailure> {
        let Self {
            host,
            instances,
            uses,
            discarded,
        } = self;
        let _running = host.running();
        *uses += 1;
        let key = (*filter.digest(), filter.limits);
        if !instances.contains_key(&key) {
            make_room(instances);
            let instance = Instance::start(&filter.module, &filter.limits)?;
            instances.insert(key, Kept { instance, last_use: *uses });
        }
        let kept = instances.get_mut(&key).expect("it was there or was just put there");
        kept.last_use = *uses;
        let result = kept.instance.evaluate(filter, view);
        if result.is_err() {
            instances.remove(&key);
            *discarded += 1;
        }
        result
    }
}

/// Drops the instance unused for longest when there are as many as may be.
fn make_room(instances: &mut HashMap<(Digest, PluginLimits), Kept>) {
    if instances.len() >= INSTANCES_PER_WORKER_MAX {
        let oldest = instances.iter().min_by_key(|(_, kept)| kept.last_use).map(|(key, _)| *key);
        oldest.and_then(|key| instances.remove(&key));
    }
}
