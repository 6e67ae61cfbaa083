//! Two copies of a token: one is taken away, and the keys go on.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use hsm_operator::api::{HsmKey, HsmPartition, condition, replica::ReplicaStatus};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    caller::{ALL_VERBS, GATEWAYS, caller, default_partition},
    controller::sum,
    http::Gateways,
    partitions::{make_partition, partitions, put_pin},
    processes,
    resilience::{Load, body, point, verifies},
    tools::{self, kubectl},
    world::{OPERATOR, PATIENCE, Token, World},
};

const PIN: &str = "12345678";
/// Conditions while everything works, and while the primary is away.
const WELL: &[(&str, &str)] = &[("Ready", "True"), ("Creatable", "True"), ("Signable", "True")];
const AWAY: &[(&str, &str)] = &[("Ready", "False"), ("Creatable", "False"), ("Signable", "True")];

/// Kills the token-hosts of every pod whose environment says this: some modules do not notice that their files are gone.
async fn kill_hosts(world: &World, text: &str) {
    for component in ["controller", "gateway"] {
        for pod in world.pods(component).await {
            for id in processes::all_of_pod(&pod.name_any(), OPERATOR, "token-host") {
                let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
                if String::from_utf8_lossy(&environment).contains(text) {
                    // One that has just ended by itself is as good.
                    let _ = Command::new("kill").args(["-KILL", &id.to_string()]).status().unwrap();
                }
            }
        }
    }
}

