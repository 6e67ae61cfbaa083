//! Certificates over REST: what is written is read by openssl and by a second library, and kept in the key's object.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path as Segments, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    api::{
        HsmKey,
        certificate::{CertificateSpec, CertificateStatus},
    },
    service::directory::Directory,
};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate, X509CertificationRequest};

use crate::{
    common::token::run,
    world::{Answer, NAMESPACE, World},
};

const REQUEST: &str = "/v1/certificate/synchronous/request";
const DOWNLOAD: &str = "/v1/certificate/synchronous/request/download";
const SELF_SIGN: &str = "/v1/certificate/synchronous/selfsign";
const SIGN: &str = "/v1/certificate/synchronous/sign";
const IMPORT: &str = "/v1/certificate/import/plain";

/// The keys that sign certificates, and how.
const WAYS: &[(&str, &str)] = &[
    ("rsa", "SHA224_WITH_RSA"),
    ("rsa", "SHA256_WITH_RSA"),
    ("rsa", "SHA384_WITH_RSA"),
    ("rsa", "SHA512_WITH_RSA"),
    ("p256", "SHA256_WITH_ECDSA"),
    ("p384", "SHA384_WITH_ECDSA"),
    ("p521", "SHA512_WITH_ECDSA"),
    ("k1", "SHA256_WITH_ECDSA"),
    ("ed", "EDDSA"),
];

/// An API server with HsmKeys that can be read and patched.
#[derive(Default)]
struct Store {
    objects: Mutex<BTreeMap<String, HsmKey>>,
    /// Where the gateway's watch brings changes; `None` where it does not.
    view: Option<Arc<Directory>>,
    patches: Mutex<Vec<Value>>,
    /// How many writers get ahead of the next patches.
    rivals: Mutex<usize>,
    away: Mutex<bool>,
}

impl Store {
    fn object(&self, name: &str) -> HsmKey {
        self.objects.lock().unwrap()[name].clone()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut HsmKey)) {
        let mut objects = self.objects.lock().unwrap();
        let key = objects.get_mut(name).unwrap();
        change(key);
        let version: u64 = key.resource_version().unwrap().parse().unwrap();
        key.metadata.resource_version = Some((version + 1).to_string());
        if let Some(view) = &self.view {
            view.put(Arc::new(key.clone()));
        }
    }

    fn patches(&self) -> Vec<Value> {
        std::mem::take(&mut *self.patches.lock().unwrap())
    }
}

fn status(code: u16, message: &str) -> Response {
    let reason = if code == 404 { "NotFound" } else { "Other" };
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": message});
    (StatusCode::from_u16(code).unwrap(), Json(body)).into_response()
}

async fn read(
    State(store): State<Arc<Store>>,
    Segments((namespace, name)): Segments<(String, String)>,
) -> Response {
    if *store.away.lock().unwrap() {
        return status(500, "away");
    }
    match store.objects.lock().unwrap().get(&name) {
        Some(key) if namespace == NAMESPACE => Json(key).into_response(),
        _ => status(404, "not found"),
    }
}

async fn list(State(store): State<Arc<Store>>, Segments(namespace): Segments<String>) -> Response {
    let objects = store.objects.lock().unwrap();
    let items: Vec<_> = objects.values().filter(|_| namespace == NAMESPACE).collect();
    let (version, kind) = ("hsm-operator.io/v1alpha1", "HsmKeyList");
    Json(json!({"apiVersion": version, "kind": kind, "metadata": {}, "items": items})).into_response()
}

async fn patch(
    State(store): State<Arc<Store>>,
    Segments((_, name)): Segments<(String, String)>,
    body: axum::body::Bytes,
) -> Response {
    let patch: Value = serde_json::from_slice(&body).unwrap();
    store.patches.lock().unwrap().push(patch.clone());
    let rival = {
        let mut rivals = store.rivals.lock().unwrap();
        let is = *rivals > 0;
        *rivals = rivals.saturating_sub(1);
        is
    };
    if rival {
        store.change(&name, |_| {});
    }
    let now = store.object(&name);
    let differs = |field: &str, has: Option<String>| {
        patch["metadata"][field].as_str().is_some_and(|wanted| Some(wanted) != has.as_deref())
    };
    if differs("uid", now.uid()) || differs("resourceVersion", now.resource_version()) {
        return status(409, "the object has been modified");
    }
    let certificate = patch["spec"]["certificate"].clone();
    store.change(&name, |key| {
        // A merge: a null takes the member away.
        key.spec.certificate = certificate.as_object().map(|new| {
            let mut all = serde_json::to_value(key.spec.certificate.take().unwrap_or_default()).unwrap();
            all.as_object_mut().unwrap().extend(new.clone());
            serde_json::from_value::<CertificateSpec>(all).unwrap()
        });
    });
    Json(store.object(&name)).into_response()
}

