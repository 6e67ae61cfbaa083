//! `kubectl hsm orphans`: what belongs to nobody is shown with what to do, and what it says works.

use hsm_operator::api::{HsmKey, HsmPartition};
use serde_json::{Value, json};

use crate::{
    partitions::{make_partition, partitions, put_pin, reason},
    tools,
    world::{Token, World},
};

const PIN: &str = "12345678";

/// `kubectl hsm …`: what it prints.
pub fn hsm(args: &[&str]) -> String {
    tools::output(env!("CARGO_BIN_EXE_hsm-operator"), &[&["kubectl"], args].concat(), b"")
}

fn fresh(partition: &str) -> Value {
    let all: Value = serde_json::from_str(&hsm(&["orphans", partition, "--fresh", "-o", "json"])).unwrap();
    all["partitions"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_nobody_is_listed_and_adopted_as_the_list_says() {
    let world = World::new().await;
    for token in Token::BOTH {
        let name = world.namespace("orphans").await;
        let place = world.place(token, &name);
        place.initialise(&name, PIN);
        put_pin(&world, &name, PIN).await;
        make_partition(&world, &name, place.partition(&name, &name)).await;
        reason(&world, &name, "Ready").await;
        let text = hsm(&["orphans", &name]);
        assert!(text.contains("Every key belongs to an HsmKey"), "{text}");

        // A key of nobody, the public half of one, and one that an HsmKey left behind.
        let make = |id: &str, label: &str| {
            let made = ["--keypairgen", "--key-type", "EC:prime256v1", "--id", id, "--label", label];
            place.pkcs11(&name, PIN, &made);
        };
        make("0a0b", "stray");
        make("0c0d", "half");
        place.pkcs11(&name, PIN, &["--delete-object", "--type", "privkey", "--id", "0c0d"]);
        world.make_key(&name, "left", token, json!({"partitionRef": {"name": name}, "label": null})).await;
        let id = world.ready(&name, "left").await.status.unwrap().key_id.unwrap();
        world.delete(&world.api::<HsmKey>(&name), "left").await;

        let found = fresh(&name);
        let keys = found["unclaimed"]["keys"].as_array().unwrap();
        let told: Vec<_> = keys.iter().map(|key| (&key["label"], &key["id"], &key["madeFor"])).collect();
        let (left, stray) = ((&json!("left"), &json!(id)), (&json!("stray"), &json!("0a0b")));
        let made_for = json!(format!("{name}/left"));
        assert_eq!(told, [(left.0, left.1, &made_for), (stray.0, stray.1, &Value::Null)], "{token:?}");
        let half = json!([{"id": "0c0d", "label": "half", "kind": "PublicKey"}]);
        assert_eq!(found["inventory"]["ghosts"]["objects"], half, "{token:?}");
        let text = hsm(&["orphans", &name]);
        assert!(text.contains("0a0b") && text.contains("adopt:") && text.contains(&id), "{text}");
        // The commands that it prints are meant for where the library is: only the part that says what goes.
        let destroy = text
            .lines()
            .find_map(|line| line.split_once("--delete-object ").filter(|(_, rest)| rest.contains("0c0d")));
        let destroy = destroy.unwrap_or_else(|| panic!("nothing destroys the half: {text}")).1;
        let args: Vec<_> = ["--delete-object"].into_iter().chain(destroy.split_whitespace()).collect();
        place.pkcs11(&name, PIN, &args);

        for key in keys {
            let manifest = key["adopt"].to_string().replace("NAMESPACE", &name);
            tools::apply(&manifest);
        }
        for (key, id) in [("stray", "0a0b"), ("left", &id)] {
            assert_eq!(
                world.ready(&name, key).await.status.unwrap().key_id.as_deref(),
                Some(id),
                "{token:?}"
            );
        }
        let found = fresh(&name);
        assert_eq!(found["unclaimed"]["count"], 0, "{found}");
        assert_eq!(found["inventory"]["ghosts"]["count"], 0, "{found}");
        assert!(hsm(&["orphans"]).contains(&format!("HsmPartition {name}: ")), "all partitions are listed");
        world.delete(&world.api::<HsmKey>(&name), "stray").await;
        world.delete(&world.api::<HsmKey>(&name), "left").await;
        world.delete(&partitions(&world), &name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_gone_is_found_out_by_the_next_list() {
    let world = World::new().await;
    for token in Token::BOTH {
        let name = world.namespace("gone").await;
        let place = world.place(token, &name);
        place.initialise(&name, PIN);
        put_pin(&world, &name, PIN).await;
        make_partition(&world, &name, place.partition(&name, &name)).await;
        for key in ["stays", "goes"] {
            world.make_key(&name, key, token, json!({"partitionRef": {"name": name}})).await;
            world.ready(&name, key).await;
        }
        let id = world.ready(&name, "goes").await.status.unwrap().key_id.unwrap();
        for class in ["privkey", "pubkey"] {
            place.pkcs11(&name, PIN, &["--delete-object", "--type", class, "--id", &id]);
        }
        let found = fresh(&name);
        assert_eq!(
            found["inventory"]["missing"],
            json!({"count": 1, "keys": [format!("{name}/goes")]}),
            "{token:?}"
        );
        // Nobody asked for a signature: the list alone woke it.
        world.key_with_reason(&name, "goes", "MissingOnToken").await;
        assert!(world.ready(&name, "stays").await.is_ready());
        let text = hsm(&["orphans", &name]);
        assert!(
            text.contains("HsmKeys whose key is gone: 1") && text.contains(&format!("{name}/goes")),
            "{text}"
        );
        for key in ["stays", "goes"] {
            world.delete(&world.api::<HsmKey>(&name), key).await;
        }
        let none = |partition: &HsmPartition| {
            let inventory = partition.status.as_ref().and_then(|status| status.inventory.as_ref());
            inventory.is_some_and(|inventory| inventory.missing.count == 0)
        };
        world.until(&partitions(&world), &name, "missing nothing", none).await;
        world.delete(&partitions(&world), &name).await;
    }
}
