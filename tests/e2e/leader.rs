//! The controller's violent end in the middle of its work: nothing is made twice, nothing is lost, nothing changes
//! that was shown.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::{StreamExt, TryStreamExt, stream};
use hsm_operator::{
    api::{HsmKey, HsmPartition, SigningRequest},
    model::SignatureAlgorithm,
    public_key::PublicKey,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::PostParams,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;

use crate::{
    tools,
    world::{PATIENCE, Token, World},
};

const KEYS: usize = 50;
const SIGNATURES: usize = 200;

/// Watches objects of a namespace until so many are as described.
async fn until_all<K>(api: Api<K>, count: usize, is: impl Fn(&K) -> bool)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    let mut done = std::collections::HashSet::new();
    let mut seen = watcher(api, watcher::Config::default()).default_backoff().touched_objects().boxed();
    let all = async {
        while done.len() < count {
            let object = seen.try_next().await.unwrap().expect("a watch does not end");
            if is(&object) {
                done.insert(object.name_any());
            } else {
                done.remove(&object.name_any());
            }
        }
    };
    let in_time = tokio::time::timeout(2 * PATIENCE, all).await.is_ok();
    assert!(in_time, "only {} of {count}", done.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_while_it_makes_keys_leaves_exactly_one_pair_each() {
    let world = World::alone().await;
    for token in Token::BOTH {
        let namespace = world.namespace("killed").await;
        let names: Vec<String> = (0..KEYS).map(|number| format!("k{number:02}")).collect();
        // Twice, each time in the middle: keys are asked for while others become Ready, and it takes a token longer
        // to look for the primes of an RSA key than the API server to take an object.
        for half in names.chunks(KEYS / 2) {
            let api = world.api::<HsmKey>(&namespace);
            let ready =
                api.list(&Default::default()).await.unwrap().iter().filter(|key| key.is_ready()).count();
            let ask = stream::iter(half).for_each_concurrent(10, async |name| {
                let rsa = json!({"algorithm": "RSA", "keySize": 2048, "curveOid": null});
                drop(world.make_key(&namespace, name, token, rsa).await)
            });
            let kill = async {
                until_all(api.clone(), ready + 5, HsmKey::is_ready).await;
                world.kill_leader().await
            };
            let ((), before) = tokio::join!(ask, kill);
            let keys = api.list(&Default::default()).await.unwrap();
            let ready = keys.iter().filter(|key| key.is_ready()).count();
            println!("{token:?}: killed with {ready} of {} Ready", keys.items.len());
            assert!(ready < keys.items.len(), "{token:?}: the leader was done before it was killed");
            world.leader_after(&before).await;
        }
        until_all(world.api::<HsmKey>(&namespace), KEYS, HsmKey::is_ready).await;

        let prefix = format!("{namespace}.");
        let keys = world.api::<HsmKey>(&namespace).list(&Default::default()).await.unwrap();
        let mut wanted: Vec<_> = keys
            .iter()
            .flat_map(|key| {
                let id = key.status.as_ref().unwrap().key_id.clone().unwrap();
                let label = format!("{prefix}{}", key.name_any());
                ["Private Key Object", "Public Key Object"]
                    .map(|class| (label.clone(), class.to_owned(), id.clone()))
            })
            .collect();
        wanted.sort();
        let mut ours: Vec<_> = world
            .objects(token)
            .await
            .into_iter()
            .filter(|object| object.label.starts_with(&prefix))
            .map(|object| (object.label, object.class, object.id))
            .collect();
        ours.sort();
        assert_eq!(ours, wanted, "{token:?}");
        let none = move |partition: &HsmPartition| {
            let unclaimed = partition.status.as_ref().and_then(|status| status.unclaimed.as_ref());
            unclaimed.is_some_and(|all| !all.keys.iter().any(|key| key.label.starts_with(&prefix)))
        };
        let partitions: Api<HsmPartition> = Api::all(world.client.clone());
        world.until(&partitions, token.partition(), "without orphans", none).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signature_asked_for_across_a_kill_is_made_once() {
    let world = World::alone().await;
    for token in Token::BOTH {
        let namespace = world.namespace("signed").await;
        world.make_key(&namespace, "k", token, json!({})).await;
        world.ready(&namespace, "k").await;
        let api = world.api::<SigningRequest>(&namespace);

        // Every signature that is ever shown, by request.
        let shown: Arc<Mutex<HashMap<String, Vec<String>>>> = Arc::default();
        let record = tokio::spawn({
            let (shown, api) = (Arc::clone(&shown), api.clone());
            async move {
                let mut seen =
                    watcher(api, watcher::Config::default()).default_backoff().touched_objects().boxed();
                loop {
                    // A watch that broke starts again.
                    let Ok(request) = seen.try_next().await else { continue };
                    let request = request.expect("a watch does not end");
                    if let Some(signature) =
                        request.status.as_ref().and_then(|status| status.signature.clone())
                    {
                        let mut shown = shown.lock().unwrap();
                        let all = shown.entry(request.name_any()).or_default();
                        if !all.contains(&signature) {
                            all.push(signature);
                        }
                    }
                }
            }
        });
        let ask = async |number: usize| {
            let spec = json!({
                "keyRef": {"name": "k"}, "payload": STANDARD.encode(format!("message {number}")),
                "signatureAlgorithm": "SHA256_WITH_ECDSA",
            });
            let request =
                SigningRequest::new(&format!("r{number:03}"), serde_json::from_value(spec).unwrap());
            api.create(&PostParams::default(), &request).await.unwrap();
        };
        let asking = stream::iter(0..SIGNATURES).for_each_concurrent(10, ask);
        let killing = async {
            until_all(api.clone(), SIGNATURES / 4, has_signature).await;
            let before = world.kill_leader().await;
            println!("{token:?}: killed with {} signatures shown", shown.lock().unwrap().len());
            world.leader_after(&before).await;
        };
        futures::join!(asking, killing);
        until_all(api.clone(), SIGNATURES, has_signature).await;
        // Two watches need not be equally fast; and this is time for a signature to change.
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        assert!(!record.is_finished(), "{token:?}: the watch that records ended");
        record.abort();

        let pem = world.api::<Secret>(&namespace).get("k-public").await.unwrap().data.unwrap();
        let public = PublicKey::from_spki(&pem["publicKey.der"].0).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let shown = shown.lock().unwrap().clone();
        for request in api.list(&Default::default()).await.unwrap() {
            let name = request.name_any();
            let signature = request.status.unwrap().signature.unwrap();
            assert_eq!(
                shown[&name],
                std::slice::from_ref(&signature),
                "{token:?} {name}: a signature that was shown changed"
            );
            let (signature, message) =
                (STANDARD.decode(signature).unwrap(), STANDARD.decode(request.spec.payload).unwrap());
            assert_eq!(public.verify(SignatureAlgorithm::Sha256WithEcdsa, &message, &signature), Ok(true));
            assert!(tools::openssl_verifies(
                folder.path(),
                &pem["publicKey.pem"].0,
                "sha256",
                &[],
                &message,
                &signature
            ));
        }
        assert_eq!(shown.len(), SIGNATURES);
    }
}

fn has_signature(request: &SigningRequest) -> bool {
    request.status.as_ref().is_some_and(|status| status.signature.is_some())
}
