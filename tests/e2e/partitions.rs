//! HsmPartitions: every way in which a token is not reached, and back.

use std::process::Command;

use hsm_operator::api::{HsmKey, HsmPartition, condition};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    controller::{pod_of, sum},
    processes, tools,
    world::{OPERATOR, Token, World},
};

/// The API of partitions.
pub fn partitions(world: &World) -> Api<HsmPartition> {
    Api::all(world.client.clone())
}

/// Makes a partition.
pub async fn make_partition(world: &World, name: &str, spec: Value) {
    let partition = HsmPartition::new(name, serde_json::from_value(spec).unwrap());
    partitions(world).create(&PostParams::default(), &partition).await.unwrap();
}

/// Waits for the reason of the Ready condition, and returns its sentence.
pub async fn reason(world: &World, name: &str, wanted: &'static str) -> String {
    let is = move |partition: &HsmPartition| {
        let status = partition.status.as_ref();
        status
            .and_then(|status| condition::find(&status.conditions, condition::READY))
            .is_some_and(|ready| ready.reason == wanted)
    };
    let partition = world.until(&partitions(world), name, wanted, is).await;
    let conditions = partition.status.unwrap().conditions;
    let person = !matches!(wanted, "Ready" | "Connecting");
    assert_eq!(condition::is_true(&conditions, condition::STALLED), person, "{wanted}: {conditions:?}");
    assert_eq!(
        condition::is_true(&conditions, condition::REACHABLE),
        wanted == "Ready",
        "{wanted}: {conditions:?}"
    );
    condition::find(&conditions, condition::READY).unwrap().message.clone()
}

/// Puts a PIN into a Secret beside the operator.
pub async fn put_pin(world: &World, name: &str, pin: &str) {
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"pin": pin}});
    let params = PatchParams::apply("test").force();
    world.api::<Secret>(OPERATOR).patch(name, &params, &Patch::Apply(&secret)).await.unwrap();
}