struct Stage {
    world: World,
    store: Arc<Store>,
    folder: TempDir,
}

impl Stage {
    async fn new(keys: &[&str]) -> Self {
        Self::with_view(keys, true).await
    }

    async fn with_view(keys: &[&str], hears: bool) -> Self {
        let mut made = None;
        let world = World::with_client(keys, |directory, _| {
            let store = Arc::new(Store { view: hears.then_some(directory), ..Store::default() });
            let keys = "/apis/hsm-operator.io/v1alpha1/namespaces/{namespace}/hsmkeys";
            let routes = Router::new()
                .route(keys, get(list))
                .route(&format!("{keys}/{{name}}"), get(read).patch(patch))
                .with_state(store.clone());
            made = Some(store);
            Some(Client::new(routes, "default"))
        })
        .await;
        let store = made.unwrap();
        for name in keys {
            let mut key = (*world.directory.by_name(NAMESPACE, name).unwrap().object).clone();
            key.metadata.resource_version = Some("1".into());
            store.objects.lock().unwrap().insert((*name).to_owned(), key);
        }
        Self { world, store, folder: tempfile::tempdir().unwrap() }
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.world.call("POST", path, body).await
    }

    async fn get(&self, name: &str) -> Answer {
        self.world.call("GET", &format!("/v1/certificate/{name}"), &Value::Null).await
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A key and a request of openssl's own.
    fn openssl_request(&self, kind: &str) -> String {
        let key = self.folder.path().join("subject.key");
        let arguments: &[&str] = match kind {
            "rsa" => &["-algorithm", "RSA"],
            "ed" => &["-algorithm", "ED25519"],
            _ => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        };
        run(Command::new("openssl").arg("genpkey").args(arguments).arg("-out").arg(&key));
        let request = Command::new("openssl")
            .args([
                "req",
                "-new",
                "-subj",
                "/O=Elsewhere/CN=theirs",
                "-addext",
                "keyUsage=keyAgreement",
                "-key",
            ])
            .arg(&key)
            .output()
            .unwrap();
        assert!(request.status.success());
        String::from_utf8(request.stdout).unwrap()
    }
}

fn openssl(arguments: &[&str], file: &Path) -> String {
    let output = run(Command::new("openssl").args(arguments).arg(file));
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr)
}

/// Verifies as RFC 5280 has it, not only as most take it.
fn openssl_verify(authority: &Path, certificate: &Path) {
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-check_ss_sig", "-CAfile"]).arg(authority).arg(certificate);
    assert!(String::from_utf8(run(&mut command).stdout).unwrap().ends_with(": OK\n"));
}

/// The DER of an answer with a certificate, whose members must agree and have the contract's form.
fn der_of(answer: &Value, label: &str) -> Vec<u8> {
    let members: Vec<_> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["certificate", "label", "rawCertificate"]);
    assert_eq!(answer["label"], label);
    let raw = answer["rawCertificate"].as_str().unwrap();
    let armoured = format!("-----BEGIN CERTIFICATE-----\n{raw}\n-----END CERTIFICATE-----");
    assert_eq!(answer["certificate"], armoured);
    STANDARD.decode(raw).unwrap()
}

fn attributes(name: &str) -> Value {
    json!({"commonName": name, "country": "CH", "stateOrProvinceName": "Zürich", "locality": null,
        "organizationName": "Example AG", "organizationIdentifier": "VATCH-123", "organizationUnitName": "Keys",
        "email": "keys@example.org"})
}

