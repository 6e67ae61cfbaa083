//! The cluster forgets, and the token does not: the same manifests find the same keys.

use hsm_operator::api::{HsmKey, HsmPartition, condition};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    orphans::hsm,
    partitions::{make_partition, partitions, put_pin, reason},
    requests, tools,
    world::{KRYOPTIC, OPERATOR, Token, World},
};

/// A key and what the world knows of it.
struct Before {
    namespace: String,
    name: String,
    id: String,
    public_key: String,
    pem: Vec<u8>,
}

impl Before {
    async fn of(world: &World, namespace: &str, name: &str) -> Self {
        let status = world.ready(namespace, name).await.status.unwrap();
        let secret = world.api::<Secret>(namespace).get(&format!("{name}-public")).await.unwrap();
        Self {
            namespace: namespace.into(),
            name: name.into(),
            id: status.key_id.unwrap(),
            public_key: status.public_key.unwrap(),
            pem: secret.data.unwrap()["publicKey.pem"].0.clone(),
        }
    }

    /// The key is the same one, everything of it is there, and it signs.
    async fn is_back(&self, world: &World, how: &str) {
        let (namespace, name) = (&self.namespace, &self.name);
        let key = world.ready(namespace, name).await;
        let status = key.status.as_ref().unwrap();
        assert_eq!(status.key_id.as_ref(), Some(&self.id));
        assert_eq!(status.public_key.as_ref(), Some(&self.public_key));
        assert_eq!(condition::find(&status.conditions, condition::GENERATED).unwrap().reason, how);
        assert!(condition::is_true(&status.conditions, condition::ATTESTED) && status.attestation.is_some());
        let secret = world.api::<Secret>(namespace).get(&format!("{name}-public")).await.unwrap();
        assert_eq!(secret.owner_references()[0].uid, key.uid().unwrap());
        let data = secret.data.unwrap();
        assert_eq!(data["publicKey.pem"].0, self.pem);
        assert_eq!(data["attestation.xml"].0, status.attestation.as_ref().unwrap().xml.as_bytes());
        let rsa = key.spec.algorithm.name() == "RSA";
        let algorithm = if rsa { "SHA256_WITH_RSA" } else { "SHA256_WITH_ECDSA" };
        let request = json!({"keyRef": {"name": name}, "signatureAlgorithm": algorithm});
        let request_name = format!("{name}-{:x}", rand::random::<u32>());
        let signature = requests::sign(world, namespace, &request_name, request).await;
        let folder = tempfile::tempdir().unwrap();
        let verified = tools::openssl_verifies(folder.path(), &self.pem, "sha256", &[], b"hello", &signature);
        assert!(verified, "{namespace}/{name} signs with another key");
    }
}

/// A manifest as it lies in a repository: nothing in it that a cluster wrote.
fn stripped(object: &Value) -> Value {
    let mut object = object.clone();
    object.as_object_mut().unwrap().remove("status");
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| ["name", "namespace", "labels", "annotations"].contains(&field.as_str()));
    object
}

/// Objects of a namespace as a backup without status has them.
fn backup(namespace: &str, kind: &str) -> Vec<Value> {
    let all = tools::kubectl(&["get", kind, "-n", namespace, "-o", "json"]);
    let all: Value = serde_json::from_str(&all).unwrap();
    all["items"].as_array().unwrap().iter().map(stripped).collect()
}

fn restore(objects: &[Value]) {
    tools::apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string());
}

async fn recoverable(world: &World, key: &Before) {
    let waits = world.key_with_reason(&key.namespace, &key.name, "Recoverable").await;
    let status = waits.status.unwrap();
    assert!(condition::is_true(&status.conditions, condition::STALLED) && status.key_id.is_none());
    let said = &condition::find(&status.conditions, condition::READY).unwrap().message;
    assert!(said.contains(&key.id) && said.contains("recovery: Adopt"), "{said}");
    world.event(&key.namespace, &key.name, "Recoverable").await;
}

