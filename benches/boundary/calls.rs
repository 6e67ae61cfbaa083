//! What single calls cost the gateway: over TLS, with an access token, permissions and an audit record, as an application
//! has them. Beside them a call with nothing behind it, the same work done by the token alone, and the work that is done
//! with public keys done by itself.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    model::{CipherAlgorithm, KeyId, SignatureAlgorithm},
    public_key::PublicKey,
};
use serde_json::json;

use crate::{
    REPEATS, THREADS,
    gateway::Gateway,
    raw::{self, Raw},
    table::{Must, Row},
    wrk::{self, Target},
};

/// Connections that the load generator keeps busy.
const CONNECTIONS: usize = 32;
/// Length of one measurement.
const TIME: Duration = Duration::from_secs(1);
/// Cores that work with public keys.
const CORES: usize = 2;
/// Such work a second.
const OUTSIDE: f64 = 10_000.0;

/// Measurements by what was measured.
type Seen = BTreeMap<&'static str, Vec<f64>>;

/// All rows.
pub fn rows() -> Vec<Row> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gateway = Gateway::start(folder.path());
    let about = &gateway.about;
    let raw = Raw::open(&about.library, &about.environment, &about.label, &about.pin);
    let targets = targets(&gateway);
    let (public, signatures) = (public_keys(&gateway), signatures(&gateway));
    let mut seen = Seen::new();
    // The first round warms every side up and is thrown away.
    for round in 0..=REPEATS {
        let mut now = Seen::new();
        for (name, target) in &targets {
            let rate = wrk::answers_per_second(target, CONNECTIONS, TIME.as_secs());
            now.entry(name).or_default().push(rate);
        }
        for (name, rate) in directly(&raw).into_iter().chain(outside(&public, &signatures)) {
            now.entry(name).or_default().push(rate);
        }
        add_parts(&mut now);
        let all: Vec<_> = now.iter().map(|(name, rate)| format!("{name} {:.0}", rate[0])).collect();
        eprintln!("  calls {round}/{REPEATS}: {}", all.join(", "));
        if round > 0 {
            for (name, mut rate) in now {
                seen.entry(name).or_default().append(&mut rate);
            }
        }
    }
    table(&seen)
}

/// How often a second these cores would do the parts of a call one after the other and nothing else. The token is a library
/// here, the load generator runs on the same cores, and so every part takes from all others.
fn add_parts(now: &mut Seen) {
    let in_turn = |parts: &[&str]| parts.iter().map(|part| 1.0 / now[part][0]).sum::<f64>().recip();
    let sums = [
        // Every signature with RSA is verified before it is handed out.
        ("parts of sign rsa", in_turn(&["no-op", "token rsa", "verify rsa"])),
        ("parts of gcm", in_turn(&["no-op", "token gcm"])),
        ("parts of hmac", in_turn(&["no-op", "token hmac"])),
        ("parts of verify p256", in_turn(&["no-op", "verify p256"])),
        ("parts of verify rsa", in_turn(&["no-op", "verify rsa"])),
        ("parts of encrypt rsa", in_turn(&["no-op", "encrypt rsa"])),
        // The signature of the request is verified, and that of the certificate.
        ("parts of issue rsa", in_turn(&["no-op", "token rsa", "verify p256", "verify rsa"])),
        ("parts of issue p256", in_turn(&["no-op", "token p256", "verify p256", "verify p256"])),
    ];
    now.extend(sums.map(|(name, rate)| (name, vec![rate])));
}

fn table(seen: &Seen) -> Vec<Row> {
    let row = |name: &str, ours: &str, baseline: &str, must: Option<Must>| {
        let baseline = seen.get(baseline).map_or(&[][..], Vec::as_slice);
        Row::rate(name.into(), &seen[ours], baseline).must(must)
    };
    let share = Some(Must::RatioAtLeast(0.70));
    let often = Some(Must::AtLeast(OUTSIDE));
    vec![
        row("aes-gcm 1 KiB / no-op", "gcm", "no-op", share),
        // The most that a gateway could have on these cores that costs no more than a no-op call.
        row("parts of aes-gcm / no-op", "parts of gcm", "no-op", None),
        row("aes-gcm 1 KiB / its parts", "gcm", "parts of gcm", None),
        row("aes-gcm 1 KiB / token", "gcm", "token gcm", None),
        row("hmac 1 KiB / no-op", "hmac", "no-op", share),
        row("parts of hmac / no-op", "parts of hmac", "no-op", None),
        row("hmac 1 KiB / its parts", "hmac", "parts of hmac", None),
        row("hmac 1 KiB / token", "hmac", "token hmac", None),
        row("verify p256 outside", "verify p256", "", often),
        row("verify rsa2048 outside", "verify rsa", "", often),
        row("encrypt rsa2048 outside", "encrypt rsa", "", often),
        row("verify p256 / its parts", "gateway verify p256", "parts of verify p256", None),
        row("verify rsa2048 / its parts", "gateway verify rsa", "parts of verify rsa", None),
        row("encrypt rsa2048 / its parts", "gateway encrypt rsa", "parts of encrypt rsa", None),
        row("issue with rsa2048 / token", "issue rsa", "token rsa", share),
        row("issue with rsa2048 / its parts", "issue rsa", "parts of issue rsa", None),
        row("issue with p256 / token", "issue p256", "token p256", share),
        row("parts of issue with p256 / token", "parts of issue p256", "token p256", None),
        row("issue with p256 / its parts", "issue p256", "parts of issue p256", None),
        row("parts of sign rsa2048 / token", "parts of sign rsa", "token rsa", None),
    ]
}

