//! `kubectl hsm recover`: after the cluster's data was lost, or a restore, HsmKeys find their keys again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::WatchStreamExt,
};
use serde_json::json;

use super::{
    client::client,
    orphans::{self, stands},
    table::table,
};
use crate::{
    api::{HsmKey, HsmPartition, condition, partition::Recovery},
    model::KeyId,
    watch,
};

/// Shows which HsmKeys of a partition would take over the keys that were made for earlier objects of their names, and
/// with --yes has them do so.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the HsmPartition.
    partition: String,
    /// Set recovery: Adopt on the partition, and wait until its keys are settled. Without it nothing is changed.
    #[arg(long)]
    yes: bool,
    /// Seconds to wait for them.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
}

/// Shows, and with `--yes` does it.
///
/// # Errors
/// When the cluster does not answer, or a key is not recovered.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = client().await?;
    let partitions = Api::<HsmPartition>::all(client.clone());
    let name = &args.partition;
    let partition = partitions.get(name).await.with_context(|| format!("cannot read HsmPartition {name}"))?;
    let keys = keys_of(name, &client).await?;
    print!("{}", preview(&partition, &keys));
    if !args.yes {
        if keys.iter().any(|key| Stand::of(key).is_recoverable()) && !allowed(&partition) {
            println!("\nNothing was changed. To take these keys over: kubectl hsm recover {name} --yes");
        }
        return Ok(());
    }
    if !ready(&partition) {
        bail!("HsmPartition {name} is not Ready, so that no key can be looked for ({})", stands(&partition));
    }
    let allow = json!({"spec": {"recovery": Recovery::Adopt}});
    let patched = partitions.patch(name, &PatchParams::default(), &Patch::Merge(&allow)).await;
    patched.with_context(|| format!("cannot set recovery: Adopt on HsmPartition {name}"))?;
    let open: BTreeSet<_> = keys.iter().filter(|key| Stand::of(key).is_open()).map(full_name).collect();
    let settled = settle(open.clone(), &client, Duration::from_secs(args.timeout)).await?;
    let rows: Vec<_> = open.iter().map(|key| outcome(key, settled.get(key))).collect();
    let well = settled.values().filter(|key| matches!(Stand::of(key), Stand::Has { .. })).count();
    if !rows.is_empty() {
        print!("\n{}", table(["HSMKEY", "OUTCOME", "WHY"], &rows));
    }
    println!(
        "\n{well} of {} HsmKeys have their key now. HsmPartition {name} goes on taking over keys of earlier objects. To end that:\n  \
         kubectl patch hsmpartition {name} --type merge -p '{{\"spec\":{{\"recovery\":\"Never\"}}}}'",
        open.len()
    );
    if well < open.len() {
        bail!("{} HsmKeys have no key; the table says why", open.len() - well);
    }
    Ok(())
}

async fn keys_of(partition: &str, client: &Client) -> anyhow::Result<Vec<HsmKey>> {
    let mut keys = Api::<HsmKey>::all(client.clone())
        .list(&Default::default())
        .await
        .context("cannot list HsmKeys of all namespaces")?
        .items;
    keys.retain(|key| key.spec.partition_ref.name == partition);
    keys.sort_by_key(full_name);
    Ok(keys)
}

fn full_name(key: &HsmKey) -> String {
    format!("{}/{}", key.namespace().unwrap_or_default(), key.name_any())
}

fn allowed(partition: &HsmPartition) -> bool {
    partition.spec.recovery == Recovery::Adopt
}

fn ready(partition: &HsmPartition) -> bool {
    partition.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, condition::READY))
}

/// How it stands with an HsmKey, as the controller wrote it.
#[derive(Debug, PartialEq, Eq)]
enum Stand {
    /// It has a key, and how it came to it.
    Has { how: String, id: String },
    /// The token has a key of an earlier object of its name.
    Recoverable(String),
    /// A person has to do something else first.
    Stays { reason: String, message: String },
    /// The controller has not come to it, or cannot reach the token.
    Open { reason: String, message: String },
}

