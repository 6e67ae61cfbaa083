//! Watching objects of the API server.

use std::{fmt::Debug, time::Duration};

use backon::ExponentialBuilder;
use futures::Stream;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event, ExponentialBackoff, watcher},
    },
};
use serde::de::DeserializeOwned;

/// The pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause, to which jitter adds as much again at most. What an API server that was away needs to be spared is
/// little: a process of ours has a handful of watches. Somebody who applied a key waits for it in the meantime.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// All that happens to the objects of `api`.
///
/// A failure is an item, after which the watch pauses for half a second to four, whatever happened before. kube's own
/// default grows to a minute over failures that are up to two minutes apart.
pub fn changes<K>(api: Api<K>) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let pauses = ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times();
    watcher(api, watcher::Config::default()).backoff(ExponentialBackoff::from(pauses))
}

/// No pause of a `Controller` beyond those of its watches: its own one holds up all of them for the failure of one, and
/// grows with each.
pub struct Unpaused;

impl Iterator for Unpaused {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

impl Backoff for Unpaused {
    fn reset(&mut self) {}
}
