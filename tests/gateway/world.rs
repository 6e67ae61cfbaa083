//! A gateway with everything around it in memory.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::{Router, body::Body};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hsm_operator::{
    api::{
        HsmKey, HsmPartition,
        condition::{self, Report},
        key::{Derivation, HsmKeyStatus},
        partition::HsmPartitionStatus,
        password::new_secret_name,
    },
    auth::{Action, Authenticate, Authorize, Caller, Denied, Refused},
    gateway::{
        self, State,
        missed::Missed,
        partitions::{Known, Partitions},
    },
    hsm::{
        Hsm,
        fake::Fake,
        protocol::{DerivedTemplate, Find, HsmError, KeyFacts, KeyTemplate, Reply, Request},
    },
    model::{KeyId, KeyLabel, Password, derivation::DerivedName},
    public_key::PublicKey,
    service::{
        address,
        attest::Attestor,
        derive::Derived,
        directory::Directory,
        files::Files,
        password::{self, Hash, Known as Passwords},
        sign::Signer,
    },
    telemetry::Metrics,
};
use http_body_util::BodyExt;
use hyper::{HeaderMap, StatusCode};
use jiff::Timestamp;
use kube::{Client, ResourceExt, core::ObjectMeta};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tower::ServiceExt;

pub const NAMESPACE: &str = "shop";
pub const PARTITION: &str = "main";
pub const PASSWORD: &str = "pässword";
/// Where the operator is, and the Secrets with passwords.
pub const OPERATOR: &str = "hsm-operator";

/// Knows callers by the words that they send as tokens.
struct Words;

#[async_trait]
impl Authenticate for Words {
    async fn authenticate(&self, token: &str) -> Result<Arc<Caller>, Refused> {
        let (namespace, name) = match token {
            "app" | "reader" | "user" | "nobody" => (NAMESPACE, token),
            "stranger" => ("elsewhere", "app"),
            "person" => return Err(Refused::NotServiceAccount("jane".into())),
            "bomb" => panic!("told to"),
            "unchecked" => return Err(Refused::Unavailable),
            _ => return Err(Refused::Invalid("nobody knows it".into())),
        };
        Ok(Arc::new(Caller {
            username: format!("system:serviceaccount:{namespace}:{name}"),
            uid: name.into(),
            groups: vec!["system:serviceaccounts".into()],
            namespace: namespace.into(),
        }))
    }
}

/// `app` may do everything, `reader` everything but use keys, `user` use and read them only, `nobody` nothing.
#[derive(Default)]
pub struct Rules(Mutex<Vec<Action>>);

#[async_trait]
impl Authorize for Rules {
    async fn authorize(&self, caller: &Caller, action: &Action) -> Result<(), Denied> {
        self.0.lock().unwrap().push(action.clone());
        let allowed = match caller.uid.as_str() {
            "app" => true,
            "reader" => action.verb != "use",
            "user" => action.verb == "use" || action.verb == "get",
            _ => false,
        };
        if allowed {
            return Ok(());
        }
        Err(Denied::Forbidden(format!("{} may not {}", caller.username, action.verb)))
    }
}

impl Rules {
    /// What was asked since the last time, as `verb resource namespace/name`.
    pub fn asked(&self) -> Vec<String> {
        let line = |one: Action| format!("{} {} {}/{}", one.verb, one.resource, one.namespace, one.name);
        std::mem::take(&mut *self.0.lock().unwrap()).into_iter().map(line).collect()
    }
}

/// Makes attestations: one token with its chain for all tests, because its keys take a while.
pub struct Office {
    token: Fake,
    attestor: Attestor,
    pub partition: HsmPartition,
}

