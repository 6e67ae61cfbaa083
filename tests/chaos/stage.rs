//! A token of its own behind the fault module, a partition on it, and what is done there while faults are played.

use std::{
    fmt::{Display, Formatter},
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::api::HsmPartition;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    caller,
    common::faults::{self, Rules, rule::Rule},
    host::{Object, PRIVATE, PUBLIC, Place},
    http::Gateways,
    load::{Load, Manner, Sum, Target},
    objects::{Batch, Ended, LOAD_KEY, Objects, label},
    table::{Callers, Fault, Lasts},
    tools::{self, kubectl},
    world::{OPERATOR, Token, World},
};

/// How soon everything has to be well again.
pub const RECOVERY: Duration = Duration::from_secs(5);
/// How long is waited for it.
const PATIENCE: Duration = Duration::from_secs(20);
/// How soon a fault has to come true.
const COMES: Duration = Duration::from_secs(10);
/// For so long nothing may fail after the recovery.
const QUIET: Duration = Duration::from_millis(500);
/// How soon every object has to be done: objects are tried again more and more slowly.
pub const SETTLED: Duration = Duration::from_secs(15);
/// From one object to the next.
const STEP: Duration = Duration::from_millis(100);
const PIN: &str = "12345678";

/// What a partition is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scene {
    pub token: Token,
    /// Beside the token that is struck there is a copy that is not.
    pub replica: bool,
}

impl Scene {
    pub const ALL: [Self; 4] = [
        Self { token: Token::SoftHsm, replica: false },
        Self { token: Token::Kryoptic, replica: false },
        Self { token: Token::SoftHsm, replica: true },
        Self { token: Token::Kryoptic, replica: true },
    ];

    /// What callers may notice of a fault: nothing, where another token signs.
    pub fn callers(self, fault: &Fault) -> Callers {
        if self.replica { Callers::NoticeNothing } else { fault.callers }
    }

    /// With a copy beside it, only what lasts.
    pub fn shows(self, fault: &Fault) -> bool {
        !self.replica || matches!(fault.lasts, Lasts::Millis(_))
    }
}

impl Display for Scene {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let token = format!("{:?}", self.token).to_lowercase();
        f.pad(&if self.replica { format!("{token}+1") } else { token })
    }
}

/// A partition and its callers.
pub struct Stage {
    pub name: String,
    scene: Scene,
    pub target: Target,
    pub objects: Objects,
    place: Place,
    rules: Rules,
}

/// What came of a fault.
pub struct Played {
    pub calls: Sum,
    pub objects: Ended,
    /// Until every gateway gave a good answer.
    pub recovery: Option<Duration>,
    /// From the end of the fault until the last object was done.
    pub settled: Duration,
    pub wrong: Vec<String>,
}

impl Stage {
    pub async fn new(world: &World, scene: Scene) -> Self {
        let token = scene.token;
        let name = world.namespace("chaos").await;
        let place = world.place(token, &name);
        place.initialise(&name, PIN);
        let module = "lib/libfault_module.so";
        // Renamed into place: another stage may have it mapped.
        let new = world.volume.join(format!("lib/{name}"));
        std::fs::copy(faults::library(), &new).expect("the volume can be written");
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        std::fs::rename(&new, world.volume.join(module)).expect("the volume can be written");
        let secret = json!({"metadata": {"name": name}, "stringData": {"pin": PIN}});
        let secret: Secret = serde_json::from_value(secret).expect("a Secret");
        world.api::<Secret>(OPERATOR).create(&PostParams::default(), &secret).await.expect("a new name");
        let mut spec = place.partition(&name, &name);
        let variable = |name: &str, value: String| json!({"name": name, "value": value});
        spec["pkcs11"]["library"] = format!("/hsm/{module}").into();
        spec["pkcs11"]["environment"].as_array_mut().expect("a list").extend([
            variable("FAULT_LIBRARY", place.library().into()),
            variable("FAULT_CONTROL", format!("/hsm/{name}/faults")),
        ]);
        spec["sessions"] = if token == Token::SoftHsm { 4 } else { 1 }.into();
        // What is not verified may be wrong.
        spec["verifySignatures"] = "Always".into();
        let partition = HsmPartition::new(&name, serde_json::from_value(spec).expect("a spec"));
        let partitions: Api<HsmPartition> = Api::all(world.client.clone());
        partitions.create(&PostParams::default(), &partition).await.expect("a new name");
        kubectl(&["wait", "hsmpartition", &name, "--for=condition=Ready", "--timeout=60s"]);
        let objects = Objects::new(&world.client, &name, &name);
        objects.make_key(LOAD_KEY).await;
        let key = world.ready(&name, LOAD_KEY).await;
        let spki = key.status.and_then(|status| status.public_key).expect("a Ready key has a public key");
        let spki = STANDARD.decode(spki).expect("base64");
        caller::account(&name, "app", &["use"]);
        // For longer than any soak.
        let credential =
            ["create", "token", "app", "-n", &name, "--audience", "hsm-operator", "--duration", "48h"];
        let target = Target {
            gateways: Gateways::new().with_token(kubectl(&credential).trim()),
            label: label(&name, LOAD_KEY),
            point: spki[spki.len() - 65..].to_vec(),
        };
        if scene.replica {
            replicate(world, &place, &name).await;
        }
        let rules = Rules::new(place.path("faults"));
        Self { name, scene, target, objects, place, rules }
    }

