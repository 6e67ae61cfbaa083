//! A gateway in a process of its own, with a SoftHSM token and no cluster: what it would ask the API server is answered at
//! once by its own process, and remembered as ever.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use axum::{Json, Router, extract::Request, routing::post};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use futures::StreamExt;
use hsm_operator::{
    api::{
        AUDIENCE, HsmKey, HsmPartition,
        condition::{self, Report},
        key::HsmKeyStatus,
    },
    auth::{access::AccessReviews, token_review::TokenReviews},
    gateway::{
        self, State,
        missed::Missed,
        partitions::{Known, Partitions},
    },
    hsm::{
        Hsm,
        protocol::{KeyTemplate, Reply, Request as Work},
    },
    model::{
        KeyAlgorithm, KeyId, KeyLabel,
        certificate::{CertificateAlgorithm, Subject},
    },
    server::https::{self, Certificate, Limits},
    service::{
        certificate::{self, Chain, Unsigned, Usages},
        directory::{Directory, Usable},
        files::Files,
        sign::Signer,
    },
    telemetry::{Metrics, logs},
};
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{Token, common::token::Module, wrk::Target};

/// Says to this program, started once more, that it is the gateway.
const CHILD: &str = "HSM_BENCH_GATEWAY";
const NAMESPACE: &str = "bench";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const LONGEST_FILE: u64 = 256 * 1024 * 1024;

/// The gateway's process, which ends with this.
pub struct Gateway {
    process: Child,
    /// What it said of itself.
    pub about: About,
}

/// Where a gateway is and what is behind it.
#[derive(Serialize, Deserialize)]
pub struct About {
    address: String,
    /// A caller's access token.
    pub caller: String,
    /// Library, environment, label and PIN of the token.
    pub library: PathBuf,
    pub environment: Vec<(String, String)>,
    pub label: String,
    pub pin: String,
    /// Public halves of the keys `rsa` and `p256`.
    pub rsa: Vec<u8>,
    pub p256: Vec<u8>,
}

impl Gateway {
    /// Starts one, with a folder for its files.
    pub fn start(folder: &Path) -> Self {
        let log = std::fs::File::create(folder.join("log")).expect("the folder is ours");
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .env(CHILD, folder)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("this program starts");
        let about = loop {
            if let Ok(about) = std::fs::read(folder.join("about")) {
                break serde_json::from_slice(&about).expect("it was written as a whole");
            }
            assert!(process.try_wait().expect("a child").is_none(), "the gateway ended, see its log");
            std::thread::sleep(Duration::from_millis(20));
        };
        Self { process, about }
    }