fn never(partition: &str) {
    let change = r#"{"spec":{"recovery":"Never"}}"#;
    tools::kubectl(&["patch", "hsmpartition", partition, "--type", "merge", "-p", change]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_without_status_the_keys_are_the_same() {
    let world = World::new().await;
    Token::with_both(async |token| {
        let name = world.namespace("restore").await;
        let place = world.place(token, &name);
        place.initialise(&name, "12345678");
        put_pin(&world, &name, "12345678").await;
        make_partition(&world, &name, place.partition(&name, &name)).await;
        let on_it = |more: Value| {
            let mut spec = json!({"partitionRef": {"name": name}});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        world.make_key(&name, "k", token, on_it(json!({}))).await;
        world.make_key(&name, "named", token, on_it(json!({"label": format!("{name} Signing Key")}))).await;
        let keys = [Before::of(&world, &name, "k").await, Before::of(&world, &name, "named").await];
        let (objects, secrets) = (backup(&name, "hsmkeys"), backup(&name, "secrets"));
        for key in &keys {
            world.delete(&world.api::<HsmKey>(&name), &key.name).await;
            world.event(&name, &key.name, "KeyRetained").await;
        }
        restore(&secrets);
        restore(&objects);
        for key in &keys {
            recoverable(&world, key).await;
        }
        let text = hsm(&["recover", &name]);
        for key in &keys {
            assert!(text.contains(&format!("adopt {}", key.id)), "{text}");
        }
        assert!(text.contains("Nothing was changed"), "{text}");
        assert_eq!(partitions(&world).get(&name).await.unwrap().spec.recovery.name(), "Never");
        let text = hsm(&["recover", &name, "--yes"]);
        assert!(text.contains("2 of 2 HsmKeys have their key") && text.contains("Recovered"), "{text}");
        never(&name);
        reason(&world, &name, "Ready").await;
        for key in &keys {
            world.event(&name, &key.name, "KeyRecovered").await;
            key.is_back(&world, "Recovered").await;
        }
        // By its recorded identifier, which is not the one that a new key would have.
        let destroy = json!({"spec": {"deletionPolicy": "Destroy"}});
        for key in &keys {
            let api = world.api::<HsmKey>(&name);
            api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&destroy)).await.unwrap();
            world.delete(&api, &key.name).await;
        }
        let left = place.listing(&name, "12345678");
        assert!(keys.iter().all(|key| !left.contains(&key.id)), "{token:?}: {left}");
        world.delete(&partitions(&world), &name).await;
    })
    .await;
}

/// Of two claims on a label the one has it that the key was made for, whichever a restore brings first, and although the
/// other may adopt.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_back_to_whom_it_was_made_for() {
    let world = World::new().await;
    Token::with_both(async |token| {
        let name = world.namespace("owner").await;
        let other = world.namespace("other").await;
        let place = world.place(token, &name);
        place.initialise(&name, "12345678");
        put_pin(&world, &name, "12345678").await;
        make_partition(&world, &name, place.partition(&name, &name)).await;
        let spec = json!({"partitionRef": {"name": name}, "label": "shared"});
        world.make_key(&name, "k", token, spec.clone()).await;
        let key = Before::of(&world, &name, "k").await;
        let objects = backup(&name, "hsmkeys");
        // Nobody may take the key before both claims are there.
        let allow = |selector: Value| {
            let change = json!({"spec": {"allowedNamespaces": selector}}).to_string();
            tools::kubectl(&["patch", "hsmpartition", &name, "--type", "merge", "-p", &change]);
        };
        allow(json!({"matchLabels": {"nobody": "has it"}}));
        world.key_with_reason(&name, "k", "NamespaceNotAllowed").await;
        tools::kubectl(&["delete", "hsmkey", "-n", &name, "k"]);
        let mut claim = spec;
        claim["adopt"] = true.into();
        world.make_key(&other, "claim", token, claim).await;
        // The order of a second counts.
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        restore(&objects);
        world.key_with_reason(&name, "k", "NamespaceNotAllowed").await;
        allow(json!({"matchLabels": null}));
        let refused = world.key_with_reason(&other, "claim", "Conflict").await;
        let said =
            &condition::find(&refused.status.unwrap().conditions, condition::READY).unwrap().message.clone();
        assert!(said.contains(&format!("{name}/k")), "{said}");
        recoverable(&world, &key).await;
        hsm(&["recover", &name, "--yes"]);
        key.is_back(&world, "Recovered").await;
        world.delete(&world.api::<HsmKey>(&other), "claim").await;
        world.delete(&world.api::<HsmKey>(&name), "k").await;
        world.delete(&partitions(&world), &name).await;
    })
    .await;
}