fn payload() -> Vec<u8> {
    vec![0x5a; 1024]
}

/// What is asked of the gateway.
fn targets(gateway: &Gateway) -> Vec<(&'static str, Target)> {
    let payload = STANDARD.encode(payload());
    let request = rcgen::KeyPair::generate().expect("a key");
    let subject = rcgen::CertificateParams::new(vec!["example.com".into()]).expect("a name");
    let request = subject.serialize_request(&request).and_then(|request| request.pem()).expect("a request");
    let issue = |key: &str, algorithm: &str| {
        json!({"signKeyName": key, "signatureAlgorithm": algorithm, "validity": 30,
            "standardCertificateAttributes": {"commonName": "example.com"}, "keyUsage": ["DIGITAL_SIGNATURE"],
            "certificateSigningRequest": request})
    };
    let [p256, rsa] = signatures(gateway).map(|signature| STANDARD.encode(signature));
    let verify = |key: &str, algorithm: SignatureAlgorithm, signature: &str| {
        json!({"verifySignatureRequest": {"signKeyName": key, "signatureAlgorithm": algorithm,
            "payload": payload, "signature": signature}})
    };
    let issuing = "/v1/certificate/synchronous/sign";
    vec![
        // The token is looked up and nothing else is done; the answer is as short as they come.
        ("no-op", gateway.target("/v1/versionInfo", None)),
        (
            "gcm",
            gateway.target(
                "/v1/encrypt",
                Some(&json!({"encryptRequest": {"payload": payload, "encryptKeyName": "aes",
                    "cipherAlgorithm": CipherAlgorithm::AesGcm}})),
            ),
        ),
        (
            "hmac",
            gateway.target(
                "/v1/synchronousHmac",
                Some(&json!({"hmacRequest": {"keyName": "hmac", "payload": payload}})),
            ),
        ),
        (
            "gateway verify p256",
            gateway.target("/v1/verify", Some(&verify("p256", SignatureAlgorithm::Sha256WithEcdsa, &p256))),
        ),
        (
            "gateway verify rsa",
            gateway.target("/v1/verify", Some(&verify("rsa", SignatureAlgorithm::Sha256WithRsa, &rsa))),
        ),
        (
            "gateway encrypt rsa",
            gateway.target(
                "/v1/encrypt",
                Some(
                    &json!({"encryptRequest": {"payload": STANDARD.encode([7; 32]), "encryptKeyName": "rsa",
                    "cipherAlgorithm": CipherAlgorithm::RsaOaep}}),
                ),
            ),
        ),
        ("issue rsa", gateway.target(issuing, Some(&issue("rsa", "SHA256_WITH_RSA")))),
        ("issue p256", gateway.target(issuing, Some(&issue("p256", "SHA256_WITH_ECDSA")))),
    ]
}

/// The token alone, in this process.
fn directly(raw: &Raw) -> Vec<(&'static str, f64)> {
    let id = |name| KeyId::for_purpose(name).as_bytes().to_vec();
    let payload = payload();
    let gcm = || {
        let (mut key, payload) = (raw.secret(&id("aes")), &payload);
        move || drop(key.encrypt(payload))
    };
    let hmac = || {
        let (key, payload) = (raw.secret(&id("hmac")), &payload);
        move || drop(key.hmac(payload))
    };
    vec![
        ("token gcm", raw::rate(THREADS, TIME, gcm)),
        ("token hmac", raw::rate(THREADS, TIME, hmac)),
        ("token rsa", raw.loops(&id("rsa"), true, THREADS, TIME)),
        ("token p256", raw.loops(&id("p256"), false, THREADS, TIME)),
    ]
}

/// Signatures of the gateway's keys, P-256 and RSA, as it hands them out.
fn signatures(gateway: &Gateway) -> [Vec<u8>; 2] {
    [("p256", SignatureAlgorithm::Sha256WithEcdsa), ("rsa", SignatureAlgorithm::Sha256WithRsa)].map(
        |(key, algorithm)| {
            let body = json!({"signRequest": {"payload": STANDARD.encode(payload()), "signKeyName": key,
                "signatureAlgorithm": algorithm}});
            let answer = gateway.post("/v1/synchronousSign", &body);
            STANDARD.decode(answer["signature"].as_str().expect("a text")).expect("base64")
        },
    )
}

/// P-256 and RSA.
fn public_keys(gateway: &Gateway) -> [PublicKey; 2] {
    [&gateway.about.p256, &gateway.about.rsa].map(|spki| PublicKey::from_spki(spki).expect("a public key"))
}

/// What is done with public keys, in this process.
fn outside([p256, rsa]: &[PublicKey; 2], [of_p256, of_rsa]: &[Vec<u8>; 2]) -> Vec<(&'static str, f64)> {
    let payload = payload();
    let verify = |key: &PublicKey, algorithm, signature: &[u8]| {
        raw::rate(CORES, TIME, || {
            || {
                assert_eq!(key.verify(algorithm, &payload, signature), Ok(true));
            }
        })
    };
    let encrypt = || || drop(rsa.encrypt(CipherAlgorithm::RsaOaep, &[7; 32]).expect("a ciphertext"));
    vec![
        ("verify p256", verify(p256, SignatureAlgorithm::Sha256WithEcdsa, of_p256)),
        ("verify rsa", verify(rsa, SignatureAlgorithm::Sha256WithRsa, of_rsa)),
        ("encrypt rsa", raw::rate(CORES, TIME, encrypt)),
    ]
}
