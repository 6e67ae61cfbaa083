//! What is known of the health of a partition's token, for `GET /v1/hsm/log`.
//!
//! There is no way to the log of an HSM through PKCS#11. What the operator saw of the token is told instead, by the
//! partition's status: nothing that `kubectl get hsmpartition` would not show, hence the same permission.

use axum::{Json, extract::State};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    api::HsmPartition,
    auth::Action,
    gateway::{Shared, error::ApiError, extract::Caller, openapi::Document},
};

/// Most bytes of the log.
const LOG_MAX: usize = 16 * 1024;
/// Most characters of one message.
const MESSAGE_MAX: usize = 1024;

/// What the document says of these endpoints.
pub fn document(document: &mut Document) {
    document.group("Service Information");
    for (path, id) in [("/v1/hsm/log", "getHsmLog"), ("/v1/hsm/log/{path}", "getHsmLog_1")] {
        let log = document.get(path, id, "What is known of the health of the token");
        log.gives::<Log>(200, "one JSON object a line, the newest last").of_the_token();
    }
}

/// Answer of `GET /v1/hsm/log`.
#[derive(Serialize, JsonSchema)]
pub struct Log {
    log: String,
}

/// One line of the log.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    /// What it is about: a condition of the partition, or a replica of its token.
    about: String,
    status: &'a str,
    reason: &'a str,
    message: String,
}

/// `GET /v1/hsm/log` and every path below it: the conditions of the partition and what brought its token back into use
/// last, one JSON object a line, the newest last.
pub async fn log(State(state): State<Shared>, Caller(caller): Caller) -> Result<Json<Log>, ApiError> {
    let name = state.partitions.name_for(&caller.namespace)?;
    let action =
        Action { verb: "get", resource: "hsmpartitions", namespace: String::new(), name: name.clone() };
    state.authorize.authorize(&caller, &action).await?;
    let log = state.partitions.object(&name).map(|object| text(&object)).unwrap_or_default();
    Ok(Json(Log { log }))
}

fn text(partition: &HsmPartition) -> String {
    let Some(status) = &partition.status else { return String::new() };
    let short = |message: &str| message.chars().take(MESSAGE_MAX).collect();
    let conditions = status.conditions.iter().map(|one| Line {
        time: one.last_transition_time.0.to_string(),
        about: one.type_.clone(),
        status: &one.status,
        reason: &one.reason,
        message: short(&one.message),
    });
    let replicas = status.replicas.iter().map(|one| Line {
        time: one.last_change.clone(),
        about: format!("replica {}", one.name),
        status: if one.healthy { "True" } else { "False" },
        reason: &one.reason,
        message: short(&one.message),
    });
    let mut lines: Vec<_> = conditions.chain(replicas).collect();
    lines.sort_by(|one, other| one.time.cmp(&other.time));
    let mut text = String::new();
    // If there is no room for all, the newest are what matters.
    for line in lines.iter().rev() {
        let line = serde_json::to_string(line).expect("a line is JSON");
        if text.len() + line.len() >= LOG_MAX {
            break;
        }
        text.insert_str(0, &format!("{line}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{
        condition::{self, Report},
        partition::HsmPartitionStatus,
        replica::ReplicaStatus,
    };

    fn partition(replicas: usize, message: &str) -> HsmPartition {
        let spec = json!({"pkcs11": {"library": "/x.so", "tokenLabel": "x", "pinSecretRef": {"name": "pin"}},
            "allowedNamespaces": {}});
        let mut partition = HsmPartition::new("main", serde_json::from_value(spec).unwrap());
        let reports = [Report::new(condition::REACHABLE, Some(true), "Connected", "it answers")];
        let replica = |number: usize| ReplicaStatus {
            name: format!("r{number:03}"),
            reason: "Failing".into(),
            message: message.into(),
            last_change: format!("2026-01-01T00:00:00.{number:03}Z"),
            accepted_pin: Some("digest".into()),
            ..ReplicaStatus::default()
        };
        partition.status = Some(HsmPartitionStatus {
            conditions: condition::apply(&[], &reports, None, Timestamp::UNIX_EPOCH),
            replicas: (0..replicas).map(replica).collect(),
            ..HsmPartitionStatus::default()
        });
        partition
    }

    #[test]
    fn a_line_is_json_and_the_newest_is_last() {
        let text = text(&partition(2, "no \"answer\"\nat all"));
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let about: Vec<_> = lines.iter().map(|line| line["about"].as_str().unwrap()).collect();
        assert_eq!(about, ["Reachable", "replica r000", "replica r001"]);
        assert_eq!(lines[2]["message"], "no \"answer\"\nat all");
        assert!(!text.contains("digest"), "{text}");
    }

    #[test]
    fn a_long_log_keeps_its_end() {
        let text = text(&partition(500, &"x".repeat(5000)));
        assert!(text.len() <= LOG_MAX && text.len() > LOG_MAX / 2, "{}", text.len());
        assert!(text.lines().last().unwrap().contains("r499"));
        assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    }
}
