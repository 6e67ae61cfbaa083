//! Logs: one JSON object per line on standard error.
//!
//! Lines are gathered for a moment and written together. Each line on its own costs the container runtime more
//! than a signature costs the gateway, because every process between us and the log file wakes up for it.

use std::{
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

/// How long lines are gathered. A process that is killed loses no more than this.
const GATHER: Duration = Duration::from_millis(2);
/// Most bytes that are gathered; then whoever logs waits. Lines are never dropped.
const ROOM: usize = 4 * 1024 * 1024;

/// Target of audit records, which are written whatever the log level is.
pub const AUDIT: &str = "audit";

/// Starts logging; what is returned writes the last lines when it is dropped. `RUST_LOG` overrides `filter`.
#[must_use = "the last lines are written when this is dropped"]
pub fn init(filter: &str) -> Guard {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let lines = Lines::start();
    let json = || fmt::layer().json().flatten_event(true);
    let (to_log, to_audit) = (lines.clone(), lines.clone());
    let log = json().with_writer(move || to_log.clone()).with_filter(filter);
    let audit = json().with_writer(move || to_audit.clone());
    let layers = vec![
        log.with_filter(filter_fn(|metadata| metadata.target() != AUDIT)).boxed(),
        audit.with_filter(filter_fn(|metadata| metadata.target() == AUDIT)).boxed(),
    ];
    // A second call, which only tests make, keeps the first one's settings.
    let _ = tracing_subscriber::registry().with(layers).try_init();
    Guard(lines)
}

/// Writes the last lines when it is dropped.
pub struct Guard(Lines);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.flush();
    }
}

#[derive(Clone)]
struct Lines(Arc<Gathered>);

#[derive(Default)]
struct Gathered {
    bytes: Mutex<Vec<u8>>,
    /// Held while writing, so that lines keep their order whoever flushes.
    writing: Mutex<()>,
    /// There is something to write, or room again.
    changed: Condvar,
}

impl Lines {
    fn start() -> Self {
        let lines = Self(Arc::default());
        let writer = lines.clone();
        std::thread::Builder::new()
            .name("log".into())
            .stack_size(64 * 1024)
            .spawn(move || {
                loop {
                    let bytes = writer.0.bytes.lock().unwrap_or_else(PoisonError::into_inner);
                    let waited = writer.0.changed.wait_while(bytes, |bytes| bytes.is_empty());
                    drop(waited);
                    std::thread::sleep(GATHER);
                    writer.flush();
                }
            })
            .expect("a thread can be started while the process starts");
        lines
    }

    fn flush(&self) {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = std::mem::take(&mut *self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.changed.notify_all();
        // Standard error that nobody reads is nothing that we could tell anybody about.
        let _ = io::stderr().lock().write_all(&bytes);
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let bytes = self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = self
            .0
            .changed
            .wait_while(bytes, |bytes| bytes.len() > ROOM)
            .unwrap_or_else(PoisonError::into_inner);
        let first = bytes.is_empty();
        bytes.extend_from_slice(line);
        drop(bytes);
        if first {
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An error with its whole chain of causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
