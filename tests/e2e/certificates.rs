//! Certificates of keys: declared, given, and made over REST; published as `tls.crt`.

use std::path::Path;

use hsm_operator::api::{HsmKey, condition};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    caller::{ALL_VERBS, GATEWAYS, caller},
    tools,
    world::{Token, World},
};

/// Status and reason of the condition that speaks of the certificate.
fn certified(key: &HsmKey) -> Option<(&str, &str)> {
    let found = condition::find(&key.status.as_ref()?.conditions, condition::CERTIFIED)?;
    Some((&found.status, &found.reason))
}

async fn ask(world: &World, namespace: &str, name: &str, certificate: Value) {
    let change = Patch::Merge(json!({"spec": {"certificate": certificate}}));
    world.api::<HsmKey>(namespace).patch(name, &PatchParams::default(), &change).await.unwrap();
}

async fn until_certified(
    world: &World,
    namespace: &str,
    name: &str,
    wanted: (&'static str, &'static str),
) -> HsmKey {
    let is = move |key: &HsmKey| {
        let seen =
            key.status.as_ref().is_some_and(|status| status.observed_generation == key.metadata.generation);
        key.is_ready() && seen && certified(key) == Some(wanted)
    };
    world.until(&world.api::<HsmKey>(namespace), name, wanted.1, is).await
}

async fn tls_crt(world: &World, namespace: &str, name: &str) -> Option<String> {
    let secret = world.api::<Secret>(namespace).get(&format!("{name}-public")).await.unwrap();
    secret.data.unwrap().remove("tls.crt").map(|text| String::from_utf8(text.0).unwrap())
}

