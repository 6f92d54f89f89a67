//! The clock behind wall-clock limits: it ticks while guests run and sleeps while none does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use wasmtime::Engine;

/// The length of a tick, in milliseconds.
pub(crate) const TICK_MS: u32 = 5;

/// Ticks without a running guest before the thread goes to sleep: judging in close succession never pays for waking it.
const IDLE_TICKS: u32 = 20;

/// Ends with its thread.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Guests running now.
    running: AtomicUsize,
    /// The thread sleeps or is about to. All orders are sequentially consistent: whoever raises `running` either sees this
    /// set and wakes the thread, or the thread sees `running` raised and does not sleep.
    asleep: AtomicBool,
    stopping: AtomicBool,
}

/// A guest is running as long as this lives.
pub(crate) struct Running<'ticker>(&'ticker Shared);

impl Ticker {
    pub(crate) fn start(engine: &Engine) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let handle = thread::Builder::new()
            .name("plugin-clock".to_owned())
            .stack_size(128 << 10)
            .spawn({
                let (shared, engine) = (Arc::clone(&shared), engine.clone());
                move || tick(&shared, &engine)
            })?;
        Ok(Self {
            shared,
            handle: Some(handle),
        })
    }

    /// Keeps the clock ticking until what it returns is dropped.
    pub(crate) fn running(&self) -> Running<'_> {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.thread().unpark();
        }
        Running(&self.shared)
    }

    fn thread(&self) -> &Thread {
        self.handle.as_ref().expect("the handle is taken only in drop").thread()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.thread().unpark();
        if let Some(handle) = self.handle.take() {
            handle.join().expect("the plugin clock does not panic");
        }
    }
}

fn tick(shared: &Shared, engine: &Engine) {
    let mut idle = 0;
    while !shared.stopping.load(Ordering::SeqCst) {
        if idle < IDLE_TICKS {
            thread::park_timeout(Duration::from_millis(u64::from(TICK_MS)));
            engine.increment_epoch();
        } else {
            shared.asleep.store(true, Ordering::SeqCst);
            if shared.running.load(Ordering::SeqCst) == 0 {
                thread::park();
            }
            shared.asleep.store(false, Ordering::SeqCst);
        }
        let is_idle = shared.running.load(Ordering::SeqCst) == 0;
        idle = if is_idle { (idle + 1).min(IDLE_TICKS) } else { 0 };
    }
}
