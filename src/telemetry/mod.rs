//! Logs and metrics. Knows nothing of the domain but the names of its series.

pub mod logs;
pub mod metrics;

pub use metrics::Metrics;
