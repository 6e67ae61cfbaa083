//! A handful of counters; a metrics library would cost more memory than the sidecar's own work.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the sidecar did so far.
#[derive(Debug, Default)]
pub struct Metrics {
    classes: [AtomicU64; 5],
    /// Requests answered by the sidecar itself because no gateway did.
    pub own_answers: AtomicU64,
    /// Connections opened.
    pub connects: AtomicU64,
    /// Connections that could not be opened.
    pub connect_errors: AtomicU64,
    /// Requests sent once more, to the same or another gateway.
    pub retries: AtomicU64,
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Metrics {
    /// Counts an answer by the class of its status.
    pub fn answered(&self, status: u16) {
        if let Some(class) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            count(class);
        }
    }

    /// The Prometheus text format.
    pub fn text(&self, known_gateways: usize) -> String {
        let mut text = String::with_capacity(1024);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        text.push_str("# TYPE hsm_operator_sidecar_requests_total counter\n");
        for (class, counter) in (1..).zip(&self.classes) {
            let value = read(counter);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "hsm_operator_sidecar_requests_total{{status=\"{class}xx\"}} {value}");
        }
        for (name, kind, value) in [
            ("own_answers_total", "counter", read(&self.own_answers)),
            ("connects_total", "counter", read(&self.connects)),
            ("connect_errors_total", "counter", read(&self.connect_errors)),
            ("retries_total", "counter", read(&self.retries)),
            ("known_gateways", "gauge", known_gateways as u64),
        ] {
            let name = format!("hsm_operator_sidecar_{name}");
            let _ = writeln!(text, "# TYPE {name} {kind}\n{name} {value}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_class() {
        let metrics = Metrics::default();
        metrics.answered(201);
        metrics.answered(999);
        let text = metrics.text(2);
        assert!(text.contains("requests_total{status=\"2xx\"} 1\n"), "{text}");
        assert!(text.contains("hsm_operator_sidecar_known_gateways 2\n"), "{text}");
    }
}
