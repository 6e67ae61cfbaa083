//! HsmKeys: made, adopted, refused, kept, destroyed.

use hsm_operator::api::{HsmKey, HsmPartition, MISSED, SigningRequest, condition, signing_request::State};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    caller::{GATEWAYS, caller},
    host::{PRIVATE, PUBLIC},
    tools,
    world::{OPERATOR, Token, World, ready_reason},
};

const P256: &str = "1.2.840.10045.3.1.7";

fn message(key: &HsmKey) -> String {
    let conditions = &key.status.as_ref().unwrap().conditions;
    condition::find(conditions, condition::READY).unwrap().message.clone()
}

fn is_stalled(key: &HsmKey) -> bool {
    key.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, condition::STALLED))
}

fn key_id(key: &HsmKey) -> String {
    key.status.as_ref().unwrap().key_id.clone().unwrap()
}

async fn patch(world: &World, namespace: &str, name: &str, change: Value) -> kube::Result<HsmKey> {
    world.api::<HsmKey>(namespace).patch(name, &PatchParams::default(), &Patch::Merge(&change)).await
}

/// Has an object looked at although nothing that matters changed.
async fn touch(world: &World, namespace: &str, name: &str) {
    let now = format!("{}", rand::random::<u64>());
    patch(world, namespace, name, json!({"metadata": {"annotations": {"test/touched": now}}})).await.unwrap();
}