impl Stand {
    fn of(key: &HsmKey) -> Self {
        let status = key.status.clone().unwrap_or_default();
        let find = |kind| condition::find(&status.conditions, kind);
        let (reason, message) = match find(condition::READY) {
            Some(ready) => (ready.reason.clone(), ready.message.clone()),
            None => ("Pending".into(), "the controller has not looked at it yet".into()),
        };
        match status.key_id {
            Some(id) => {
                let how = find(condition::GENERATED).map_or("Generated", |one| one.reason.as_str()).into();
                Self::Has { how, id }
            }
            None if reason == "Recoverable" => Self::Recoverable(named(key, &message)),
            None if find(condition::STALLED).is_some() => Self::Stays { reason, message },
            None => Self::Open { reason, message },
        }
    }

    const fn is_recoverable(&self) -> bool {
        matches!(self, Self::Recoverable(_))
    }

    /// Whether it may change by itself once recovery is allowed.
    const fn is_open(&self) -> bool {
        matches!(self, Self::Recoverable(_) | Self::Open { .. })
    }
}

/// The identifier that the controller names.
fn named(key: &HsmKey, message: &str) -> String {
    let (namespace, name) = (key.namespace().unwrap_or_default(), key.name_any());
    let words = message.split(|c: char| !c.is_ascii_hexdigit());
    let mut ids = words.filter_map(|word| KeyId::try_from(word.to_owned()).ok());
    ids.find(|id| id.is_made_for(&namespace, &name)).map(|id| id.to_string()).unwrap_or_default()
}

fn preview(partition: &HsmPartition, keys: &[HsmKey]) -> String {
    let name = partition.name_any();
    let mut text = format!("HsmPartition {name}: recovery is {}\n", partition.spec.recovery);
    if !ready(partition) {
        text += &format!("It is not Ready, so that its keys are not looked at ({}).\n", stands(partition));
    }
    let mut rows = Vec::new();
    let mut coming = BTreeSet::new();
    let mut had = BTreeMap::<String, usize>::new();
    for key in keys {
        let (will, why) = match Stand::of(key) {
            Stand::Has { how, .. } => {
                *had.entry(how).or_default() += 1;
                continue;
            }
            Stand::Recoverable(id) => {
                coming.insert(id.clone());
                (format!("adopt {id}"), "made for an earlier HsmKey of this name".into())
            }
            Stand::Stays { reason, message } => (format!("not adopt: {reason}"), message),
            Stand::Open { reason, message } => (format!("wait: {reason}"), message),
        };
        rows.push([full_name(key), will, why]);
    }
    let total: usize = had.values().sum();
    let how = |(how, count): (&String, &usize)| {
        let word = match how.as_str() {
            "Generated" => "made new, nothing having been on the token under their labels",
            "Adopted" => "adopted",
            "Recovered" => "recovered",
            other => other,
        };
        format!("{count} {word}")
    };
    let how: Vec<_> = had.iter().map(how).collect();
    text += &match total {
        0 => "HsmKeys with a key: none\n".to_owned(),
        _ => format!("HsmKeys with a key: {total} ({})\n", how.join(", ")),
    };
    text += &match rows.len() {
        0 => "HsmKeys without a key: none\n".to_owned(),
        count => format!("HsmKeys without a key: {count}\n\n{}", table(["HSMKEY", "WILL", "WHY"], &rows)),
    };
    let mut unclaimed =
        partition.status.as_ref().and_then(|status| status.unclaimed.clone()).unwrap_or_default();
    // The partition's status may be older than that of its keys.
    let listed = unclaimed.keys.len();
    unclaimed.keys.retain(|key| !coming.contains(&key.id));
    unclaimed.count -= i32::try_from(listed - unclaimed.keys.len()).unwrap_or(0);
    if unclaimed.count > 0 {
        let rows = unclaimed.keys.iter().map(|key| {
            let made_for = key.made_for.clone().unwrap_or_else(|| "cannot be told".into());
            [key.label.clone(), made_for, key.id.clone()]
        });
        let rows = table(["LABEL", "MADE FOR", "ID"], &rows.collect::<Vec<_>>());
        text += &format!("\nKeys on the token without an HsmKey: {}\n\n{rows}", unclaimed.count);
        let more = orphans::more(unclaimed.count, unclaimed.keys.len());
        if more > 0 {
            text += &format!(
                "… and {more} more: a status lists the first 20. Deal with these and ask again, or list all that is on the token:\n  {}\n",
                orphans::list_all(partition)
            );
        }
        text += &format!(
            "\nApply the manifests of those first that are still wanted; keys that were made over REST need one, too.\n\
             kubectl hsm orphans {name} has manifests that adopt them.\n"
        );
    }
    text
}