#[tokio::test]
async fn a_request_verifies_and_says_what_was_asked() {
    let stage = Stage::new(&["rsa", "p256", "p384", "p521", "k1", "ed"]).await;
    for (key, algorithm) in WAYS {
        let body = json!({"signKeyName": key, "keyPassword": null, "signatureAlgorithm": algorithm,
            "standardCertificateAttributes": attributes("device"), "metaData": "e30=",
            "keyUsage": ["DIGITAL_SIGNATURE, KEY_CERT_SIGN"], "extendedKeyUsage": ["SERVER_AUTH,CLIENT_AUTH", ""]});
        let answer = stage.post(REQUEST, &body).await.ok();
        let members: Vec<_> = answer.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["certificateSigningRequest", "csr", "label"]);
        assert_eq!((&answer["label"], &answer["csr"]), (&json!(key), &answer["certificateSigningRequest"]));
        let pem = answer["csr"].as_str().unwrap();
        let lines: Vec<_> = pem.split('\n').collect();
        assert_eq!(lines[0], "-----BEGIN NEW CERTIFICATE REQUEST-----");
        assert_eq!(lines[lines.len() - 1], "-----END NEW CERTIFICATE REQUEST-----");
        let (last, full) = lines[1..lines.len() - 1].split_last().unwrap();
        assert!(full.iter().all(|line| line.len() == 64) && (1..=64).contains(&last.len()), "{pem}");

        let file = stage.file("request", pem);
        let said = openssl(
            &["req", "-verify", "-noout", "-subject", "-nameopt", "RFC2253,utf8,-esc_msb", "-in"],
            &file,
        );
        assert!(said.contains("verify OK"), "{said}");
        let subject = "emailAddress=keys@example.org,CN=device,OU=Keys,organizationIdentifier=VATCH-123,O=Example AG,ST=Zürich,C=CH";
        assert!(said.contains(subject), "{said}");
        let text = openssl(&["req", "-noout", "-text", "-in"], &file);
        for part in [
            "X509v3 Key Usage: critical\n                    Digital Signature, Certificate Sign",
            "X509v3 Extended Key Usage: critical\n                    TLS Web Server Authentication, TLS Web Client Authentication",
            "X509v3 Subject Key Identifier:",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }

        let der = STANDARD.decode(lines[1..lines.len() - 1].concat()).unwrap();
        let (rest, parsed) = X509CertificationRequest::from_der(&der).unwrap();
        assert!(rest.is_empty());
        let spki = stage.world.spki(key);
        assert_eq!(parsed.certification_request_info.subject_pki.raw, spki);
        assert_eq!(parsed.requested_extensions().unwrap().count(), 3);
    }
}

#[tokio::test]
async fn a_request_is_also_a_file() {
    let stage = Stage::new(&["p256"]).await;
    let body = json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA",
        "standardCertificateAttributes": {"commonName": "device"}});
    let answer = stage.post(DOWNLOAD, &body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/x-pem-file");
    assert_eq!(answer.headers["content-disposition"], "attachment; filename=\"p256.csr\"");
    let file = stage.file("request", &answer.body);
    assert!(openssl(&["req", "-verify", "-noout", "-in"], &file).contains("verify OK"));
}

#[tokio::test]
async fn a_key_carries_a_certificate_after_its_first_request_and_keeps_it_after_the_next() {
    let stage = Stage::new(&["p256"]).await;
    let body = |name: &str| {
        json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA", "validity": 7,
            "standardCertificateAttributes": {"commonName": name}, "keyUsage": ["DIGITAL_SIGNATURE"]})
    };
    stage.post(REQUEST, &body("first")).await.ok();
    assert_eq!(stage.world.rules.asked(), ["use hsmkeys shop/p256", "update hsmkeys shop/p256"]);
    let first = der_of(&stage.get("p256").await.ok(), "p256");
    let parsed = X509Certificate::from_der(&first).unwrap().1;
    assert_eq!(
        (parsed.subject().to_string(), parsed.issuer().to_string()),
        ("CN=first".into(), "CN=first".into())
    );
    assert!(!parsed.is_ca());
    stage.post(REQUEST, &body("second")).await.ok();
    assert_eq!(der_of(&stage.get("p256").await.ok(), "p256"), first);
}

#[tokio::test]
async fn who_may_not_change_the_key_gets_a_request_and_changes_nothing() {
    let stage = Stage::new(&["p256"]).await;
    let body = json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA",
        "standardCertificateAttributes": {"commonName": "device"}});
    stage.world.call_as("user", "POST", REQUEST, &body).await.ok();
    assert_eq!(stage.store.patches(), Vec::<Value>::new());
    assert_eq!(stage.world.fake.count("sign"), 1);
    assert_eq!(stage.get("p256").await.refused(), (404, 653));
}

#[tokio::test]
async fn a_request_does_not_write_over_a_certificate_that_came_meanwhile() {
    let stage = Stage::new(&["p256"]).await;
    let body = json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA",
        "standardCertificateAttributes": {"commonName": "device"}});
    // Others write to the object, though no certificate.
    *stage.store.rivals.lock().unwrap() = 2;
    stage.post(REQUEST, &body).await.ok();
    assert_eq!(stage.store.patches().len(), 3);
    assert!(stage.store.object("p256").spec.certificate.is_some());

    // The view does not show the certificate that another gateway attached.
    let stage = Stage::with_view(&["p256"], false).await;
    let other = CertificateSpec { pem: Some("somebody's".into()), self_signed: None };
    stage.store.change("p256", |key| key.spec.certificate = Some(other.clone()));
    stage.post(REQUEST, &body).await.ok();
    assert_eq!(stage.store.object("p256").spec.certificate, Some(other));

    *stage.store.rivals.lock().unwrap() = usize::MAX;
    stage.store.change("p256", |key| key.spec.certificate = None);
    assert_eq!(stage.post(REQUEST, &body).await.refused(), (503, 700));
}

