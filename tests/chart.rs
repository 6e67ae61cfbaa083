//! What the chart renders, with the helm of the tests' cluster.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn helm(values: &[&str]) -> Output {
    let script = "source e2e/lib.sh; e2e/tools/build.sh helm >&2; PATH=$(tool_dir helm):$PATH; \
                  helm template hsm-operator charts/hsm-operator --namespace hsm-operator \"$@\"";
    let set = values.iter().flat_map(|value| ["--set", value]);
    Command::new("bash").args(["-c", script, "bash"]).args(set).current_dir(root()).output().unwrap()
}

fn rendered(values: &[&str]) -> String {
    let output = helm(values);
    assert!(output.status.success(), "{values:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_kustomize_base_is_what_the_chart_renders() {
    let base = read("config/base/hsm-operator.yaml");
    let rendered = rendered(&[])
        .replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kustomize");
    let (_, body) = base.split_once('\n').expect("a comment, then the objects");
    assert!(body == rendered, "config/base/hsm-operator.yaml differs: run make generate");
}

#[test]
fn uninstalling_keeps_the_definitions_and_so_every_object() {
    let rendered = rendered(&[]);
    let definitions: Vec<&str> = rendered
        .split("\n---")
        .filter(|object| object.contains("\nkind: CustomResourceDefinition"))
        .collect();
    assert_eq!(definitions.len(), 3);
    for definition in definitions {
        assert!(definition.contains("helm.sh/resource-policy: keep"), "{definition}");
    }
}

#[test]
fn settings_add_and_take_away_what_they_say() {
    let count = |values: &[&str], text: &str| rendered(values).matches(text).count();
    for (value, text) in [
        ("policies.enabled=false", "\nkind: MutatingAdmissionPolicy\n"),
        ("networkPolicy.enabled=false", "\nkind: NetworkPolicy\n"),
    ] {
        assert!(count(&[], text) > 0 && count(&[value], text) == 0, "{value}");
    }
    for (value, text) in [
        ("networkPolicy.restrictEgress=true", "\n  egress:"),
        ("monitoring.serviceMonitor.enabled=true", "\nkind: PodMonitor\n"),
        ("rbac.aggregateUseToAdmin=true", "aggregate-to-admin"),
    ] {
        assert!(count(&[], text) < count(&[value], text), "{value}");
    }
    // What narrows the right to write Secrets is no setting.
    assert_eq!(count(&["policies.enabled=false"], "\n  policyName: hsm-operator-key-passwords\n"), 1);
}

#[test]
fn a_value_that_cannot_be_is_refused_by_its_name() {
    for (value, name) in [
        ("gateway.replicas=many", "replicas"),
        ("logLevel=loud", "logLevel"),
        ("gatway.replicas=2", "gatway"),
    ] {
        let output = helm(&[value]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(name), "{value}: {said}");
    }
}

#[test]
fn every_value_is_in_the_charts_readme() {
    let values: Value = serde_saphyr::from_str(&read("charts/hsm-operator/values.yaml")).unwrap();
    let readme = read("charts/hsm-operator/README.md");
    let mut missing = Vec::new();
    // A row may speak of everything under its name.
    fn walk(value: &Value, path: &str, readme: &str, missing: &mut Vec<String>) {
        if readme.contains(&format!("`{path}`")) {
            return;
        }
        match value {
            Value::Object(members) if !members.is_empty() => {
                for (name, value) in members {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(value, &path, readme, missing);
                }
            }
            _ => missing.push(path.to_owned()),
        }
    }
    walk(&values, "", &readme, &mut missing);
    assert!(missing.is_empty(), "{missing:?}");
}

/// A partition whose replicas go on signing wakes nobody up.
#[test]
fn only_a_partition_with_which_nothing_is_signed_is_critical() {
    let rules = rendered(&["monitoring.prometheusRule.enabled=true"]);
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    let critical: Vec<&str> =
        alerts.iter().filter(|one| one.contains("severity: critical")).copied().collect();
    assert_eq!(critical.len(), 1, "{critical:?}");
    assert!(critical[0].starts_with("HsmPartitionNotSignable"), "{critical:?}");
    let spared = "unless on (partition, pod) max by (partition, pod) (hsm_operator_replica_healthy) == 1";
    assert!(critical[0].contains(spared), "{critical:?}");
    assert!(alerts.iter().any(|one| one.starts_with("HsmPartitionNotCreatable")), "{alerts:?}");
}