/// A script of e2e/, as whoever cares for the cluster runs it.
fn script(name: &str, args: &[&str]) {
    let path = format!("{}/e2e/{name}", std::env::var("CARGO_MANIFEST_DIR").unwrap());
    tools::output(&path, args, b"");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "empties the cluster's etcd: e2e/test.sh runs it last"]
async fn after_the_loss_of_etcd_the_same_manifests_find_their_keys() {
    let world = World::alone().await;
    let namespace = world.namespace("lost").await;
    let mut keys = Vec::new();
    for token in Token::BOTH {
        let rsa = json!({"algorithm": "RSA", "keySize": 2048, "curveOid": null, "label": format!("{namespace} RSA {token:?}")});
        let name = format!("{token:?}").to_lowercase();
        for (name, spec) in [(format!("{name}-rsa"), rsa), (format!("{name}-ec"), json!({}))] {
            world.make_key(&namespace, &name, token, spec).await;
            keys.push((token, Before::of(&world, &namespace, &name).await));
        }
    }
    // Nobody has a manifest of this one. Its label sorts before those of other tests.
    let label = format!("0-{namespace}");
    world.make_key(&namespace, "unwritten", Token::SoftHsm, json!({"label": label})).await;
    let unwritten = Before::of(&world, &namespace, "unwritten").await;
    // What lies in a repository and in a safe.
    let mut objects = backup(&namespace, "hsmkeys");
    objects.retain(|object| object["metadata"]["name"] != "unwritten");
    let pin = tools::kubectl(&["get", "secret", "-n", OPERATOR, "hsm-demo-pin", "-o", "json"]);
    let pin = stripped(&serde_json::from_str(&pin).unwrap());
    let root = async |token: Token| {
        let ready = |partition: &HsmPartition| {
            partition.status.as_ref().is_some_and(|one| condition::is_true(&one.conditions, condition::READY))
        };
        let partition = world.until(&partitions(&world), token.partition(), "Ready", ready).await;
        partition.status.unwrap().attestation.unwrap().root_fingerprint
    };
    let roots = [root(Token::SoftHsm).await, root(Token::Kryoptic).await];

    script("cluster.sh", &["lose-etcd"]);
    let kinds = tools::kubectl(&["api-resources", "--api-group", "hsm-operator.io", "-o", "name"]);
    assert_eq!(kinds.trim(), "", "the cluster forgot the operator");

    let space = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    restore(&[space(OPERATOR), space(&namespace)]);
    restore(&[pin]);
    script("operator.sh", &["install"]);
    tools::apply(KRYOPTIC);
    assert_eq!(
        [root(Token::SoftHsm).await, root(Token::Kryoptic).await],
        roots,
        "who attests is on the token"
    );
    restore(&objects);
    for (_, key) in &keys {
        recoverable(&world, key).await;
    }
    for token in Token::BOTH {
        let text = hsm(&["recover", token.partition()]);
        println!("{text}");
        for (_, key) in keys.iter().filter(|(one, _)| *one == token) {
            assert!(text.contains(&format!("adopt {}", key.id)), "{text}");
        }
        if token == Token::SoftHsm {
            assert!(text.contains("Keys on the token without an HsmKey"), "{text}");
            assert!(text.contains(&unwritten.id), "{text}");
        }
    }
    for token in Token::BOTH {
        let text = hsm(&["recover", token.partition(), "--yes"]);
        println!("{text}");
        assert!(text.contains("2 of 2 HsmKeys have their key"), "{text}");
        never(token.partition());
    }
    for (_, key) in &keys {
        key.is_back(&world, "Recovered").await;
    }
    // The one without a manifest is found by its label.
    world.make_key(&namespace, "unwritten", Token::SoftHsm, json!({"label": label, "adopt": true})).await;
    unwritten.is_back(&world, "Adopted").await;
}
