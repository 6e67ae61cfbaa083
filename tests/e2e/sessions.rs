//! `sessions: auto`: the number is measured, shown, and used by everybody; nobody who signs notices.

use std::time::Duration;

use hsm_operator::api::{HsmKey, HsmPartition, sessions::SessionsStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    caller::{GATEWAYS, caller},
    controller::sum,
    partitions::{make_partition, partitions, put_pin},
    resilience::{Load, body, point, verifies},
    tools::{self, kubectl},
    world::{OPERATOR, PATIENCE, Token, World},
};

/// Waits for the number to be what was measured.
async fn measured(world: &World, name: &str) -> SessionsStatus {
    let status = |partition: &HsmPartition| partition.status.as_ref()?.sessions.clone();
    let is = move |partition: &HsmPartition| status(partition).is_some_and(|one| one.reason == "Measured");
    let partition = world.until(&partitions(world), name, "measured", is).await;
    status(&partition).unwrap()
}

/// Waits until the leader and both gateways sign with so many.
async fn everywhere(world: &World, name: &str, count: i32) {
    let of = ListParams::default().labels("app.kubernetes.io/component=gateway");
    let label = format!("partition=\"{name}\"");
    let all = async {
        loop {
            let mut all = vec![world.metrics().await];
            for pod in world.api::<Pod>(OPERATOR).list(&of).await.unwrap().items {
                let address = pod.status.unwrap().pod_ip.unwrap();
                all.push(tools::output("curl", &["-sf", &format!("http://{address}:8080/metrics")], b""));
            }
            let sessions = |metrics: &String| sum(metrics, "hsm_operator_sessions", &[&label]);
            if all.len() == 3 && all.iter().map(sessions).all(|one| one == f64::from(count)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("not all sign with {count}"));
}

async fn set(world: &World, name: &str, sessions: Value) {
    let change = json!({ "spec": { "sessions": sessions } });
    partitions(world).patch(name, &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_sessions_is_measured_shown_and_used() {
    let _alone = GATEWAYS.write().await;
    let world = World::new().await;
    for token in Token::BOTH {
        let name = world.namespace("sessions").await;
        let place = world.place(token, &name);
        place.initialise(&name, "12345678");
        put_pin(&world, &name, "12345678").await;
        let mut spec = place.partition(&name, &name);
        spec["sessions"] = json!("auto");
        make_partition(&world, &name, spec).await;
        let first = measured(&world, &name).await;
        world.event("", &name, "SessionsMeasured").await;
        let tried: Vec<_> = first.measured.iter().map(|level| level.sessions).collect();
        assert!(tried.starts_with(&[1, 2, 4]) && tried.contains(&first.chosen), "{first:?}");
        assert!(first.measured_for.as_ref().unwrap().contains(&name), "{first:?}");
        everywhere(&world, &name, first.chosen).await;
        let doctor = std::process::Command::new(env!("CARGO_BIN_EXE_hsm-operator"))
            .args(["kubectl", "doctor", &name])
            .output()
            .unwrap();
        let doctor = String::from_utf8(doctor.stdout).unwrap();
        let line = format!("Sessions    {} in each token-host, chosen: ", first.chosen);
        assert!(doctor.contains(&line) && doctor.contains("            with 1: "), "{doctor}");

        world.make_key(&name, "k", token, json!({"partitionRef": {"name": name}})).await;
        let point = point(&world.ready(&name, "k").await);
        let app = caller(&name, "app", &["use"]);
        let label = format!("{name}.k");
        verifies(&point, &app.post("/v1/synchronousSign", body(&label)).await.with_status(200));
        let load = Load::start(&app, 8, &label, &point).await;
        // Another number, and measuring once more, on a token that is in use.
        set(&world, &name, json!(7)).await;
        everywhere(&world, &name, 7).await;
        assert_eq!(partitions(&world).get(&name).await.unwrap().status.unwrap().sessions, None);
        set(&world, &name, json!("auto")).await;
        let second = measured(&world, &name).await;
        everywhere(&world, &name, second.chosen).await;
        let (count, slowest) = load.end().await;
        println!(
            "{token:?}: {} and, under load, {} sessions; {count} signatures, the slowest took {slowest:?}",
            first.chosen, second.chosen
        );
        // It is measured once, whatever wakes the reconciler.
        let label = format!("partition=\"{name}\"");
        let probes = async || sum(&world.metrics().await, "hsm_operator_hsm_calls_total", &[&label, "probe"]);
        let before = probes().await;
        let touched = json!({"metadata": {"annotations": {"hsm-operator.io/take-inventory": "now"}}});
        partitions(&world).patch(&name, &PatchParams::default(), &Patch::Merge(&touched)).await.unwrap();
        let answered = |partition: &HsmPartition| {
            partition.metadata.annotations.as_ref().is_none_or(std::collections::BTreeMap::is_empty)
        };
        let after = world.until(&partitions(&world), &name, "looked at", answered).await;
        assert_eq!((after.status.unwrap().sessions, probes().await), (Some(second), before));
        world.delete(&world.api::<HsmKey>(&name), "k").await;
        world.delete(&partitions(&world), &name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_make_no_sense_are_refused_and_explained() {
    let world = World::new().await;
    let name = world.namespace("bad-sessions").await;
    let spec = world.place(Token::SoftHsm, &name).partition("x", "x");
    let apply = |sessions: Value| {
        let mut spec = spec.clone();
        spec["sessions"] = sessions;
        let partition = json!({
            "apiVersion": "hsm-operator.io/v1alpha1", "kind": "HsmPartition", "metadata": {"name": name}, "spec": spec
        });
        let args = ["apply", "--server-side", "--dry-run=server", "-f", "-"];
        tools::run("kubectl", &args, partition.to_string().as_bytes())
    };
    for good in [json!(1), json!(64), json!("auto")] {
        let output = apply(good.clone());
        assert!(output.status.success(), "{good}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for (bad, said) in [
        (json!(0), "greater than or equal to 1"),
        (json!(65), "less than or equal to 64"),
        (json!("8"), "'^auto$'"),
        (json!("Auto"), "'^auto$'"),
        (json!(1.5), "integer"),
        (json!(true), "integer"),
    ] {
        let output = apply(bad.clone());
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complaint.contains(said), "{bad}: {complaint}");
    }
    let explained = kubectl(&["explain", "hsmpartition.spec.sessions"]);
    assert!(explained.contains("1 to 64, or `auto`"), "{explained}");
}
