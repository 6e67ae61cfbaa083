//! An unchanged world costs nothing.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use hsm_operator::api::{HsmKey, HsmPartition};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;

use crate::{
    controller::sum,
    tools,
    world::{OPERATOR, Token, World},
};

const KEYS: usize = 1000;
/// Instead of an hour.
const RESYNC: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_of_a_thousand_keys_writes_nothing_and_leaves_the_token_alone() {
    let world = World::alone().await;
    let namespace = world.namespace("quiet").await;
    // A token of its own: refused keys of other tests are asked for again now and then.
    let place = world.place(Token::SoftHsm, &namespace);
    place.initialise(&namespace, "12345678");
    let secret = json!({"metadata": {"name": namespace}, "stringData": {"pin": "12345678"}});
    let secret: Secret = serde_json::from_value(secret).unwrap();
    world.api::<Secret>(OPERATOR).create(&PostParams::default(), &secret).await.unwrap();
    let spec = serde_json::from_value(place.partition(&namespace, &namespace)).unwrap();
    let partitions: Api<HsmPartition> = Api::all(world.client.clone());
    partitions.create(&PostParams::default(), &HsmPartition::new(&namespace, spec)).await.unwrap();
    tools::kubectl(&["wait", "hsmpartition", &namespace, "--for=condition=Ready", "--timeout=60s"]);
    let (before, begun) = (world.metrics().await, Instant::now());
    stream::iter(0..KEYS)
        .for_each_concurrent(16, async |number| {
            world
                .make_key(
                    &namespace,
                    &format!("k{number:04}"),
                    Token::SoftHsm,
                    json!({"partitionRef": {"name": namespace}}),
                )
                .await;
        })
        .await;
    let mut ready = std::collections::HashSet::new();
    let mut seen = watcher(world.api::<HsmKey>(&namespace), watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .boxed();
    while ready.len() < KEYS {
        let next = tokio::time::timeout(Duration::from_secs(60), seen.try_next()).await;
        let key = next.unwrap_or_else(|_| panic!("stuck with {} of {KEYS}", ready.len())).unwrap().unwrap();
        if key.is_ready() {
            ready.insert(key.name_any());
        }
    }
    let after = world.metrics().await;
    let per_key = |name: &str| {
        (sum(&after, name, &[]) - sum(&before, name, &[])) / f64::from(u16::try_from(KEYS).unwrap())
    };
    println!(
        "{KEYS} keys in {:.1} s; each {:.1} token calls, {:.1} API writes",
        begun.elapsed().as_secs_f64(),
        per_key("hsm_operator_hsm_calls_total"),
        per_key("hsm_operator_api_writes_total"),
    );

    set_resync(&world, Some(RESYNC)).await;
    let reconciled = |metrics: &str| sum(metrics, "hsm_operator_reconcile_total", &["\"key\""]);
    let keys: Api<HsmKey> = Api::all(world.client.clone());
    let all = keys.list_metadata(&Default::default()).await.unwrap().items.len();
    let all = f64::from(u32::try_from(all).unwrap());
    // The new leader looks at everything once, and asks the token what is on it.
    wait(&world, "the first look at everything", |metrics| reconciled(metrics) >= all).await;
    // What it found is written, and the partition's status with it; and what the token is like has been tried.
    let calls = |metrics: &str| sum(metrics, "hsm_operator_hsm_calls_total", &[&namespace]);
    let (mut quiet, mut still) = (world.metrics().await, 0);
    while still < 2 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let before = std::mem::replace(&mut quiet, world.metrics().await);
        // On a busy machine it takes a while until the token is reached at all.
        let same = calls(&quiet) > 0.0 && calls(&before) == calls(&quiet);
        still = if same { still + 1 } else { 0 };
    }
    // Refused keys of other tests are looked at more rarely: twice as many looks are every Ready key at least once.
    let enough = reconciled(&quiet) + 2.0 * all;
    let end = wait(&world, "a resync", |metrics| reconciled(metrics) >= enough).await;
    set_resync(&world, None).await;
    println!(
        "{} reconciles; the new leader called the token {} times for {KEYS} keys",
        reconciled(&end) - reconciled(&quiet),
        calls(&end),
    );
    assert_eq!(calls(&end), calls(&quiet), "calls of the token:\n{end}");
    let writes = |metrics: &str| sum(metrics, "hsm_operator_api_writes_total", &[]);
    assert_eq!(writes(&end), writes(&quiet), "API writes:\n{end}");
}

async fn wait(world: &World, what: &str, is: impl Fn(&str) -> bool) -> String {
    for _ in 0..300 {
        let metrics = world.metrics().await;
        if is(&metrics) {
            return metrics;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("{what} does not come:\n{}", world.metrics().await)
}

/// Restarts the controllers with another time between looks, and waits until one of them leads.
async fn set_resync(world: &World, period: Option<Duration>) {
    let leader = world.leader().await;
    let seconds = period.map_or(3600, |period| period.as_secs()).to_string();
    let change = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "controller", "env": [{"name": "HSM_OPERATOR_RESYNC_SECONDS", "value": seconds}]}
    ]}}}});
    let deployments = world.api::<Deployment>(OPERATOR);
    let patch = Patch::Strategic(&change);
    deployments.patch("hsm-operator-controller", &PatchParams::default(), &patch).await.unwrap();
    tools::kubectl(&[
        "rollout",
        "status",
        "-n",
        OPERATOR,
        "deployment/hsm-operator-controller",
        "--timeout=120s",
    ]);
    // An old one may have got the lease while it was still there.
    let mut leader = world.leader_after(&leader).await;
    while !is_new(world, &leader, &seconds).await {
        leader = world.leader_after(&leader).await;
    }
}

async fn is_new(world: &World, leader: &str, seconds: &str) -> bool {
    let name = leader.split_once('_').unwrap().0;
    let Some(pod) = world.api::<Pod>(OPERATOR).get_opt(name).await.unwrap() else { return false };
    let containers = pod.spec.unwrap().containers;
    let env = containers.into_iter().flat_map(|container| container.env.unwrap_or_default());
    let is = env
        .filter(|one| one.name == "HSM_OPERATOR_RESYNC_SECONDS")
        .all(|one| one.value.as_deref() == Some(seconds));
    is && pod.metadata.deletion_timestamp.is_none()
}
