//! Pods of tests: the toolbox image under the restricted pod security.

use serde_json::{Value, json};

use crate::tools::{self, kubectl};

/// The body that the REST documentation prints: RSA-2048, PSS with SHA-224, the text `Payload`.
pub fn body(key: &str) -> Value {
    json!({ "signRequest": {
        "payload": "UGF5bG9hZA==", "payloadType": "UNSPECIFIED", "signKeyName": key,
        "signatureAlgorithm": "SHA224_WITH_RSA_PSS"
    }})
}

/// A command that asks the sidecar for a signature and prints the answer.
pub fn ask(body: &Value) -> String {
    format!(
        "curl -sS --fail-with-body http://localhost:8081/v1/synchronousSign -H 'Content-Type: application/json' -d '{body}'"
    )
}

/// A pod template whose container runs `command`; `label` asks for the sidecar, or refuses it.
pub fn template(label: Option<&str>, command: &str) -> Value {
    let mut labels = json!({ "app": "app" });
    if let Some(label) = label {
        labels["hsm-operator.io/inject"] = label.into();
    }
    json!({
        "metadata": { "labels": labels },
        "spec": {
            "serviceAccountName": "app",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "app", "image": "localhost/hsm-operator-toolbox:dev", "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", command],
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } }
            }]
        }
    })
}

/// What keeps a pod there to be looked into.
pub const IDLE: &str = "trap exit TERM; while :; do sleep 1; done";

/// A Pod made of a template.
pub fn pod(namespace: &str, name: &str, template: Value) -> Value {
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod" });
    for (field, value) in template.as_object().unwrap() {
        pod[field] = value.clone();
    }
    pod["metadata"]["namespace"] = namespace.into();
    pod["metadata"]["name"] = name.into();
    pod
}

/// A Pod with the sidecar, running.
pub fn start(namespace: &str, name: &str) {
    tools::apply(&pod(namespace, name, template(Some("true"), IDLE)).to_string());
    wait(namespace, &format!("pod/{name}"), "condition=Ready");
}

/// Waits for an object, or shows it and fails.
pub fn wait(namespace: &str, object: &str, what: &str) {
    let output = tools::run(
        "kubectl",
        &["wait", "-n", namespace, object, &format!("--for={what}"), "--timeout=90s"],
        b"",
    );
    if !output.status.success() {
        let shown = tools::run("kubectl", &["describe", "-n", namespace, object], b"");
        panic!("{object} is not {what}: {}", String::from_utf8_lossy(&shown.stdout));
    }
}

/// Runs a shell command in a pod's own container and returns what it said.
pub fn exec(namespace: &str, object: &str, command: &str) -> String {
    kubectl(&["exec", "-n", namespace, object, "-c", "app", "--", "/bin/sh", "-c", command])
}
