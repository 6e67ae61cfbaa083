//! What each endpoint refuses, with which code, and that nothing comes of it: no object, and no call to the token.

use std::{collections::BTreeSet, sync::Arc};

use axum::body::{Body, Bytes};
use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::hsm::fake::Fake;
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    world::{Answer, World},
};

/// What a member has to be.
#[derive(Clone, Copy, PartialEq)]
enum Is {
    Text,
    Number,
    Flag,
    Object,
    /// A list of words.
    List,
}

impl Is {
    fn others(self) -> Vec<Value> {
        let all = [
            (Self::Text, json!("text")),
            (Self::Number, json!(7)),
            (Self::Flag, json!(true)),
            (Self::Object, json!({"secret": 1})),
        ];
        let others = all.into_iter().filter(|(kind, _)| *kind != self).map(|(_, value)| value);
        let lists = [json!([]), json!(["text"]), json!([[]])];
        // An empty one is one.
        let lists = lists.into_iter().skip(usize::from(self == Self::List));
        let mut others: Vec<_> = others.chain(lists).collect();
        if self == Self::Number {
            others.extend([json!(1.5), json!(1e30), json!(u64::MAX)]);
        }
        others
    }
}

/// An endpoint with a body.
struct Endpoint {
    path: &'static str,
    /// What it takes.
    good: Value,
    /// Status and code (0 for none) of that.
    answer: (u16, u64),
    /// Members by their place, what they are, and whether they have to be there.
    members: &'static [(&'static str, Is, bool)],
}

const NAMED: &[(&str, Is, bool)] = &[("/label", Is::Text, true)];

/// What certificates are asked for with.
const SIGNING: &[(&str, Is, bool)] = &[
    ("/signKeyName", Is::Text, true),
    ("/signatureAlgorithm", Is::Text, true),
    ("/commonName", Is::Text, false),
    ("/validity", Is::Number, false),
    ("/certificateAuthority", Is::Flag, false),
    ("/standardCertificateAttributes", Is::Object, false),
    ("/standardCertificateAttributes/organizationName", Is::Text, false),
    ("/keyUsage", Is::List, false),
    ("/extendedKeyUsage", Is::List, false),
];

