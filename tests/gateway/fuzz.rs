//! Requests made up from the OpenAPI document by schemathesis, against a gateway with a real token: whatever is sent, the
//! answer is one that the document has, and none is a mistake of ours.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{gateway::partitions::Known, server::https::Limits};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    common::{
        token::{Module, Token},
        vendor,
    },
    files,
    lifecycle::{Fate, world_before},
    listener::{Authority, LIMITS, Server},
    openapi::tool,
    world::{NAMESPACE, PARTITION, World},
};

/// Known to hooks.py too.
const KEYS: &[&str] =
    &["p256", "rsa", "ed", "k1", "aes-cipher", "rsa-cipher", "hmac", "aes-open", "p256-files", "ed-guarded"];
/// Signs timestamps, and hooks.py lets its certificate alone.
const STAMPS: &str = "p256-stamp";
/// The master of a tree, where the token has them; known to hooks.py too.
const TREE: &str = "k1-tree";
/// Requests for each operation in the longest of the three phases.
const EXAMPLES: &str = "15";
/// What has to succeed now and then.
const ANSWERED: &[(&str, u16)] = &[
    ("/v1/key", 201),
    ("/v1/key/attributes", 200),
    ("/v1/key/keyAttestation", 200),
    ("/v1/synchronousSign", 200),
    ("/v1/verify", 200),
    ("/v1/encrypt", 200),
    ("/v1/synchronousHmac", 200),
    ("/v1/certificate/synchronous/request", 200),
    ("/v1/certificate/synchronous/selfsign", 200),
    ("/v1/certificate/{*name}", 200),
    ("/v1/key/changePassword", 200),
    ("/v1/key/export/plain", 200),
    ("/v1/key/{*name}", 200),
    ("/v1/key/import/plain", 201),
    ("/v1/wrap", 200),
    ("/v1/fileEncrypt", 200),
    ("/v1/synchronousFileDecrypt", 200),
    ("/v1/createRfcTimestamp", 200),
    ("/v1/dataObject", 201),
    ("/v1/dataObject/{*name}", 200),
];
/// The same before a token that has trees.
const DERIVED: &[(&str, u16)] = &[("/v1/derivedKey", 201), ("/v1/importedKey", 201)];
/// It ends by itself long before.
const WITHIN: Duration = Duration::from_secs(300);

/// A gateway before a token, with keys that hooks.py knows.
struct Stage {
    world: World,
    /// See [`made`].
    made: Value,
    server: Server,
}

