//! What goes wrong around a signature, and is not seen by whoever asked for it. These tests break the gateways, so
//! they run alone among those that need them.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::api::HsmKey;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    caller::{GATEWAYS, account, caller},
    http::Gateways,
    pods::{self, exec},
    processes,
    tools::{self, kubectl},
    world::{OPERATOR, Token, World},
};

const DEPLOYMENT: &str = "deployment/hsm-operator-gateway";

pub fn body(label: &str) -> Value {
    json!({ "signRequest": {
        "payload": STANDARD.encode("m"), "signKeyName": label, "signatureAlgorithm": "SHA256_WITH_ECDSA"
    }})
}

/// A P-256 key `k` on a token, and its public point.
async fn key(world: &World, namespace: &str, name: &str, token: Token) -> Vec<u8> {
    world.make_key(namespace, name, token, json!({})).await;
    point(&world.ready(namespace, name).await)
}

pub fn point(key: &HsmKey) -> Vec<u8> {
    let spki = STANDARD.decode(key.status.as_ref().unwrap().public_key.as_ref().unwrap()).unwrap();
    spki[spki.len() - 65..].to_vec()
}

/// By aws-lc, which has no part in making it.
pub fn verifies(point: &[u8], answer: &Value) {
    let signature =
        STANDARD.decode(answer["signature"].as_str().unwrap_or_else(|| panic!("{answer}"))).unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(b"m", &signature).unwrap();
}

pub fn gateway_pods() -> Vec<String> {
    let selector = "app.kubernetes.io/name=hsm-operator,app.kubernetes.io/component=gateway";
    let found = kubectl(&[
        "get",
        "pods",
        "-n",
        OPERATOR,
        "-l",
        selector,
        "-o",
        "name",
        "--field-selector=status.phase=Running",
    ]);
    found.lines().map(|line| line.trim_start_matches("pod/").to_owned()).collect()
}

fn rolled_out() {
    kubectl(&["rollout", "status", "-n", OPERATOR, DEPLOYMENT, "--timeout=90s"]);
}

/// Signs again and again over one connection until told to stop; every answer must be a signature.
async fn keep_signing(
    gateways: Gateways,
    address: SocketAddr,
    label: String,
    point: Vec<u8>,
    stop: Arc<AtomicBool>,
    signed: watch::Sender<usize>,
) -> Duration {
    let mut connection = gateways.connect(address).await.unwrap();
    let (mut slowest, body) = (Duration::ZERO, body(&label).to_string());
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = connection.call("POST", "/v1/synchronousSign", body.clone()).await;
        let answer =
            answer.unwrap_or_else(|error| panic!("{address}, request {}: {error}", *signed.borrow()));
        verifies(&point, &answer.with_status(200));
        slowest = slowest.max(begun.elapsed());
        signed.send_modify(|count| *count += 1);
    }
    slowest
}

/// `clients` that sign at every gateway in turn.
pub struct Load {
    tasks: Vec<(tokio::task::JoinHandle<Duration>, watch::Receiver<usize>)>,
    stop: Arc<AtomicBool>,
}

impl Load {
    pub async fn start(gateways: &Gateways, clients: usize, label: &str, point: &[u8]) -> Self {
        let addresses = gateways.addresses().await;
        assert_eq!(addresses.len(), 2, "both gateways are ready");
        let stop = Arc::new(AtomicBool::new(false));
        let sign = |client: usize| {
            let address = addresses[client % addresses.len()];
            let (signed, count) = watch::channel(0);
            let task = tokio::spawn(keep_signing(
                gateways.clone(),
                address,
                label.to_owned(),
                point.to_vec(),
                Arc::clone(&stop),
                signed,
            ));
            (task, count)
        };
        Self { tasks: (0..clients).map(sign).collect(), stop }
    }

    /// Until every client has had an answer to a request that it began after this.
    pub async fn all_answered(&mut self) {
        let answered = self.tasks.iter_mut().map(async |(_, count)| {
            let now = *count.borrow();
            // The first may be the answer to a request that was in flight; a client that failed says so at the end.
            drop(count.wait_for(|count| *count >= now + 2).await);
        });
        futures::future::join_all(answered).await;
    }