fn endpoints() -> Vec<Endpoint> {
    let named = |path, answer| Endpoint { path, good: json!({"label": "p256"}), answer, members: NAMED };
    let signing = |path| Endpoint {
        path,
        good: json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA", "commonName": "x",
            "validity": 1, "certificateAuthority": false, "keyUsage": [], "extendedKeyUsage": [],
            "standardCertificateAttributes": {"organizationName": "y"}}),
        answer: (200, 0),
        members: SIGNING,
    };
    vec![
        Endpoint {
            path: "/v1/key",
            good: json!({"label": "new", "algorithm": "ED", "keySize": 0, "curveOid": "1.3.101.112",
                "attributes": {"sign": true, "destroyable": true}}),
            answer: (201, 0),
            members: &[
                ("/label", Is::Text, true),
                ("/algorithm", Is::Text, false),
                ("/algorithmOid", Is::Text, false),
                ("/curveOid", Is::Text, false),
                ("/id", Is::Text, false),
                ("/keySize", Is::Number, false),
                ("/attributes", Is::Object, true),
                ("/attributes/sign", Is::Flag, false),
                ("/attributes/decrypt", Is::Flag, false),
                ("/attributes/unwrap", Is::Flag, false),
                ("/attributes/destroyable", Is::Flag, false),
                ("/attributes/extractable", Is::Flag, false),
                ("/attributes/slip10", Is::Flag, false),
            ],
        },
        named("/v1/key/attributes", (200, 0)),
        named("/v1/key/keyAttestation", (200, 0)),
        named("/v1/key/deleteKey", (400, 614)),
        named("/v1/key/address", (400, 630)),
        named("/v1/key/export/plain", (400, 614)),
        named("/v1/key/changePassword", (200, 0)),
        Endpoint {
            path: "/v1/synchronousSign",
            good: json!({"signRequest": {"payload": "AA==", "signKeyName": "p256", "payloadType": "UNSPECIFIED",
                "signatureAlgorithm": "SHA256_WITH_ECDSA", "signatureType": "DER", "signedApprovals": []}}),
            answer: (200, 0),
            members: &[
                ("/signRequest", Is::Object, true),
                ("/signRequest/payload", Is::Text, true),
                ("/signRequest/signKeyName", Is::Text, true),
                ("/signRequest/signatureAlgorithm", Is::Text, true),
                ("/signRequest/payloadType", Is::Text, false),
                ("/signRequest/signatureType", Is::Text, false),
                ("/signRequest/auxiliaryRandomData", Is::Text, false),
                ("/signRequest/taprootTweakData", Is::Text, false),
                ("/signRequest/merkleRootData", Is::Text, false),
            ],
        },
        Endpoint {
            path: "/v1/verify",
            good: json!({"verifySignatureRequest": {"payload": "AA==", "signature": "AA==", "signKeyName": "p256",
                "signatureAlgorithm": "SHA256_WITH_ECDSA"}}),
            answer: (200, 0),
            members: &[
                ("/verifySignatureRequest", Is::Object, true),
                ("/verifySignatureRequest/payload", Is::Text, true),
                ("/verifySignatureRequest/signature", Is::Text, true),
                ("/verifySignatureRequest/signKeyName", Is::Text, true),
                ("/verifySignatureRequest/signatureAlgorithm", Is::Text, true),
            ],
        },
        Endpoint {
            path: "/v1/verify",
            good: json!({"verifyHmacRequest": {"payload": "AA==", "signature": "AA==", "keyName": "hmac"}}),
            answer: (200, 0),
            members: &[
                ("/verifyHmacRequest", Is::Object, true),
                ("/verifyHmacRequest/payload", Is::Text, true),
                ("/verifyHmacRequest/signature", Is::Text, true),
                ("/verifyHmacRequest/keyName", Is::Text, true),
            ],
        },
        Endpoint {
            path: "/v1/synchronousHmac",
            good: json!({"hmacRequest": {"payload": "AA==", "keyName": "hmac"}}),
            answer: (200, 0),
            members: &[
                ("/hmacRequest", Is::Object, true),
                ("/hmacRequest/payload", Is::Text, true),
                ("/hmacRequest/keyName", Is::Text, true),
            ],
        },
        Endpoint {
            path: "/v1/encrypt",
            good: json!({"encryptRequest": {"payload": "AA==", "encryptKeyName": "aes-cipher", "tagLength": 128,
                "cipherAlgorithm": "AES_GCM", "additionalAuthenticationData": "AA=="}}),
            answer: (200, 0),
            members: &[
                ("/encryptRequest", Is::Object, true),
                ("/encryptRequest/payload", Is::Text, true),
                ("/encryptRequest/encryptKeyName", Is::Text, true),
                ("/encryptRequest/cipherAlgorithm", Is::Text, true),
                ("/encryptRequest/additionalAuthenticationData", Is::Text, false),
                ("/encryptRequest/tagLength", Is::Number, false),
            ],
        },
        Endpoint {
            path: "/v1/synchronousDecrypt",
            good: json!({"decryptRequest": {"encryptedPayload": STANDARD.encode([0; 17]), "tagLength": 128,
                "decryptKeyName": "aes-cipher", "cipherAlgorithm": "AES_GCM",
                "initializationVector": STANDARD.encode([0; 12]), "additionalAuthenticationData": "AA=="}}),
            answer: (400, 410),
            members: &[
                ("/decryptRequest", Is::Object, true),
                ("/decryptRequest/encryptedPayload", Is::Text, true),
                ("/decryptRequest/decryptKeyName", Is::Text, true),
                ("/decryptRequest/cipherAlgorithm", Is::Text, true),
                ("/decryptRequest/initializationVector", Is::Text, false),
                ("/decryptRequest/additionalAuthenticationData", Is::Text, false),
                ("/decryptRequest/tagLength", Is::Number, false),
            ],
        },
        signing("/v1/certificate/synchronous/request"),
        signing("/v1/certificate/synchronous/request/download"),
        signing("/v1/certificate/synchronous/selfsign"),
        signing("/v1/certificate/synchronous/create/selfSigned"),
        Endpoint {
            path: "/v1/certificate/synchronous/sign",
            good: json!({"signKeyName": "p256", "signatureAlgorithm": "SHA256_WITH_ECDSA", "commonName": "x",
                "certificateSigningRequest": "none"}),
            answer: (400, 628),
            members: &[
                ("/signKeyName", Is::Text, true),
                ("/signatureAlgorithm", Is::Text, true),
                ("/certificateSigningRequest", Is::Text, true),
                ("/commonName", Is::Text, false),
            ],
        },
        Endpoint {
            path: "/v1/certificate/import/plain",
            good: json!({"label": "p256", "certificate": "AAAA"}),
            answer: (400, 626),
            members: &[("/label", Is::Text, true), ("/certificate", Is::Text, true)],
        },
        Endpoint {
            path: "/v1/createRfcTimestamp",
            good: json!({"payload": "AA==", "hashAlgorithm": "SHA256"}),
            // The partition names no key for it.
            answer: (400, 611),
            members: &[("/payload", Is::Text, true), ("/hashAlgorithm", Is::Text, true)],
        },
        Endpoint {
            path: "/v1/derivedKey",
            good: json!({"masterKeyLabel": "p256", "derivationPath": "0'", "attributes": {"sign": true}}),
            answer: (400, 611),
            members: &[
                ("/masterKeyLabel", Is::Text, true),
                ("/derivationPath", Is::Text, true),
                ("/attributes", Is::Object, false),
                ("/attributes/sign", Is::Flag, false),
            ],
        },
        Endpoint {
            path: "/v1/derivedkey",
            good: json!({"masterKeyLabel": "p256", "derivationPath": "0'"}),
            answer: (400, 611),
            members: &[("/masterKeyLabel", Is::Text, true), ("/derivationPath", Is::Text, true)],
        },
        Endpoint {
            path: "/v1/importedKey",
            good: json!({"label": "new", "seed": STANDARD.encode([0; 16]), "curveOid": "1.3.132.0.10",
                "attributes": {"derive": true}}),
            answer: (400, 611),
            members: &[
                ("/label", Is::Text, true),
                ("/seed", Is::Text, true),
                ("/curveOid", Is::Text, true),
                ("/attributes", Is::Object, true),
                ("/attributes/sign", Is::Flag, false),
            ],
        },
        Endpoint {
            path: "/v1/key/import/plain",
            good: json!({"label": "new", "algorithm": "HMACSHA256", "secretKey": "AQID", "attributes": {"sign": true}}),
            answer: (201, 0),
            members: &[
                ("/label", Is::Text, true),
                ("/algorithm", Is::Text, true),
                ("/secretKey", Is::Text, true),
                ("/privateKey", Is::Text, false),
                ("/publicKey", Is::Text, false),
                ("/certificate", Is::Text, false),
                ("/attributes", Is::Object, true),
                ("/attributes/sign", Is::Flag, false),
            ],
        },
        Endpoint {
            path: "/v1/wrap",
            good: json!({"wrapKeyRequest": {"keyToBeWrapped": "p256", "wrapKeyName": "p256", "wrapMethod": "AES_WRAP"}}),
            answer: (400, 607),
            members: &[
                ("/wrapKeyRequest", Is::Object, true),
                ("/wrapKeyRequest/keyToBeWrapped", Is::Text, true),
                ("/wrapKeyRequest/wrapKeyName", Is::Text, true),
                ("/wrapKeyRequest/wrapMethod", Is::Text, true),
            ],
        },
        Endpoint {
            path: "/v1/synchronousUnwrap",
            good: json!({"unwrapKeyRequest": {"wrappedKey": "AAAA", "label": "new", "unwrapKeyName": "p256",
                "wrapMethod": "AES_WRAP", "attributes": {"decrypt": true}}}),
            answer: (400, 607),
            members: &[
                ("/unwrapKeyRequest", Is::Object, true),
                ("/unwrapKeyRequest/wrappedKey", Is::Text, true),
                ("/unwrapKeyRequest/label", Is::Text, true),
                ("/unwrapKeyRequest/unwrapKeyName", Is::Text, true),
                ("/unwrapKeyRequest/wrapMethod", Is::Text, true),
                ("/unwrapKeyRequest/attributes", Is::Object, true),
                ("/unwrapKeyRequest/attributes/decrypt", Is::Flag, false),
            ],
        },
        Endpoint {
            path: "/v1/dataObject",
            good: json!({"name": "d", "value": "AA==", "attributes": {"private": true}}),
            answer: (201, 0),
            members: &[
                ("/name", Is::Text, true),
                ("/value", Is::Text, true),
                ("/attributes", Is::Object, false),
                ("/attributes/private", Is::Flag, false),
                ("/attributes/modifiable", Is::Flag, false),
                ("/attributes/destroyable", Is::Flag, false),
            ],
        },
    ]
}