impl Stage {
    async fn before(token: &Token, keys: &[&'static str]) -> Self {
        let hsm = token.supervisor().await;
        let keys = [keys, &[STAMPS]].concat();
        let (world, stand) = world_before(hsm, Arc::default(), Fate::Ready, &keys).await;
        for name in keys {
            let entry = world.directory.by_name(NAMESPACE, name).unwrap();
            stand.objects().insert(name.to_owned(), (*entry.object).clone());
        }
        let mut made = made(&world).await;
        made["tree"] = json!(world.directory.by_name(NAMESPACE, TREE).is_some());
        let limits = Limits { handshake: Duration::from_secs(10), ..LIMITS };
        let server = Server::serving_within(limits, world.router.clone(), &Authority::new()).await;
        Self { world, made, server }
    }

    fn origin(&self) -> String {
        format!("https://{}", self.server.address())
    }

    /// Whatever is asked, the answer is documented. These are among them, and those of [`ANSWERED`].
    async fn answers(&self, also: &[(&str, u16)]) {
        let (passed, said) = made_up(&[&format!("{}/v3/api-docs", self.origin())], &self.made, |_| {}).await;
        println!("{said}");
        assert!(passed, "{said}");
        // A run that never got past the first check would prove little.
        let metrics = self.world.metrics.text();
        for (route, status) in ANSWERED.iter().chain(also) {
            let answered = |line: &str| {
                line.contains(&format!("gateway_requests_total{{route=\"{route}\""))
                    && line.contains(&format!("status=\"{status}\""))
            };
            assert!(metrics.lines().any(answered), "{route} never answered {status}:\n{metrics}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_made_up_request_is_answered_by_a_500_or_by_what_is_not_documented() {
    let token = Token::new(Module::SoftHsm);
    let stage = Stage::before(&token, KEYS).await;
    stage.answers(&[]).await;

    // What it is worth: each check finds a lie of its own.
    let mut document = stage.world.call("GET", "/v3/api-docs", &Value::Null).await.ok();
    document["components"]["schemas"]["Version"]["properties"]["Version"]["type"] = json!("integer");
    let zip = &mut document["paths"]["/v1/key/keyAttestation"]["post"]["responses"]["200"];
    zip["content"] = json!({ "application/json": {} });
    let one = &mut document["paths"]["/v1/key/attributes"]["post"]["responses"];
    one.as_object_mut().unwrap().remove("404");
    let paths = ["/v1/versionInfo", "/v1/key/keyAttestation", "/v1/key/attributes"];
    document["paths"].as_object_mut().unwrap().retain(|path, _| paths.contains(&path.as_str()));
    let lies = |folder: &Path| std::fs::write(folder.join("lies.json"), document.to_string()).unwrap();
    let (passed, said) = made_up(&["lies.json", "--url", &stage.origin()], &stage.made, lies).await;
    assert!(!passed, "{said}");
    for found in
        ["Undocumented status code: 1", "Undocumented Content-Type: 1", "Response violates schema: 1"]
    {
        assert!(said.contains(found), "{found}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_is_one_before_kryoptic() {
    // It does not have the curve of k1.
    let keys: Vec<_> = KEYS.iter().copied().filter(|name| *name != "k1").collect();
    Stage::before(&Token::new(Module::Kryoptic), &keys).await.answers(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_is_one_before_a_token_that_has_a_vendors_mechanisms() {
    Stage::before(&vendor::token(), &[KEYS, &[TREE]].concat()).await.answers(DERIVED).await;
}

/// What nobody makes up: a wrapped key and an encrypted file, both of keys that are there. Timestamps are made from now on.
async fn made(world: &World) -> Value {
    let body = json!({"signKeyName": STAMPS, "signatureAlgorithm": "SHA256_WITH_ECDSA", "validity": 30,
        "standardCertificateAttributes": {"commonName": "stamps"}, "extendedKeyUsage": ["TIME_STAMPING"]});
    world.call("POST", "/v1/certificate/synchronous/selfsign", &body).await.ok();
    let settings =
        json!({"keyRef": {"namespace": NAMESPACE, "name": STAMPS}, "policy": "1.3.6.1.4.1.99999.1"});
    let mut partition = (*world.partitions.object(PARTITION).unwrap()).clone();
    partition.spec.timestamp = Some(serde_json::from_value(settings).unwrap());
    world.partitions.put(Known { object: Arc::new(partition), hsm: Some(world.hsm.clone()) });

    let body = json!({"wrapKeyRequest":
        {"wrapKeyName": "aes-open", "keyToBeWrapped": "aes-open", "wrapMethod": "AES_WRAP_PAD"}});
    let wrapped = world.call("POST", "/v1/wrap", &body).await.ok()["wrappedKey"].clone();
    let sealed = files::encrypt(world, "app", "p256-files", b"a file").await;
    assert_eq!(sealed.status, 200, "{:?}", sealed.body);
    json!({ "wrapped": wrapped, "sealed": STANDARD.encode(sealed.body) })
}

/// Runs schemathesis in a folder of its own; whether all is well, and what it says.
async fn made_up(location: &[&str], made: &Value, prepare: impl FnOnce(&Path)) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["schemathesis.toml", "hooks.py"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/fuzz").join(name);
        std::fs::copy(file, folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("made.json"), made.to_string()).unwrap();
    prepare(folder.path());
    let command = tokio::process::Command::new(tool("schemathesis"))
        .arg("run")
        .args(location)
        // The certificate is for another name.
        .args(["--tls-verify", "false", "--header", "Authorization: Bearer app", "--request-timeout", "60"])
        // With several workers, the run would not be the same each time, nor does Python 3.11 always stand it.
        .args(["--max-examples", EXAMPLES, "--workers", "1", "--generation-database", "none", "--no-color"])
        .current_dir(folder.path())
        .env("PYTHONWARNINGS", "ignore")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(WITHIN, command).await.expect("it ends").unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
