//! The cluster that is measured: its keys, its gateway, a sidecar beside it, and the processes in it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::wrk::Target;

/// Where the keys are.
pub const NAMESPACE: &str = "hsm-bench";

/// The cluster of the environment file that was sourced.
pub struct Cluster {
    gateway: String,
    ca: PathBuf,
    volume: PathBuf,
    token: String,
    /// Files of this run; deleted with it.
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Makes the keys and a ServiceAccount that may use them.
    pub fn new() -> Self {
        let variable =
            |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: use make bench"));
        let ca = PathBuf::from(variable("GATEWAY_CA"));
        let volume = ca.parent().expect("the CA is in the cluster's folder").join("volumes/hsm-demo");
        kubectl(&["apply", "--server-side", "-f", "-"], MANIFESTS);
        kubectl(&["wait", "-n", NAMESPACE, "hsmkey", "--all", "--for=condition=Ready", "--timeout=60s"], "");
        let token = kubectl(
            &["create", "token", "bench", "-n", NAMESPACE, "--audience", "hsm-operator", "--duration", "1h"],
            "",
        );
        Self {
            gateway: variable("GATEWAY_URL"),
            ca,
            volume,
            token: token.trim().to_owned(),
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// The token's PIN.
    pub fn pin(&self) -> String {
        kubectl(
            &[
                "get",
                "secret",
                "hsm-demo-pin",
                "-n",
                "hsm-operator",
                "-o",
                "go-template={{.data.pin | base64decode}}",
            ],
            "",
        )
    }

    /// `CKA_ID` of a key.
    pub fn key_id(&self, name: &str) -> Vec<u8> {
        let id = kubectl(&["get", "hsmkey", name, "-n", NAMESPACE, "-o", "jsonpath={.status.keyId}"], "");
        hex::decode(id).expect("hexadecimal")
    }

    /// A SoftHSM configuration for the token's folder as this host sees it.
    pub fn softhsm_configuration(&self) -> PathBuf {
        // Readable by the user whose files the token's are.
        let path = self.volume.join("softhsm/bench.conf");
        let text = format!(
            "directories.tokendir = {}\nlog.level = ERROR\n",
            self.volume.join("softhsm/tokens").display()
        );
        std::fs::write(&path, text).expect("the folder is ours");
        path
    }

    /// A signature from the gateways.
    pub fn gateway_target(&self, key: &str, algorithm: &str) -> Target {
        Target {
            url: format!("{}/v1/synchronousSign", self.gateway),
            token: Some(self.token.clone()),
            body: Some(body(key, algorithm)),
        }
    }

    /// Sets which signatures the gateways verify.
    pub fn verify_signatures(&self, which: &str) {
        let change = format!(r#"{{"spec":{{"verifySignatures":"{which}"}}}}"#);
        kubectl(&["patch", "hsmpartition", "demo", "--type", "merge", "-p", &change], "");
    }

    /// A sidecar of our own, as a pod would have it.
    pub fn sidecar(&self) -> Sidecar {
        let token_file = self.folder.path().join("token");
        std::fs::write(&token_file, &self.token).expect("the folder is ours");
        let child =
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/hsm-operator-sidecar"))
                .args([
                    "--listen",
                    "127.0.0.1:18081",
                    "--admin-listen",
                    "127.0.0.1:18082",
                    "--log-level",
                    "warn",
                ])
                .args(["--gateway", &self.gateway, "--ca-file"])
                .arg(&self.ca)
                .arg("--token-file")
                .arg(&token_file)
                .spawn()
                .expect("the release build is there");
        let sidecar = Sidecar(child);
        let started = Instant::now();
        while !Command::new("curl")
            .args(["-sf", "http://127.0.0.1:18082/readyz"])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
        {
            assert!(started.elapsed() < Duration::from_secs(20), "the sidecar does not become ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        sidecar
    }

    /// Processes of the operator in the cluster, by component.
    pub fn processes(&self) -> Vec<(&'static str, Vec<u32>)> {
        let of = |component: &str| {
            let selector =
                format!("app.kubernetes.io/name=hsm-operator,app.kubernetes.io/component={component}");
            let names = kubectl(
                &[
                    "get",
                    "pods",
                    "-n",
                    "hsm-operator",
                    "-l",
                    &selector,
                    "-o",
                    "jsonpath={.items[*].metadata.name}",
                ],
                "",
            );
            let names: Vec<String> =
                names.split_whitespace().map(|name| format!("POD_NAME={name}")).collect();
            pids()
                .filter(|pid| names.iter().any(|name| environment(*pid).contains(name)))
                .collect::<Vec<u32>>()
        };
        let (gateways, controllers) = (of("gateway"), of("controller"));
        let hosts = pids()
            .filter(|pid| [&gateways, &controllers].iter().any(|all| all.contains(&parent(*pid))))
            .collect();
        vec![("gateway", gateways), ("controller", controllers), ("token-host", hosts)]
    }
}

/// A running sidecar.
pub struct Sidecar(Child);

impl Sidecar {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// A signature through it.
    pub fn target(&self, key: &str, algorithm: &str) -> Target {
        Target {
            url: "http://127.0.0.1:18081/v1/synchronousSign".into(),
            token: None,
            body: Some(body(key, algorithm)),
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn body(key: &str, algorithm: &str) -> String {
    format!(
        r#"{{"signRequest":{{"payload":"UGF5bG9hZA==","signKeyName":"{key}","signatureAlgorithm":"{algorithm}"}}}}"#
    )
}

fn kubectl(args: &[&str], stdin: &str) -> String {
    let mut child = Command::new("kubectl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl is on the PATH of the cluster's environment file");
    child.stdin.take().expect("it was asked for").write_all(stdin.as_bytes()).expect("kubectl reads");
    let output = child.wait_with_output().expect("kubectl ends");
    assert!(output.status.success(), "kubectl {args:?} failed");
    String::from_utf8(output.stdout).expect("text")
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").expect("this is Linux");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn environment(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|one| String::from_utf8_lossy(one).into_owned()).collect()
}

fn status(pid: u32, field: &str) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok())
}

fn parent(pid: u32) -> u32 {
    status(pid, "PPid:").unwrap_or(0)
}

/// Resident memory of a process in MiB.
pub fn resident(pid: u32) -> f64 {
    f64::from(status(pid, "VmRSS:").unwrap_or(0)) / 1024.0
}

const MANIFESTS: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: hsm-bench}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: bench, namespace: hsm-bench}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: bench, namespace: hsm-bench}
rules: [{apiGroups: [hsm-operator.io], resources: [hsmkeys], verbs: [use]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: bench, namespace: hsm-bench}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: bench}
subjects: [{kind: ServiceAccount, name: bench, namespace: hsm-bench}]
---
apiVersion: hsm-operator.io/v1alpha1
kind: HsmKey
metadata: {name: bench-rsa, namespace: hsm-bench}
spec: {partitionRef: {name: demo}, algorithm: RSA, keySize: 2048, attributes: {sign: true, destroyable: true}}
---
apiVersion: hsm-operator.io/v1alpha1
kind: HsmKey
metadata: {name: bench-ec, namespace: hsm-bench}
spec: {partitionRef: {name: demo}, algorithm: EC, curveOid: 1.2.840.10045.3.1.7, attributes: {sign: true, destroyable: true}}
"#;