/// A world in which nothing may change.
struct Still {
    world: World,
    cluster: Arc<Cluster>,
    calls: Vec<&'static str>,
    objects: BTreeSet<String>,
    version: u64,
    wrong: Vec<String>,
}

impl Still {
    async fn new() -> Self {
        let fake = Arc::new(Fake::default());
        let keys = ["p256", "ed-destroyable", "aes-cipher", "hmac"];
        let (world, cluster) = Cluster::before(fake.clone(), fake, &keys).await;
        let (calls, objects, version) = (world.fake.calls(), cluster.objects(), cluster.version());
        Self { world, cluster, calls, objects, version, wrong: Vec::new() }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request =
            hyper::Request::builder().method(method).uri(path).header("authorization", "Bearer app");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.world.send(request.body(body.into()).unwrap()).await
    }

    /// A body that has to be refused so, with a message that says so.
    async fn refused(&mut self, path: &str, body: impl Into<Bytes>, expected: (u16, u64), says: &str) {
        let body: Bytes = body.into();
        let answer = self.send("POST", path, &[], body.clone()).await;
        let shown: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        if answer.status.is_success() {
            self.wrong.push(format!("{path} took {shown}"));
            return;
        }
        let (given, message) = (answer.refused(), answer.json()["message"].as_str().unwrap().to_owned());
        if given != expected || !message.contains(says) {
            self.wrong.push(format!("{path} {shown}: {given:?} {message}, not {expected:?} {says}"));
        }
        // But for the name of the member.
        if message.replace("secretKey", "").contains("secret") {
            self.wrong.push(format!("{path} {shown}: the value is repeated: {message}"));
        }
    }

    fn unchanged(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        assert_eq!(self.world.fake.calls(), self.calls, "the token was asked");
        assert_eq!(self.cluster.objects(), self.objects, "objects were changed");
        assert_eq!(self.cluster.version(), self.version, "objects were changed and changed back");
    }
}

