//! The sidecar comes into pods that ask for it, and into no other; and it serves them.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::model::SignatureAlgorithm;
use serde_json::{Value, json};

use crate::{
    caller::{GATEWAYS, account},
    common::openssl,
    pods::{self, IDLE, ask, body, exec, template},
    processes,
    tools::{self, kubectl, output},
    world::{OPERATOR, Token, World},
};

const SIDECAR: &str = "hsm-operator-sidecar";

/// A namespace with an RSA key `k` and a ServiceAccount `app` that may use it. Returns the public key, too.
async fn place(world: &World, token: Token) -> (String, Vec<u8>) {
    let namespace = world.namespace("inject").await;
    account(&namespace, "app", &["use"]);
    let spec =
        json!({ "algorithm": "RSA", "curveOid": null, "keySize": 2048, "label": format!("{namespace}-k") });
    world.make_key(&namespace, "k", token, spec).await;
    let key = world.ready(&namespace, "k").await;
    (namespace, STANDARD.decode(key.status.unwrap().public_key.unwrap()).unwrap())
}

fn openssl_verifies(spki: &[u8], answer: &str) {
    let folder = tempfile::tempdir().unwrap();
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
    let signature = STANDARD.decode(answer["signature"].as_str().unwrap()).unwrap();
    openssl::verify_native(folder.path(), spki, SignatureAlgorithm::Sha224WithRsaPss, b"Payload", &signature);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_jobs_and_deployments_sign_without_a_credential() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for token in Token::BOTH {
        let (namespace, key) = place(&world, token).await;
        let sign = ask(&body(&format!("{namespace}-k")));
        let mut job = template(Some("true"), &sign);
        job["spec"]["restartPolicy"] = "Never".into();
        let mut deployment = template(Some("true"), IDLE);
        deployment["metadata"]["labels"]["app"] = "deployment".into();
        let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "job", "namespace": namespace },
              "spec": { "backoffLimit": 0, "template": job } },
            { "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "deployment", "namespace": namespace },
              "spec": { "selector": { "matchLabels": { "app": "deployment" } }, "template": deployment } },
        ]});
        tools::apply(&objects.to_string());
        pods::start(&namespace, "pod");
        openssl_verifies(&key, &exec(&namespace, "pod/pod", &sign));
        pods::wait(&namespace, "deployment/deployment", "condition=Available");
        openssl_verifies(&key, &exec(&namespace, "deployment/deployment", &sign));
        // The sidecar does not keep the Job from ending.
        pods::wait(&namespace, "job/job", "condition=Complete");
        openssl_verifies(&key, &kubectl(&["logs", "-n", &namespace, "job/job", "-c", "app"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_container_can_sign_already() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let (namespace, key) = place(&world, Token::SoftHsm).await;
    let mut early = template(Some("true"), IDLE);
    let mut first = early["spec"]["containers"][0].clone();
    first["name"] = "first".into();
    first["command"][2] = ask(&body(&format!("{namespace}-k"))).into();
    early["spec"]["initContainers"] = json!([first]);
    tools::apply(&pods::pod(&namespace, "early", early).to_string());
    pods::wait(&namespace, "pod/early", "condition=Ready");
    openssl_verifies(&key, &kubectl(&["logs", "-n", &namespace, "pod/early", "-c", "first"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labelled_namespace_injects_and_a_pods_false_wins() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let (namespace, key) = place(&world, Token::SoftHsm).await;
    kubectl(&["label", "namespace", &namespace, "hsm-operator.io/inject=true"]);
    tools::apply(&pods::pod(&namespace, "silent", template(None, IDLE)).to_string());
    tools::apply(&pods::pod(&namespace, "refuses", template(Some("false"), IDLE)).to_string());
    pods::wait(&namespace, "pod/silent", "condition=Ready");
    pods::wait(&namespace, "pod/refuses", "condition=Ready");
    let sign = ask(&body(&format!("{namespace}-k")));
    openssl_verifies(&key, &exec(&namespace, "pod/silent", &sign));
    let pod = kubectl(&["get", "pod", "-n", &namespace, "refuses", "-o", "json"]);
    let pod: Value = serde_json::from_str(&pod).unwrap();
    assert!(pod["spec"].get("initContainers").is_none() && pod["spec"].get("volumes").is_none(), "{pod}");
}

/// What the API server would make of a pod, without what is different every time.
fn admitted(pod: &Value) -> String {
    let seen = output(
        "kubectl",
        &["create", "--dry-run=server", "-o", "json", "-f", "-"],
        pod.to_string().as_bytes(),
    );
    let mut seen: Value = serde_json::from_str(&seen).unwrap();
    let metadata = seen["metadata"].as_object_mut().unwrap();
    for field in ["namespace", "uid", "creationTimestamp", "managedFields"] {
        metadata.remove(field);
    }
    serde_json::to_string_pretty(&seen).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_ask_is_untouched() {
    let world = World::new().await;
    let namespace = world.namespace("inject").await;
    account(&namespace, "app", &[]);
    account("kube-system", "app", &[]);
    let plain = template(None, IDLE);
    let mut with_volume = plain.clone();
    with_volume["spec"]["volumes"] = json!([{ "name": "own", "emptyDir": {} }]);
    for template in [plain, with_volume] {
        // The policy never looks at kube-system, so this is what the API server makes of it alone.
        let alone = admitted(&pods::pod("kube-system", "app", template.clone()));
        assert_eq!(admitted(&pods::pod(&namespace, "app", template)), alone);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_on_the_hosts_network_is_refused_with_the_reason() {
    let world = World::new().await;
    let namespace = world.namespace("inject").await;
    account(&namespace, "app", &[]);
    kubectl(&["label", "namespace", &namespace, "pod-security.kubernetes.io/enforce-"]);
    let mut host = template(Some("true"), IDLE);
    host["spec"]["hostNetwork"] = true.into();
    let host = pods::pod(&namespace, "host", host).to_string();
    let refused = tools::run("kubectl", &["create", "-f", "-"], host.as_bytes());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("uses the host's network"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_has_no_credential() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let (namespace, _) = place(&world, Token::SoftHsm).await;
    pods::start(&namespace, "app");
    let found = exec(
        &namespace,
        "pod/app",
        "ls -A /var/run/secrets /run/secrets 2>/dev/null; mount | grep -c secrets; env | grep -ic token; true",
    );
    assert_eq!(found, "0\n0\n");
    // Without the sidecar's token the gateway serves nobody.
    let direct = format!(
        "curl -sk -o /dev/null -w '%{{http_code}}' https://hsm-operator-gateway.{OPERATOR}.svc:8443/v1/versionInfo"
    );
    assert_eq!(exec(&namespace, "pod/app", &direct), "401");
    // Swagger UI and what it shows come through the sidecar.
    for (path, has) in [
        ("/", "swagger-ui-bundle.js"),
        ("/swagger-ui", "swagger-ui-bundle.js"),
        ("/v3/api-docs", "\"openapi\":\"3.1.0\""),
    ] {
        let look = format!("curl -sfL http://localhost:8081{path} | grep -cF '{has}'");
        assert_eq!(exec(&namespace, "pod/app", &look), "1\n", "{path}");
    }

    // One that asks for a token of the API server gets that one, and the sidecar does not.
    let mut asks = template(Some("true"), IDLE);
    asks["spec"]["automountServiceAccountToken"] = true.into();
    tools::apply(&pods::pod(&namespace, "asks", asks).to_string());
    pods::wait(&namespace, "pod/asks", "condition=Ready");
    let token = exec(&namespace, "pod/asks", "cat /var/run/secrets/kubernetes.io/serviceaccount/token");
    assert_eq!(exec(&namespace, "pod/asks", "ls /var/run/secrets"), "kubernetes.io\n");
    let claims =
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert!(!claims["aud"].to_string().contains("hsm-operator"), "{claims}");
    let sidecar = processes::of_pod("asks", &namespace, "sidecar");
    let files = Path::new("/proc").join(sidecar.to_string()).join("root/var/run/secrets");
    for folder in ["hsm-operator.io", "kubernetes.io/serviceaccount"] {
        let held = std::fs::read_to_string(files.join(folder).join("token")).unwrap();
        assert_ne!(held, token, "the sidecar holds the token of the API server in {folder}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_account_may_not_use_the_key_is_refused() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let namespace = world.namespace("inject").await;
    account(&namespace, "app", &[]);
    world.make_key(&namespace, "k", Token::SoftHsm, json!({})).await;
    world.ready(&namespace, "k").await;
    pods::start(&namespace, "app");
    let mut body = body(&format!("{namespace}.k"));
    body["signRequest"]["signatureAlgorithm"] = "SHA256_WITH_ECDSA".into();
    let ask = format!("{} -w '\\n%{{http_code}}' || true", ask(&body));
    let said = exec(&namespace, "pod/app", &ask);
    let (answer, status) = said.rsplit_once('\n').unwrap();
    assert_eq!(status, "403", "{said}");
    let answer: Value = serde_json::from_str(answer).unwrap();
    assert_eq!(
        (&answer["errorCode"], &answer["reason"]),
        (&400.into(), &"res.error.security.not.allowed".into())
    );
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains(&format!("system:serviceaccount:{namespace}:app may not use hsmkeys/k")),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_hsm_inject_makes_the_same_pod_as_the_policy() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let (namespace, key) = place(&world, Token::Kryoptic).await;
    let plain = template(Some("true"), IDLE);
    let mut full = plain.clone();
    full["spec"]["volumes"] = json!([{ "name": "own", "emptyDir": {} }]);
    let mut first = full["spec"]["containers"][0].clone();
    first["name"] = "first".into();
    first["command"][2] = "true".into();
    full["spec"]["initContainers"] = json!([first]);
    for template in [plain, full] {
        let manifest = pods::pod(&namespace, "app", template);
        let image = ["--image", "localhost/hsm-operator:dev", "--image-pull-policy", "Never"];
        let args = [&["kubectl", "inject", "-f", "-"][..], &image[..]].concat();
        let injected = output(env!("CARGO_BIN_EXE_hsm-operator"), &args, manifest.to_string().as_bytes());
        let as_json =
            output("kubectl", &["create", "--dry-run=client", "-o", "json", "-f", "-"], injected.as_bytes());
        let by_function = admitted(&serde_json::from_str(&as_json).unwrap());
        assert!(by_function.contains(SIDECAR), "{injected}");
        assert_eq!(by_function, admitted(&manifest));

        output("kubectl", &["create", "-f", "-"], injected.as_bytes());
        pods::wait(&namespace, "pod/app", "condition=Ready");
        openssl_verifies(&key, &exec(&namespace, "pod/app", &ask(&body(&format!("{namespace}-k")))));
        kubectl(&["delete", "pod", "-n", &namespace, "app", "--wait"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_stays_small_under_load() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let (namespace, _) = place(&world, Token::SoftHsm).await;
    pods::start(&namespace, "load");
    let load = format!(
        "curl -sZ --parallel-max 32 -H 'Content-Type: application/json' -d '{}' -o /dev/null -w '%{{http_code}}\\n' \
         'http://localhost:8081/v1/synchronousSign?n=[1-600]' | sort | uniq -c",
        body(&format!("{namespace}-k"))
    );
    assert_eq!(exec(&namespace, "pod/load", &load).trim(), "600 200");
    let sidecar = processes::of_pod("load", &namespace, "sidecar");
    let peak = processes::memory(sidecar, "VmHWM");
    println!("sidecar: {peak} KiB at most, {} KiB now", processes::memory(sidecar, "VmRSS"));
    assert!(peak <= 10 * 1024, "{peak} KiB resident");
}
