//! Processes of the operator in the cluster's containers, as the machine under it sees them: to be weighed and killed.

use std::{collections::BTreeMap, path::PathBuf, process::Command, time::Instant};

use crate::{
    tools::{self, kubectl},
    world::OPERATOR,
};

/// A process of the operator.
#[derive(Clone, Debug)]
pub struct Process {
    pub id: u32,
    /// Subcommand: `gateway`, `controller` or `token-host`.
    pub component: String,
    /// Of a gateway or controller.
    pod: Option<String>,
}

/// All of them.
pub fn all() -> Vec<Process> {
    // Control groups are below that of the cluster, which is named like its network; there may be other clusters.
    let network = std::env::var("IN_CLUSTER").expect("IN_CLUSTER is set by the cluster's env file");
    let cluster = format!("/{}/", network.rsplit(' ').next().unwrap_or_default());
    let entries = std::fs::read_dir("/proc").expect("/proc is there");
    let process = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let id = path.file_name()?.to_str()?.parse().ok()?;
        let command = std::fs::read_to_string(path.join("cmdline")).ok()?;
        let mut words = command.split('\0');
        let component = words.next()?.ends_with("hsm-operator").then(|| words.next())??.to_owned();
        if !std::fs::read_to_string(path.join("cgroup")).ok()?.contains(&cluster) {
            return None;
        }
        let environment = std::fs::read(path.join("environ")).ok()?;
        let environment = String::from_utf8_lossy(&environment);
        let pod = environment.split('\0').find_map(|one| one.strip_prefix("POD_NAME="));
        Some(Process { id, component, pod: pod.map(str::to_owned) })
    };
    entries.filter_map(process).collect()
}

impl Process {
    /// As a crash would, or a machine that loses its power.
    pub fn kill(&self) {
        // One that has just ended by itself is as good.
        let _ = Command::new("kill").args(["-KILL", &self.id.to_string()]).status();
        if let Some(pod) = &self.pod {
            // A container that dies often is started again more and more slowly; a new pod is not held responsible.
            let args = [
                "delete",
                "pod",
                pod,
                "-n",
                OPERATOR,
                "--grace-period=1",
                "--ignore-not-found",
                "--wait=false",
            ];
            tools::run("kubectl", &args, b"");
            let deployment = format!("deployment/hsm-operator-{}", self.component);
            kubectl(&["rollout", "status", "-n", OPERATOR, &deployment, "--timeout=90s"]);
        }
    }

    /// It has opened tokens.
    fn has_children(&self) -> bool {
        let threads = PathBuf::from("/proc").join(self.id.to_string()).join("task");
        std::fs::read_dir(threads).into_iter().flatten().flatten().any(|thread| {
            std::fs::read_to_string(thread.path().join("children")).is_ok_and(|children| !children.is_empty())
        })
    }

    /// `None` when it is gone.
    fn memory(&self) -> Option<Memory> {
        let path = PathBuf::from("/proc").join(self.id.to_string()).join("status");
        let status = std::fs::read_to_string(path).ok()?;
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse().ok()
        };
        Some(Memory { resident: of("VmRSS:")?, own: of("RssAnon:")? })
    }
}

/// What a process has of memory, in KiB.
#[derive(Clone, Copy)]
struct Memory {
    resident: u64,
    /// Without what is of files: code that it came to run, and that the kernel takes away and reads again as it likes.
    own: u64,
}

/// Kills a daemon of the cluster and starts it again.
pub fn restart(daemon: &str) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("e2e/cluster.sh");
    tools::output(script.to_str().expect("a plain path"), &["restart", daemon], b"");
}

/// Memory of gateways, controllers and token-hosts over their lives. A controller begins another one when it comes to lead:
/// until then it does nothing.
#[derive(Default)]
pub struct Weights(BTreeMap<(u32, bool), Life>);

struct Life {
    component: String,
    begun: Instant,
    /// What it had when it was as old as `warm`.
    warm: Option<Memory>,
    last: Memory,
    age: f32,
}

impl Weights {
    /// Weighs all that live; most token-hosts do so for a few troubles only. From the age of `warm` on, nothing may be added.
    pub fn weigh(&mut self, warm: std::time::Duration) {
        for process in all() {
            let Some(memory) = process.memory() else { continue };
            let life = self.0.entry((process.id, process.has_children())).or_insert_with(|| Life {
                component: process.component.clone(),
                begun: Instant::now(),
                warm: None,
                last: memory,
                age: 0.0,
            });
            life.last = memory;
            life.age = life.begun.elapsed().as_secs_f32();
            if life.begun.elapsed() >= warm {
                life.warm.get_or_insert(memory);
            }
        }
    }

    /// Begins anew with the processes of a component: something made them grow that is no fault of theirs.
    pub fn excuse(&mut self, component: &str) {
        self.0.retain(|_, life| life.component != component);
    }

    /// The most that a process of a component has grown by memory of its own, as a share of its resident memory, and how
    /// much it had.
    pub fn growth(&self, component: &str) -> Option<(f64, String)> {
        let grown = self.0.values().filter(|life| life.component == component).filter_map(|life| {
            let (warm, last) = (life.warm?, life.last);
            #[expect(clippy::cast_precision_loss, reason = "less than a terabyte")]
            let growth = 1.0 + (last.own as f64 - warm.own as f64) / warm.resident as f64;
            let said = format!(
                "{} to {} KiB of its own, {} to {} KiB with files, in {:.0} s",
                warm.own, last.own, warm.resident, last.resident, life.age
            );
            Some((growth, said))
        });
        grown.max_by(|(a, _), (b, _)| a.total_cmp(b))
    }
}
