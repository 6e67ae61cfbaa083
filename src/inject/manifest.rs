//! Manifests as people keep them: YAML or JSON, several documents, lists, and kinds that contain a pod template.

use std::fmt;

use serde_json::Value;

use super::{Inject, InjectConfig, Skip, inject};

/// A stream that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The input is neither YAML nor JSON.
    #[error("the input is neither YAML nor JSON")]
    Read(#[source] Box<serde_saphyr::Error>),
    /// The output cannot be written as YAML.
    #[error("the result cannot be written as YAML")]
    Write(#[source] serde_saphyr::SerializeError),
}

/// What became of one object that has pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `Kind/name`.
    pub object: String,
    /// `None`: the sidecar was added.
    pub skipped: Option<Skip>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.skipped {
            None => write!(f, "{}: injected", self.object),
            Some(why) => write!(f, "{}: unchanged: {why}", self.object),
        }
    }
}

/// Adds the sidecar to all pods of a stream of manifests; whatever has no pods passes unchanged.
///
/// # Errors
/// The input cannot be read, or the result not be written.
pub fn inject_stream(input: &str, config: &InjectConfig) -> Result<(String, Vec<Outcome>), ManifestError> {
    // As kubectl reads it: `defaultMode: 0644` is octal.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let mut documents: Vec<Value> = serde_saphyr::from_multiple_with_options(input, options)
        .map_err(|error| ManifestError::Read(Box::new(error)))?;
    let mut outcomes = Vec::new();
    documents.retain(|document| !document.is_null());
    for document in &mut documents {
        inject_object(document, config, &mut outcomes);
    }
    let mut output = String::new();
    for document in &documents {
        let text = serde_saphyr::to_string(document).map_err(ManifestError::Write)?;
        if !output.is_empty() {
            output.push_str("---\n");
        }
        output.push_str(&text);
    }
    Ok((output, outcomes))
}

fn inject_object(object: &mut Value, config: &InjectConfig, outcomes: &mut Vec<Outcome>) {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let path = match kind.as_str() {
        "Pod" => "",
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
            "/spec/template"
        }
        "CronJob" => "/spec/jobTemplate/spec/template",
        // `List`, and `PodList` and its like, which some tools write.
        list if list.ends_with("List") => {
            let items = object.get_mut("items").and_then(Value::as_array_mut);
            return items.into_iter().flatten().for_each(|item| inject_object(item, config, outcomes));
        }
        _ => return,
    };
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().or(metadata["generateName"].as_str()).unwrap_or("(no name)");
    let name = format!("{kind}/{name}");
    let Some(pod) = object.pointer_mut(path) else {
        return outcomes.push(Outcome { object: name, skipped: Some(Skip::NoSpec) });
    };
    let skipped = match inject(pod, config) {
        Ok(Inject(with_sidecar)) => {
            *pod = with_sidecar;
            None
        }
        Err(why) => Some(why),
    };
    outcomes.push(Outcome { object: name, skipped });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::{Ca, config_for_tests};

    /// Compares with `tests/golden/inject/<name>.out.yaml`; `UPDATE_GOLDEN=1` writes it instead.
    fn golden(name: &str, config: &InjectConfig) -> Vec<Outcome> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/inject");
        let input = std::fs::read_to_string(format!("{folder}/{name}.yaml")).unwrap();
        let (output, outcomes) = inject_stream(&input, config).unwrap();
        let (again, second) = inject_stream(&output, config).unwrap();
        assert_eq!(again, output, "{name}: the second time changed something");
        assert!(second.iter().all(|outcome| outcome.skipped.is_some()));
        let path = format!("{folder}/{name}.out.yaml");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &output).unwrap();
        }
        let wanted = std::fs::read_to_string(&path).unwrap();
        assert_eq!(output, wanted, "{name}: differs from its golden file; UPDATE_GOLDEN=1 rewrites it");
        outcomes
    }

    fn told(outcomes: &[Outcome]) -> Vec<String> {
        outcomes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pod() {
        assert_eq!(told(&golden("pod", &config_for_tests())), ["Pod/app: injected"]);
    }

    #[test]
    fn every_kind_that_has_pods() {
        let outcomes = golden("workloads", &config_for_tests());
        assert_eq!(outcomes.len(), 6);
        assert!(outcomes.iter().all(|outcome| outcome.skipped.is_none()), "{outcomes:?}");
    }

    #[test]
    fn a_list_with_things_that_are_no_pods() {
        let wanted = [
            "Pod/asked: injected",
            "Pod/not-asked: unchanged: no label hsm-operator.io/inject: \"true\"",
            "Pod/refuses: unchanged: label hsm-operator.io/inject: \"false\"",
        ];
        assert_eq!(told(&golden("list", &config_for_tests())), wanted);
    }

    #[test]
    fn a_ca_from_a_config_map() {
        let config =
            InjectConfig { ca: Ca::ConfigMap("hsm-operator-gateway-ca".into()), ..config_for_tests() };
        golden("configmap", &config);
    }

    #[test]
    fn json_is_read_as_well() {
        let json =
            r#"{"kind":"Pod","metadata":{"name":"a","labels":{"hsm-operator.io/inject":"true"}},"spec":{}}"#;
        assert_eq!(told(&inject_stream(json, &config_for_tests()).unwrap().1), ["Pod/a: injected"]);
    }

    #[test]
    fn a_file_mode_is_octal_as_kubectl_reads_it() {
        let (output, _) = inject_stream("kind: X\nmode: 0644\n", &config_for_tests()).unwrap();
        assert_eq!(output, "kind: X\nmode: 420\n");
    }

    #[test]
    fn text_that_looks_like_something_else_stays_text() {
        let input =
            "kind: ConfigMap\ndata: {a: \"true\", b: \"1e3\", c: \"0o7\", d: \"no\", e: \"~\", f: \"1.0\"}\n";
        let (output, _) = inject_stream(input, &config_for_tests()).unwrap();
        assert!(output.contains("d: \"no\""), "kubectl reads YAML 1.1, where no is false: {output}");
        let read: Value = serde_saphyr::from_str(&output).unwrap();
        let before: Value = serde_saphyr::from_str(input).unwrap();
        assert_eq!(read, before);
        for (_, value) in read["data"].as_object().unwrap() {
            assert!(value.is_string());
        }
    }
}