#[tokio::test]
async fn a_self_signed_certificate_verifies_strictly_and_is_attached() {
    let stage = Stage::new(&["rsa", "p256", "p384", "p521", "k1", "ed"]).await;
    for (at, (key, algorithm)) in WAYS.iter().enumerate() {
        let path = if at % 2 == 0 { SELF_SIGN } else { "/v1/certificate/synchronous/create/selfSigned" };
        let body = json!({"signKeyName": key, "signatureAlgorithm": algorithm, "validity": 90,
            "commonName": "Root", "certificateAuthority": true, "keyUsage": ["KEY_CERT_SIGN"],
            "extendedKeyUsage": ["ANY_EXTENDED_KEY_USAGE"]});
        let answer = stage.post(path, &body).await.ok();
        let der = der_of(&answer, key);
        let file = stage.file("certificate", answer["certificate"].as_str().unwrap());
        openssl_verify(&file, &file);
        let text = openssl(&["x509", "-noout", "-text", "-in"], &file);
        for part in [
            "Version: 3 (0x2)",
            "X509v3 Basic Constraints: critical\n                CA:TRUE\n",
            "X509v3 Key Usage: critical\n                Certificate Sign\n",
            "X509v3 Extended Key Usage: critical\n                Any Extended Key Usage\n",
            "X509v3 Subject Key Identifier:",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let parsed = X509Certificate::from_der(&der).unwrap().1;
        assert_eq!(parsed.public_key().raw, stage.world.spki(key));
        let (begin, end) =
            (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let now = jiff::Timestamp::now().as_second();
        assert_eq!((begin % 86_400, end - begin), (0, 90 * 86_400));
        assert!((0..86_410).contains(&(now - begin)), "the last midnight");
        let serial = parsed.raw_serial();
        assert!(serial.len() == 16 && (0x40..0x80).contains(&serial[0]), "{serial:x?}");
        // What was answered is what is kept, and read again at once.
        assert_eq!(stage.get(key).await.ok(), answer);
    }
}

#[tokio::test]
async fn names_and_validities_have_their_defaults() {
    let stage = Stage::new(&["p256"]).await;
    let base = json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA"});
    for (change, name, days) in [
        (json!({"commonName": "alone", "keyUsage": [""], "extendedKeyUsage": [""]}), "CN=alone", 3650),
        (
            json!({"commonName": "alone", "validity": 0, "keyUsage": null, "certificateAuthority": null}),
            "CN=alone",
            3650,
        ),
        (
            json!({"commonName": "x", "validity": null, "standardCertificateAttributes": {"commonName": "y", "country": ""}}),
            "CN=y",
            3650,
        ),
        (
            json!({"commonName": "x", "validity": 10_000, "standardCertificateAttributes": {"organizationName": "O"}}),
            "O=O, CN=x",
            10_000,
        ),
    ] {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let der = der_of(&stage.post(SELF_SIGN, &body).await.ok(), "p256");
        let parsed = X509Certificate::from_der(&der).unwrap().1;
        assert_eq!(parsed.subject().to_string(), name);
        let validity = parsed.validity();
        assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), days * 86_400);
        // UTCTime ends with 2049.
        assert_eq!(validity.not_after.is_generalizedtime(), days == 10_000);
        let extensions: Vec<_> = parsed.extensions().iter().map(|one| one.oid.to_string()).collect();
        assert_eq!(extensions, ["2.5.29.14"], "{name}");
    }
    let authority = json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA", "commonName": "x",
        "certificateAuthority": true});
    let der = der_of(&stage.post(SELF_SIGN, &authority).await.ok(), "p256");
    let parsed = X509Certificate::from_der(&der).unwrap().1;
    let usage = parsed.key_usage().unwrap().unwrap();
    assert!(parsed.is_ca() && usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
}

