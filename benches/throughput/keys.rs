//! How soon HsmKeys are Ready, beside how soon the token makes as many keys.

use std::{
    collections::HashSet,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use hsm_operator::api::HsmKey;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;

use crate::{
    REPEATS,
    cluster::{Cluster, NAMESPACE},
    raw::Raw,
    table::{Must, Row},
};

/// Keys of one round. They stay until the last, so that the token fills up to a thousand.
const KEYS: u32 = 200;
/// Creations in flight.
const AT_ONCE: usize = 16;
/// User and group of the operator's containers: what the token's own side writes, they must be able to read.
const USER: u32 = 65532;

/// Keys a second, both ways, on the same token and with as much on it.
pub fn row(cluster: &Cluster) -> Row {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let keys = runtime.block_on(async {
        let client = Client::try_default().await.expect("KUBECONFIG names the cluster");
        Api::namespaced(client, NAMESPACE)
    });
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=REPEATS {
        let raw = child(cluster);
        let applied = runtime.block_on(apply(&keys, round));
        eprintln!("  {KEYS} keys {round}/{REPEATS}: token {raw:.1}/s, Ready {applied:.1}/s");
        // The first round warms up and is thrown away, with its keys.
        if round == 0 {
            runtime.block_on(clear(&keys));
        } else {
            ours.push(applied);
            theirs.push(raw);
        }
    }
    runtime.block_on(clear(&keys));
    Row::rate(format!("keys Ready, {REPEATS} x {KEYS}"), &ours, &theirs).must(Some(Must::RatioAtLeast(0.90)))
}

fn name(round: usize, number: u32) -> String {
    format!("crowd-{round}-{number}")
}

/// How many keys a second are Ready, from the first that is applied to the last that is Ready.
async fn apply(keys: &Api<HsmKey>, round: usize) -> f64 {
    let begun = Instant::now();
    let create = stream::iter(0..KEYS).for_each_concurrent(AT_ONCE, async |number| {
        let spec = json!({
            "partitionRef": { "name": "demo" }, "algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7",
            "attributes": { "sign": true, "destroyable": true }, "deletionPolicy": "Destroy",
        });
        let key = HsmKey::new(&name(round, number), serde_json::from_value(spec).expect("a spec"));
        keys.create(&PostParams::default(), &key).await.expect("it is created");
    });
    let ready = async {
        let (mut ready, prefix) = (HashSet::new(), format!("crowd-{round}-"));
        let seen = watcher(keys.clone(), watcher::Config::default()).default_backoff().touched_objects();
        let mut seen = seen.boxed();
        while ready.len() < KEYS as usize {
            let next = tokio::time::timeout(Duration::from_secs(60), seen.try_next()).await;
            let key = next.expect("it goes on").expect("a watch").expect("a watch does not end");
            if key.is_ready() && key.name_any().starts_with(&prefix) {
                ready.insert(key.name_any());
            }
        }
        begun.elapsed()
    };
    let ((), took) = tokio::join!(create, ready);
    f64::from(KEYS) / took.as_secs_f64()
}

/// Deletes the keys of all rounds, and waits until they are gone.
async fn clear(keys: &Api<HsmKey>) {
    let ours = |key: &HsmKey| key.name_any().starts_with("crowd-");
    let all = keys.list(&ListParams::default()).await.expect("a list").items;
    stream::iter(all.into_iter().filter(ours))
        .for_each_concurrent(AT_ONCE, async |key| {
            let deleted = keys.delete(&key.name_any(), &DeleteParams::default()).await;
            drop(deleted.expect("it is deleted"));
        })
        .await;
    while keys.list(&ListParams::default()).await.expect("a list").iter().any(ours) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Runs this program again, as the user whose files the token's are.
fn child(cluster: &Cluster) -> f64 {
    let mut child = Command::new(std::env::current_exe().expect("a program has a path"))
        .arg("generate")
        .env("SOFTHSM2_CONF", cluster.softhsm_configuration())
        .current_dir("/")
        .uid(USER)
        .gid(USER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it ran once");
    let mut stdin = child.stdin.take().expect("it was asked for");
    std::io::Write::write_all(&mut stdin, cluster.pin().as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the token makes no keys");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}

/// The child's side, if this is one.
pub fn be_child() -> bool {
    if std::env::args().nth(1).is_none_or(|word| word != "generate") {
        return false;
    }
    let pin = std::io::read_to_string(std::io::stdin()).expect("a PIN");
    println!("{}", Raw::open(crate::SOFTHSM.as_ref(), &[], "demo", &pin).generations(KEYS));
    true
}
