//! Signatures per second and resident memory of the installed operator, beside the same token driven directly.
//! `make bench` starts a cluster and runs this inside its network. Both sides of a figure are measured in turn,
//! several times, in one run.

mod cluster;
mod keys;
#[path = "../raw.rs"]
mod raw;
#[path = "../table.rs"]
mod table;
#[path = "../wrk.rs"]
mod wrk;

use std::{collections::BTreeMap, time::Duration};

use cluster::Cluster;
use raw::Raw;
use table::{Must, Row, median};

/// Measurements per figure.
const REPEATS: usize = 5;
/// Length of one measurement.
const SECONDS: u64 = 3;
/// Threads that drive the token directly: as many as the partition has sessions.
const THREADS: usize = 4;
/// Connections that the load generator keeps busy: enough for saturation.
const CONNECTIONS: usize = 32;

/// What the token is driven with.
const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

fn main() {
    if keys::be_child() {
        return;
    }
    // `cargo bench` passes flags of its own; `FIGURES` chooses.
    let cluster = Cluster::new();
    let mut rows = Vec::new();
    if table::chosen("sign") {
        rows.append(&mut sign(&cluster));
    }
    if table::chosen("keys") {
        rows.push(keys::row(&cluster));
    }
    table::print(&rows);
    table::write("throughput", &rows);
}

/// Signatures through gateway and sidecar beside the same token driven directly, and memory under that load.
fn sign(cluster: &Cluster) -> Vec<Row> {
    let configuration = cluster.softhsm_configuration().display().to_string();
    let environment = [("SOFTHSM2_CONF".to_owned(), configuration)];
    let raw = Raw::open(SOFTHSM.as_ref(), &environment, "demo", &cluster.pin());
    let (mut rows, mut sizes) = (Vec::new(), BTreeMap::new());
    for (name, key, algorithm, least) in
        [("rsa2048", "bench-rsa", "SHA256_WITH_RSA", 0.95), ("p256", "bench-ec", "SHA256_WITH_ECDSA", 0.75)]
    {
        let (id, is_rsa) = (cluster.key_id(key), name == "rsa2048");
        let sidecar = cluster.sidecar();
        let (mut gateway_rates, mut sidecar_rates, mut raw_rates) = (Vec::new(), Vec::new(), Vec::new());
        let (mut first_rates, mut always_rates) = (Vec::new(), Vec::new());
        // The first round warms caches and connections on every side and is thrown away.
        for round in 0..=REPEATS {
            let directly = raw.loops(&id, is_rsa, THREADS, Duration::from_secs(SECONDS));
            let through_gateway =
                wrk::answers_per_second(&cluster.gateway_target(key, algorithm), CONNECTIONS, SECONDS);
            let through_sidecar =
                wrk::answers_per_second(&sidecar.target(key, algorithm), CONNECTIONS, SECONDS);
            eprintln!(
                "  {name} {round}/{REPEATS}: token {directly:.0}/s, gateway {through_gateway:.0}/s, sidecar {through_sidecar:.0}/s"
            );
            let [first, always] = ["First", "Always"].map(|which| {
                cluster.verify_signatures(which);
                wrk::answers_per_second(&cluster.gateway_target(key, algorithm), CONNECTIONS, SECONDS)
            });
            cluster.verify_signatures("Auto");
            if round > 0 && name == "p256" {
                weigh(cluster, sidecar.pid(), &mut sizes);
            }
            if round > 0 {
                first_rates.push(first);
                always_rates.push(always);
                raw_rates.push(directly);
                gateway_rates.push(through_gateway);
                sidecar_rates.push(through_sidecar);
            }
        }
        let must = Some(Must::RatioAtLeast(least));
        rows.push(Row::rate(format!("sign/gateway/{name}"), &gateway_rates, &raw_rates).must(must));
        rows.push(Row::rate(format!("sign/sidecar/{name}"), &sidecar_rates, &raw_rates));
        rows.push(Row::rate(format!("verified/{name}"), &always_rates, &first_rates));
    }
    for (component, sizes) in &sizes {
        // Every pod has one, so that its size is limited.
        let must = (*component == "sidecar").then_some(Must::AtMost(10.0));
        rows.push(Row::less(&format!("rss/{component}"), "MiB", sizes, &[]).must(must));
    }
    rows
}

/// Resident memory under all that load, by component.
fn weigh(cluster: &Cluster, sidecar: u32, sizes: &mut BTreeMap<&'static str, Vec<f64>>) {
    sizes.entry("sidecar").or_default().push(cluster::resident(sidecar));
    for (component, pids) in cluster.processes() {
        let of_all: Vec<f64> = pids.into_iter().map(cluster::resident).collect();
        if !of_all.is_empty() {
            sizes.entry(component).or_default().push(median(&of_all));
        }
    }
}
