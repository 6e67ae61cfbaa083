//! The manifests in config/samples, which the README shows: every one reaches its goal.

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::api::SigningRequest;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use crate::{tools, world::World};

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_applies_and_reaches_its_goal() {
    let world = World::new().await;
    let namespace = world.namespace("samples").await;
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/config/samples");
    let all = tools::kubectl(&["kustomize", samples]);
    let files =
        std::fs::read_dir(samples).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let listed = std::fs::read_to_string(format!("{samples}/kustomization.yaml")).unwrap();
    for file in files.filter(|file| file != "kustomization.yaml") {
        assert!(listed.contains(&format!("- {file}\n")), "{file} is not in kustomization.yaml");
    }
    // Labels are unique on the partition, and these keys stay on it: another run must not meet them.
    let all = all.replace("payments-", &format!("{namespace}-"));
    tools::output("kubectl", &["apply", "--server-side", "-n", &namespace, "-f", "-"], all.as_bytes());

    let objects = tools::kubectl(&["get", "-n", &namespace, "hsmkeys,signingrequests,jobs", "-o", "json"]);
    let objects: Value = serde_json::from_str(&objects).unwrap();
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for object in objects["items"].as_array().unwrap() {
        let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
        let goal = if kind == "Job" { "--for=condition=Complete" } else { "--for=condition=Ready" };
        tools::kubectl(&["wait", "-n", &namespace, kind, name, goal, "--timeout=120s"]);
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    let kinds: Vec<_> = kinds.into_iter().collect();
    assert_eq!(kinds, [("HsmKey".into(), 3), ("Job".into(), 1), ("SigningRequest".into(), 1)]);

    // The certificate is its key's, and verifies by itself.
    let folder = tempfile::tempdir().unwrap();
    let secret = world.api::<Secret>(&namespace).get(&format!("{namespace}-ca-public")).await.unwrap();
    let certificate = folder.path().join("tls.crt");
    std::fs::write(&certificate, &secret.data.unwrap()["tls.crt"].0).unwrap();
    let certificate = certificate.to_str().unwrap();
    tools::output("openssl", &["verify", "-x509_strict", "-CAfile", certificate, certificate], b"");

    // Both signatures are the key's, by openssl.
    let pem =
        world.api::<Secret>(&namespace).get(&format!("{namespace}-rsa-public")).await.unwrap().data.unwrap();
    let pem = &pem["publicKey.pem"].0;
    let request = world
        .api::<SigningRequest>(&namespace)
        .get(&format!("{namespace}-hello"))
        .await
        .unwrap()
        .status
        .unwrap();
    let signature = STANDARD.decode(request.signature.unwrap()).unwrap();
    assert!(tools::openssl_verifies(folder.path(), pem, "sha256", &[], b"Payload", &signature));
    let said = tools::kubectl(&["logs", "-n", &namespace, &format!("job/{namespace}-sign"), "-c", "sign"]);
    // What was said while the key was not Ready comes first.
    let from = said.rfind("{\"signature\"").unwrap_or_else(|| panic!("{said}"));
    let answer: Value = serde_json::from_str(&said[from..]).unwrap();
    let signature = STANDARD.decode(answer["signature"].as_str().unwrap()).unwrap();
    let pss = ["rsa_padding_mode:pss", "rsa_pss_saltlen:28", "rsa_mgf1_md:sha224"];
    assert!(tools::openssl_verifies(folder.path(), pem, "sha224", &pss, b"Payload", &signature));
}
