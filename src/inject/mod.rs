//! Putting the sidecar into a pod: a pure function over manifests.
//!
//! The chart ships the same thing as a MutatingAdmissionPolicy. Both read one description of the container,
//! `charts/hsm-operator/files/sidecar.yaml`, and a test compares what they make of the same pods.

mod manifest;
mod pod;

pub use manifest::{ManifestError, Outcome, inject_stream};
pub use pod::{Inject, Skip, inject};

use serde_json::{Value, json};

/// Where the gateways are unless told otherwise.
pub const DEFAULT_GATEWAY: &str = "https://hsm-operator-gateway.hsm-operator.svc:8443";
/// The audience of the sidecar's token unless told otherwise.
pub const DEFAULT_AUDIENCE: &str = "hsm-operator";
/// The sidecar's projected token, as mounted.
pub const TOKEN_FILE: &str = "/var/run/secrets/hsm-operator.io/token";
/// The gateways' CA, as mounted.
pub const CA_FILE: &str = "/var/run/secrets/hsm-operator.io/ca.crt";
/// Label of a pod or a namespace that asks for the sidecar with `"true"`; a pod's `"false"` wins.
pub const LABEL: &str = "hsm-operator.io/inject";

const DESCRIPTION: &str = include_str!("../../charts/hsm-operator/files/sidecar.yaml");

/// Where the pod gets the gateways' CA from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ca {
    /// The ClusterTrustBundle that the controller keeps (Kubernetes 1.37).
    TrustBundle,
    /// Key `ca.crt` of this ConfigMap in the pod's namespace.
    ConfigMap(String),
}

/// What differs between installations.
#[derive(Clone, Debug)]
pub struct InjectConfig {
    /// The operator's image.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// The gateways, as `https://host:port`.
    pub gateway: String,
    /// Audience of the pod's token; the gateways accept no other.
    pub audience: String,
    /// Source of the gateways' CA.
    pub ca: Ca,
    /// Whether pods without the label get the sidecar too, as in a labelled namespace.
    pub unlabelled: bool,
}

/// The container and the volume, filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Sidecar {
    /// An init container with `restartPolicy: Always`.
    pub container: Value,
    /// Token and CA.
    pub volume: Value,
}

impl Sidecar {
    /// What `config` adds to a pod.
    pub fn new(config: &InjectConfig) -> Self {
        let mut description: Value =
            serde_saphyr::from_str(DESCRIPTION).expect("a test parses the built-in description");
        fill_in(&mut description, config);
        if let Ca::ConfigMap(name) = &config.ca {
            let items = json!([{"key": "ca.crt", "path": "ca.crt"}]);
            description["volume"]["projected"]["sources"][1] =
                json!({"configMap": {"name": name, "items": items, "optional": false}});
        }
        Self { container: description["container"].take(), volume: description["volume"].take() }
    }

    fn name_of(part: &Value) -> &str {
        part["name"].as_str().expect("a test finds names in the built-in description")
    }
}

/// Replaces each `${…}` in the strings below `value`.
fn fill_in(value: &mut Value, config: &InjectConfig) {
    match value {
        Value::String(text) => {
            for (name, filling) in [
                ("${image}", &config.image),
                ("${imagePullPolicy}", &config.image_pull_policy),
                ("${gateway}", &config.gateway),
                ("${audience}", &config.audience),
            ] {
                if text.contains(name) {
                    *text = text.replace(name, filling);
                    return; // a filling is never filled in itself
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill_in(item, config)),
        Value::Object(fields) => fields.values_mut().for_each(|field| fill_in(field, config)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
pub(crate) fn config_for_tests() -> InjectConfig {
    InjectConfig {
        image: "registry.test/hsm-operator:1".into(),
        image_pull_policy: "IfNotPresent".into(),
        gateway: DEFAULT_GATEWAY.into(),
        audience: DEFAULT_AUDIENCE.into(),
        ca: Ca::TrustBundle,
        unlabelled: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_whole_and_filled_in() {
        let sidecar = Sidecar::new(&config_for_tests());
        assert_eq!(Sidecar::name_of(&sidecar.container), "hsm-operator-sidecar");
        assert_eq!(Sidecar::name_of(&sidecar.volume), sidecar.container["volumeMounts"][0]["name"]);
        assert!(!format!("{sidecar:?}").contains("${"), "something is not filled in: {sidecar:?}");
        let mounted = sidecar.container["volumeMounts"][0]["mountPath"].as_str().unwrap();
        for (file, source) in [(TOKEN_FILE, "serviceAccountToken"), (CA_FILE, "clusterTrustBundle")] {
            let sources = sidecar.volume["projected"]["sources"].as_array().unwrap();
            let path = sources.iter().find_map(|s| s[source]["path"].as_str()).unwrap();
            assert_eq!(file, format!("{mounted}/{path}"), "the sidecar's default");
        }
    }
}
