//! What gets into the audit log.

use std::{
    io::{Result, Write},
    sync::{Arc, LazyLock, Mutex},
};

use serde_json::Value;
use tokio::sync::Mutex as Turn;
use tracing::{Dispatch, subscriber::NoSubscriber};

/// Subscribers that come and go at the same time get in each other's way: what interests whom is remembered for the process.
static TURN: Turn<()> = Turn::const_new(());

/// While there is only one subscriber, whichever thread first comes to a place that logs decides for all whether it is of
/// interest, and the threads of other tests have none. With a second one, all are asked.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Makes calls that are answered on this thread. Caller, operation, object and decision of each record that this wrote, and
/// all that was logged.
pub async fn audited(calls: impl Future<Output = ()>) -> (Vec<String>, String) {
    let _turn = TURN.lock().await;
    LazyLock::force(&SECOND);
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    calls.await;
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let records = lines.filter(|line| line["target"] == "audit").map(|line| {
        let fields = &line["fields"];
        assert!(!fields["request_id"].as_str().unwrap().is_empty(), "{line}");
        let text = |name: &str| fields[name].as_str().unwrap_or("").to_owned();
        let caller = text("caller");
        let caller = caller.rsplit(':').next().unwrap();
        format!("{caller} {} {}{} {}", text("operation"), text("data_object"), text("key"), text("decision"))
    });
    (records.collect(), text)
}
