//! Files of 200 MiB to and from a gateway of its own process, by curl over TLS; and what that process needs for it.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;
use axum::{extract::Request, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
use hsm_operator::{
    api::{
        HsmKey, HsmPartition,
        condition::{self, Report},
        key::HsmKeyStatus,
    },
    auth::{Action, Authenticate, Authorize, Caller, Denied, Refused},
    gateway::{
        self, State,
        missed::Missed,
        partitions::{Known, Partitions},
    },
    hsm::{
        Hsm,
        protocol::{Reply, Request as Work},
    },
    model::KeyAlgorithm,
    server::https::{self, Certificate, Limits},
    service::{directory::Directory, files::Files, sign::Signer},
    telemetry::Metrics,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    REPEATS, Token,
    common::token::Module,
    table::{Must, Row},
    template,
};

/// Says to this program, started once more, that it is the gateway.
const CHILD: &str = "HSM_BENCH_FILES";
const NAMESPACE: &str = "bench";
const MIB: usize = 1024 * 1024;
/// Bytes of a file.
const LENGTH: usize = 200 * MIB;

/// Lets anybody do anything.
struct Anybody;

#[async_trait]
impl Authenticate for Anybody {
    async fn authenticate(&self, _: &str) -> Result<Arc<Caller>, Refused> {
        let (username, namespace) = ("bench".to_owned(), NAMESPACE.to_owned());
        Ok(Arc::new(Caller { username, uid: "1".into(), groups: Vec::new(), namespace }))
    }
}

#[async_trait]
impl Authorize for Anybody {
    async fn authorize(&self, _: &Caller, _: &Action) -> Result<(), Denied> {
        Ok(())
    }
}

/// Serves until the parent is gone, if this is the gateway.
pub fn be_child() -> bool {
    let Some(folder) = std::env::var_os(CHILD) else { return false };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads").block_on(serve(Path::new(&folder)));
    true
}

async fn serve(folder: &Path) {
    let token = Token::new(Module::SoftHsm);
    let hsm = token.supervisor().await;
    let mut key = template("files", KeyAlgorithm::Ec, None);
    (key.curve_oid, key.attributes.derive) = (Some("1.3.132.0.34".into()), true);
    let id = key.id.to_string();
    let Ok(Reply::Key(facts)) = hsm.call(Work::Generate(key)).await else { panic!("a key") };
    let spec = json!({"partitionRef": {"name": "p"}, "algorithm": "EC", "curveOid": "1.3.132.0.34", "attributes": {"derive": true}});
    let mut object = HsmKey::new("files", serde_json::from_value(spec).expect("a key"));
    object.metadata.namespace = Some(NAMESPACE.into());
    let ready = [Report::new(condition::READY, Some(true), "Ready", "the key can be used")];
    object.status = Some(HsmKeyStatus {
        conditions: condition::apply(&[], &ready, None, jiff::Timestamp::now()),
        key_id: Some(id),
        public_key: facts.public_key.map(|spki| STANDARD.encode(spki)),
        ..HsmKeyStatus::default()
    });
    let (directory, partitions) = (Arc::new(Directory::default()), Arc::new(Partitions::default()));
    directory.put(Arc::new(object));
    let spec = json!({"pkcs11": {"library": "/x.so", "tokenLabel": "x", "pinSecretRef": {"name": "pin"}}, "allowedNamespaces": {}});
    let partition = HsmPartition::new("p", serde_json::from_value(spec).expect("a partition"));
    partitions.put(Known { object: Arc::new(partition), hsm: Some(hsm) });
    let metrics = Arc::new(Metrics::default());
    let state = State {
        authenticate: Arc::new(Anybody),
        authorize: Arc::new(Anybody),
        directory,
        partitions,
        signer: Signer::new(Arc::clone(&metrics)),
        files: Files::new(256 * MIB as u64, 8, folder.into()),
        passwords: Arc::new(hsm_operator::service::password::Known::new(NAMESPACE.into())),
        derived: hsm_operator::service::derive::Derived::default(),
        missed: Missed::default(),
        client: None,
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
    let address = listener.local_addr().expect("a port");
    std::fs::write(folder.join("address.new"), address.to_string()).expect("the folder is ours");
    std::fs::rename(folder.join("address.new"), folder.join("address")).expect("the folder is ours");
    https::serve(listener, certificate, router, Limits::default(), metrics, CancellationToken::new()).await;
}

/// Sends a file in a form; the time that it took until the answer was there.
fn curl(folder: &Path, address: &str, path: &str, text: &str, input: &str, out: &str) -> f64 {
    let input = format!("file=@{input}");
    let begun = Instant::now();
    let status = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--insecure", "-H", "Authorization: Bearer x"])
        .args(["-F", text, "-F", &input, "-o", out])
        .arg(format!("https://{address}{path}"))
        .current_dir(folder)
        .status()
        .expect("curl is installed");
    assert!(status.success(), "{path}");
    begun.elapsed().as_secs_f64()
}

/// Megabytes per second there and back, beside the same bytes thrown away by the same listener; and memory.
pub fn rows() -> Vec<Row> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let file: Vec<u8> = (0..LENGTH).map(|at| ((at * 2_654_435_761) >> 13) as u8).collect();
    std::fs::write(path.join("plain"), &file).expect("room for a file");
    drop(file);
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .env(CHILD, path)
        .stdin(Stdio::null())
        .spawn()
        .expect("this program starts");
    let address = loop {
        if let Ok(address) = std::fs::read_to_string(path.join("address")) {
            break address;
        }
        assert!(child.try_wait().expect("a child").is_none(), "the gateway ended");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let encrypt = r#"SignedFileEncryptRequestDto={"fileEncryptRequest":{"encryptKeyName":"files"}}"#;
    let decrypt = r#"SignedFileDecryptRequestDto={"fileDecryptRequest":{"decryptKeyName":"files"}}"#;
    let (mut there, mut back, mut thrown) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=REPEATS {
        let discarded = curl(path, &address, "/discard", encrypt, "plain", "/dev/null");
        let encrypted = curl(path, &address, "/v1/fileEncrypt", encrypt, "plain", "sealed");
        let decrypted = curl(path, &address, "/v1/synchronousFileDecrypt", decrypt, "sealed", "opened");
        #[expect(clippy::cast_precision_loss, reason = "a few hundred million")]
        let [discarded, encrypted, decrypted] =
            [discarded, encrypted, decrypted].map(|time| LENGTH as f64 / 1e6 / time);
        eprintln!(
            "  files {round}/{REPEATS}: {encrypted:.0} MB/s there, {decrypted:.0} back, {discarded:.0} thrown away"
        );
        if round > 0 {
            there.push(encrypted);
            back.push(decrypted);
            thrown.push(discarded);
        }
    }
    let same = Command::new("cmp").args(["plain", "opened"]).current_dir(path).status().expect("cmp");
    assert!(same.success(), "the file came back");
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("this is Linux");
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<f64>().ok());
    let _ = child.kill();
    let _ = child.wait();
    let fast = Some(Must::AtLeast(200.0));
    vec![
        Row::more("files/encrypt", "MB/s", &there, &thrown).must(fast),
        Row::more("files/decrypt", "MB/s", &back, &thrown).must(fast),
        Row::less("rss/gateway with files, peak", "MiB", &[peak.expect("a size") / 1024.0], &[])
            .must(Some(Must::AtMost(32.0))),
    ]
}