    /// Address of an endpoint.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.about.address)
    }

    /// A request to repeat, with or without a body.
    pub fn target(&self, path: &str, body: Option<&Value>) -> Target {
        Target {
            url: self.url(path),
            token: Some(self.about.caller.clone()),
            body: body.map(Value::to_string),
        }
    }

    /// An answer.
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let authorization = format!("Authorization: Bearer {}", self.about.caller);
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--fail-with-body", "--insecure", "-H", &authorization])
            .args(["-d", &body.to_string(), &self.url(path)])
            .output()
            .expect("curl is installed");
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stdout));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Most memory that it ever had, in MiB.
    pub fn peak(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves until the parent ends it, if this is the gateway.
pub fn be_child() -> bool {
    let Some(folder) = std::env::var_os(CHILD) else { return false };
    let _logs = logs::init("info");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads").block_on(serve(Path::new(&folder)));
    true
}

async fn serve(folder: &Path) {
    let token = Token::new(Module::SoftHsm);
    let hsm: Arc<dyn Hsm> = token.supervisor().await;
    let (directory, partitions) = (Arc::new(Directory::default()), Arc::new(Partitions::default()));
    let metrics = Arc::new(Metrics::default());
    let signer = Signer::new(Arc::clone(&metrics));
    let mut public = Vec::new();
    for (name, spec) in [
        ("rsa", json!({"algorithm": "RSA", "keySize": 2048, "attributes": {"sign": true, "decrypt": true}})),
        ("p256", json!({"algorithm": "EC", "curveOid": P256, "attributes": {"sign": true}})),
        ("files", json!({"algorithm": "EC", "curveOid": P384, "attributes": {"derive": true}})),
        ("aes", json!({"algorithm": "AES", "keySize": 256, "attributes": {"decrypt": true}})),
        ("hmac", json!({"algorithm": "HMACSHA256", "keySize": 256, "attributes": {"sign": true}})),
    ] {
        let (key, spki) = make(hsm.as_ref(), &signer, name, spec).await;
        directory.put(Arc::new(key));
        public.push(spki.unwrap_or_default());
    }
    let spec = json!({"pkcs11": {"library": "/x.so", "tokenLabel": "x", "pinSecretRef": {"name": "pin"}},
        "allowedNamespaces": {}});
    let partition = HsmPartition::new("p", serde_json::from_value(spec).expect("a partition"));
    partitions.put(Known { object: Arc::new(partition), hsm: Some(hsm) });
    let client = Client::new(api_server(), "default");
    let state = State {
        authenticate: Arc::new(TokenReviews::new(client.clone(), AUDIENCE.into(), Arc::clone(&metrics))),
        authorize: Arc::new(AccessReviews::new(client.clone(), Arc::clone(&metrics))),
        directory,
        partitions,
        signer,
        files: Files::new(LONGEST_FILE, 8, folder.into()),
        passwords: Arc::new(hsm_operator::service::password::Known::new(NAMESPACE.into())),
        derived: hsm_operator::service::derive::Derived::default(),
        missed: Missed::default(),
        client: Some(client),
        metrics: Arc::clone(&metrics),
    };
    let discard = post(async |request: Request| {
        let mut body = request.into_body().into_data_stream();
        while body.next().await.is_some() {}
    });
    let router = gateway::router(Arc::new(state)).route("/discard", discard);
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let certificate = Arc::new(Certificate::default());
    let key = certified.signing_key.serialize_pem();
    certificate.set(certified.cert.pem().as_bytes(), key.as_bytes()).expect("a certificate");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut public = public.into_iter();
    let about = About {
        address: listener.local_addr().expect("a port").to_string(),
        caller: access_token(),
        library: token.library.clone(),
        environment: token.environment.clone(),
        label: token.label.clone(),
        pin: token.pin.clone(),
        rsa: public.next().expect("the first key"),
        p256: public.next().expect("the second key"),
    };
    std::fs::write(folder.join("about.new"), json!(about).to_string()).expect("the folder is ours");
    std::fs::rename(folder.join("about.new"), folder.join("about")).expect("the folder is ours");
    https::serve(listener, certificate, router, Limits::default(), metrics, CancellationToken::new()).await;
}

/// Makes a key, and an object that says so; one that signs has an authority's certificate.
async fn make(hsm: &dyn Hsm, signer: &Signer, name: &str, mut spec: Value) -> (HsmKey, Option<Vec<u8>>) {
    spec["partitionRef"] = json!({"name": "p"});
    let mut key = HsmKey::new(name, serde_json::from_value(spec).expect("a key"));
    key.metadata.namespace = Some(NAMESPACE.into());
    let template = KeyTemplate {
        id: KeyId::for_purpose(name),
        label: KeyLabel::new(name).expect("a label"),
        algorithm: key.spec.algorithm,
        key_size: key.spec.key_size.map(|size| u32::try_from(size).expect("a size")),
        curve_oid: key.spec.curve_oid.clone(),
        attributes: key.spec.attributes.resolved(),
    };
    let Ok(Reply::Key(facts)) = hsm.call(Work::Generate(template)).await else { panic!("a key") };
    let public = facts.public_key.map(|spki| spki.to_vec());
    let ready = [Report::new(condition::READY, Some(true), "Ready", "the key can be used")];
    key.status = Some(HsmKeyStatus {
        conditions: condition::apply(&[], &ready, None, jiff::Timestamp::now()),
        key_id: Some(KeyId::for_purpose(name).to_string()),
        public_key: public.as_ref().map(|spki| STANDARD.encode(spki)),
        ..HsmKeyStatus::default()
    });
    let algorithm = match key.spec.algorithm {
        KeyAlgorithm::Rsa => CertificateAlgorithm::Sha256WithRsa,
        KeyAlgorithm::Ec if key.spec.attributes.sign == Some(true) => CertificateAlgorithm::Sha256WithEcdsa,
        _ => return (key, public),
    };
    let usable = Usable::of(&key).expect("it is Ready");
    let half = usable.public.as_deref().expect("it has one");
    let subject = Subject { common_name: Some(format!("Bench {name}")), ..Subject::default() };
    let subject = certificate::name(&subject).expect("a name");
    let usages = Usages { authority: true, ..Usages::default() };
    let unsigned =
        Unsigned::self_signed(half, algorithm, subject, &usages, 365, jiff::Timestamp::now()).expect("all");
    let der = unsigned.signed(signer, hsm, &usable).await.expect("a certificate");
    let pem = Chain::from_der(der, half).expect("its own").pem();
    key.spec.certificate = Some(serde_json::from_value(json!({"pem": pem})).expect("a certificate"));
    (key, public)
}

/// An API server that knows one caller, who may do anything.
fn api_server() -> Router {
    let authentication = post(async |Json(mut review): Json<Value>| {
        let username = format!("system:serviceaccount:{NAMESPACE}:bench");
        review["status"] = json!({"authenticated": true, "audiences": [AUDIENCE], "user": {
            "username": username, "uid": "8a4d4a57-98cb-4b13-a2c8-8f4b9a1c9d11",
            "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{NAMESPACE}"), "system:authenticated"],
        }});
        Json(review)
    });
    let authorization = post(async |Json(mut review): Json<Value>| {
        review["status"] = json!({"allowed": true});
        Json(review)
    });
    Router::new()
        .route("/apis/authentication.k8s.io/v1/tokenreviews", authentication)
        .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", authorization)
}

/// As long as those that pods have, and valid for longer than this takes.
fn access_token() -> String {
    let end = jiff::Timestamp::now().as_second() + 24 * 3600;
    let claims = json!({"exp": end, "aud": [AUDIENCE], "pad": "x".repeat(400)}).to_string();
    let [head, claims, signature] = [&br#"{"alg":"RS256","kid":"x"}"#[..], claims.as_bytes(), &[7; 256]]
        .map(|part| URL_SAFE_NO_PAD.encode(part));
    format!("{head}.{claims}.{signature}")
}
