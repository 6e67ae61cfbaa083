//! Moments that two processes mean alike.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment on the clock that all processes of a system share, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Moment(u64);

impl Moment {
    /// This one.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let parts = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
        let (seconds, nanoseconds) = (parts.0.unwrap_or(0), parts.1.unwrap_or(0));
        Self(seconds * 1_000_000_000 + nanoseconds)
    }

    /// The same for this process. Never too early: what it costs to tell is added.
    #[must_use]
    pub fn instant(self) -> Instant {
        let ago = Duration::from_nanos(Self::now().0.saturating_sub(self.0));
        let now = Instant::now();
        now.checked_sub(ago).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_the_same_when_it_comes_back() {
        let before = Instant::now();
        let moment = Moment::now();
        std::thread::sleep(Duration::from_millis(20));
        let back = moment.instant();
        assert!(back >= before && back <= Instant::now().checked_sub(Duration::from_millis(20)).unwrap());
    }
}