#[tokio::test]
async fn an_issued_certificate_verifies_under_the_authority() {
    let stage = Stage::new(&["rsa", "p256", "p384", "p521", "k1", "ed"]).await;
    for (at, (key, algorithm)) in WAYS.iter().enumerate() {
        let root = json!({"signKeyName": key, "signatureAlgorithm": algorithm, "validity": 9000,
            "standardCertificateAttributes": attributes("Root"), "certificateAuthority": true});
        let root = stage.post(SELF_SIGN, &root).await.ok();
        let root_file = stage.file("root", root["certificate"].as_str().unwrap());
        let request = stage.openssl_request(["rsa", "ec", "ed"][at % 3]);
        let plain = json!({"signKeyName": key, "keyName": "theirs", "signatureAlgorithm": algorithm,
            "commonName": "Leaf", "certificateSigningRequest": request, "certificateAuthority": false});
        let answer = stage.post(SIGN, &plain).await.ok();
        let der = der_of(&answer, key);
        let leaf_file = stage.file("leaf", answer["certificate"].as_str().unwrap());
        openssl_verify(&root_file, &leaf_file);
        let root = der_of(&root, key);
        let (root, leaf) =
            (X509Certificate::from_der(&root).unwrap().1, X509Certificate::from_der(&der).unwrap().1);
        assert_eq!(leaf.issuer().as_raw(), root.subject().as_raw());
        assert_eq!(leaf.subject().to_string(), "CN=Leaf");
        let asked = openssl(
            &["pkey", "-pubout", "-outform", "DER", "-out", "/dev/null", "-in"],
            &stage.folder.path().join("subject.key"),
        );
        assert_eq!(asked, "");
        let wanted = run(Command::new("openssl")
            .args(["pkey", "-pubout", "-outform", "DER", "-in"])
            .arg(stage.folder.path().join("subject.key")))
        .stdout;
        assert_eq!(leaf.public_key().raw, wanted);
        // What the request asks for is not what it gets: only the call decides.
        let extensions: Vec<_> = leaf.extensions().iter().map(|one| one.oid.to_string()).collect();
        assert_eq!(extensions, ["2.5.29.14", "2.5.29.35"]);
        let identifier = |certificate: &X509Certificate<'_>, authority: bool| {
            certificate.extensions().iter().find_map(|one| match one.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) if !authority => Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) if authority => {
                    Some(id.key_identifier.as_ref()?.0.to_vec())
                }
                _ => None,
            })
        };
        assert_eq!(identifier(&leaf, true), identifier(&root, false));
        let validity = leaf.validity();
        assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 3650 * 86_400);
        let age = jiff::Timestamp::now().as_second() - validity.not_before.timestamp();
        assert!((0..10).contains(&age), "it begins now");
        // The authority still carries its own.
        assert_eq!(der_of(&stage.get(key).await.ok(), key), root.as_raw());
    }
}

#[tokio::test]
async fn an_issued_authority_issues_in_its_turn() {
    let stage = Stage::new(&["p256", "rsa"]).await;
    let root = json!({"signKeyName": "rsa", "signatureAlgorithm": "SHA256_WITH_RSA", "commonName": "Root", "certificateAuthority": true});
    let root = stage.post(SELF_SIGN, &root).await.ok();
    let csr = json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA", "standardCertificateAttributes": {"commonName": "Middle"}});
    let csr = stage.post(REQUEST, &csr).await.ok();
    let middle = json!({"signKeyName": "rsa", "signatureAlgorithm": "SHA512_WITH_RSA", "commonName": "Middle", "validity": 30,
        "certificateSigningRequest": csr["csr"], "certificateAuthority": true});
    let middle = stage.post(SIGN, &middle).await.ok();
    // As the published client writes it, with a comma too many.
    let text =
        format!(r#"{{ "label": "p256", "certificate": "{}", }}"#, middle["rawCertificate"].as_str().unwrap());
    let request =
        hyper::Request::post(IMPORT).header("authorization", "Bearer app").body(Body::from(text)).unwrap();
    let imported = stage.world.send(request).await.ok();
    assert_eq!(der_of(&imported, "p256"), der_of(&middle, "rsa"));
    assert_eq!(stage.get("p256").await.ok(), imported);
    let leaf = json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA", "commonName": "Leaf",
        "certificateSigningRequest": stage.openssl_request("ec"), "keyUsage": ["DIGITAL_SIGNATURE"], "extendedKeyUsage": ["SERVER_AUTH"]});
    let leaf = stage.post(SIGN, &leaf).await.ok();
    let file = |name: &str, answer: &Value| stage.file(name, answer["certificate"].as_str().unwrap());
    let (root, middle, leaf) = (file("root", &root), file("middle", &middle), file("leaf", &leaf));
    let mut command = Command::new("openssl");
    command
        .args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"])
        .arg(root)
        .arg("-untrusted")
        .arg(middle)
        .arg(leaf);
    run(&mut command);
}