async fn touch(world: &World, name: &str) {
    let change = json!({"metadata": {"annotations": {"test/touched": rand::random::<u64>().to_string()}}});
    partitions(world).patch(name, &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
}

/// Events about a partition, by reason.
fn events(name: &str, reason: &str) -> usize {
    let all = tools::kubectl(&["get", "events.events.k8s.io", "-A", "-o", "json"]);
    let all: Value = serde_json::from_str(&all).unwrap();
    let about = |event: &&Value| event["regarding"]["name"] == name && event["reason"] == reason;
    all["items"].as_array().unwrap().iter().filter(about).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_pin_is_tried_once_and_the_right_one_heals_without_a_restart() {
    let world = World::new().await;
    Token::with_both(async |token| {
        let name = world.namespace("pin").await;
        let place = world.place(token, &name);
        place.initialise(&name, "12345678");
        put_pin(&world, &name, "87654321").await;
        make_partition(&world, &name, place.partition(&name, &name)).await;
        let said = reason(&world, &name, "PinRejected").await;
        assert!(said.contains(&name) && said.contains("Secret"), "{said}");
        // Whatever wakes the reconciler: the same PIN is not tried again, by nobody.
        for _ in 0..3 {
            touch(&world, &name).await;
            tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        }
        assert_eq!(reason(&world, &name, "PinRejected").await, said);
        let tried = |component: &str| {
            let logs = world.logs(component);
            logs.lines().filter(|line| line.contains("CKR_PIN_INCORRECT") && line.contains(&name)).count()
        };
        assert_eq!((tried("controller"), tried("gateway")), (1, 0), "{token:?}");
        world.event("", &name, "PinRejected").await;
        assert_eq!(events(&name, "PinRejected"), 1);
        let status = partitions(&world).get(&name).await.unwrap().status.unwrap();
        assert!(status.rejected_pin.is_some() && status.accepted_pin.is_none());

        put_pin(&world, &name, "12345678").await;
        reason(&world, &name, "Ready").await;
        let status = partitions(&world).get(&name).await.unwrap().status.unwrap();
        assert!(status.rejected_pin.is_none() && status.accepted_pin.is_some());

        // The same for a token that is in use.
        put_pin(&world, &name, "87654321").await;
        reason(&world, &name, "PinRejected").await;
        put_pin(&world, &name, "12345678").await;
        reason(&world, &name, "Ready").await;
        world.delete(&world.api::<Secret>(OPERATOR), &name).await;
        reason(&world, &name, "PinMissing").await;
        put_pin(&world, &name, "12345678").await;
        reason(&world, &name, "Ready").await;
        world.delete(&partitions(&world), &name).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pin_is_waited_for() {
    let world = World::new().await;
    Token::with_both(async |token| {
        let name = world.namespace("no-pin").await;
        let place = world.place(token, &name);
        place.initialise(&name, "12345678");
        make_partition(&world, &name, place.partition(&name, &name)).await;
        let said = reason(&world, &name, "PinMissing").await;
        world.event("", &name, "PinMissing").await;
        assert!(said.contains(&format!("{OPERATOR}/{name}")), "{said}");
        let wrong = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"pln": "1"}});
        let wrong: Secret = serde_json::from_value(wrong).unwrap();
        world.api::<Secret>(OPERATOR).create(&PostParams::default(), &wrong).await.unwrap();
        let about = |partition: &HsmPartition| {
            let conditions = &partition.status.as_ref().unwrap().conditions;
            condition::find(conditions, condition::READY).unwrap().message.contains("no key 'pin'")
        };
        world.until(&partitions(&world), &name, "told of the key", about).await;
        put_pin(&world, &name, "12345678").await;
        reason(&world, &name, "Ready").await;
        world.delete(&partitions(&world), &name).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_is_missing_or_no_pkcs11_module_is_named_and_heals() {
    let world = World::new().await;
    // A shared library that every machine has: this program runs with it.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let other = maps.split_whitespace().find(|word| word.contains("/libgcc_s.so")).unwrap();
    let libraries = [
        ("missing", None),
        ("no library", Some(b"#!/bin/sh\nexit 0\n".to_vec())),
        ("another library", Some(std::fs::read(other).unwrap())),
    ];
    Token::with_both(async |token| {
        for (what, content) in &libraries {
            let name = world.namespace("library").await;
            let place = world.place(token, &name);
            place.initialise(&name, "12345678");
            put_pin(&world, &name, "12345678").await;
            let library = place.path("module.so");
            if let Some(content) = content {
                std::fs::write(&library, content).unwrap();
            }
            let mut spec = place.partition(&name, &name);
            spec["pkcs11"]["library"] = json!(format!("/hsm/{name}/module.so"));
            make_partition(&world, &name, spec).await;
            let said = reason(&world, &name, "LibraryNotLoaded").await;
            assert!(said.contains(&format!("/hsm/{name}/module.so")), "{token:?} {what}: {said}");
            // It comes after the condition.
            world.event("", &name, "LibraryNotLoaded").await;
            assert_eq!(events(&name, "LibraryNotLoaded"), 1, "{token:?} {what}");
            // Nobody tells the operator that the file is there now.
            let real = world.volume.join(place.library().trim_start_matches("/hsm/"));
            std::fs::write(place.path("new.so"), std::fs::read(real).unwrap()).unwrap();
            std::fs::rename(place.path("new.so"), library).unwrap();
            reason(&world, &name, "Ready").await;
            world.delete(&partitions(&world), &name).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_there_is_looked_for_among_those_that_are() {
    let world = World::new().await;
    Token::with_both(async |token| {
        let name = world.namespace("token").await;
        let place = world.place(token, &name);
        place.initialise(&name, "12345678");
        put_pin(&world, &name, "12345678").await;
        make_partition(&world, &name, place.partition("elsewhere", &name)).await;
        let said = reason(&world, &name, "TokenNotFound").await;
        world.event("", &name, "TokenNotFound").await;
        assert!(said.contains("elsewhere") && said.contains(&name), "{token:?}: {said}");
        let right = json!({"spec": {"pkcs11": {"tokenLabel": name}}});
        partitions(&world).patch(&name, &PatchParams::default(), &Patch::Merge(&right)).await.unwrap();
        let said = reason(&world, &name, "Ready").await;
        assert!(said.contains(&name) && said.contains("RSA"), "{said}");
        world.delete(&partitions(&world), &name).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_step_that_brought_a_token_back_is_told_and_counted() {
    // What is killed is there for every partition.
    let world = World::alone().await;
    let said = |partition: &HsmPartition| {
        let conditions = &partition.status.as_ref().unwrap().conditions;
        condition::find(conditions, condition::REACHABLE).unwrap().message.clone()
    };
    let counted = async |token: Token| {
        let label = format!("partition=\"{}\"", token.partition());
        sum(&world.metrics().await, "hsm_operator_recoveries_total", &[&label, "rung=\"process\""])
    };
    let mut before = Vec::new();
    for token in Token::BOTH {
        let partition = partitions(&world).get(token.partition()).await.unwrap();
        before.push((token, said(&partition), counted(token).await));
    }
    let killed = processes::all_of_pod(pod_of(&world.leader().await), OPERATOR, "token-host");
    assert!(killed.len() >= 2, "only {} token-hosts", killed.len());
    for id in killed {
        // One that has just ended by itself is as good.
        let _ = Command::new("kill").args(["-KILL", &id.to_string()]).status().unwrap();
    }
    for (token, before, count) in before {
        let told = move |partition: &HsmPartition| {
            let now = said(partition);
            now != before && now.contains("it was brought back by a new token-host at")
        };
        world.until(&partitions(&world), token.partition(), "brought back", told).await;
        assert!(counted(token).await > count, "{token:?}: the step is not counted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_stays_as_long_as_keys_refer_to_it() {
    let world = World::new().await;
    Token::with_both(async |token| {
        let name = world.namespace("in-use").await;
        let place = world.place(token, &name);
        place.initialise(&name, "12345678");
        put_pin(&world, &name, "12345678").await;
        make_partition(&world, &name, place.partition(&name, &name)).await;
        world
            .make_key(&name, "k", token, json!({"partitionRef": {"name": name}, "deletionPolicy": "Destroy"}))
            .await;
        world.ready(&name, "k").await;
        let _ = partitions(&world).delete(&name, &DeleteParams::default()).await.unwrap();
        let in_use = |partition: &HsmPartition| {
            let conditions = &partition.status.as_ref().unwrap().conditions;
            condition::find(conditions, "Deletable").is_some_and(|one| one.reason == "InUse")
        };
        let partition = world.until(&partitions(&world), &name, "InUse", in_use).await;
        let conditions = partition.status.unwrap().conditions;
        let said = &condition::find(&conditions, "Deletable").unwrap().message;
        assert!(said.contains(&format!("{name}/k")), "{said}");
        assert!(condition::is_true(&conditions, condition::READY), "its keys go on");
        world.event("", &name, "InUse").await;
        assert_eq!(events(&name, "InUse"), 1);
        // The key is destroyed on the token that is about to be forgotten.
        let begun = std::time::Instant::now();
        world.delete(&world.api::<HsmKey>(&name), "k").await;
        let gone =
            kube::runtime::wait::await_condition(partitions(&world), &name, |one: Option<&HsmPartition>| {
                one.is_none()
            });
        tokio::time::timeout(crate::world::PATIENCE, gone).await.unwrap().unwrap();
        assert!(begun.elapsed().as_secs() < 15, "{token:?}: {:?}", begun.elapsed());
        let left = place.listing(&name, "12345678");
        assert!(!left.contains(&format!("{name}.k")), "{left}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_nobody_claims_are_listed_until_somebody_does() {
    let world = World::new().await;
    for token in Token::BOTH {
        let name = world.namespace("unclaimed").await;
        let place = world.place(token, &name);
        place.initialise(&name, "12345678");
        place.pkcs11(
            &name,
            "12345678",
            &["--keypairgen", "--key-type", "EC:prime256v1", "--id", "0a0b", "--label", "stray"],
        );
        put_pin(&world, &name, "12345678").await;
        make_partition(&world, &name, place.partition(&name, &name)).await;
        reason(&world, &name, "Ready").await;
        let unclaimed = async |what: &'static str, wanted: &'static [(&'static str, &'static str)]| {
            let is = move |partition: &HsmPartition| {
                let all =
                    partition.status.as_ref().and_then(|status| status.unclaimed.clone()).unwrap_or_default();
                let keys: Vec<_> = all.keys.iter().map(|key| (&*key.id, &*key.label)).collect();
                keys == wanted && usize::try_from(all.count) == Ok(wanted.len())
            };
            world.until(&partitions(&world), &name, what, is).await
        };
        unclaimed("listing the stray key", &[("0a0b", "stray")]).await;
        world
            .make_key(
                &name,
                "k",
                token,
                json!({"partitionRef": {"name": name}, "label": "stray", "adopt": true}),
            )
            .await;
        world.ready(&name, "k").await;
        let partition = unclaimed("listing nothing", &[]).await;
        assert_eq!(partition.status.unwrap().key_count, Some(1));
        world.delete(&world.api::<HsmKey>(&name), "k").await;
        unclaimed("listing the key again", &[("0a0b", "stray")]).await;
        world.delete(&partitions(&world), &name).await;
    }
}

/// What an older version of the CRDs let in stays stored when they become stricter.
#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_object_is_told_so_and_the_others_go_on() {
    let world = World::alone().await;
    let namespace = world.namespace("malformed").await;
    let crds = ["hsmkeys", "hsmpartitions", "signingrequests"].map(|kind| format!("{kind}.hsm-operator.io"));
    let strict: Vec<String> =
        crds.iter().map(|name| tools::kubectl(&["get", "crd", name, "-o", "json"])).collect();
    for crd in &strict {
        let mut crd: Value = serde_json::from_str(crd).unwrap();
        loosen(&mut crd);
        tools::output("kubectl", &["replace", "-f", "-"], crd.to_string().as_bytes());
    }
    let objects = format!(
        "apiVersion: hsm-operator.io/v1alpha1\nkind: HsmKey\nmetadata: {{name: bad, namespace: {namespace}}}\n\
         spec: {{partitionRef: {{name: demo}}, algorithm: ROT13}}\n---\n\
         apiVersion: hsm-operator.io/v1alpha1\nkind: HsmPartition\nmetadata: {{name: {namespace}}}\n\
         spec: {{pkcs11: {{library: 7}}}}\n---\n\
         apiVersion: hsm-operator.io/v1alpha1\nkind: SigningRequest\nmetadata: {{name: bad, namespace: {namespace}}}\n\
         spec: {{keyRef: {{name: k}}, payload: aGVsbG8=, signatureAlgorithm: ROT13}}\n"
    );
    // The API server takes a moment to follow its own CRDs.
    for attempt in 0.. {
        let output = tools::run("kubectl", &["apply", "--server-side", "-f", "-"], objects.as_bytes());
        if output.status.success() {
            break;
        }
        assert!(attempt < 100, "{}", String::from_utf8_lossy(&output.stderr));
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    for crd in &strict {
        let mut crd: Value = serde_json::from_str(crd).unwrap();
        crd["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        tools::output("kubectl", &["replace", "-f", "-"], crd.to_string().as_bytes());
    }
    for (kind, name) in [("hsmkey", "bad"), ("hsmpartition", &namespace), ("signingrequest", "bad")] {
        let wait = ["wait", "-n", &namespace, kind, name, "--for=condition=Stalled", "--timeout=60s"];
        tools::kubectl(&wait);
        let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].reason}"#;
        assert_eq!(tools::kubectl(&["get", "-n", &namespace, kind, name, "-o", path]), "Malformed", "{kind}");
        world.event(if kind == "hsmpartition" { "" } else { &namespace }, name, "Malformed").await;
    }
    for token in Token::BOTH {
        let name = format!("{token:?}").to_lowercase();
        world.make_key(&namespace, &name, token, json!({})).await;
        world.ready(&namespace, &name).await;
        let wanted = json!({"metadata": {"annotations": {"test/touched": "yes"}}});
        world
            .api::<HsmKey>(&namespace)
            .patch(&name, &PatchParams::default(), &Patch::Merge(&wanted))
            .await
            .unwrap();
    }
    tools::kubectl(&["delete", "-n", &namespace, "hsmkey/bad", "signingrequest/bad"]);
    tools::kubectl(&["delete", "hsmpartition", &namespace]);
}

/// Lets anything into the spec.
fn loosen(crd: &mut Value) {
    crd["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    for version in crd["spec"]["versions"].as_array_mut().unwrap() {
        version["schema"]["openAPIV3Schema"]["properties"]["spec"] =
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        version.as_object_mut().unwrap().remove("selectableFields");
    }
}