/// Tools that wait for objects take one without a status for finished.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_nobody_looked_at_yet_says_so() {
    let world = World::new().await;
    let namespace = world.namespace("pending").await;
    // Of a partition that does not exist, and not stored: nobody will look at it.
    let key = json!({"apiVersion": "hsm-operator.io/v1alpha1", "kind": "HsmKey", "metadata": {"name": "k"},
        "spec": {"partitionRef": {"name": "none"}, "algorithm": "ED"}});
    let arguments = ["create", "-n", &namespace, "--dry-run=server", "-o", "json", "-f", "-"];
    let said = tools::output("kubectl", &arguments, key.to_string().as_bytes());
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let ready = &said["status"]["conditions"][0];
    assert_eq!(
        (&ready["type"], &ready["status"], &ready["reason"]),
        (&json!("Ready"), &json!("Unknown"), &json!("Pending"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_makes_every_algorithm_or_says_what_it_offers_instead() {
    let everywhere = ["rsa-2048", "rsa-3072", "p-256", "p-384", "p-521", "ed25519", "aes-256"];
    let world = World::new().await;
    for token in Token::BOTH {
        let namespace = world.namespace("algorithms").await;
        let ec = |oid: &str| json!({"algorithm": "EC", "curveOid": oid});
        let sized = |algorithm: &str, size: i32| {
            let attributes =
                if algorithm == "AES" { json!({"decrypt": true}) } else { json!({"sign": true}) };
            json!({"algorithm": algorithm, "keySize": size, "curveOid": null, "attributes": attributes})
        };
        let all = [
            ("rsa-2048", sized("RSA", 2048)),
            ("rsa-3072", sized("RSA", 3072)),
            ("p-224", ec("1.3.132.0.33")),
            ("p-256", ec(P256)),
            ("p-384", ec("1.3.132.0.34")),
            ("p-521", ec("1.3.132.0.35")),
            ("secp256k1", ec("1.3.132.0.10")),
            ("brainpool-256", ec("1.3.36.3.3.2.8.1.1.7")),
            ("brainpool-384", ec("1.3.36.3.3.2.8.1.1.11")),
            ("brainpool-512", ec("1.3.36.3.3.2.8.1.1.13")),
            ("ed25519", json!({"algorithm": "ED", "curveOid": null})),
            ("aes-256", sized("AES", 256)),
            ("hopeless", json!({"algorithm": "BLS", "curveOid": null})),
        ];
        for (name, spec) in &all {
            world.make_key(&namespace, name, token, spec.clone()).await;
        }
        let mut made = Vec::new();
        for (name, spec) in &all {
            let settled = |key: &HsmKey| key.is_ready() || is_stalled(key);
            let key = world.until(&world.api::<HsmKey>(&namespace), name, "settled", settled).await;
            if key.is_ready() {
                made.push(*name);
                let status = key.status.as_ref().unwrap();
                if let Some(curve) = spec["curveOid"].as_str() {
                    assert_eq!(status.curve_oid.as_deref(), Some(curve), "{token:?} {name}");
                }
                let secret = world.api::<Secret>(&namespace).get(&format!("{name}-public")).await.unwrap();
                match secret.data.unwrap().get("publicKey.pem") {
                    Some(pem) => {
                        drop(tools::output("openssl", &["pkey", "-pubin", "-noout", "-text"], &pem.0))
                    }
                    None => assert_eq!(*name, "aes-256"),
                }
            } else {
                assert_eq!(ready_reason(&key), Some("Unsupported"), "{token:?} {name}: {}", message(&key));
                for word in [token.partition(), key.spec.algorithm.name(), "RSA", "AES"] {
                    assert!(message(&key).contains(word), "{token:?} {name}: {}", message(&key));
                }
            }
        }
        println!("{token:?} makes {made:?}");
        assert!(everywhere.iter().all(|name| made.contains(name)), "{token:?} makes only {made:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_made_elsewhere_is_taken_over_only_with_adopt() {
    // SoftHSM 2.6 does not show a process what another one wrote while that process wrote something itself, until somebody
    // else writes again: while other tests have keys made, nobody would see this one.
    let world = World::alone().await;
    for token in Token::BOTH {
        let namespace = world.namespace("adopt").await;
        let label = format!("{namespace}.k");
        let make = ["--keypairgen", "--key-type", "EC:prime256v1", "--id", "a1b2c3", "--label", &label];
        // The same identifier on both runs would be two keys of one identifier.
        let id = format!("{:016x}", rand::random::<u64>());
        let make: Vec<&str> = make.iter().map(|arg| if *arg == "a1b2c3" { &*id } else { arg }).collect();
        world.pkcs11(token, &make).await;
        let other = namespace.clone() + "-other";
        world
            .pkcs11(
                token,
                &[
                    "--keypairgen",
                    "--key-type",
                    "EC:secp384r1",
                    "--id",
                    &format!("{id}01"),
                    "--label",
                    &other,
                ],
            )
            .await;

        world.make_key(&namespace, "k", token, json!({})).await;
        let refused = world.key_with_reason(&namespace, "k", "Conflict").await;
        world.event(&namespace, "k", "Conflict").await;
        assert!(is_stalled(&refused) && message(&refused).contains("adopt: true"), "{}", message(&refused));
        patch(&world, &namespace, "k", json!({"spec": {"adopt": true}})).await.unwrap();
        let adopted = world.ready(&namespace, "k").await;
        assert_eq!(key_id(&adopted), id, "{token:?}");
        let generated =
            condition::find(&adopted.status.as_ref().unwrap().conditions, condition::GENERATED).unwrap();
        assert_eq!(generated.reason, "Adopted", "{token:?}");
        assert_eq!(world.classes(token, &label).await, [PRIVATE, PUBLIC], "{token:?}");

        // What is on the token must be what the manifest says, and there must be something.
        world.make_key(&namespace, "nothing", token, json!({"adopt": true})).await;
        world.key_with_reason(&namespace, "nothing", "NothingToAdopt").await;
        world.make_key(&namespace, "other", token, json!({"adopt": true, "label": other})).await;
        world.key_with_reason(&namespace, "other", "AttributesDiffer").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_that_attest_cannot_be_adopted() {
    let world = World::new().await;
    for token in Token::BOTH {
        let namespace = world.namespace("own-keys").await;
        for label in ["hsm-operator-attestation-root", "hsm-operator-attestation-ca", "attestation-key"] {
            let spec =
                json!({"adopt": true, "label": label, "algorithm": "RSA", "keySize": 4096, "curveOid": null});
            world.make_key(&namespace, label, token, spec).await;
            let refused = world.key_with_reason(&namespace, label, "Conflict").await;
            assert!(message(&refused).contains("attests others"), "{token:?}: {}", message(&refused));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_claims_on_a_label_the_older_wins_and_the_other_follows_when_it_goes() {
    let world = World::new().await;
    for token in Token::BOTH {
        let (first, second) = (world.namespace("claim").await, world.namespace("claim").await);
        let label = format!("{first}.shared");
        for policy in ["Retain", "Destroy"] {
            let spec = json!({"label": label, "deletionPolicy": policy, "adopt": policy == "Destroy"});
            world.make_key(&first, "older", token, spec).await;
            let older = world.ready(&first, "older").await;
            world
                .make_key(&second, "younger", token, json!({"label": label, "deletionPolicy": "Destroy"}))
                .await;
            let younger = world.key_with_reason(&second, "younger", "Conflict").await;
            assert!(message(&younger).contains(&format!("{first}/older")), "{}", message(&younger));
            world.delete(&world.api::<HsmKey>(&first), "older").await;
            if policy == "Retain" {
                // The key is still there: to be taken over, or for somebody else.
                let about = |key: &HsmKey| {
                    ready_reason(key) == Some("Conflict") && message(key).contains("adopt: true")
                };
                world.until(&world.api::<HsmKey>(&second), "younger", "told to adopt", about).await;
                world.delete(&world.api::<HsmKey>(&second), "younger").await;
                assert_eq!(
                    world.classes(token, &label).await,
                    [PRIVATE, PUBLIC],
                    "{token:?}: not the loser's to destroy"
                );
            } else {
                let younger = world.ready(&second, "younger").await;
                assert_ne!(key_id(&older), key_id(&younger));
                world.delete(&world.api::<HsmKey>(&second), "younger").await;
                assert!(world.classes(token, &label).await.is_empty(), "{token:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_claims_at_once_exactly_one_gets_a_key() {
    let world = World::new().await;
    for token in Token::BOTH {
        let namespace = world.namespace("race").await;
        let label = format!("{namespace}.wanted");
        let names: Vec<String> = (0..8).map(|number| format!("k{number}")).collect();
        let makes = names.iter().map(|name| world.make_key(&namespace, name, token, json!({"label": label})));
        futures::future::join_all(makes).await;
        let mut ready = 0;
        for name in &names {
            let settled = |key: &HsmKey| key.is_ready() || is_stalled(key);
            let key = world.until(&world.api::<HsmKey>(&namespace), name, "settled", settled).await;
            ready += usize::from(key.is_ready());
        }
        assert_eq!(ready, 1, "{token:?}");
        assert_eq!(world.classes(token, &label).await, [PRIVATE, PUBLIC], "{token:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_key_stays_and_a_destroyed_one_leaves_nothing() {
    let world = World::new().await;
    Token::with_both(async |token| {
        let namespace = world.namespace("delete").await;
        for (name, policy, left) in [("kept", "Retain", vec![PRIVATE, PUBLIC]), ("gone", "Destroy", vec![])] {
            world.make_key(&namespace, name, token, json!({"deletionPolicy": policy})).await;
            world.ready(&namespace, name).await;
            let label = format!("{namespace}.{name}");
            assert_eq!(world.classes(token, &label).await, [PRIVATE, PUBLIC], "{token:?} {name}");
            world.delete(&world.api::<HsmKey>(&namespace), name).await;
            assert_eq!(world.classes(token, &label).await, left, "{token:?} {name}");
        }
        // The retained one is listed where the partition's keeper looks.
        let label = format!("{namespace}.kept");
        let listed = move |partition: &HsmPartition| {
            let unclaimed = partition.status.as_ref().and_then(|status| status.unclaimed.as_ref());
            // Only the first 20 are listed, by label.
            unclaimed.is_some_and(|all| all.count > 20 || all.keys.iter().any(|key| key.label == label))
        };
        let partitions: Api<HsmPartition> = Api::all(world.client.clone());
        world.until(&partitions, token.partition(), "listing the unclaimed key", listed).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_refuses_what_cannot_be_and_what_cannot_change() {
    let world = World::new().await;
    let namespace = world.namespace("immutable").await;
    let api = world.api::<HsmKey>(&namespace);
    let try_create = async |spec: Value| {
        let key = json!({"apiVersion": "hsm-operator.io/v1alpha1", "kind": "HsmKey", "metadata": {"name": "x"}, "spec": spec});
        let file = key.to_string();
        let output = tools::run(
            "kubectl",
            &["create", "-n", &namespace, "--dry-run=server", "-f", "-"],
            file.as_bytes(),
        );
        assert!(!output.status.success(), "accepted: {file}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let base = |more: Value| {
        let mut spec = json!({"partitionRef": {"name": "demo"}, "algorithm": "EC", "curveOid": P256});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    for (spec, says) in [
        (base(json!({"deletionPolicy": "Destroy"})), "needs attributes.destroyable"),
        (
            base(json!({"deletionPolicy": "Destroy", "attributes": {"destroyable": false}})),
            "needs attributes.destroyable",
        ),
        (base(json!({"label": "a/b"})), "starts a derivation path"),
        (base(json!({"label": ""})), "spec.label"),
        (base(json!({"label": "x".repeat(256)})), "spec.label"),
        (base(json!({"publicKeySecretName": "No_Name"})), "spec.publicKeySecretName"),
        (base(json!({"algorithm": "ROT13"})), "spec.algorithm"),
        (base(json!({"password": {"secretName": "hsm-demo-pin"}})), "spec.password.secretName"),
        (base(json!({"policy": {"ruleUse": null}})), "spec.policy.keyStatus"),
        (
            base(json!({"policy": {"keyStatus": {"blocked": false}}, "attributes": {"extractable": true}})),
            "never extractable",
        ),
        (base(json!({"algorithm": "LMS", "source": "Imported"})), "have a state and no copies"),
        (
            base(json!({"algorithm": "XMSS-SHA256_10_256", "attributes": {"extractable": true}})),
            "have a state and no copies",
        ),
        (json!({"partitionRef": {"name": "demo"}, "algorithm": "EC"}), "needs a curveOid"),
        (json!({"partitionRef": {"name": "demo"}, "algorithm": "RSA"}), "need a keySize"),
    ] {
        let said = try_create(spec).await;
        assert!(said.contains(says), "{says}: {said}");
    }

    let full = json!({"label": format!("{namespace}.full"), "attributes": {"sign": true}});
    world.make_key(&namespace, "full", Token::SoftHsm, full).await;
    world
        .make_key(
            &namespace,
            "rsa",
            Token::SoftHsm,
            json!({"algorithm": "RSA", "keySize": 2048, "curveOid": null}),
        )
        .await;
    let bare = HsmKey::new("bare", serde_json::from_value(base(json!({}))).unwrap());
    api.create(&PostParams::default(), &bare).await.unwrap();
    for (name, change, says) in [
        ("full", json!({"partitionRef": {"name": "other"}}), "partitionRef cannot change"),
        ("full", json!({"algorithm": "ED"}), "algorithm cannot change"),
        ("full", json!({"label": "other"}), "label cannot change"),
        ("full", json!({"label": null}), "label cannot change"),
        ("bare", json!({"label": "added"}), "label cannot change"),
        ("full", json!({"curveOid": "1.3.132.0.34"}), "curveOid cannot change"),
        ("full", json!({"curveOid": null}), "curveOid"),
        ("rsa", json!({"keySize": 4096}), "keySize cannot change"),
        ("rsa", json!({"keySize": null}), "keySize"),
        ("bare", json!({"keySize": 256}), "keySize cannot change"),
        ("full", json!({"attributes": {"sign": false}}), "attributes cannot change"),
        ("full", json!({"attributes": {"sign": null}}), "attributes cannot change"),
        ("full", json!({"attributes": null}), "attributes cannot change"),
        ("bare", json!({"attributes": {"decrypt": true}}), "attributes cannot change"),
    ] {
        let refused = patch(&world, &namespace, name, json!({"spec": change})).await;
        let said = refused.err().unwrap_or_else(|| panic!("{name} {change} was accepted")).to_string();
        assert!(said.contains(says), "{name} {change}: {said}");
    }
    // What may change, may.
    patch(&world, &namespace, "full", json!({"spec": {"adopt": true}})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_no_token_takes_is_refused_by_a_condition() {
    let world = World::new().await;
    let namespace = world.namespace("labels").await;
    for (name, label) in [("control", "a\u{7}b".to_owned()), ("bytes", "ä".repeat(200))] {
        world.make_key(&namespace, name, Token::SoftHsm, json!({"label": label})).await;
        let refused = world.key_with_reason(&namespace, name, "InvalidSpec").await;
        assert!(is_stalled(&refused) && message(&refused).contains("key name"), "{}", message(&refused));
    }
    // Anything else goes, as over REST.
    for token in Token::BOTH {
        let label = format!("{namespace} Ünïcode_{token:?} +.#");
        world
            .make_key(&namespace, &format!("{token:?}").to_lowercase(), token, json!({"label": label}))
            .await;
        let key = world.ready(&namespace, &format!("{token:?}").to_lowercase()).await;
        assert_eq!(key.status.unwrap().label, Some(label));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_gone_is_said_to_be_missing_and_never_made_again() {
    let world = World::new().await;
    Token::with_both(async |token| {
        let namespace = world.namespace("missing").await;
        let label = format!("{namespace}.k");
        world.make_key(&namespace, "k", token, json!({})).await;
        let id = key_id(&world.ready(&namespace, "k").await);
        // The handle of a key that was used is remembered by whoever used it.
        for name in ["before", "after"] {
            let request = format!(
                "{{apiVersion: hsm-operator.io/v1alpha1, kind: SigningRequest, metadata: {{name: {name}, namespace: {namespace}}}, \
                 spec: {{keyRef: {{name: k}}, payload: aGVsbG8=, signatureAlgorithm: SHA256_WITH_ECDSA}}}}"
            );
            tools::apply(&request);
            let finished = |request: &SigningRequest| {
                request.status.as_ref().and_then(|status| status.state).is_some_and(State::is_final)
            };
            let request =
                world.until(&world.api::<SigningRequest>(&namespace), name, "finished", finished).await;
            let status = request.status.unwrap();
            if name == "before" {
                assert_eq!(status.state, Some(State::Executed), "{token:?} {:?}", status.conditions);
                world.delete_pair(token, &id).await;
            } else {
                assert_eq!(status.state, Some(State::Failed), "{token:?}");
                let stalled = condition::find(&status.conditions, condition::STALLED).unwrap();
                assert_eq!(stalled.reason, "MissingOnToken", "{token:?}: {}", stalled.message);
            }
        }
        let missing = world.key_with_reason(&namespace, "k", "MissingOnToken").await;
        world.event(&namespace, "k", "MissingOnToken").await;
        assert!(is_stalled(&missing) && message(&missing).contains(&id), "{}", message(&missing));
        let seen = missing.resource_version();
        touch(&world, &namespace, "k").await;
        // A second key makes its way through the same queue: the first was looked at before.
        world.make_key(&namespace, "later", token, json!({})).await;
        world.ready(&namespace, "later").await;
        let still = world.api::<HsmKey>(&namespace).get("k").await.unwrap();
        assert_ne!(still.resource_version(), seen);
        assert_eq!(ready_reason(&still), Some("MissingOnToken"), "{token:?}");
        assert_eq!(world.classes(token, &label).await, [""; 0], "{token:?} {id}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_rest_caller_misses_is_said_to_be_missing() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    Token::with_both(async |token| {
        let namespace = world.namespace("missed").await;
        world.make_key(&namespace, "k", token, json!({})).await;
        let id = key_id(&world.ready(&namespace, "k").await);
        let app = caller(&namespace, "app", &["use"]);
        let sign = json!({ "signRequest": {
            "payload": "aGVsbG8=", "signKeyName": format!("{namespace}.k"), "signatureAlgorithm": "SHA256_WITH_ECDSA"
        }});
        assert_eq!(app.post("/v1/synchronousSign", sign.clone()).await.status, 200, "{token:?}");
        world.delete_pair(token, &id).await;
        app.post("/v1/synchronousSign", sign).await.is_error(404, 650, "key.not.existent");
        let missing = world.key_with_reason(&namespace, "k", "MissingOnToken").await;
        assert!(is_stalled(&missing) && message(&missing).contains(&id), "{}", message(&missing));
        let asked = |key: &HsmKey| !key.annotations().contains_key(MISSED);
        world.until(&world.api::<HsmKey>(&namespace), "k", "no longer to be looked at", asked).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_somebody_else_is_not_touched_and_ours_is_written_again() {
    let world = World::new().await;
    for token in Token::BOTH {
        let namespace = world.namespace("secrets").await;
        let secrets = world.api::<Secret>(&namespace);
        let theirs = json!({"metadata": {"name": "k-public"}, "stringData": {"important": "yes"}});
        let theirs: Secret = serde_json::from_value(theirs).unwrap();
        let theirs = secrets.create(&PostParams::default(), &theirs).await.unwrap();
        world.make_key(&namespace, "k", token, json!({})).await;
        let refused = world.key_with_reason(&namespace, "k", "SecretConflict").await;
        world.event(&namespace, "k", "SecretConflict").await;
        assert!(is_stalled(&refused) && message(&refused).contains("k-public"), "{}", message(&refused));
        assert_eq!(secrets.get("k-public").await.unwrap(), theirs, "{token:?}");

        // Another name helps at once.
        patch(&world, &namespace, "k", json!({"spec": {"publicKeySecretName": "mine"}})).await.unwrap();
        world.ready(&namespace, "k").await;
        let mine = secrets.get("mine").await.unwrap();
        assert_eq!(secrets.get("k-public").await.unwrap(), theirs, "{token:?}");

        let _ = secrets.delete("mine", &DeleteParams::default()).await.unwrap();
        touch(&world, &namespace, "k").await;
        let back =
            world.until(&secrets, "mine", "there again", |secret: &Secret| secret.data.is_some()).await;
        assert_eq!(back.data, mine.data, "{token:?}");
        let names: Vec<_> = back.data.unwrap().into_keys().collect();
        assert_eq!(
            names,
            ["attestation-chain.pem", "attestation.sig", "attestation.xml", "publicKey.der", "publicKey.pem"]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_the_partition_does_not_allow_gets_no_key_and_blocks_nobody() {
    let world = World::new().await;
    for token in Token::BOTH {
        let (outside, inside) = (world.namespace("outside").await, world.namespace("inside").await);
        // Another partition on the same token, open to one namespace.
        let partitions: Api<HsmPartition> = Api::all(world.client.clone());
        let mut spec = partitions.get(token.partition()).await.unwrap().spec;
        spec.allowed_namespaces =
            serde_json::from_value(json!({"matchLabels": {"kubernetes.io/metadata.name": inside}})).unwrap();
        let partition =
            partitions.create(&PostParams::default(), &HsmPartition::new(&inside, spec)).await.unwrap();
        let reference = json!({"partitionRef": {"name": partition.name_any()}, "label": format!("{inside}.k"), "deletionPolicy": "Destroy"});
        world.make_key(&outside, "k", token, reference.clone()).await;
        let refused = world.key_with_reason(&outside, "k", "NamespaceNotAllowed").await;
        world.event(&outside, "k", "NamespaceNotAllowed").await;
        assert!(
            is_stalled(&refused) && message(&refused).contains("allowedNamespaces"),
            "{}",
            message(&refused)
        );
        assert!(world.classes(token, &format!("{inside}.k")).await.is_empty());
        // It is the older claim on the label, and none at all.
        world.make_key(&inside, "k", token, reference).await;
        world.ready(&inside, "k").await;
        // What was allowed and is not any more stops being Ready, and comes back.
        let open = json!({"spec": {"allowedNamespaces": {"matchLabels": {"hsm": inside}}}});
        partitions.patch(&inside, &PatchParams::default(), &Patch::Merge(&open)).await.unwrap();
        world.key_with_reason(&inside, "k", "NamespaceNotAllowed").await;
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        let label = json!({"metadata": {"labels": {"hsm": inside}}});
        namespaces.patch(&inside, &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
        world.ready(&inside, "k").await;
        world.delete(&world.api::<HsmKey>(&inside), "k").await;
        world.delete(&world.api::<HsmKey>(&outside), "k").await;
        world.delete(&partitions, &inside).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_explains_the_fields_and_shows_the_columns() {
    let world = World::new().await;
    for (field, says) in [
        ("hsmkeys", "only ever sees its public half"),
        ("hsmkeys.spec.label", "unique on its partition"),
        ("hsmkeys.spec.adopt", "already on the HSM"),
        ("hsmkeys.spec.deletionPolicy", "when this object is deleted"),
        ("hsmkeys.status.fingerprint", "SHA-256"),
        ("hsmpartitions.spec.allowedNamespaces", "Namespaces whose HsmKeys may live here"),
        ("hsmpartitions.spec.pkcs11.pinSecretRef", "operator's namespace"),
        ("signingrequests.spec.payload", "64 KiB"),
        ("signingrequests.spec.ttlSecondsAfterFinished", "deleted"),
    ] {
        let text = tools::kubectl(&["explain", field]).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(says), "{field}: {text}");
    }
    let namespace = world.namespace("columns").await;
    world.make_key(&namespace, "k", Token::SoftHsm, json!({})).await;
    world.ready(&namespace, "k").await;
    let table = tools::kubectl(&["get", "hk", "-n", &namespace, "-o", "wide"]);
    let columns: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "READY", "REASON", "PARTITION", "ALGORITHM", "LABEL", "FINGERPRINT", "AGE"]);
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..6], ["k", "True", "Ready", "demo", "EC", &format!("{namespace}.k")]);
    let table = tools::kubectl(&["get", "hsm", "-A"]);
    assert!(
        table.contains("hsmpartition.hsm-operator.io/demo") && table.contains("hsmkey.hsm-operator.io/k"),
        "{table}"
    );
    let events = tools::kubectl(&["get", "events.events.k8s.io", "-n", &namespace, "-o", "wide"]);
    assert!(events.contains("KeyGenerated"), "{events}");
    // Nothing of a PIN in what anybody may read.
    let pin = world.pin().await;
    let logs = tools::kubectl(&[
        "logs",
        "-n",
        OPERATOR,
        "-l",
        "app.kubernetes.io/component=controller",
        "--tail=-1",
    ]);
    assert!(!logs.contains(&pin) && !tools::kubectl(&["get", "hsm", "-A", "-o", "yaml"]).contains(&pin));
}