#[tokio::test]
async fn a_certificate_is_imported_read_replaced_and_removed() {
    // Nothing that is answered here comes from a view that is behind.
    let stage = Stage::with_view(&["p256", "ed"], false).await;
    assert_eq!(stage.get("p256").await.refused(), (404, 653));
    let remove = || stage.world.call("DELETE", "/v1/certificate/p256", &Value::Null);
    assert_eq!(remove().await.refused(), (404, 653));
    let body = |name: &str| json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA", "commonName": name});
    stage.world.rules.asked();
    let first = stage.post(SELF_SIGN, &body("one")).await.ok();
    assert_eq!(stage.world.rules.asked(), ["use hsmkeys shop/p256", "update hsmkeys shop/p256"]);
    let uid = stage.store.object("p256").uid().unwrap();
    let patches = stage.store.patches();
    assert_eq!(patches.len(), 1);
    assert_eq!(patches[0]["metadata"], json!({"uid": uid}));
    assert_eq!(patches[0]["spec"]["certificate"].as_object().unwrap().len(), 1, "the rest stays as it is");
    let pem = patches[0]["spec"]["certificate"]["pem"].as_str().unwrap();
    assert!(pem.ends_with("-----END CERTIFICATE-----\n") && pem.lines().all(|line| line.len() <= 64));
    let second = stage.post(SELF_SIGN, &body("two")).await.ok();
    assert_eq!(stage.get("p256").await.ok(), second);

    let armoured = format!(
        "-----BEGIN CERTIFICATE-----{}-----END CERTIFICATE-----",
        first["rawCertificate"].as_str().unwrap()
    );
    stage.world.rules.asked();
    let imported = stage.post(IMPORT, &json!({"label": "p256", "certificate": armoured})).await.ok();
    assert_eq!(stage.world.rules.asked(), ["update hsmkeys shop/p256"]);
    assert_eq!(imported, first);
    assert_eq!(stage.get("p256").await.ok(), first);
    assert_eq!(stage.world.rules.asked(), ["get hsmkeys shop/p256"]);

    let removed = remove().await;
    assert_eq!((removed.status.as_u16(), removed.body.len()), (200, 0));
    assert_eq!(stage.world.rules.asked(), ["update hsmkeys shop/p256"]);
    assert_eq!(stage.store.object("p256").spec.certificate, None);
    assert_eq!(stage.get("p256").await.refused(), (404, 653));

    *stage.store.away.lock().unwrap() = true;
    assert_eq!(stage.get("p256").await.refused(), (503, 700), "what may be old is not answered");
}

#[tokio::test]
async fn an_object_of_the_same_name_made_meanwhile_is_not_meant() {
    let stage = Stage::with_view(&["p256"], false).await;
    let body = json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA", "commonName": "x"});
    stage.store.change("p256", |key| key.metadata.uid = Some("another".into()));
    assert_eq!(stage.post(SELF_SIGN, &body).await.refused(), (404, 650));
    assert_eq!(stage.store.object("p256").spec.certificate, None);
}

#[tokio::test]
async fn a_declared_certificate_is_read_once_it_is_made() {
    let stage = Stage::new(&["p256"]).await;
    let made = stage
        .post(
            SELF_SIGN,
            &json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA", "commonName": "x"}),
        )
        .await
        .ok();
    let pem = stage.store.object("p256").spec.certificate.unwrap().pem.unwrap();
    let wanted: CertificateSpec =
        serde_json::from_value(json!({"selfSigned": {"subject": {"commonName": "x"}}})).unwrap();
    stage.store.change("p256", |key| {
        key.spec.certificate = Some(wanted.clone());
    });
    assert_eq!(stage.get("p256").await.refused(), (503, 700));
    let described = |made_for: String| CertificateStatus {
        pem,
        made_for: Some(made_for),
        ..CertificateStatus::default()
    };
    let of_an_earlier_spec = described("0".repeat(64));
    stage
        .store
        .change("p256", |key| key.status.as_mut().unwrap().certificate = Some(of_an_earlier_spec.clone()));
    assert_eq!(stage.get("p256").await.refused(), (503, 700));
    let right =
        CertificateStatus { made_for: Some(wanted.self_signed.unwrap().digest()), ..of_an_earlier_spec };
    stage.store.change("p256", |key| key.status.as_mut().unwrap().certificate = Some(right));
    assert_eq!(stage.get("p256").await.ok(), made);
    // What somebody wrote by hand and is no certificate of the key is not handed out.
    let other = CertificateSpec { pem: Some("-----BEGIN CERTIFICATE-----".into()), self_signed: None };
    stage.store.change("p256", |key| key.spec.certificate = Some(other));
    assert_eq!(stage.get("p256").await.refused(), (400, 402));
}

#[tokio::test]
async fn each_call_needs_its_permission() {
    let stage = Stage::new(&["p256"]).await;
    let sign = json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA", "commonName": "x"});
    let mut issue = sign.clone();
    issue["certificateSigningRequest"] = stage.openssl_request("ec").into();
    let made = stage.post(SELF_SIGN, &sign).await.ok();
    let import = json!({"label": "p256", "certificate": made["rawCertificate"]});
    stage.store.patches();
    let signed = stage.world.fake.count("sign");
    let get = "/v1/certificate/p256";
    for (who, method, path, body) in [
        ("nobody", "POST", REQUEST, &sign),
        ("reader", "POST", REQUEST, &sign),
        ("reader", "POST", DOWNLOAD, &sign),
        ("reader", "POST", SELF_SIGN, &sign),
        ("user", "POST", SELF_SIGN, &sign),
        ("reader", "POST", SIGN, &issue),
        ("user", "POST", IMPORT, &import),
        ("nobody", "GET", get, &Value::Null),
        ("user", "DELETE", get, &Value::Null),
    ] {
        let answer = stage.world.call_as(who, method, path, body).await;
        assert_eq!(answer.refused(), (403, 400), "{who} {path}");
        let foreign = stage.world.call_as("stranger", method, path, body).await;
        assert_eq!(foreign.refused(), (404, 650), "{path}");
    }
    assert_eq!((stage.store.patches().len(), stage.world.fake.count("sign")), (0, signed));
}