fn with(good: &Value, place: &str, value: Value) -> String {
    let mut body = good.clone();
    let (parent, name) = place.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[name] = value;
    body.to_string()
}

fn without(good: &Value, place: &str) -> String {
    let mut body = good.clone();
    let (parent, name) = place.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
    body.to_string()
}

#[tokio::test]
async fn what_the_tables_call_good_is_taken_whatever_its_content_type() {
    for kind in ["application/json", "text/plain", "application/xml; charset=latin1", ""] {
        for endpoint in endpoints() {
            // Each in a world of its own: some of them change it.
            let still = Still::new().await;
            let headers: &[_] = if kind.is_empty() { &[] } else { &[("content-type", kind)] };
            let answer = still.send("POST", endpoint.path, headers, endpoint.good.to_string()).await;
            let given =
                if answer.status.is_success() { (answer.status.as_u16(), 0) } else { answer.refused() };
            assert_eq!(given, endpoint.answer, "{} {kind} {:?}", endpoint.path, answer.body);
        }
    }
}

#[tokio::test]
async fn what_is_missing_null_or_of_another_type_is_named() {
    let mut still = Still::new().await;
    for Endpoint { path, good, members, .. } in endpoints() {
        for (place, is, required) in members {
            let name = place.rsplit('/').next().unwrap();
            if *required {
                still.refused(path, without(&good, place), (400, 600), name).await;
                still.refused(path, with(&good, place, Value::Null), (400, 600), name).await;
            }
            for other in is.others() {
                still.refused(path, with(&good, place, other), (400, 600), name).await;
            }
        }
    }
    still.unchanged();
}

#[tokio::test]
async fn what_is_no_json_or_says_two_things_is_refused_as_such() {
    let mut still = Still::new().await;
    for Endpoint { path, good, members, .. } in endpoints() {
        let text = good.to_string();
        let with_more = |more: &str| format!("{{{more},{}", &text[1..]).into_bytes();
        let rows: Vec<(Vec<u8>, &str)> = vec![
            (vec![], "Cannot parse json string"),
            (b" \n".to_vec(), "Cannot parse json string"),
            (text.as_bytes()[..text.len() - 1].to_vec(), "Cannot parse json string"),
            (format!("{text}}}").into_bytes(), "trailing characters"),
            (format!("{text}{text}").into_bytes(), "trailing characters"),
            (format!("{text}\0").into_bytes(), "Cannot parse json string"),
            (format!("\u{feff}{text}").into_bytes(), "Cannot parse json string"),
            (text.replace('"', "'").into_bytes(), "Cannot parse json string"),
            (with_more("\"x\":NaN"), "Cannot parse json string"),
            (with_more("\"x\":1,"), "Cannot parse json string"),
            (with_more("\"x\":01"), "Cannot parse json string"),
            (with_more("/* x */"), "Cannot parse json string"),
            (with_more("\"x\":\"\n\""), "Cannot parse json string"),
            (with_more("\"x\":\"\\ud800\""), "Cannot parse json string"),
            (with_more(&format!("\"x\":{}{}", "[".repeat(40), "]".repeat(40))), "nested more than 32 deep"),
            (with_more(&format!("\"x\":{}", "{\"a\":".repeat(60_000))), "nested more than 32 deep"),
            (with_more("\"x\":1,\"x\":1"), "the member \"x\" is there twice"),
            ([b"{\"x\":\"\xff\",", &text.as_bytes()[1..]].concat(), "not UTF-8 at byte 6"),
            ([b"{\"x\xc0\xaf\":1,", &text.as_bytes()[1..]].concat(), "not UTF-8"),
            (utf16(&text), "not UTF-8"),
        ];
        for (body, says) in rows {
            still.refused(path, body, (400, 621), says).await;
        }
        for text in ["[]", "null", "7", "true", "\"text\"", "[{}]"] {
            still.refused(path, text, (400, 600), "the body must be a JSON object").await;
        }
        for (place, ..) in members.iter().filter(|(place, ..)| good.pointer(place).is_some()) {
            let name = place.rsplit('/').next().unwrap();
            let member = format!("\"{name}\":{}", good.pointer(place).unwrap());
            let twice = text.replace(&member, &format!("{member},{member}"));
            still.refused(path, twice, (400, 621), &format!("the member \"{name}\" is there twice")).await;
            // The same name, written in another way.
            let escaped = format!("\"\\u{:04x}{}\":null", name.as_bytes()[0], &name[1..]);
            let twice = text.replace(&member, &format!("{member},{escaped}"));
            still.refused(path, twice, (400, 621), "is there twice").await;
        }
    }
    still.unchanged();
}

