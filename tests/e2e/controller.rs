//! The controller from outside: who leads, what it counts and logs, and its violent end.

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};

use crate::{
    tools,
    world::{OPERATOR, World},
};

impl World {
    /// Who holds the lease: pod name and identifier of its process.
    pub async fn leader(&self) -> String {
        let held = |lease: &Lease| {
            let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
            holder.is_some_and(|holder| !holder.is_empty())
        };
        let lease = self.until(&self.api::<Lease>(OPERATOR), "hsm-operator-controller", "held", held).await;
        lease.spec.unwrap().holder_identity.unwrap()
    }

    /// Waits for somebody else to lead.
    pub async fn leader_after(&self, old: &str) -> String {
        let old = old.to_owned();
        let changed = move |lease: &Lease| {
            let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
            holder.is_some_and(|holder| !holder.is_empty() && holder != old)
        };
        let leases = self.api::<Lease>(OPERATOR);
        let lease = self.until(&leases, "hsm-operator-controller", "held by somebody else", changed).await;
        lease.spec.unwrap().holder_identity.unwrap()
    }

    /// Kills the leader as a power cut would; no container runtime asks it to end first.
    pub async fn kill_leader(&self) -> String {
        let leader = self.leader().await;
        let pod = pod_of(&leader);
        let process = std::fs::read_dir("/proc").unwrap().find_map(|entry| {
            let path = entry.ok()?.path();
            let line = std::fs::read(path.join("cmdline")).ok()?;
            let environment = std::fs::read(path.join("environ")).ok()?;
            let is_controller = line.ends_with(b"hsm-operator\0controller\0");
            let name = format!("POD_NAME={pod}");
            let is_its = environment.split(|byte| *byte == 0).any(|one| one == name.as_bytes());
            (is_controller && is_its).then(|| path.file_name().unwrap().to_str().unwrap().to_owned())
        });
        let process = process.unwrap_or_else(|| panic!("the process of {leader} is not there"));
        tools::output("kill", &["-KILL", &process], b"");
        leader
    }

    /// The leader's metrics.
    pub async fn metrics(&self) -> String {
        let pod = self.api::<Pod>(OPERATOR).get(pod_of(&self.leader().await)).await.unwrap();
        let address = pod.status.unwrap().pod_ip.unwrap();
        tools::output("curl", &["-sf", &format!("http://{address}:8080/metrics")], b"")
    }

    /// Logs of every pod of a component since it started.
    pub fn logs(&self, component: &str) -> String {
        let label = format!("app.kubernetes.io/component={component}");
        tools::kubectl(&["logs", "-n", OPERATOR, "-l", &label, "--tail=-1"])
    }
}

/// The pod of who leads.
pub fn pod_of(leader: &str) -> &str {
    leader.split_once('_').expect("pod_uuid").0
}

/// Sum of a metric over the lines that have all of these texts.
pub fn sum(metrics: &str, name: &str, with: &[&str]) -> f64 {
    metrics
        .lines()
        .filter(|line| {
            line.split(['{', ' ']).next() == Some(name) && with.iter().all(|text| line.contains(text))
        })
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}