fn verifies(folder: &Path, authority: &str, certificate: &str) -> bool {
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (authority, certificate) = (file("authority", authority), file("certificate", certificate));
    let arguments = ["verify", "-x509_strict", "-check_ss_sig", "-CAfile", &authority, &certificate];
    tools::run("openssl", &arguments, b"").status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_certificate_is_made_published_replaced_and_removed() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    for token in Token::BOTH {
        let namespace = world.namespace("certificates").await;
        let own = |name: &str| {
            json!({"selfSigned": {"subject": {"commonName": name, "country": "CH"},
            "validityDays": 30, "certificateAuthority": true}, "pem": null})
        };
        world.make_key(&namespace, "k", token, json!({"certificate": own("one")})).await;
        let key = until_certified(&world, &namespace, "k", ("True", "Certified")).await;
        let first = key.status.unwrap().certificate.unwrap();
        assert_eq!(tls_crt(&world, &namespace, "k").await.as_ref(), Some(&first.pem));
        assert!(verifies(folder.path(), &first.pem, &first.pem));
        // A look that finds nothing changed makes no other one.
        let touched = json!({"metadata": {"annotations": {"test/touched": "yes"}}, "spec": {"adopt": true}});
        let patch = Patch::Merge(touched);
        world.api::<HsmKey>(&namespace).patch("k", &PatchParams::default(), &patch).await.unwrap();
        let key = until_certified(&world, &namespace, "k", ("True", "Certified")).await;
        assert_eq!(key.status.unwrap().certificate.as_ref(), Some(&first));

        ask(&world, &namespace, "k", own("two")).await;
        let key = until_certified(&world, &namespace, "k", ("True", "Certified")).await;
        let second = key.status.unwrap().certificate.unwrap();
        assert_ne!(second.fingerprint, first.fingerprint);
        assert_eq!(tls_crt(&world, &namespace, "k").await.as_ref(), Some(&second.pem));

        // A certificate of another key stalls nothing but itself.
        world.make_key(&namespace, "other", token, json!({"certificate": own("other")})).await;
        let other = until_certified(&world, &namespace, "other", ("True", "Certified")).await;
        let foreign = other.status.unwrap().certificate.unwrap().pem;
        ask(&world, &namespace, "k", json!({"pem": foreign, "selfSigned": null})).await;
        let key = until_certified(&world, &namespace, "k", ("False", "CertificateMismatch")).await;
        assert!(condition::is_true(&key.status.unwrap().conditions, condition::STALLED));
        world.event(&namespace, "k", "CertificateMismatch").await;
        assert_eq!(tls_crt(&world, &namespace, "k").await.as_ref(), Some(&second.pem));

        ask(&world, &namespace, "k", json!({"pem": first.pem, "selfSigned": null})).await;
        let key = until_certified(&world, &namespace, "k", ("True", "Certified")).await;
        assert!(!condition::is_true(&key.status.unwrap().conditions, condition::STALLED));
        assert_eq!(tls_crt(&world, &namespace, "k").await, Some(first.pem));

        ask(&world, &namespace, "k", Value::Null).await;
        let gone = |key: &HsmKey| {
            let status = key.status.as_ref();
            status.is_some_and(|status| status.certificate.is_none()) && certified(key).is_none()
        };
        world.until(&world.api::<HsmKey>(&namespace), "k", "without a certificate", gone).await;
        assert_eq!(tls_crt(&world, &namespace, "k").await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_made_over_rest_are_published_too() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    for token in Token::BOTH {
        let namespace = world.namespace("certificates").await;
        for name in ["ca", "leaf"] {
            world.make_key(&namespace, name, token, json!({})).await;
            world.ready(&namespace, name).await;
        }
        let label = |name: &str| format!("{namespace}.{name}");
        let user = caller(&namespace, "user", ALL_VERBS);
        let sign = |name: &str, more: Value| {
            let mut body = json!({"signKeyName": label(name), "keyPassword": null, "signatureAlgorithm": "SHA256_WITH_ECDSA",
                "standardCertificateAttributes": {"commonName": name}});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let root = sign("ca", json!({"certificateAuthority": true, "validity": 365}));
        let (self_sign, request) =
            ("/v1/certificate/synchronous/selfsign", "/v1/certificate/synchronous/request");
        user.post(self_sign, root.clone()).await.is_error(403, 400, "security.not.allowed");
        let csr = user.post(request, sign("leaf", json!({}))).await.with_status(200);
        let path = |name: &str| format!("/v1/certificate/{}", label(name));
        user.get(&path("leaf")).await.is_error(404, 653, "data.object.not.existent");

        let owner = caller(&namespace, "owner", &["get", "use", "update"]);
        let root = owner.post(self_sign, root).await.with_status(200);
        // Whichever gateway answers.
        for _ in 0..4 {
            assert_eq!(owner.get(&path("ca")).await.with_status(200), root);
        }
        let issue = sign(
            "ca",
            json!({"certificateSigningRequest": csr["certificateSigningRequest"], "validity": 30,
            "standardCertificateAttributes": {"commonName": "leaf"}, "keyUsage": ["DIGITAL_SIGNATURE"]}),
        );
        let leaf = user.post("/v1/certificate/synchronous/sign", issue).await.with_status(200);
        let import = json!({"label": label("leaf"), "certificate": leaf["rawCertificate"]});
        owner.post("/v1/certificate/import/plain", import).await.with_status(200);
        assert_eq!(owner.get(&path("leaf")).await.with_status(200)["rawCertificate"], leaf["rawCertificate"]);

        let mut published = Vec::new();
        for name in ["ca", "leaf"] {
            until_certified(&world, &namespace, name, ("True", "Certified")).await;
            published.push(tls_crt(&world, &namespace, name).await.unwrap());
        }
        assert!(verifies(folder.path(), &published[0], &published[1]));
        let removed = owner.call("DELETE", &path("leaf"), "").await;
        assert_eq!((removed.status, removed.body.len()), (200, 0));
        owner.get(&path("leaf")).await.is_error(404, 653, "data.object.not.existent");
        let gone = |key: &HsmKey| certified(key).is_none();
        world.until(&world.api::<HsmKey>(&namespace), "leaf", "without a certificate", gone).await;
        assert_eq!(tls_crt(&world, &namespace, "leaf").await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_refuses_certificates_that_cannot_be() {
    let world = World::new().await;
    let namespace = world.namespace("certificates").await;
    let pem = "-----BEGIN CERTIFICATE-----";
    let subject = json!({"commonName": "x"});
    let ed = |certificate: Value| json!({"algorithm": "ED", "certificate": certificate});
    for (spec, says) in [
        (ed(json!({})), "pem or selfSigned"),
        (ed(json!({"pem": "x"})), "spec.certificate.pem"),
        (ed(json!({"pem": format!("{pem} BEGIN PRIVATE KEY")})), "never a private key"),
        (ed(json!({"selfSigned": {"subject": {}}})), "commonName is required"),
        (ed(json!({"selfSigned": {"subject": {"commonName": ""}}})), "commonName is required"),
        (ed(json!({"selfSigned": {"subject": {"commonName": "x", "country": "CHE"}}})), "country"),
        (ed(json!({"selfSigned": {"subject": subject, "validityDays": 0}})), "validityDays"),
        (ed(json!({"selfSigned": {"subject": subject, "keyUsage": ["SIGN"]}})), "keyUsage"),
        (
            ed(json!({"selfSigned": {"subject": subject, "keyUsage": ["KEY_CERT_SIGN"]}})),
            "certificateAuthority: true",
        ),
        (
            json!({"algorithm": "AES", "keySize": 256, "certificate": {"selfSigned": {"subject": subject}}}),
            "have certificates",
        ),
    ] {
        let mut spec = spec;
        spec["partitionRef"] = json!({"name": "demo"});
        let key = json!({"apiVersion": "hsm-operator.io/v1alpha1", "kind": "HsmKey", "metadata": {"name": "k"}, "spec": spec});
        let arguments = ["create", "-n", &namespace, "--dry-run=server", "-f", "-"];
        let output = tools::run("kubectl", &arguments, key.to_string().as_bytes());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(says), "{spec}: {said}");
    }
    let explained = tools::kubectl(&["explain", "hsmkey.spec.certificate.selfSigned.subject.commonName"]);
    assert!(explained.contains("Common name (CN)"), "{explained}");
}