fn utf16(text: &str) -> Vec<u8> {
    [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_and_one_that_is_not_is_read() {
    const MAX: usize = 512 * 1024;
    let mut still = Still::new().await;
    for Endpoint { path, good, .. } in endpoints() {
        let text = good.to_string();
        let of =
            |length: usize| format!("{{\"x\":\"{}\",{}", "a".repeat(length - text.len() - 7), &text[1..]);
        assert_eq!(of(MAX).len(), MAX);
        still.refused(path, of(MAX + 1), (413, 612), "more than 524288 bytes").await;
        still.refused(path, of(2 * MAX), (413, 612), "more than 524288 bytes").await;
        still.refused(path, of(MAX) + " ", (413, 612), "more than 524288 bytes").await;
        still.refused(path, of(MAX).replacen('{', "[", 1), (400, 621), "Cannot parse json string").await;
    }
    still.unchanged();
}

#[tokio::test]
async fn values_that_are_not_allowed_are_refused_with_the_code_that_says_why() {
    let mut still = Still::new().await;
    let all = endpoints();
    let of = |path: &str| all.iter().find(|one| one.path == path).unwrap().good.clone();
    let long = STANDARD.encode(vec![0; 64 * 1024 + 1]);
    let rows: &[(&str, &str, Value, u64, &str)] = &[
        ("/v1/key", "/label", json!(""), 610, "empty"),
        ("/v1/key", "/label", json!("a".repeat(256)), 610, "256"),
        ("/v1/key", "/label", json!("a\u{7f}"), 610, "control"),
        ("/v1/key", "/label", json!("a/0"), 610, "derivation path"),
        ("/v1/key", "/algorithm", json!("ROT13"), 600, "ROT13"),
        ("/v1/key", "/algorithm", json!("ed"), 600, "ed"),
        ("/v1/key", "/algorithm", Value::Null, 600, "algorithm"),
        ("/v1/key", "/curveOid", json!("1.3.132.0.10"), 600, "1.3.132.0.10"),
        ("/v1/key", "/curveOid", json!("1..2"), 600, "1..2"),
        ("/v1/key", "/keySize", json!(i64::MIN), 603, "keySize"),
        ("/v1/key", "/keySize", json!(i64::MAX), 603, "keySize"),
        ("/v1/key", "/password", json!(["secret"]), 600, "exactly one character"),
        ("/v1/key", "/password", json!("s".repeat(1025)), 600, "1024"),
        ("/v1/key", "/password", json!(7), 600, "password"),
        ("/v1/key", "/policy", json!({"ruleUse": null}), 600, "policy.keyStatus is missing"),
        ("/v1/key", "/policy", json!(["secret"]), 600, "policy: an object expected"),
        ("/v1/key", "/policy", json!({"keyStatus": {"blocked": true}}), 611, "blocked from the beginning"),
        ("/v1/key/changePassword", "/newPassword", json!(["secret"]), 600, "newPassword[0]"),
        ("/v1/key/changePassword", "/password", json!({"secret": 1}), 600, "password"),
        ("/v1/key/changePassword", "/password", json!("secret"), 620, "mismatch for key 'p256'"),
        ("/v1/key/attributes", "/password", json!(["secret"]), 600, "password[0]"),
        ("/v1/key/deleteKey", "/password", json!(7), 600, "password"),
        ("/v1/synchronousSign", "/signRequest/keyPassword", json!(["secret"]), 600, "keyPassword[0]"),
        ("/v1/synchronousSign", "/signRequest/keyPassword", json!({}), 600, "keyPassword"),
        ("/v1/derivedKey", "/masterKeyPassword", json!(1), 600, "masterKeyPassword"),
        ("/v1/key", "/id", json!("01"), 611, "ids"),
        ("/v1/key", "/addressFormat", json!({"format": "BTC"}), 630, "address"),
        ("/v1/key", "/addressFormat", json!("BTC"), 600, "addressFormat: an object"),
        ("/v1/key", "/addressFormat", json!({"format": "DOGE"}), 605, "'DOGE'"),
        ("/v1/importedKey", "/addressFormat", json!({"format": 7}), 600, "addressFormat.format: a text"),
        ("/v1/importedKey", "/addressFormat", json!({"format": "BTC"}), 630, "policy"),
        ("/v1/importedKey", "/policy", json!({"ruleUse": null}), 600, "policy.keyStatus is missing"),
        ("/v1/importedKey", "/attributes/derive", json!(false), 606, "derive: true"),
        ("/v1/importedKey", "/password", json!(7), 600, "password"),
        ("/v1/importedKey", "/password", json!("secret"), 611, "changePassword"),
        ("/v1/synchronousSign", "/signRequest/payload", json!("AA="), 635, "base64"),
        ("/v1/synchronousSign", "/signRequest/payload", json!("AA"), 635, "base64"),
        ("/v1/synchronousSign", "/signRequest/payload", json!("AB=="), 635, "base64"),
        ("/v1/synchronousSign", "/signRequest/payload", json!("AA==\n"), 635, "base64"),
        ("/v1/synchronousSign", "/signRequest/payload", json!("_-=="), 635, "base64"),
        ("/v1/synchronousSign", "/signRequest/payload", json!(long), 612, "65537"),
        ("/v1/synchronousSign", "/signRequest/payloadType", json!("XML"), 600, "payloadType"),
        ("/v1/synchronousSign", "/signRequest/payloadType", json!("hex"), 600, "payloadType"),
        ("/v1/synchronousSign", "/signRequest/signatureType", json!("PEM"), 600, "signatureType"),
        ("/v1/synchronousSign", "/signRequest/signatureAlgorithm", json!("ROT13"), 600, "signatureAlgorithm"),
        ("/v1/synchronousSign", "/signRequest/signatureAlgorithm", json!(""), 600, "signatureAlgorithm"),
        ("/v1/synchronousSign", "/signRequest/signatureAlgorithm", json!("EDDSA"), 607, "EDDSA"),
        ("/v1/synchronousSign", "/signRequest/signatureType", json!("ETH"), 607, "ETH"),
        ("/v1/synchronousSign", "/signRequest/signedApprovals", json!(["AA=="]), 611, "signedApprovals"),
        ("/v1/synchronousSign", "/signRequest/signKeyName", json!("p256/x"), 610, "'x'"),
        ("/v1/verify", "/verifySignatureRequest/payload", json!("A==="), 635, "base64"),
        ("/v1/verify", "/verifySignatureRequest/signature", json!("!"), 635, "signature"),
        ("/v1/verify", "/verifySignatureRequest/signatureAlgorithm", json!("SHA256_WITH_RSA"), 607, "RSA"),
        ("/v1/key/attributes", "/label", json!("/"), 610, "'/'"),
        ("/v1/derivedKey", "/derivationPath", json!("m/0"), 610, "'m'"),
        ("/v1/derivedKey", "/derivationPath", json!("4294967296"), 610, "step"),
        ("/v1/derivedKey", "/masterKeyLabel", json!(""), 610, "master"),
        ("/v1/importedKey", "/seed", json!("AA=="), 600, "16 to 64 bytes"),
        ("/v1/importedKey", "/seed", json!("c2VjcmV0"), 600, "16 to 64 bytes"),
        ("/v1/importedKey", "/seed", json!("secret!"), 635, "seed"),
        ("/v1/importedKey", "/curveOid", json!("1.2"), 600, "1.2"),
        ("/v1/importedKey", "/label", json!("a/b"), 610, "'/'"),
        ("/v1/encrypt", "/encryptRequest/payload", json!("AA="), 635, "payload"),
        ("/v1/encrypt", "/encryptRequest/payload", json!("AA==\n"), 635, "payload"),
        ("/v1/encrypt", "/encryptRequest/payload", json!(long), 612, "65537"),
        ("/v1/encrypt", "/encryptRequest/additionalAuthenticationData", json!("-"), 635, "additional"),
        ("/v1/encrypt", "/encryptRequest/cipherAlgorithm", json!("ROT13"), 600, "cipherAlgorithm"),
        ("/v1/encrypt", "/encryptRequest/cipherAlgorithm", json!("aes_gcm"), 600, "cipherAlgorithm"),
        ("/v1/encrypt", "/encryptRequest/cipherAlgorithm", json!("RSA"), 607, "RSA"),
        ("/v1/encrypt", "/encryptRequest/cipherAlgorithm", json!("AES"), 612, "AES"),
        ("/v1/encrypt", "/encryptRequest/tagLength", json!(7), 624, "7"),
        ("/v1/encrypt", "/encryptRequest/tagLength", json!(i64::MAX), 624, "tag"),
        ("/v1/encrypt", "/encryptRequest/encryptKeyName", json!("none"), 650, "none"),
        ("/v1/encrypt", "/encryptRequest/keyPassword", json!(["secret"]), 600, "keyPassword[0]"),
        ("/v1/synchronousDecrypt", "/decryptRequest/encryptedPayload", json!("!"), 635, "encryptedPayload"),
        ("/v1/synchronousDecrypt", "/decryptRequest/encryptedPayload", json!(""), 612, "tag"),
        ("/v1/synchronousDecrypt", "/decryptRequest/encryptedPayload", json!("AA=="), 612, "tag"),
        (
            "/v1/synchronousDecrypt",
            "/decryptRequest/initializationVector",
            json!("AA"),
            635,
            "initialization",
        ),
        ("/v1/synchronousDecrypt", "/decryptRequest/initializationVector", json!("AA=="), 612, "12"),
        ("/v1/synchronousDecrypt", "/decryptRequest/initializationVector", Value::Null, 612, "12"),
        ("/v1/synchronousDecrypt", "/decryptRequest/tagLength", json!(-128), 624, "-128"),
        (
            "/v1/synchronousDecrypt",
            "/decryptRequest/signedApprovals",
            json!(["AA=="]),
            611,
            "signedApprovals",
        ),
        ("/v1/synchronousHmac", "/hmacRequest/payload", json!("AA="), 635, "payload"),
        ("/v1/synchronousHmac", "/hmacRequest/keyName", json!("p256"), 607, "HMAC"),
        ("/v1/wrap", "/wrapKeyRequest/wrapMethod", json!("ROT13"), 600, "wrapMethod"),
        ("/v1/wrap", "/wrapKeyRequest/wrapKeyPassword", json!({"secret": 1}), 600, "wrapKeyPassword"),
        ("/v1/wrap", "/wrapKeyRequest/keyToBeWrapped", json!("none"), 650, "none"),
        ("/v1/synchronousUnwrap", "/unwrapKeyRequest/wrappedKey", json!("AAA"), 635, "wrappedKey"),
        ("/v1/synchronousUnwrap", "/unwrapKeyRequest/wrappedKey", json!("AAAA\n"), 635, "wrappedKey"),
        ("/v1/synchronousUnwrap", "/unwrapKeyRequest/wrappedKey", json!(""), 612, "0 bytes"),
        ("/v1/synchronousUnwrap", "/unwrapKeyRequest/wrappedKey", json!(long), 612, "65537 bytes"),
        ("/v1/synchronousUnwrap", "/unwrapKeyRequest/label", json!("a/b"), 610, "path"),
        ("/v1/synchronousUnwrap", "/unwrapKeyRequest/wrapMethod", json!("AES"), 600, "wrapMethod"),
        ("/v1/key/import/plain", "/label", json!(""), 610, "empty"),
        ("/v1/key/import/plain", "/algorithm", json!("ROT13"), 600, "ROT13"),
        ("/v1/key/import/plain", "/secretKey", json!("AQI"), 625, "secretKey"),
        ("/v1/key/import/plain", "/secretKey", json!("AQID\n"), 625, "secretKey"),
        ("/v1/key/import/plain", "/secretKey", json!(long), 625, "characters"),
        ("/v1/key/import/plain", "/privateKey", json!("AQID"), 600, "exclude"),
        ("/v1/certificate/synchronous/request", "/signKeyName", json!("none"), 650, "none"),
        ("/v1/certificate/synchronous/request", "/signKeyName", json!("hmac"), 613, "hmac"),
        (
            "/v1/certificate/synchronous/request",
            "/signatureAlgorithm",
            json!("ROT13"),
            600,
            "signatureAlgorithm",
        ),
        ("/v1/certificate/synchronous/request/download", "/validity", json!(-1), 619, "valid"),
        ("/v1/certificate/synchronous/selfsign", "/validity", json!(i64::MAX), 619, "valid"),
        ("/v1/certificate/synchronous/selfsign", "/keyUsage", json!(["ROT13"]), 600, "ROT13"),
        ("/v1/certificate/synchronous/selfsign", "/keyUsage", json!(["KEY_CERT_SIGN"]), 600, "KEY_CERT_SIGN"),
        ("/v1/certificate/synchronous/selfsign", "/signatureAlgorithm", json!("EDDSA"), 607, "EDDSA"),
        ("/v1/certificate/synchronous/create/selfSigned", "/commonName", json!("n".repeat(65)), 600, "64"),
        ("/v1/certificate/synchronous/create/selfSigned", "/commonName", json!("a\u{0}"), 600, "control"),
        ("/v1/certificate/synchronous/sign", "/certificateSigningRequest", json!(""), 628, "request"),
        ("/v1/certificate/import/plain", "/certificate", json!("AAAA\n"), 626, "base64"),
        ("/v1/certificate/import/plain", "/certificate", json!("AAA"), 626, "base64"),
        ("/v1/certificate/import/plain", "/label", json!("none"), 650, "none"),
        ("/v1/dataObject", "/name", json!(""), 600, "empty"),
        ("/v1/dataObject", "/name", json!("n".repeat(256)), 600, "256"),
        ("/v1/dataObject", "/name", json!("a\u{0}"), 600, "control"),
        ("/v1/dataObject", "/value", json!(""), 616, "has 0"),
        ("/v1/dataObject", "/value", json!("secret!"), 616, "base64"),
        ("/v1/dataObject", "/value", json!("AA==\n"), 616, "base64"),
        ("/v1/dataObject", "/value", json!("AA"), 616, "base64"),
        ("/v1/dataObject", "/value", json!(long), 616, "65537"),
    ];
    for (path, place, value, code, says) in rows {
        let status = if *code == 650 { 404 } else { 400 };
        still.refused(path, with(&of(path), place, value.clone()), (status, *code), says).await;
    }
    for (hex, says) in [
        ("0", "even"),
        ("0g", "non-hexadecimal"),
        ("", "non-hexadecimal"),
        ("00\n0", "non-hex"),
        (" 0", "non-hex"),
        ("0x00", "non-hex"),
    ] {
        let body = with(&of("/v1/synchronousSign"), "/signRequest/payloadType", json!("HEX"));
        let body = with(&serde_json::from_str(&body).unwrap(), "/signRequest/payload", json!(hex));
        still.refused("/v1/synchronousSign", body, (400, 635), says).await;
    }
    still.unchanged();
}

/// Calls without a body, which are refused.
const PATHS: &[(&str, &str, (u16, u64))] = &[
    ("GET", "/v1/generateRandom/0", (400, 619)),
    ("GET", "/v1/generateRandom/65537", (400, 619)),
    ("GET", "/v1/generateRandom/-1", (400, 619)),
    ("GET", "/v1/generateRandom/18446744073709551616", (400, 619)),
    ("GET", "/v1/generateRandom/1e3", (400, 600)),
    ("GET", "/v1/generateRandom/0x10", (400, 600)),
    ("GET", "/v1/generateRandom/%31%30x", (400, 600)),
    ("GET", "/v1/generateRandom/", (404, 611)),
    ("GET", "/v1/key/%ff/attributes", (404, 650)),
    ("GET", "/v1/key/%00/attributes", (404, 650)),
    ("GET", "/v1/key/p256%2f0/attributes", (400, 611)),
    ("GET", "/v1/key//attributes", (404, 611)),
    ("DELETE", "/v1/key/", (404, 611)),
    ("DELETE", "/v1/key/ed-destroyable/", (404, 650)),
    ("DELETE", "/v1/key/ed-destroyable%00", (404, 650)),
    ("DELETE", "/v1/key/ED-destroyable", (404, 650)),
    ("DELETE", "/v1/key/p256", (400, 614)),
    ("DELETE", "/v1/key/attributes", (404, 650)),
    ("GET", "/v1/key/%ff/address", (404, 650)),
    ("GET", "/v1/key/p256/address", (400, 630)),
    ("GET", "/v1/key/%00/export/plain", (404, 650)),
    ("GET", "/v1/key/p256/export/plain", (400, 614)),
    ("GET", "/v1/key/p256/0/export/plain", (400, 611)),
    ("GET", "/v1/key/export/plain", (400, 600)),
    ("GET", "/v1/dataObject/%00", (400, 600)),
    ("DELETE", "/v1/dataObject/%0a", (400, 600)),
    ("DELETE", "/v1/dataObject/", (404, 611)),
    ("GET", "/v1/certificate/%00", (404, 650)),
    ("GET", "/v1/certificate/p256", (404, 653)),
    ("GET", "/v1/certificate/aes-cipher", (400, 613)),
    ("GET", "/v1/certificate/p256/0", (400, 611)),
    ("GET", "/v1/certificate/", (404, 611)),
    ("DELETE", "/v1/certificate/P256", (404, 650)),
    ("DELETE", "/v1/certificate/p256", (404, 653)),
    ("PATCH", "/v1/key/ed-destroyable", (405, 611)),
    ("PUT", "/v1/dataObject/d", (405, 611)),
    ("TRACE", "/v1/versionInfo", (405, 611)),
];

/// What is refused here: method and path.
pub fn tried() -> Vec<(&'static str, &'static str)> {
    let paths = PATHS.iter().map(|(method, path, _)| (*method, *path));
    // Some of them are of no route.
    let paths = paths.filter(|(method, path)| crate::routes::route_of(method, path).is_some());
    endpoints().iter().map(|endpoint| ("POST", endpoint.path)).chain(paths).collect()
}

#[tokio::test]
async fn what_comes_in_the_path_is_refused_too() {
    let still = Still::new().await;
    let long = format!("/v1/dataObject/{}", "n".repeat(256));
    let long = ("GET", long.as_str(), (400, 600));
    for (method, path, expected) in PATHS.iter().copied().chain([long]) {
        let given = still.send(method, path, &[], Body::empty()).await.refused();
        assert_eq!(given, expected, "{method} {path}");
    }
    still.unchanged();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for_without_end() {
    let still = Still::new().await;
    for Endpoint { path, good, .. } in endpoints() {
        let begun = futures::stream::iter([Ok::<_, std::io::Error>(good.to_string())]);
        let body = Body::from_stream(futures::StreamExt::chain(begun, futures::stream::pending()));
        let before = tokio::time::Instant::now();
        let answer = still.send("POST", path, &[], body).await;
        assert_eq!((answer.refused(), before.elapsed().as_secs()), ((400, 621), 30), "{path}");
        assert!(answer.json()["message"].as_str().unwrap().contains("within 30 s"));
    }
    still.unchanged();
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_taken_for_a_whole_one() {
    let still = Still::new().await;
    for Endpoint { path, good, .. } in endpoints() {
        let pieces = [Ok(good.to_string()), Err(std::io::Error::other("the connection is lost"))];
        let answer = still.send("POST", path, &[], Body::from_stream(futures::stream::iter(pieces))).await;
        assert_eq!(answer.refused(), (400, 621), "{path}");
    }
    still.unchanged();
}

#[tokio::test]
async fn who_is_not_known_is_told_so_whatever_was_sent() {
    let still = Still::new().await;
    for Endpoint { path, .. } in endpoints() {
        for (headers, code) in [(None, 406), (Some("Basic YQ=="), 406), (Some("Bearer stolen"), 617)] {
            let mut request = hyper::Request::builder().method("POST").uri(path);
            if let Some(value) = headers {
                request = request.header("authorization", value);
            }
            let answer = still.world.send(request.body(Body::from("{\"x")).unwrap()).await;
            assert_eq!(answer.refused(), (401, code), "{path}");
        }
    }
    still.unchanged();
}
