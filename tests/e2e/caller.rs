//! Who calls the gateways in tests, and what they may do.

use std::collections::BTreeMap;

use serde_json::json;
use tokio::sync::{Mutex, MutexGuard, RwLock};

use crate::{
    http::{Answer, Gateways},
    tools::{self, kubectl},
    world::{OPERATOR, PATIENCE, Token, World},
};

/// Tests that need the gateways read it; tests that break them write it.
pub static GATEWAYS: RwLock<()> = RwLock::const_new(());

/// Held by whoever says on which partition keys are made over REST: that is the same for all namespaces.
static DEFAULT: Mutex<()> = Mutex::const_new(());

/// A ServiceAccount with these verbs on the HsmKeys of its namespace.
pub fn account(namespace: &str, name: &str, verbs: &[&str]) {
    let subject = json!([{ "kind": "ServiceAccount", "name": name, "namespace": namespace }]);
    let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name });
    let metadata = json!({ "name": name, "namespace": namespace });
    let mut objects = vec![json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata })];
    if !verbs.is_empty() {
        let rule = json!({ "apiGroups": ["hsm-operator.io"], "resources": ["hsmkeys"], "verbs": verbs });
        let rbac = "rbac.authorization.k8s.io/v1";
        objects.push(json!({ "apiVersion": rbac, "kind": "Role", "metadata": metadata, "rules": [rule] }));
        objects.push(json!({
            "apiVersion": rbac, "kind": "RoleBinding", "metadata": metadata, "roleRef": role, "subjects": subject
        }));
    }
    tools::apply(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string());
}

/// A token of a ServiceAccount, as TokenRequest gives it.
pub fn token(namespace: &str, name: &str, audience: &str) -> String {
    kubectl(&["create", "token", name, "-n", namespace, "--audience", audience]).trim().to_owned()
}

/// The gateways, called by a new ServiceAccount with these verbs.
pub fn caller(namespace: &str, name: &str, verbs: &[&str]) -> Gateways {
    account(namespace, name, verbs);
    Gateways::new().with_token(token(namespace, name, "hsm-operator"))
}

/// Every verb that the REST API knows.
pub const ALL_VERBS: &[&str] = &["create", "get", "list", "delete", "use"];

/// Keys over REST are made on this token, or on none in particular, while the guard lives.
pub async fn default_partition(of: Option<Token>) -> MutexGuard<'static, ()> {
    let guard = DEFAULT.lock().await;
    for token in Token::BOTH {
        let change =
            if of == Some(token) { "hsm-operator.io/default=true" } else { "hsm-operator.io/default-" };
        kubectl(&["annotate", "--overwrite", "hsmpartition", token.partition(), change]);
    }
    guard
}

/// Waits until every gateway makes this caller's keys on that token.
pub async fn until_default(caller: &Gateways, of: Option<Token>) {
    let wanted = of.map_or_else(
        || "several partitions".to_owned(),
        |token| format!("partition: {}, ", token.partition()),
    );
    everywhere(caller, "GET", "/v1/keystore/statistics", "", |answer| {
        String::from_utf8_lossy(&answer.body).contains(&wanted)
    })
    .await;
}

/// Asks every gateway again and again until each has answered as wanted: what was changed reaches them by their watches,
/// and a refusal is remembered for a moment.
pub async fn everywhere(
    caller: &Gateways,
    method: &str,
    path: &str,
    body: &str,
    wanted: impl Fn(&Answer) -> bool,
) {
    for address in caller.addresses().await {
        let mut connection = caller.connect(address).await.unwrap();
        let seen = async {
            while !wanted(&connection.call(method, path, body.to_owned()).await.unwrap()) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("the gateway hears of the change");
    }
}

/// What every container of every pod has logged, by pod.
pub fn logs() -> BTreeMap<String, String> {
    let list = kubectl(&[
        "get",
        "pods",
        "-A",
        "-o",
        "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}",
    ]);
    let pods = list.lines().filter_map(|line| line.split_once('/'));
    let read = pods.map(|(namespace, pod)| {
        // A pod that is gone meanwhile, or has not started, has no log.
        let args = ["logs", "-n", namespace, pod, "--all-containers", "--tail=-1"];
        let output = tools::run("kubectl", &args, b"");
        (format!("{namespace}/{pod}"), String::from_utf8_lossy(&output.stdout).into_owned())
    });
    read.collect()
}

/// A value of the Secret with the PINs.
pub async fn pin(world: &World, key: &str) -> String {
    let secrets = world.api::<k8s_openapi::api::core::v1::Secret>(OPERATOR);
    let data = secrets.get("hsm-demo-pin").await.unwrap().data.unwrap();
    String::from_utf8(data[key].0.clone()).unwrap()
}