/// Bad input has its code, and changes nothing on the token and nothing in the cluster.
#[tokio::test]
async fn bad_input_is_told_apart_and_changes_nothing() {
    let stage = Stage::new(&["rsa", "p256", "ed", "aes", "p256-mute"]).await;
    let attach = |key: &'static str, algorithm: &'static str, authority: bool| json!({"signKeyName": key, "signatureAlgorithm": algorithm, "commonName": key, "certificateAuthority": authority});
    let rsa = stage.post(SELF_SIGN, &attach("rsa", "SHA256_WITH_RSA", true)).await.ok();
    stage.post(SELF_SIGN, &attach("ed", "EDDSA", false)).await.ok();
    stage.store.patches();
    let signed = stage.world.fake.count("sign");
    let csr = stage.openssl_request("ec");
    let with = |base: &Value, change: Value| {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    };
    let plain = json!({"signKeyName": "rsa", "signatureAlgorithm": "SHA256_WITH_RSA", "commonName": "x"});
    let issue = with(&plain, json!({"certificateSigningRequest": csr}));
    let middle = csr.len() / 2;
    let swapped = if csr.as_bytes()[middle] == b'A' { "B" } else { "A" };
    let damaged = format!("{}{swapped}{}", &csr[..middle], &csr[middle + 1..]);
    // The last byte of the DER is one of the signature.
    let mut unsigned =
        STANDARD.decode(csr.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap();
    *unsigned.last_mut().unwrap() ^= 1;
    let unsigned = STANDARD.encode(unsigned);
    let unsigned =
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{unsigned}\n-----END CERTIFICATE REQUEST-----");
    let cut = csr.replace("-----END CERTIFICATE REQUEST-----", "");
    let as_certificate = csr.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    let wrong_inside = "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----";
    let not_base64 = "-----BEGIN CERTIFICATE REQUEST-----\n!!!!\n-----END CERTIFICATE REQUEST-----";
    let import = |certificate: Value| json!({"label": "p256", "certificate": certificate});
    let raw = rsa["rawCertificate"].as_str().unwrap();
    let broken = format!("{}\n{}", &raw[..64], &raw[64..]);

    // For all that has a key sign: what is wrong, with which code, and a word of the message.
    let common = [
        (json!({"signKeyName": null}), 400, 600, "signKeyName"),
        (json!({"signKeyName": 5}), 400, 600, "string"),
        (json!({"signKeyName": "none"}), 404, 650, "none"),
        (json!({"signKeyName": "a/b"}), 400, 610, "no step of a derivation path"),
        (json!({"signatureAlgorithm": null}), 400, 600, "signatureAlgorithm"),
        (json!({"signatureAlgorithm": "SHA1_WITH_RSA"}), 400, 600, "SHA256_WITH_RSA"),
        (json!({"signatureAlgorithm": "SHA256_WITH_RSA_PSS"}), 400, 600, "SHA256_WITH_RSA_PSS"),
        (json!({"signatureAlgorithm": "SHA256_WITH_ECDSA"}), 400, 607, "SHA512_WITH_RSA"),
        (json!({"signatureAlgorithm": "EDDSA"}), 400, 607, "RSA"),
        (json!({"commonName": null}), 400, 600, "commonName"),
        (json!({"commonName": " "}), 400, 600, "commonName"),
        (json!({"commonName": "x".repeat(65)}), 400, 600, "64"),
        (json!({"commonName": "a\u{0}b"}), 400, 600, "control"),
        (json!({"commonName": ["x"]}), 400, 600, "string"),
        (json!({"standardCertificateAttributes": "CN=x"}), 400, 600, "expected an object"),
        (json!({"standardCertificateAttributes": {"country": "CHE"}}), 400, 600, "country"),
        (json!({"standardCertificateAttributes": {"country": 41}}), 400, 600, "string"),
        (json!({"standardCertificateAttributes": {"email": "é@example.org"}}), 400, 600, "email"),
        (json!({"validity": -1}), 400, 619, "-1"),
        (json!({"validity": 365_001}), 400, 619, "365000"),
        (json!({"validity": "90"}), 400, 600, "validity"),
        (json!({"validity": 1.5}), 400, 600, "validity"),
        (json!({"keyUsage": "DIGITAL_SIGNATURE"}), 400, 600, "sequence"),
        (json!({"keyUsage": ["DIGITAL_SIGNATURE,SIGN"]}), 400, 600, "CRL_SIGN"),
        (json!({"keyUsage": [1]}), 400, 600, "string"),
        (json!({"extendedKeyUsage": ["SERVER"]}), 400, 600, "OCSP_SIGNING"),
        (json!({"certificateAuthority": "yes"}), 400, 600, "boolean"),
    ];
    let mut cases: Vec<(&str, Value, u16, u64, &str)> = Vec::new();
    for path in [REQUEST, DOWNLOAD, SELF_SIGN, SIGN] {
        for (change, status, code, word) in &common {
            cases.push((path, with(&issue, change.clone()), *status, *code, word));
        }
        let other = |key: &str, algorithm: &str| {
            with(&issue, json!({"signKeyName": key, "signatureAlgorithm": algorithm}))
        };
        cases.push((path, other("aes", "SHA256_WITH_RSA"), 400, 613, "AES"));
        cases.push((path, json!({}), 400, 600, "signKeyName"));
    }
    for path in [SELF_SIGN, SIGN] {
        cases.push((
            path,
            with(&issue, json!({"keyUsage": ["KEY_CERT_SIGN"]})),
            400,
            600,
            "certificateAuthority",
        ));
    }
    for (bad, word) in [
        (json!(""), "PEM"),
        (json!("x"), "PEM"),
        (json!(cut), "end"),
        (json!(as_certificate), "PEM"),
        (json!(wrong_inside), "DER"),
        (json!(not_base64), "base64"),
        (json!(damaged), "request"),
        (json!(unsigned), "good signature"),
        (json!(format!("{csr}{csr}")), "2"),
    ] {
        cases.push((SIGN, with(&issue, json!({"certificateSigningRequest": bad})), 400, 628, word));
    }
    let missing = with(&plain, json!({"certificateSigningRequest": null}));
    cases.push((SIGN, missing, 400, 600, "certificateSigningRequest"));
    cases.push((SIGN, with(&issue, json!({"certificateSigningRequest": {}})), 400, 600, "string"));
    let by = |key: &str, algorithm: &str| {
        with(&issue, json!({"signKeyName": key, "signatureAlgorithm": algorithm}))
    };
    cases.push((SIGN, by("p256", "SHA256_WITH_ECDSA"), 400, 402, "no certificate"));
    cases.push((SIGN, by("ed", "EDDSA"), 400, 402, "authority"));
    for (bad, code, word) in [
        (json!(null), 600, "certificate"),
        (json!(7), 600, "string"),
        (json!(""), 626, "base64"),
        (json!("abc"), 626, "base64"),
        (json!("!!!!"), 626, "base64"),
        (json!(broken), 626, "base64"),
        (json!("AAAA"), 626, "DER"),
        (json!(&raw[..raw.len() - 4]), 626, "DER"),
        (json!(raw), 402, "another key"),
    ] {
        cases.push((IMPORT, import(bad), 400, code, word));
    }
    cases.push((IMPORT, json!({"label": "none", "certificate": raw}), 404, 650, "none"));
    cases.push((IMPORT, json!({"certificate": raw}), 400, 600, "label"));
    cases.push((IMPORT, json!({"label": "aes", "certificate": raw}), 400, 613, "AES"));

    let mut wrong = Vec::new();
    for (path, body, status, code, word) in &cases {
        let answer = stage.post(path, body).await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status.is_success() || answer.refused() != (*status, *code) || !said.contains(word) {
            wrong.push(format!("{path} {body}\n    wanted {status} {code} {word}: {} {said}", answer.status));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for text in ["", "{", "not json", r#"{"label": "p256",, "certificate": "AAAA"}"#] {
        for path in [REQUEST, DOWNLOAD, SELF_SIGN, SIGN, IMPORT] {
            let request = hyper::Request::post(path).header("authorization", "Bearer app");
            let answer = stage.world.send(request.body(Body::from(text)).unwrap()).await;
            assert_eq!(answer.refused(), (400, 621), "{path} {text}");
        }
    }
    assert_eq!(stage.get("none").await.refused(), (404, 650));
    assert_eq!((stage.store.patches().len(), stage.world.fake.count("sign")), (0, signed));
    // A key that may not sign is refused by the token, and nothing is attached.
    let mute =
        json!({"signKeyName": "p256-mute", "signatureAlgorithm": "SHA256_WITH_ECDSA", "commonName": "x"});
    assert_eq!(stage.post(SELF_SIGN, &mute).await.refused(), (400, 614));
    assert_eq!(stage.post(REQUEST, &mute).await.refused(), (400, 614));
    assert_eq!(stage.store.patches(), Vec::<Value>::new());
}
