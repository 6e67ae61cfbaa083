//! Processes of the cluster's containers, as the machine under it sees them.

use std::path::PathBuf;

use crate::tools::kubectl;

/// The processes of a pod that run `hsm-operator <subcommand>`: their ids.
pub fn all_of_pod(pod: &str, namespace: &str, subcommand: &str) -> Vec<u32> {
    let uid = kubectl(&["get", "pod", "-n", namespace, pod, "-o", "jsonpath={.metadata.uid}"]);
    // Control groups are named after the pod, with either separator.
    let names = [uid.clone(), uid.replace('-', "_")];
    let processes = std::fs::read_dir("/proc").expect("/proc is there").filter_map(|entry| {
        let path = entry.ok()?.path();
        let id = path.file_name()?.to_str()?.parse().ok()?;
        let groups = std::fs::read_to_string(path.join("cgroup")).ok()?;
        let command = std::fs::read(path.join("cmdline")).ok()?;
        let is = names.iter().any(|name| groups.contains(name)) && is_running(&command, subcommand);
        is.then_some(id)
    });
    processes.collect()
}

/// Whether a command line is `hsm-operator <subcommand> …` or `hsm-operator-<subcommand> …`.
fn is_running(command: &[u8], subcommand: &str) -> bool {
    let mut words = command.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    let own = format!("hsm-operator-{subcommand}");
    program.ends_with(own.as_bytes()) || words.next() == Some(subcommand.as_bytes())
}

/// The process of a pod that runs `hsm-operator <subcommand>`.
pub fn of_pod(pod: &str, namespace: &str, subcommand: &str) -> u32 {
    let found = all_of_pod(pod, namespace, subcommand);
    assert_eq!(found.len(), 1, "processes {subcommand} of {namespace}/{pod}");
    found[0]
}

/// A value of `/proc/<id>/status`, in KiB.
pub fn memory(id: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(PathBuf::from("/proc").join(id.to_string()).join("status"));
    let status = status.expect("the process lives");
    let line =
        status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).expect("a known field");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