pub async fn office() -> &'static Office {
    static OFFICE: OnceCell<Office> = OnceCell::const_new();
    OFFICE
        .get_or_init(|| async {
            let spec = json!({
                "pkcs11": {"library": "/fake.so", "tokenLabel": "fake", "pinSecretRef": {"name": "pin"}},
                "allowedNamespaces": {"matchLabels": {"hsm": "yes"}},
            });
            let mut partition = HsmPartition::new(PARTITION, serde_json::from_value(spec).unwrap());
            let (token, attestor) = (Fake::default(), Attestor::default());
            let attestation = attestor.ensure(&token, &partition, Timestamp::now()).await.unwrap();
            let ready = [Report::new(condition::READY, Some(true), "Ready", "it answers")];
            partition.status = Some(HsmPartitionStatus {
                conditions: condition::apply(&[], &ready, None, Timestamp::now()),
                attestation: Some(attestation.current),
                ..HsmPartitionStatus::default()
            });
            Office { token, attestor, partition }
        })
        .await
}

/// What the controller does with the token: makes the key and says everything about it in the status.
#[derive(Clone)]
pub struct Maker(pub Arc<dyn Hsm>);

impl Maker {
    pub async fn ready(&self, key: HsmKey) -> HsmKey {
        self.try_ready(key).await.unwrap_or_else(|error| panic!("the token makes no key: {error:?}"))
    }

    /// Fails where the token does.
    pub async fn try_ready(&self, key: HsmKey) -> Result<HsmKey, HsmError> {
        let uid = key.uid().unwrap().parse().unwrap();
        let namespace = key.namespace().unwrap();
        let template = KeyTemplate {
            id: KeyId::for_object(uid, &namespace, &key.name_any()),
            label: KeyLabel::stored(key.label()).unwrap(),
            algorithm: key.spec.algorithm,
            key_size: key.spec.key_size.map(|size| u32::try_from(size).unwrap()),
            curve_oid: key.spec.curve_oid.clone(),
            attributes: key.spec.attributes.resolved(),
        };
        let request = match &key.spec.derived_from {
            None if key.is_public_only() => Request::Find(Find::Public(template.id)),
            None => Request::Generate(template),
            Some(_) => self.derive(&key, template).await,
        };
        match self.0.call(request).await? {
            Reply::Key(facts) => Ok(self.told(key, &facts).await),
            Reply::Keys(keys) if key.is_public_only() => Ok(self.told(key, &keys[0]).await),
            other => panic!("the token makes keys: {other:?}"),
        }
    }

    /// What is said of a key that is on the token.
    pub async fn told(&self, mut key: HsmKey, facts: &KeyFacts) -> HsmKey {
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
        let KeyFacts { id, label, key_size, curve_oid, public_key, attributes, chain_code, .. } =
            facts.clone();
        let office = office().await;
        let attestation = office
            .attestor
            .attest(&office.token, &office.partition, facts, &key.spec, &now.to_string(), now)
            .await
            .unwrap();
        let ready = [Report::new(condition::READY, Some(true), "Ready", "the key can be used")];
        let known = public_key.as_deref().and_then(|spki| PublicKey::from_spki(spki).ok());
        key.status = Some(HsmKeyStatus {
            conditions: condition::apply(&[], &ready, Some(1), now),
            key_id: id.map(|id| id.to_string()),
            label: Some(label),
            public_key: public_key.map(|spki| STANDARD.encode(spki)),
            key_size: key_size.map(|size| i32::try_from(size).unwrap()),
            curve_oid,
            attributes: Some(attributes),
            derivation: chain_code
                .map(|code| Derivation { kind: "SLIP-10".into(), value: hex::encode_upper(code) }),
            address: known.and_then(|public| address::of(&key.spec, &public).unwrap()),
            create_time: Some(now.to_string()),
            attestation: Some(attestation),
            ..HsmKeyStatus::default()
        });
        key
    }
}

impl Maker {
    async fn derive(&self, key: &HsmKey, template: KeyTemplate) -> Request {
        let name = DerivedName::parse(&key.label()).unwrap();
        let master = match self.0.call(Request::Find(Find::Label(name.master))).await {
            Ok(Reply::Keys(keys)) => keys[0].id.clone().unwrap(),
            other => panic!("{other:?}"),
        };
        Request::Derive(Box::new(DerivedTemplate { template, master, path: name.path }))
    }
}