    /// Ends it and returns how many signatures were made, and how long the slowest took.
    pub async fn end(self) -> (usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut count, mut slowest) = (0, Duration::ZERO);
        for (task, made) in self.tasks {
            slowest = slowest.max(task.await.expect("no request failed"));
            count += *made.borrow();
        }
        (count, slowest)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_token_hosts_costs_no_signature() {
    let _alone = GATEWAYS.write().await;
    let world = World::new().await;
    let mut loads = Vec::new();
    for token in Token::BOTH {
        let namespace = world.namespace("kill").await;
        let app = caller(&namespace, "app", &["use"]);
        let point = key(&world, &namespace, "k", token).await;
        loads.push((token, Load::start(&app, 8, &format!("{namespace}.k"), &point).await));
    }
    let pods = gateway_pods();
    let mut killed = 0;
    for _ in 0..10 {
        // One request in flight in two kills is taken for what kills.
        futures::future::join_all(loads.iter_mut().map(|(_, load)| load.all_answered())).await;
        for pod in &pods {
            for id in processes::all_of_pod(pod, OPERATOR, "token-host") {
                // One that has just ended by itself is as good.
                killed += usize::from(
                    Command::new("kill").args(["-KILL", &id.to_string()]).status().unwrap().success(),
                );
            }
        }
    }
    assert!(killed >= 30, "{killed} kills");
    for (token, load) in loads {
        let (count, slowest) = load.end().await;
        println!("{token:?}: {count} signatures over {killed} kills, the slowest took {slowest:?}");
        assert!(count > 100, "{count} signatures");
    }
}

/// Eight clients in a pod that sign through its sidecar, one line of output for each answer.
fn clients(namespace: &str, label: &str) -> Child {
    let command = format!(
        // Each answer by one echo, so that lines stay whole.
        "rm -f /tmp/stop; for c in 1 2 3 4 5 6 7 8; do (while [ ! -e /tmp/stop ]; do \
         echo \"$(curl -s -m 60 -w ' %{{http_code}} %{{errormsg}}' http://localhost:8081/v1/synchronousSign -d '{}')\"; \
         done) & done; wait",
        body(label)
    );
    let args = ["exec", "-n", namespace, "pod/app", "-c", "app", "--", "/bin/sh", "-c", &command];
    Command::new("kubectl").args(args).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

/// Ends them; every one of their requests must have been answered with a signature.
fn all_signed(clients: Child, namespace: &str, point: &[u8]) -> usize {
    exec(namespace, "pod/app", "touch /tmp/stop");
    let output = clients.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for line in text.lines() {
        let (answer, status) = line.split_once(" 200").unwrap_or_else(|| panic!("a client saw: {line}"));
        assert_eq!(status.trim(), "");
        verifies(point, &serde_json::from_str(answer).unwrap());
    }
    text.lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_gateways_costs_a_pod_no_signature() {
    let _alone = GATEWAYS.write().await;
    let world = World::new().await;
    let mut loads = Vec::new();
    for token in Token::BOTH {
        let namespace = world.namespace("drain").await;
        account(&namespace, "app", &["use"]);
        let point = key(&world, &namespace, "k", token).await;
        pods::start(&namespace, "app");
        loads.push((token, clients(&namespace, &format!("{namespace}.k")), namespace, point));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for pod in gateway_pods() {
        kubectl(&["delete", "pod", "-n", OPERATOR, &pod, "--wait"]);
        rolled_out();
    }
    kubectl(&["rollout", "restart", "-n", OPERATOR, DEPLOYMENT]);
    rolled_out();
    // Until the last of the old ones has ended.
    tokio::time::sleep(Duration::from_secs(12)).await;
    for (token, load, namespace, point) in loads {
        let count = all_signed(load, &namespace, &point);
        println!("{token:?}: {count} signatures");
        assert!(count > 200, "{count}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_gateway_a_pod_is_told_which_address_failed_and_why() {
    let _alone = GATEWAYS.write().await;
    let world = World::new().await;
    let namespace = world.namespace("gone").await;
    account(&namespace, "app", &["use"]);
    let point = key(&world, &namespace, "k", Token::SoftHsm).await;
    pods::start(&namespace, "app");
    kubectl(&["scale", "-n", OPERATOR, DEPLOYMENT, "--replicas=0"]);
    for pod in gateway_pods() {
        kubectl(&["wait", "-n", OPERATOR, &format!("pod/{pod}"), "--for=delete", "--timeout=90s"]);
    }
    let label = format!("{namespace}.k");
    let ask = format!("{} -w ' %{{http_code}}' || true", pods::ask(&body(&label)));
    let said = exec(&namespace, "pod/app", &ask);
    kubectl(&["scale", "-n", OPERATOR, DEPLOYMENT, "--replicas=2"]);
    let (answer, status) = said.rsplit_once(' ').unwrap();
    assert_eq!(status, "503", "{said}");
    let answer: Value = serde_json::from_str(answer).unwrap();
    assert_eq!(
        (&answer["errorCode"], &answer["reason"]),
        (&700.into(), &"res.error.in.subystem".into()),
        "{answer}"
    );
    let message = answer["message"].as_str().unwrap();
    // Either the addresses known last, with what became of them, or the name that has none.
    let address = message.contains(":8443: ");
    assert!(message.starts_with("no gateway could be reached: ") && address, "{message}");
    println!("{message}");

    rolled_out();
    let returned = format!("until {}; do sleep 0.1; done", pods::ask(&body(&label)));
    let begun = Instant::now();
    let said = exec(&namespace, "pod/app", &returned);
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?} to find them again", begun.elapsed());
    let start = said.rfind("{\"signature\"").unwrap();
    verifies(&point, &serde_json::from_str(&said[start..]).unwrap());
}

/// Cuts the gateways off from the API server until it is dropped. Their packets vanish, which is worse than a refusal.
struct Cut(Vec<u32>);

impl Cut {
    fn gateways() -> Self {
        let cut =
            Self(gateway_pods().iter().map(|pod| processes::of_pod(pod, OPERATOR, "gateway")).collect());
        cut.rule("-I");
        cut
    }

    fn rule(&self, change: &str) {
        for id in &self.0 {
            let id = id.to_string();
            let rule = [
                "iptables",
                change,
                "OUTPUT",
                "-p",
                "tcp",
                "-m",
                "multiport",
                "--dports",
                "443,6443",
                "-j",
                "DROP",
            ];
            tools::output("nsenter", &[&["-t", &id, "-n"][..], &rule[..]].concat(), b"");
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.rule("-D");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn known_callers_sign_on_while_the_api_server_is_away() {
    let _alone = GATEWAYS.write().await;
    let world = World::new().await;
    let mut stages = Vec::new();
    for token in Token::BOTH {
        let namespace = world.namespace("cut").await;
        let app = caller(&namespace, "app", &["use"]);
        let stranger = caller(&namespace, "stranger", &["use"]);
        let point = key(&world, &namespace, "k", token).await;
        let label = format!("{namespace}.k");
        let load = Load::start(&app, 4, &label, &point).await;
        stages.push((token, namespace, app, stranger, label, load));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let cut = Cut::gateways();
    tokio::time::sleep(Duration::from_secs(20)).await;
    // Who was never seen cannot be known, and is told so soon.
    for (.., stranger, label, _) in &stages {
        let begun = Instant::now();
        let answer = stranger.post("/v1/synchronousSign", body(label)).await;
        answer.is_error(503, 700, "in.subystem");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(cut);
    for (token, namespace, app, stranger, label, load) in stages {
        let (count, slowest) = load.end().await;
        println!("{token:?}: {count} signatures, the slowest took {slowest:?}");
        // No request may hang until the connection to the API server gives up; how fast they are is for benches.
        assert!(
            count > 500 && slowest < Duration::from_secs(30),
            "{count} signatures, the slowest took {slowest:?}"
        );

        // It is back: strangers are known, and what is withdrawn is gone.
        let soon = Instant::now() + Duration::from_secs(30);
        while stranger.post("/v1/synchronousSign", body(&label)).await.status != 200 {
            assert!(Instant::now() < soon, "the API server is not asked again");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        kubectl(&["delete", "rolebinding", "-n", &namespace, "app"]);
        let soon = Instant::now() + Duration::from_secs(30);
        while app.post("/v1/synchronousSign", body(&label)).await.status != 403 {
            assert!(Instant::now() < soon, "a permission that was withdrawn still counts");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_made_by_the_controller_is_usable_at_every_gateway_at_once() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for token in Token::BOTH {
        let namespace = world.namespace("fresh").await;
        let app = caller(&namespace, "app", &["use"]);
        let first = key(&world, &namespace, "first", token).await;
        // Tokens that are busy in one process while another writes to them.
        let load = Load::start(&app, 4, &format!("{namespace}.first"), &first).await;
        let addresses = app.addresses().await;
        for number in 0..8 {
            let name = format!("k{number}");
            let point = key(&world, &namespace, &name, token).await;
            for address in &addresses {
                let mut connection = app.connect(*address).await.unwrap();
                let body = body(&format!("{namespace}.{name}")).to_string();
                let answer = connection.call("POST", "/v1/synchronousSign", body).await.unwrap();
                verifies(&point, &answer.with_status(200));
            }
        }
        let (count, slowest) = load.end().await;
        println!("{token:?}: {count} signatures meanwhile, the slowest took {slowest:?}");
    }
}