/// Waits until every gateway, and the leader, has so many tokens of a partition that sign.
async fn everywhere(world: &World, partition: &str, count: u32) -> Duration {
    let begun = Instant::now();
    let label = format!("partition=\"{partition}\"");
    loop {
        let mut all = vec![world.metrics().await];
        for pod in world.pods("gateway").await {
            let address = pod.status.unwrap().pod_ip.unwrap();
            all.push(tools::output("curl", &["-sf", &format!("http://{address}:8080/metrics")], b""));
        }
        let signing = |metrics: &String| sum(metrics, "hsm_operator_replica_healthy", &[&label]);
        let counts: Vec<_> = all.iter().map(signing).collect();
        if counts.iter().all(|one| *one == f64::from(count)) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < PATIENCE, "{partition}: {counts:?} tokens sign");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Status and reason of a condition.
fn said(partition: &HsmPartition, kind: &str) -> (String, String, String) {
    let conditions = partition.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    condition::find(&conditions, kind)
        .map(|one| (one.status.clone(), one.reason.clone(), one.message.clone()))
        .unwrap_or_default()
}

/// Waits for the status of conditions.
async fn conditions(
    world: &World,
    name: &str,
    wanted: &'static [(&'static str, &'static str)],
) -> HsmPartition {
    let is = move |partition: &HsmPartition| {
        wanted.iter().all(|(kind, status)| said(partition, kind).0 == *status)
    };
    world.until(&partitions(world), name, "with other conditions", is).await
}

async fn replica(
    world: &World,
    name: &str,
    is: impl Fn(&ReplicaStatus) -> bool + Send + 'static,
) -> ReplicaStatus {
    let has = move |partition: &HsmPartition| partition.replica_status("b").is_some_and(&is);
    let partition = world.until(&partitions(world), name, "with another replica", has).await;
    partition.replica_status("b").unwrap().clone()
}

async fn declare(world: &World, name: &str, replicas: serde_json::Value) {
    let change = json!({"spec": {"replicas": replicas}});
    partitions(world).patch(name, &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
}

async fn sign(gateways: &Gateways, label: &str, point: &[u8]) {
    verifies(point, &gateways.post("/v1/synchronousSign", body(label)).await.with_status(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_goes_on_while_one_of_two_tokens_is_away() {
    let _alone = GATEWAYS.write().await;
    let world = World::new().await;
    // Other tests leave one.
    let _default = default_partition(None).await;
    for token in Token::BOTH {
        let name = world.namespace("replicas").await;
        let (place, copy) = (world.place(token, &name), world.place(token, &format!("{name}-b")));
        place.initialise(&name, PIN);
        put_pin(&world, &name, PIN).await;
        let mut spec = place.partition(&name, &name);
        spec["allowedNamespaces"] = json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
        make_partition(&world, &name, spec).await;
        // The namespace may use the shared partitions, too: this one is for its REST calls.
        let default = json!({"metadata": {"annotations": {"hsm-operator.io/default": "true"}}});
        partitions(&world).patch(&name, &PatchParams::default(), &Patch::Merge(&default)).await.unwrap();
        let partition = conditions(&world, &name, WELL).await;
        assert_eq!(said(&partition, "Signable").1, "Connected", "without replicas it is as Reachable is");
        world.make_key(&name, "k", token, json!({"partitionRef": {"name": name}})).await;
        let point = point(&world.ready(&name, "k").await);
        let (app, label) = (caller(&name, "app", ALL_VERBS), format!("{name}.k"));

        place.copy_to(&copy);
        let mut declared = json!([{"name": "b", "pkcs11": {"environment": copy.environment()}}]);
        declare(&world, &name, declared.clone()).await;
        let status = replica(&world, &name, |one| one.healthy).await;
        assert_eq!((&*status.reason, status.accepted_pin.is_some()), ("Healthy", true), "{status:?}");
        world.event("", &name, "ReplicaIn").await;
        everywhere(&world, &name, 2).await;
        let partition = conditions(&world, &name, &[("Signable", "True")]).await;
        assert_eq!(said(&partition, "Signable").1, "AllHealthy");

        // The primary is away, for everybody.
        let load = Load::start(&app, 8, &label, &point).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        place.take_away();
        kill_hosts(&world, &format!("/{name}/pod.conf")).await;
        everywhere(&world, &name, 1).await;
        let partition = conditions(&world, &name, AWAY).await;
        let (_, reason, message) = said(&partition, "Signable");
        assert!(
            reason == "Degraded" && message.contains("1 of 2") && message.contains("primary ("),
            "{message}"
        );
        assert_eq!(said(&partition, "Creatable").1, said(&partition, "Ready").1);

        // What exists goes on; nothing new is made, and everybody is told why.
        assert!(world.ready(&name, "k").await.is_ready());
        world.make_key(&name, "new", token, json!({"partitionRef": {"name": name}})).await;
        let waits = world.key_with_reason(&name, "new", "PartitionNotReady").await;
        assert!(waits.status.unwrap().key_id.is_none());
        // The gateway may see the partition a moment after us, and then waits for a key that does not come.
        let refused = async {
            for number in 0.. {
                let create = json!({"label": format!("{name}.rest{number}"), "algorithm": "ED",
                    "attributes": {"sign": true}, "policy": null});
                let answer = tokio::time::timeout(Duration::from_secs(2), app.post("/v1/key", create)).await;
                if let Ok(answer) = answer
                    && answer.status == 503
                {
                    return answer.is_error(503, 700, "in.subystem");
                }
            }
            unreachable!("there are numbers enough")
        };
        let refused = tokio::time::timeout(PATIENCE, refused).await.expect("it is refused");
        assert!(refused.contains("no keys can be made") && refused.contains(&name), "{refused}");
        tools::apply(&format!(
            "apiVersion: hsm-operator.io/v1alpha1\nkind: SigningRequest\nmetadata: {{name: r, namespace: {name}}}\n\
             spec: {{keyRef: {{name: k}}, payload: bQ==, signatureAlgorithm: SHA256_WITH_ECDSA}}\n"
        ));
        kubectl(&["wait", "-n", &name, "signingrequest/r", "--for=condition=Ready", "--timeout=60s"]);

        // It is back, and everything by itself.
        place.bring_back();
        let begun = Instant::now();
        let recovered = everywhere(&world, &name, 2).await;
        conditions(&world, &name, WELL).await;
        world.ready(&name, "new").await;
        println!(
            "{token:?}: both sign after {recovered:?}, the new key is Ready after {:?}",
            begun.elapsed()
        );
        assert!(recovered < Duration::from_secs(7), "{recovered:?}");
        // The new key is not on the replica, and nobody notices.
        let new = crate::resilience::point(&world.ready(&name, "new").await);
        for _ in 0..8 {
            sign(&app, &format!("{name}.new"), &new).await;
        }
        let (count, slowest) = load.end().await;
        println!("{token:?}: {count} signatures, none failed, the slowest took {slowest:?}");

        // A replica with another PIN: it is tried once, and the primary does not mind.
        let wrong = format!("{name}-b");
        put_pin(&world, &wrong, "87654321").await;
        declared[0]["pkcs11"]["pinSecretRef"] = json!({"name": wrong});
        declare(&world, &name, declared.clone()).await;
        let status = replica(&world, &name, |one| one.reason == "PinRejected").await;
        assert!(!status.healthy && status.rejected_pin.is_some(), "{status:?}");
        world.event("", &name, "ReplicaOut").await;
        for _ in 0..2 {
            let touched =
                json!({"metadata": {"annotations": {"test/touched": rand::random::<u64>().to_string()}}});
            partitions(&world).patch(&name, &PatchParams::default(), &Patch::Merge(&touched)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        let partition = conditions(&world, &name, WELL).await;
        assert!(
            said(&partition, "Signable").2.contains("b (PinRejected"),
            "{:?}",
            said(&partition, "Signable")
        );
        let tried = |component: &str| {
            let logs = world.logs(component);
            let is = |line: &&str| line.contains("is not tried again") && line.contains("CKR_PIN_INCORRECT");
            logs.lines().filter(is).filter(|line| line.contains(&name)).count()
        };
        assert_eq!((tried("controller"), tried("gateway")), (1, 0), "{token:?}");
        put_pin(&world, &wrong, PIN).await;
        replica(&world, &name, |one| one.healthy).await;

        // Not a copy: a token with other keys is never used.
        let other = world.place(token, &format!("{name}-c"));
        other.initialise(&name, PIN);
        declare(&world, &name, json!([{"name": "b", "pkcs11": {"environment": other.environment()}}])).await;
        let status = replica(&world, &name, |one| one.reason == "OtherKeys").await;
        assert!(!status.healthy && status.message.contains("replicate"), "{status:?}");
        for _ in 0..4 {
            sign(&app, &label, &point).await;
        }
        declare(&world, &name, json!([])).await;
        let none =
            |partition: &HsmPartition| partition.status.as_ref().is_some_and(|one| one.replicas.is_empty());
        let partition = world.until(&partitions(&world), &name, "without replicas", none).await;
        assert_eq!(said(&partition, "Signable").1, "Connected");
        sign(&app, &label, &point).await;
        for key in ["k", "new"] {
            world.delete(&world.api::<HsmKey>(&name), key).await;
        }
        world.delete(&partitions(&world), &name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_make_no_sense_are_refused() {
    let world = World::new().await;
    let name = world.namespace("bad-replicas").await;
    let spec = |replicas: serde_json::Value| {
        let mut spec =
            world.place(Token::SoftHsm, &format!("{name}-{}", rand::random::<u32>())).partition("x", "x");
        spec["replicas"] = replicas;
        json!({"apiVersion": "hsm-operator.io/v1alpha1", "kind": "HsmPartition", "metadata": {"name": name}, "spec": spec})
    };
    let one = |own: serde_json::Value| json!([{"name": "b", "pkcs11": own}]);
    for (replicas, why) in [
        (one(json!({})), "say what differs"),
        (one(json!({"slot": 1, "serial": "2"})), "at most one of"),
        (json!([{"name": "primary", "pkcs11": {"slot": 1}}]), "own token"),
        (json!([{"name": "b", "pkcs11": {"slot": 1}}, {"name": "b", "pkcs11": {"slot": 2}}]), "Duplicate"),
        (
            json!(
                (0..8).map(|n| json!({"name": format!("b{n}"), "pkcs11": {"slot": n}})).collect::<Vec<_>>()
            ),
            "at most 7",
        ),
    ] {
        let output =
            tools::run("kubectl", &["create", "-f", "-"], spec(replicas.clone()).to_string().as_bytes());
        let error = String::from_utf8_lossy(&output.stderr);
        let fits = error.to_lowercase().contains(&why.to_lowercase());
        assert!(!output.status.success() && fits, "{replicas}: {error}");
    }
}