/// A key whose controller says that it waits or is stalled.
pub fn unready(mut key: HsmKey, stalled: bool, reason: &'static str, message: &str) -> HsmKey {
    let mut reports = vec![Report::new(condition::READY, Some(false), reason, message)];
    if stalled {
        reports.push(Report::new(condition::STALLED, Some(true), reason, message));
    }
    key.status = Some(HsmKeyStatus {
        conditions: condition::apply(&[], &reports, Some(1), Timestamp::now()),
        ..HsmKeyStatus::default()
    });
    key
}

/// An HsmKey as it is in the cluster before anybody looked at it.
pub fn object(namespace: &str, name: &str, spec: Value) -> HsmKey {
    let mut key = HsmKey::new(name, serde_json::from_value(spec).unwrap());
    key.metadata = ObjectMeta {
        name: Some(name.into()),
        namespace: Some(namespace.into()),
        uid: Some(uuid::Uuid::new_v4().to_string()),
        ..ObjectMeta::default()
    };
    key
}

pub struct World {
    pub fake: Arc<Fake>,
    /// The same, or another token.
    pub hsm: Arc<dyn Hsm>,
    pub directory: Arc<Directory>,
    pub partitions: Arc<Partitions>,
    pub passwords: Arc<Passwords>,
    pub rules: Arc<Rules>,
    pub metrics: Arc<Metrics>,
    pub router: Router,
}

impl World {
    /// With other limits on files.
    pub async fn with_files(files: Files) -> Self {
        Self::build(&[], files, |_, _| None).await
    }

    /// With the keys of `keys` (see [`World::make`]), and without an API server.
    pub async fn new(keys: &[&str]) -> Self {
        Self::with_client(keys, |_, _| None).await
    }

    pub async fn with_client(
        keys: &[&str],
        client: impl FnOnce(Arc<Directory>, Maker) -> Option<Client>,
    ) -> Self {
        Self::build(keys, Files::default(), client).await
    }

    async fn build(
        keys: &[&str],
        files: Files,
        client: impl FnOnce(Arc<Directory>, Maker) -> Option<Client>,
    ) -> Self {
        let fake = Arc::new(Fake::default());
        Self::whole(fake.clone(), fake, keys, files, client).await
    }

    /// The same before another token than the fake, which then has nothing to do.
    pub async fn before(
        hsm: Arc<dyn Hsm>,
        fake: Arc<Fake>,
        keys: &[&str],
        client: impl FnOnce(Arc<Directory>, Maker) -> Option<Client>,
    ) -> Self {
        Self::whole(hsm, fake, keys, Files::default(), client).await
    }

    async fn whole(
        hsm: Arc<dyn Hsm>,
        fake: Arc<Fake>,
        keys: &[&str],
        files: Files,
        client: impl FnOnce(Arc<Directory>, Maker) -> Option<Client>,
    ) -> Self {
        let directory = Arc::new(Directory::default());
        let (rules, metrics) = (Arc::new(Rules::default()), Arc::new(Metrics::default()));
        let partitions = Arc::new(Partitions::default());
        let passwords = Arc::new(Passwords::new(OPERATOR.into()));
        let object = Arc::new(office().await.partition.clone());
        partitions.put(Known { object, hsm: Some(hsm.clone()) });
        partitions.namespace(NAMESPACE, Some([("hsm".to_owned(), "yes".to_owned())].into()));
        partitions.namespace("elsewhere", Some([].into()));
        let state = State {
            authenticate: Arc::new(Words),
            authorize: rules.clone(),
            directory: directory.clone(),
            partitions: partitions.clone(),
            signer: Signer::new(metrics.clone()),
            passwords: passwords.clone(),
            files,
            missed: Missed::default(),
            derived: Derived::default(),
            client: client(directory.clone(), Maker(hsm.clone())),
            metrics: metrics.clone(),
        };
        let router = gateway::router(Arc::new(state));
        let world = Self { fake, hsm, directory, partitions, passwords, rules, metrics, router };
        for name in keys {
            world.make(name).await;
        }
        world
    }

