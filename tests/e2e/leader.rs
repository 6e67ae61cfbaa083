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
use tokio::task::JoinHandle;

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
    let namespaces = [world.namespace("killed").await, world.namespace("killed").await];
    let names: Vec<String> = (0..KEYS).map(|number| format!("k{number:02}")).collect();
    // Once in the middle of each token's work: keys are asked for while others become Ready, and it takes a token
    // longer to look for the primes of an RSA key than the API server to take an object.
    for (half, (token, namespace)) in names.chunks(KEYS / 2).zip(Token::BOTH.into_iter().zip(&namespaces)) {
        let api = world.api::<HsmKey>(namespace);
        let enough = ready(&api).await.0 + 5;
        let wanted =
            Token::BOTH.into_iter().zip(&namespaces).flat_map(|of| half.iter().map(move |name| (of, name)));
        let ask = stream::iter(wanted).for_each_concurrent(10, async |((token, namespace), name)| {
            let rsa = json!({"algorithm": "RSA", "keySize": 2048, "curveOid": null});
            drop(world.make_key(namespace, name, token, rsa).await)
        });
        let kill = async {
            until_all(api.clone(), enough, HsmKey::is_ready).await;
            world.kill_leader().await
        };
        let ((), before) = tokio::join!(ask, kill);
        let (ready, all) = ready(&api).await;
        println!("{token:?}: killed with {ready} of {all} Ready");
        assert!(ready < all, "{token:?}: the leader was done before it was killed");
        world.leader_after(&before).await;
    }
    for (token, namespace) in Token::BOTH.into_iter().zip(&namespaces) {
        until_all(world.api::<HsmKey>(namespace), KEYS, HsmKey::is_ready).await;
        one_pair_each(&world, token, namespace).await;
    }
}

/// How many keys of a namespace are Ready, of how many.
async fn ready(api: &Api<HsmKey>) -> (usize, usize) {
    let keys = api.list(&Default::default()).await.unwrap();
    (keys.iter().filter(|key| key.is_ready()).count(), keys.items.len())
}

/// The token has one private and one public object for every key of the namespace, and no other with such a label.
async fn one_pair_each(world: &World, token: Token, namespace: &str) {
    let prefix = format!("{namespace}.");
    let keys = world.api::<HsmKey>(namespace).list(&Default::default()).await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn every_signature_asked_for_across_a_kill_is_made_once() {
    let world = World::alone().await;
    let mut stages = Vec::new();
    for token in Token::BOTH {
        let namespace = world.namespace("signed").await;
        world.make_key(&namespace, "k", token, json!({})).await;
        world.ready(&namespace, "k").await;
        let api = world.api::<SigningRequest>(&namespace);
        stages.push((token, namespace, Shown::record(api.clone()), api));
    }
    let asking =
        stream::iter((0..SIGNATURES).flat_map(|number| stages.iter().map(move |stage| (number, &stage.3))))
            .for_each_concurrent(10, async |(number, api)| {
                let spec = json!({
                    "keyRef": {"name": "k"}, "payload": STANDARD.encode(format!("message {number}")),
                    "signatureAlgorithm": "SHA256_WITH_ECDSA",
                });
                let request =
                    SigningRequest::new(&format!("r{number:03}"), serde_json::from_value(spec).unwrap());
                api.create(&PostParams::default(), &request).await.unwrap();
            });
    let killing = async {
        until_all(stages[0].3.clone(), SIGNATURES / 4, has_signature).await;
        let before = world.kill_leader().await;
        for (token, _, shown, _) in &stages {
            println!("{token:?}: killed with {} signatures shown", shown.all.lock().unwrap().len());
        }
        world.leader_after(&before).await;
    };
    futures::join!(asking, killing);
    for (.., api) in &stages {
        until_all(api.clone(), SIGNATURES, has_signature).await;
    }
    // Two watches need not be equally fast; and this is time for a signature to change.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    for (token, namespace, shown, api) in stages {
        each_is_right_and_never_changed(&world, token, &namespace, shown.end(), api).await;
    }
}

/// Every signature that is ever shown, by request.
struct Shown {
    all: Arc<Mutex<HashMap<String, Vec<String>>>>,
    watch: JoinHandle<()>,
}

impl Shown {
    fn record(api: Api<SigningRequest>) -> Self {
        let all: Arc<Mutex<HashMap<String, Vec<String>>>> = Arc::default();
        let seen = Arc::clone(&all);
        let watch = tokio::spawn(async move {
            let mut requests =
                watcher(api, watcher::Config::default()).default_backoff().touched_objects().boxed();
            loop {
                // A watch that broke starts again.
                let Ok(request) = requests.try_next().await else { continue };
                let request = request.expect("a watch does not end");
                if let Some(signature) = request.status.as_ref().and_then(|status| status.signature.clone()) {
                    let mut seen = seen.lock().unwrap();
                    let of_it = seen.entry(request.name_any()).or_default();
                    if !of_it.contains(&signature) {
                        of_it.push(signature);
                    }
                }
            }
        });
        Self { all, watch }
    }

    fn end(self) -> HashMap<String, Vec<String>> {
        assert!(!self.watch.is_finished(), "the watch that records ended");
        self.watch.abort();
        self.all.lock().unwrap().clone()
    }
}

async fn each_is_right_and_never_changed(
    world: &World,
    token: Token,
    namespace: &str,
    shown: HashMap<String, Vec<String>>,
    api: Api<SigningRequest>,
) {
    let pem = world.api::<Secret>(namespace).get("k-public").await.unwrap().data.unwrap();
    let public = PublicKey::from_spki(&pem["publicKey.der"].0).unwrap();
    let folder = tempfile::tempdir().unwrap();
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

fn has_signature(request: &SigningRequest) -> bool {
    request.status.as_ref().is_some_and(|status| status.signature.is_some())
}