/// Waits until the controller has come to every one of these keys, and returns those that it came to.
async fn settle(
    mut open: BTreeSet<String>,
    client: &Client,
    patience: Duration,
) -> anyhow::Result<BTreeMap<String, HsmKey>> {
    let mut settled = BTreeMap::new();
    let mut changes = watch::changes(Api::<HsmKey>::all(client.clone())).applied_objects().boxed();
    let all = async {
        while !open.is_empty() {
            let Some(key) = changes.try_next().await.context("cannot watch HsmKeys")? else { break };
            let name = full_name(&key);
            if !Stand::of(&key).is_open() && open.remove(&name) {
                settled.insert(name, key);
            }
        }
        anyhow::Ok(())
    };
    // What was not settled in time is told as such.
    tokio::time::timeout(patience, all).await.unwrap_or(Ok(()))?;
    Ok(settled)
}

fn outcome(name: &str, key: Option<&HsmKey>) -> [String; 3] {
    let (outcome, why) = match key.map(Stand::of) {
        Some(Stand::Has { how, id }) => (how, id),
        Some(Stand::Stays { reason, message } | Stand::Open { reason, message }) => (reason, message),
        Some(Stand::Recoverable(_)) | None => {
            ("not yet".into(), "the controller has not come to it in time: ask again".into())
        }
    };
    [name.to_owned(), outcome, why]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, key_id: Option<&str>, conditions: &[(&str, &str, &str)]) -> HsmKey {
        let mut key: HsmKey = serde_json::from_value(json!({
            "apiVersion": "hsm-operator.io/v1alpha1", "kind": "HsmKey", "metadata": {"namespace": "ns", "name": name},
            "spec": {"partitionRef": {"name": "p"}, "algorithm": "ED"}
        }))
        .unwrap();
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, reason, message)| {
                json!({
                    "type": kind, "status": if *kind == "Ready" { "False" } else { "True" }, "reason": reason,
                    "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"
                })
            })
            .collect();
        key.status =
            Some(serde_json::from_value(json!({"keyId": key_id, "conditions": conditions})).unwrap());
        key
    }

    #[test]
    fn what_it_would_do_is_told_of_each_key() {
        let id = KeyId::for_object(uuid::Uuid::from_u128(1), "ns", "back").to_string();
        let other = KeyId::for_object(uuid::Uuid::from_u128(1), "ns", "other").to_string();
        let says = format!("not {other} but the key {id}, made for");
        let keys = [
            key("back", None, &[("Ready", "Recoverable", &says), ("Stalled", "Recoverable", &says)]),
            key("foreign", None, &[("Ready", "Conflict", "x"), ("Stalled", "Conflict", "x")]),
            key("new", Some("0a"), &[("Generated", "Generated", "")]),
            key("waits", None, &[("Ready", "PartitionNotReady", "y")]),
        ];
        let partition = serde_json::from_value(json!({
            "apiVersion": "hsm-operator.io/v1alpha1", "kind": "HsmPartition", "metadata": {"name": "p"},
            "spec": {
                "pkcs11": {"library": "/x", "tokenLabel": "t", "pinSecretRef": {"name": "s"}}, "allowedNamespaces": {}
            },
            "status": {
                "conditions": [],
                "unclaimed": {"count": 32, "keys": [
                    {"id": "0b", "label": "rest", "madeFor": "ns/rest"}, {"id": id, "label": "back"}
                ]}
            }
        }))
        .unwrap();
        let text = preview(&partition, &keys);
        for wanted in [
            "recovery is Never",
            "It is not Ready",
            "HsmKeys with a key: 1 (1 made new",
            "HsmKeys without a key: 3",
            &format!("ns/back     adopt {id}"),
            "ns/foreign  not adopt: Conflict",
            "ns/waits    wait: PartitionNotReady",
            "Keys on the token without an HsmKey: 31",
            "and 30 more",
            "--login --list-objects",
            "rest   ns/rest   0b",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
    }
}