    /// Makes a key by the name that tests know it by; with `-locked` behind it, one whose password is [`PASSWORD`].
    pub async fn make(&self, name: &str) {
        let plain = |algorithm: &str| json!({"algorithm": algorithm});
        let curve = |oid: &str| json!({"algorithm": "EC", "curveOid": oid});
        let (whole, name) = (name, name.strip_suffix("-locked").unwrap_or(name));
        let mut spec = match name {
            "rsa" => json!({"algorithm": "RSA", "keySize": 2048}),
            "p256" | "p256-mute" | "p256-files" | "p256-stamp" => curve("1.2.840.10045.3.1.7"),
            "p384" => curve("1.3.132.0.34"),
            "p521" => curve("1.3.132.0.35"),
            "k1" | "k1-coins" | "k1-tree" => curve("1.3.132.0.10"),
            "aes" | "aes-cipher" | "aes-open" => json!({"algorithm": "AES", "keySize": 256}),
            "rsa-cipher" => json!({"algorithm": "RSA", "keySize": 2048}),
            "hmac" | "hmac-mute" => plain("HMACSHA256"),
            _ => plain("ED"),
        };
        spec["partitionRef"] = json!({"name": PARTITION});
        let (sign, decrypt) = (!name.ends_with("-mute"), name.ends_with("-cipher"));
        let destroyable = name == "ed-destroyable";
        spec["attributes"] = json!({"sign": sign, "decrypt": decrypt, "destroyable": destroyable});
        // It may leave the token, in plain, too.
        if name == "aes-open" {
            spec["attributes"] = json!({"unwrap": true, "extractable": true, "sensitive": false});
        }
        if name == "k1-tree" {
            spec["attributes"] = json!({"sign": true, "derive": true, "slip10": true});
        }
        if name == "p256-files" {
            spec["attributes"] = json!({"derive": true});
        }
        if name == "ed-destroyable" {
            spec["deletionPolicy"] = json!("Destroy");
        }
        if name == "ed-kept" {
            spec["attributes"]["destroyable"] = json!(true);
        }
        if name == "k1-coins" {
            spec["policy"] = json!({"keyStatus": {"blocked": false}});
            spec["addressFormat"] = json!({"format": "BTC"});
        }
        if name == "ed-policy" {
            let rule = json!({"tokens": [{"name": "main", "timelock": 0, "timeout": 0}]});
            spec["policy"] =
                json!({"ruleUse": rule, "ruleBlock": {"tokens": []}, "keyStatus": {"blocked": false}});
        }
        if whole != name {
            let hash = Hash::of(&Password::new(PASSWORD).unwrap());
            let secret_name = new_secret_name();
            self.passwords.seen(&password::secret(&secret_name, NAMESPACE, whole, &hash));
            spec["password"] = json!({"secretName": secret_name});
        }
        let key = object(NAMESPACE, whole, spec);
        let key = match name {
            "ed-waiting" => unready(key, false, "Waiting", "the token is asked"),
            "ed-missing" => unready(key, true, "MissingOnToken", "the key is gone from the token"),
            "ed-conflict" => unready(key, true, "Conflict", "another HsmKey has this label"),
            "ed-untouched" => key,
            _ => Maker(self.hsm.clone()).ready(key).await,
        };
        self.directory.put(Arc::new(key));
    }

    pub fn spki(&self, name: &str) -> Vec<u8> {
        let entry = self.directory.by_name(NAMESPACE, name).unwrap();
        entry.usable.as_ref().unwrap().public.as_ref().unwrap().spki().to_vec()
    }

    pub async fn send(&self, request: hyper::Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.call_as("app", method, path, body).await
    }

    pub async fn call_as(&self, token: &str, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(body)
            .unwrap();
        self.send(request).await
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, self.body))
    }

    /// The body of a success.
    pub fn ok(&self) -> Value {
        assert!(self.status.is_success(), "{} {:?}", self.status, self.body);
        self.json()
    }

    /// Status and code of a refusal, whose body must be as the contract has it.
    pub fn refused(&self) -> (u16, u64) {
        assert_eq!(self.headers["content-type"], "application/json");
        let body = self.json();
        let members: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["errorCode", "message", "reason"], "{body}");
        assert!(body["reason"].as_str().unwrap().starts_with("res.error."), "{body}");
        assert!(!body["message"].as_str().unwrap().is_empty(), "{body}");
        (self.status.as_u16(), body["errorCode"].as_u64().expect("a number"))
    }
}