    /// Plays one fault. Whoever has the `light` has the machine's attention; while objects settle, others may have it.
    pub async fn play(&self, fault: &Fault, number: usize, light: &Mutex<()>) -> Played {
        let mut wrong = Vec::new();
        let lit = light.lock().await;
        let load = Load::start(&self.target, Manner::default(), (number as u64) << 32).await;
        let stop = CancellationToken::new();
        let playing = async {
            if load.well(PATIENCE).await.is_none() {
                wrong.push("it was not well before".to_owned());
            }
            if !self.strike(fault).await {
                wrong.push("the fault never came".to_owned());
            }
            let end = Instant::now();
            let recovery = load.well(PATIENCE).await;
            tokio::time::sleep(QUIET).await;
            stop.cancel();
            (end, recovery)
        };
        let prefix = format!("f{number}");
        let ((end, recovery), batch) = tokio::join!(playing, self.objects.stream(&prefix, STEP, &stop));
        let calls = load.stop().await;
        drop(lit);
        self.objects.settle(&batch, SETTLED).await;
        let objects = self.judge(&batch).await;
        // A token that grew with every fault would have the last ones struck under other conditions than the first.
        self.objects.remove(&batch).await;
        let settled = objects.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(end));
        if recovery.is_none_or(|took| took > RECOVERY) {
            wrong.push(format!("not well again within {RECOVERY:?}"));
        }
        for (count, what) in [
            (calls.wrong + objects.wrong, "wrong"),
            (calls.lost + objects.lost, "lost"),
            (objects.doubled, "doubled"),
            (calls.failed_since, "failed after the recovery"),
        ] {
            if count > 0 {
                wrong.push(format!("{count} {what}"));
            }
        }
        let failed = calls.failed + objects.failed;
        if failed > 0 && self.scene.callers(fault) == Callers::NoticeNothing {
            wrong.push(format!("{failed} failed"));
        }
        wrong.extend(objects.why.iter().cloned());
        if !wrong.is_empty() {
            let said = [&calls.said, &objects.given_up];
            wrong.extend(said.into_iter().filter(|said| !said.is_empty()).cloned());
        }
        Played { calls, objects, recovery, settled, wrong }
    }

    /// What became of objects, on the token too.
    pub async fn judge(&self, batch: &Batch) -> Ended {
        self.objects.judge(batch, &self.target, &self.keys_on_token().await)
    }

    /// What is still there of objects that were removed, all of them.
    pub async fn left(&self, patience: Duration) -> Vec<String> {
        let mut left = self.objects.removed(patience).await;
        let (ours, load) = (label(&self.name, ""), label(&self.name, LOAD_KEY));
        let on_token = self.keys_on_token().await;
        let keys = on_token.iter().filter(|key| key.label.starts_with(&ours) && key.label != load);
        left.extend(keys.map(|key| format!("{} {} is still on the token", key.class, key.label)));
        left
    }

    async fn keys_on_token(&self) -> Vec<Object> {
        let (place, name) = (self.place.clone(), self.name.clone());
        // Somebody else may be playing meanwhile.
        let list = tokio::task::spawn_blocking(move || place.objects(&name, PIN));
        let mut all = list.await.expect("the token can be listed");
        all.retain(|object| [PRIVATE, PUBLIC].contains(&&*object.class));
        all
    }

    /// Has a fault come, and go; whether it did.
    pub async fn strike(&self, fault: &Fault) -> bool {
        let lines = fault.lines();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let numbers = self.rules.set(&lines);
        match fault.lasts {
            Lasts::Millis(time) => tokio::time::sleep(Duration::from_millis(time)).await,
            Lasts::Once | Lasts::Spread => {
                // The file says when, and nothing that could be waited for.
                let begun = Instant::now();
                let left = |(line, number): (&&str, &usize)| {
                    let times = Rule::parse(*number, line).ok().and_then(|rule| rule.times);
                    self.rules.fired(*number) < times.unwrap_or(1)
                };
                while lines.iter().zip(&numbers).any(left) && begun.elapsed() < COMES {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        self.rules.clear();
        numbers.iter().all(|number| self.rules.fired(*number) > 0)
    }

    /// Has the operator let go of the token, in its own time.
    pub fn end(&self) {
        for kind in ["namespace", "hsmpartition"] {
            kubectl(&["delete", kind, &self.name, "--wait=false"]);
        }
    }
}

/// Puts a copy of the token beside it, behind the library itself, and waits until everybody signs with it.
async fn replicate(world: &World, place: &Place, name: &str) {
    let copy = world.place(place.token, &format!("{name}-b"));
    place.copy_to(&copy);
    let pkcs11 = json!({"library": copy.library(), "environment": copy.environment()});
    let change = Patch::Merge(json!({"spec": {"replicas": [{"name": "b", "pkcs11": pkcs11}]}}));
    let partitions: Api<HsmPartition> = Api::all(world.client.clone());
    partitions.patch(name, &PatchParams::default(), &change).await.expect("a spec with a replica");
    let in_use = format!(r#"hsm_operator_replica_healthy{{partition="{name}",replica="b"}} 1"#);
    let begun = Instant::now();
    for pod in world.pods("gateway").await {
        let address = pod.status.and_then(|status| status.pod_ip).expect("it runs");
        let metrics = format!("http://{address}:8080/metrics");
        while !tools::output("curl", &["-sf", &metrics], b"").contains(&in_use) {
            assert!(begun.elapsed() < PATIENCE, "a gateway does not sign with the copy of {name}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
