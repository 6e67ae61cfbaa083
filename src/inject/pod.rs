//! The rule for one pod.

use serde_json::{Map, Value, json};

use super::{InjectConfig, LABEL, Sidecar};

/// The pod with the sidecar in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Inject(pub Value);

/// Why a pod stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
pub enum Skip {
    /// Nobody asked.
    #[strum(to_string = "no label hsm-operator.io/inject: \"true\"")]
    NotAsked,
    /// The pod's own label says `"false"`, which wins over everything.
    #[strum(to_string = "label hsm-operator.io/inject: \"false\"")]
    OptedOut,
    /// The sidecar is there.
    #[strum(to_string = "has the sidecar already")]
    Present,
    /// On the host's network, loopback belongs to every process of the node: all of them could use this pod's keys.
    #[strum(to_string = "uses the host's network, where any process of the node could use its keys")]
    HostNetwork,
    /// The kubelet's own picture of a static pod; static pods have no ServiceAccount token.
    #[strum(to_string = "is a static pod, which has no ServiceAccount token")]
    StaticPod,
    /// There is no `spec` to add to.
    #[strum(to_string = "has no spec")]
    NoSpec,
}

/// Adds the sidecar to `pod` (a Pod or a pod template: `metadata` and `spec`), or says why not.
///
/// The sidecar becomes the first init container, so that the pod's own init containers can use the HSM, too.
/// Applied to its own result it changes nothing.
///
/// # Errors
/// Why the pod stays as it is.
pub fn inject(pod: &Value, config: &InjectConfig) -> Result<Inject, Skip> {
    match pod["metadata"]["labels"][LABEL].as_str() {
        Some("true") => {}
        Some("false") => return Err(Skip::OptedOut),
        _ if config.unlabelled => {}
        _ => return Err(Skip::NotAsked),
    }
    if pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some() {
        return Err(Skip::StaticPod);
    }
    let Some(spec) = pod["spec"].as_object() else { return Err(Skip::NoSpec) };
    let sidecar = Sidecar::new(config);
    let name = Sidecar::name_of(&sidecar.container);
    if has(spec, "initContainers", name) || has(spec, "containers", name) {
        return Err(Skip::Present);
    }
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        return Err(Skip::HostNetwork);
    }
    let mut pod = pod.clone();
    let spec = pod["spec"].as_object_mut().expect("it was an object above");
    let volume_is_there = has(spec, "volumes", Sidecar::name_of(&sidecar.volume));
    list(spec, "initContainers").insert(0, sidecar.container);
    if !volume_is_there {
        list(spec, "volumes").push(sidecar.volume);
    }
    Ok(Inject(pod))
}

fn has(spec: &Map<String, Value>, field: &str, name: &str) -> bool {
    let items = spec.get(field).and_then(Value::as_array);
    items.is_some_and(|items| items.iter().any(|item| item["name"] == name))
}

fn list<'a>(spec: &'a mut Map<String, Value>, field: &str) -> &'a mut Vec<Value> {
    let value = spec.entry(field).or_insert_with(|| json!([]));
    if !value.is_array() {
        *value = json!([]); // `volumes:` without anything is null
    }
    value.as_array_mut().expect("made an array above")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::config_for_tests;

    fn pod(label: Option<&str>, spec: Value) -> Value {
        let labels = label.map_or(json!({}), |value| json!({LABEL: value}));
        json!({"metadata": {"name": "app", "labels": labels}, "spec": spec})
    }

    fn app() -> Value {
        json!({"containers": [{"name": "app"}], "initContainers": [{"name": "first"}]})
    }

    #[test]
    fn the_sidecar_comes_before_all_init_containers() {
        let Inject(pod) = inject(&pod(Some("true"), app()), &config_for_tests()).unwrap();
        assert_eq!(pod["spec"]["initContainers"][0]["name"], "hsm-operator-sidecar");
        assert_eq!(pod["spec"]["initContainers"][1]["name"], "first");
        assert_eq!(pod["spec"]["volumes"][0]["name"], "hsm-operator-token");
    }

    #[test]
    fn twice_changes_nothing() {
        let Inject(once) = inject(&pod(Some("true"), app()), &config_for_tests()).unwrap();
        assert_eq!(inject(&once, &config_for_tests()), Err(Skip::Present));
    }

    #[test]
    fn only_who_asks_gets_it_and_false_wins() {
        let everyone = InjectConfig { unlabelled: true, ..config_for_tests() };
        assert_eq!(inject(&pod(None, app()), &config_for_tests()), Err(Skip::NotAsked));
        assert!(inject(&pod(None, app()), &everyone).is_ok());
        assert_eq!(inject(&pod(Some("false"), app()), &everyone), Err(Skip::OptedOut));
    }

    #[test]
    fn a_pod_on_the_hosts_network_does_not_get_it() {
        let spec = json!({"hostNetwork": true, "containers": []});
        assert_eq!(inject(&pod(Some("true"), spec), &config_for_tests()), Err(Skip::HostNetwork));
    }

    #[test]
    fn empty_lists_and_nulls_are_as_good_as_none() {
        let spec = json!({"containers": [{"name": "app"}], "volumes": null, "initContainers": []});
        let Inject(pod) = inject(&pod(Some("true"), spec), &config_for_tests()).unwrap();
        assert_eq!(pod["spec"]["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(pod["spec"]["initContainers"].as_array().unwrap().len(), 1);
    }
}
