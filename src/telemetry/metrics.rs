//! Metrics, all of them, in the text format of OpenMetrics.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Labels of reconciles.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Reconcile {
    /// Which reconciler.
    pub controller: &'static str,
    /// `ok` or the error's category.
    pub outcome: &'static str,
}

/// Labels of writes to the Kubernetes API.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Write {
    /// Kind that is written.
    pub kind: &'static str,
    /// Verb.
    pub verb: &'static str,
}

/// Labels of calls to a token.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Call {
    /// Partition.
    pub partition: String,
    /// Which request.
    pub function: &'static str,
    /// `ok` or the kind of error.
    pub result: &'static str,
}

/// Labels of what is timed per function of a partition.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Function {
    /// Partition.
    pub partition: String,
    /// Which request.
    pub function: &'static str,
}

/// Labels of steps of recovery.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Step {
    /// Partition.
    pub partition: String,
    /// Which step: `session`, `login`, `canary`, `initialise` or `process`.
    pub rung: &'static str,
}

/// Label of what is counted per partition.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Partition {
    /// Partition.
    pub partition: String,
}

/// Labels of what is known of one of several tokens of a partition.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Replica {
    /// Partition.
    pub partition: String,
    /// Name of the replica, or `primary`.
    pub replica: String,
}

/// Labels of requests to the gateway.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct HttpRequest {
    /// The route's template, never a path.
    pub route: String,
    /// HTTP method.
    pub method: &'static str,
    /// HTTP status.
    pub status: u16,
}

/// Label of what is timed per route.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Route {
    /// The route's template.
    pub route: String,
}

/// Labels of decisions on callers.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Decision {
    /// `authenticate` or `authorize`.
    pub step: &'static str,
    /// `allowed`, `refused` or `error`.
    pub decision: &'static str,
    /// `memory`, `api` or `stale`.
    pub source: &'static str,
}

type Timed<L> = Family<L, Histogram, fn() -> Histogram>;

/// Every metric of a process.
pub struct Metrics {
    registry: Registry,
    /// Finished reconciles.
    pub reconciles: Family<Reconcile, Counter>,
    /// How long they took.
    pub reconcile_duration: Timed<Reconcile>,
    /// Writes to the Kubernetes API.
    pub api_writes: Family<Write, Counter>,
    /// Calls to tokens.
    pub hsm_calls: Family<Call, Counter>,
    /// How long they took.
    pub hsm_call_duration: Timed<Function>,
    /// Steps taken to bring a token back into use.
    pub recoveries: Family<Step, Counter>,
    /// Signatures of tokens that turned out wrong and were not handed out.
    pub wrong_signatures: Family<Partition, Counter>,
    /// Whether the token of a partition can be used.
    pub partition_ready: Family<Partition, Gauge>,
    /// Sessions that sign at the same time in each token-host of a partition.
    pub sessions: Family<Partition, Gauge>,
    /// Whether a token signs, of partitions with replicas.
    pub replica_healthy: Family<Replica, Gauge>,
    /// Calls that another token had to answer.
    pub failovers: Family<Partition, Counter>,
    /// Whether this replica leads.
    pub leader: Gauge,
    /// Requests to the gateway.
    pub requests: Family<HttpRequest, Counter>,
    /// How long they took.
    pub request_duration: Timed<Route>,
    /// Open connections.
    pub connections: Gauge,
    /// Decisions on callers.
    pub decisions: Family<Decision, Counter>,
}

fn fine() -> Histogram {
    Histogram::new([
        0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    ])
}

impl Default for Metrics {
    fn default() -> Self {
        let timed = || Family::new_with_constructor(fine as fn() -> Histogram);
        let mut all = Self {
            registry: Registry::with_prefix("hsm_operator"),
            reconciles: Family::default(),
            reconcile_duration: Family::new_with_constructor(fine as fn() -> Histogram),
            api_writes: Family::default(),
            hsm_calls: Family::default(),
            hsm_call_duration: Family::new_with_constructor(fine as fn() -> Histogram),
            recoveries: Family::default(),
            wrong_signatures: Family::default(),
            partition_ready: Family::default(),
            sessions: Family::default(),
            replica_healthy: Family::default(),
            failovers: Family::default(),
            leader: Gauge::default(),
            requests: Family::default(),
            request_duration: timed(),
            connections: Gauge::default(),
            decisions: Family::default(),
        };
        let r = &mut all.registry;
        r.register("reconcile", "Finished reconciles", all.reconciles.clone());
        r.register_with_unit(
            "reconcile_duration",
            "Time of a reconcile",
            Unit::Seconds,
            all.reconcile_duration.clone(),
        );
        r.register("api_writes", "Writes to the Kubernetes API", all.api_writes.clone());
        r.register("hsm_calls", "Calls to tokens", all.hsm_calls.clone());
        r.register_with_unit(
            "hsm_call_duration",
            "Time of a call to a token",
            Unit::Seconds,
            all.hsm_call_duration.clone(),
        );
        r.register("recoveries", "Steps taken to bring a token back into use", all.recoveries.clone());
        r.register(
            "wrong_signatures",
            "Signatures that were wrong and not handed out",
            all.wrong_signatures.clone(),
        );
        r.register("partition_ready", "Whether a partition's token can be used", all.partition_ready.clone());
        r.register("sessions", "Sessions that sign in each token-host of a partition", all.sessions.clone());
        r.register(
            "replica_healthy",
            "Whether a token of a partition with replicas signs",
            all.replica_healthy.clone(),
        );
        r.register("failovers", "Calls that another token had to answer", all.failovers.clone());
        r.register("leader", "Whether this replica leads", all.leader.clone());
        r.register("gateway_requests", "Requests to the gateway", all.requests.clone());
        r.register_with_unit(
            "gateway_request_duration",
            "Time of a request",
            Unit::Seconds,
            all.request_duration.clone(),
        );
        r.register("gateway_connections", "Open connections", all.connections.clone());
        r.register("authorization", "Decisions on callers", all.decisions.clone());
        all
    }
}

impl Metrics {
    /// All metrics as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }

    /// Forgets a replica that is not there any more.
    pub fn no_replica(&self, partition: &str, replica: &str) {
        self.replica_healthy
            .remove(&Replica { partition: partition.to_owned(), replica: replica.to_owned() });
    }

    /// Counts a write to the Kubernetes API.
    pub fn wrote(&self, kind: &'static str, verb: &'static str) {
        self.api_writes.get_or_create(&Write { kind, verb }).inc();
    }

    /// Counts a finished reconcile.
    pub fn reconciled(&self, controller: &'static str, outcome: &'static str, elapsed: Duration) {
        let labels = Reconcile { controller, outcome };
        self.reconciles.get_or_create(&labels).inc();
        self.reconcile_duration.get_or_create(&labels).observe(elapsed.as_secs_f64());
    }

    /// Counts a decision on a caller.
    pub fn decided(&self, step: &'static str, decision: &'static str, source: &'static str) {
        self.decisions.get_or_create(&Decision { step, decision, source }).inc();
    }
}
