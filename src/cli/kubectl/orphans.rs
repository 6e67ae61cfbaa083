//! `kubectl hsm orphans`: what is on a token and belongs to nobody, and what belongs to somebody and is gone.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context, bail};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};

use super::{client::client, table::table};
use crate::{
    api::{
        HsmPartition, TAKE_INVENTORY, condition,
        partition::{Ghost, UnclaimedKey},
    },
    hsm::probe::LISTINGS,
    model::{KeyLabel, curve},
};

/// Lists keys that no HsmKey claims, what is left of others, and HsmKeys whose key is gone; and how to adopt or destroy
/// each.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of an HsmPartition; all of them where none is given.
    partition: Option<String>,
    /// Have the controller list the tokens' objects again first.
    #[arg(long)]
    fresh: bool,
    /// Seconds to wait for that.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
    /// table or json.
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    output: String,
}

/// Prints them.
///
/// # Errors
/// When the cluster does not answer, or the controller does not in time.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let api = Api::<HsmPartition>::all(client().await?);
    let mut partitions = match &args.partition {
        Some(name) => vec![api.get(name).await.with_context(|| format!("cannot read HsmPartition {name}"))?],
        None => api.list(&Default::default()).await.context("cannot list HsmPartitions")?.items,
    };
    if args.fresh {
        for partition in &mut partitions {
            *partition = list_again(&api, partition, Duration::from_secs(args.timeout)).await?;
        }
    }
    match args.output.as_str() {
        "json" => println!("{:#}", json!({"partitions": partitions.iter().map(as_json).collect::<Vec<_>>()})),
        _ if partitions.is_empty() => println!("There is no HsmPartition."),
        _ => print!("{}", partitions.iter().map(as_text).collect::<Vec<_>>().join("\n")),
    }
    Ok(())
}

/// Asks the controller to list the token's objects, and waits until it has.
async fn list_again(
    api: &Api<HsmPartition>,
    partition: &HsmPartition,
    patience: Duration,
) -> anyhow::Result<HsmPartition> {
    let name = partition.name_any();
    let ask = json!({"metadata": {"annotations": {TAKE_INVENTORY: Timestamp::now().to_string()}}});
    let asked = api.patch(&name, &PatchParams::default(), &Patch::Merge(&ask)).await;
    asked.with_context(|| format!("cannot ask for a new list of the objects of HsmPartition {name}"))?;
    let answered = |partition: Option<&HsmPartition>| {
        partition.is_none_or(|partition| !partition.annotations().contains_key(TAKE_INVENTORY))
    };
    match tokio::time::timeout(patience, await_condition(api.clone(), &name, answered)).await {
        Ok(Ok(Some(partition))) => Ok(partition),
        Ok(Ok(None)) => bail!("HsmPartition {name} was deleted"),
        Ok(Err(error)) => Err(error).with_context(|| format!("cannot watch HsmPartition {name}")),
        Err(_) => bail!(
            "the controller has not listed the objects of HsmPartition {name} within {} s: {}",
            patience.as_secs(),
            stands(partition)
        ),
    }
}

/// How it stands with a partition.
pub fn stands(partition: &HsmPartition) -> String {
    let conditions = partition.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    match condition::find(conditions, condition::READY) {
        Some(ready) => format!("{}: {}", ready.reason, ready.message),
        None => "nobody has looked at it yet".into(),
    }
}

fn as_text(partition: &HsmPartition) -> String {
    let name = partition.name_any();
    let status = partition.status.clone().unwrap_or_default();
    let (Some(inventory), Some(unclaimed)) = (status.inventory, status.unclaimed) else {
        return format!(
            "HsmPartition {name}: its objects have not been listed yet ({}).\n",
            stands(partition)
        );
    };
    let mut text =
        format!("HsmPartition {name}: {} keys on the token, listed at {}\n", inventory.keys, inventory.time);
    if !condition::is_true(&status.conditions, condition::REACHABLE) {
        let _ = writeln!(
            text,
            "It is not reached now, and its token may be another one ({}).",
            stands(partition)
        );
    }
    if inventory.recoverable > 0 {
        let _ = writeln!(
            text,
            "{} keys wait for their recovery: kubectl hsm recover {name}",
            inventory.recoverable
        );
    }
    if unclaimed.count > 0 {
        let rows = unclaimed.keys.iter().map(|key| {
            let made_for = key.made_for.clone().unwrap_or_else(|| "-".into());
            [some(&key.id), some(&key.label), describe(key), made_for]
        });
        let rows = table(["ID", "LABEL", "KIND", "MADE FOR"], &rows.collect::<Vec<_>>());
        let _ = write!(text, "\nUnclaimed keys: {}\n{}", unclaimed.count, indented(&rows));
        text += &cut(unclaimed.count, unclaimed.keys.len());
        for key in &unclaimed.keys {
            let _ = writeln!(text, "\n  {} {}", some(&key.id), some(&key.label));
            match manifest(partition, key) {
                Ok(manifest) => {
                    let _ = writeln!(
                        text,
                        "    adopt:   echo {} | kubectl apply -f -",
                        quoted(&manifest.to_string())
                    );
                }
                Err(why) => {
                    let _ = writeln!(text, "    adopt:   {why}");
                }
            }
            let kinds = if key.algorithm.is_none_or(|one| one.row().asymmetric) {
                ["privkey", "pubkey"].as_slice()
            } else {
                &["secrkey"]
            };
            for kind in kinds {
                let _ = writeln!(text, "    destroy: {}", delete(partition, kind, &key.id, &key.label));
            }
        }
        text += "\n  A destroyed key does not come back. The commands run where the library and its configuration are. Without\n  \
                 them: adopt the key with deletionPolicy: Destroy and attributes: {destroyable: true}, then delete the HsmKey.\n";
    }
    if inventory.ghosts.count > 0 {
        let rows = inventory.ghosts.objects.iter().map(|ghost| {
            [some(&ghost.id), some(&ghost.label), ghost.kind.clone(), discard(partition, ghost)]
        });
        let rows = table(["ID", "LABEL", "KIND", "DESTROY"], &rows.collect::<Vec<_>>());
        let _ = write!(
            text,
            "\nWhat is left of keys, and public keys of nobody: {}\n{}",
            inventory.ghosts.count,
            indented(&rows)
        );
        text += &cut(inventory.ghosts.count, inventory.ghosts.objects.len());
    }
    if inventory.duplicates.count > 0 {
        let _ = write!(
            text,
            "\nIds of several keys, none of which is used: {}. Destroy all but one with the vendor's tools.\n{}",
            inventory.duplicates.count,
            indented(&lines(&inventory.duplicates.ids))
        );
        text += &cut(inventory.duplicates.count, inventory.duplicates.ids.len());
    }
    if inventory.missing.count > 0 {
        let _ = write!(
            text,
            "\nHsmKeys whose key is gone: {}. Restore the token's backup, or delete the HsmKey to make a new key.\n{}",
            inventory.missing.count,
            indented(&lines(&inventory.missing.keys))
        );
        text += &cut(inventory.missing.count, inventory.missing.keys.len());
    }
    let lists = [
        (unclaimed.count, unclaimed.keys.len()),
        (inventory.ghosts.count, inventory.ghosts.objects.len()),
        (inventory.duplicates.count, inventory.duplicates.ids.len()),
    ];
    if lists.iter().any(|(count, listed)| more(*count, *listed) > 0) {
        let _ = writeln!(text, "\nEverything that is on the token: {}", list_all(partition));
    }
    if more(inventory.missing.count, inventory.missing.keys.len()) > 0 {
        text += "\nAll HsmKeys whose key is gone: kubectl get hsmkeys -A | grep MissingOnToken\n";
    }
    let strays =
        [unclaimed.count, inventory.ghosts.count, inventory.duplicates.count, inventory.missing.count];
    if strays.iter().all(|count| *count == 0) {
        text += "Every key belongs to an HsmKey or to the operator, and none is missing.\n";
    }
    text
}

fn as_json(partition: &HsmPartition) -> Value {
    let status = partition.status.clone().unwrap_or_default();
    let unclaimed = status.unclaimed.unwrap_or_default();
    let keys = unclaimed.keys.iter().map(|key| {
        let mut line = json!(key);
        line["adopt"] = manifest(partition, key).unwrap_or(Value::Null);
        line
    });
    json!({
        "name": partition.name_any(),
        "reachable": condition::is_true(&status.conditions, condition::REACHABLE),
        "unclaimed": {"count": unclaimed.count, "keys": keys.collect::<Vec<_>>()},
        "inventory": status.inventory,
    })
}

/// An HsmKey that takes a key over, or why there is none.
fn manifest(partition: &HsmPartition, key: &UnclaimedKey) -> Result<Value, &'static str> {
    if key.id.is_empty() {
        return Err("it has no CKA_ID: give it one with the vendor's tools first");
    }
    let Some(algorithm) = key.algorithm else { return Err("no HsmKey describes such a key") };
    let Ok(label) = KeyLabel::new(key.label.clone()) else {
        return Err("no HsmKey can have its label: change it with the vendor's tools first");
    };
    let (namespace, name) = match key.made_for.as_deref().and_then(|name| name.split_once('/')) {
        Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
        None => ("NAMESPACE".to_owned(), label.object_name()),
    };
    let mut spec = json!({
        "partitionRef": {"name": partition.name_any()}, "label": label, "algorithm": algorithm, "adopt": true
    });
    if let Some(size) = key.key_size {
        spec["keySize"] = size.into();
    }
    if let Some(curve) = &key.curve_oid {
        spec["curveOid"] = curve.as_str().into();
    }
    Ok(json!({
        "apiVersion": "hsm-operator.io/v1alpha1", "kind": "HsmKey",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec
    }))
}

/// The command that destroys what is left of a key.
fn discard(partition: &HsmPartition, ghost: &Ghost) -> String {
    let kind = match ghost.kind.as_str() {
        "PrivateKey" => "privkey",
        "SecretKey" => "secrkey",
        "PublicKey" => "pubkey",
        _ => {
            return "nothing before it is looked at with the vendor's tools: it may be a key that is used"
                .into();
        }
    };
    delete(partition, kind, &ghost.id, &ghost.label)
}

fn delete(partition: &HsmPartition, kind: &str, id: &str, label: &str) -> String {
    let which = match (id, label) {
        ("", "") => return "with the vendor's tools: it has neither id nor label".into(),
        ("", label) => format!("--label {}", quoted(label)),
        (id, _) => format!("--id {id}"),
    };
    format!("{} --delete-object --type {kind} {which}", tool(partition))
}

/// The program with which a token is looked at by hand.
fn tool(partition: &HsmPartition) -> String {
    let pkcs11 = &partition.spec.pkcs11;
    let token = partition.status.as_ref().and_then(|status| status.token.as_ref());
    let token = token.map(|token| quoted(&token.label)).unwrap_or_default();
    let environment: String =
        pkcs11.environment.iter().map(|one| format!("{}={} ", one.name, quoted(&one.value))).collect();
    format!("{environment}pkcs11-tool --module {} --token-label {token} --login", quoted(&pkcs11.library))
}

fn describe(key: &UnclaimedKey) -> String {
    let Some(algorithm) = key.algorithm else { return "unknown".into() };
    let curve = key.curve_oid.as_deref().and_then(curve::by_oid);
    match (key.key_size, curve) {
        (Some(bits), _) => format!("{algorithm} {bits}"),
        (None, Some(curve)) if curve.name != algorithm.name() => format!("{algorithm} {}", curve.name),
        _ => algorithm.to_string(),
    }
}

/// Says when not all of them are listed, and how to go on.
fn cut(count: i32, listed: usize) -> String {
    match more(count, listed) {
        0 => String::new(),
        more => format!(
            "  … and {more} more: a status lists the first {listed}. Deal with these and ask again.\n"
        ),
    }
}

/// How many are not listed.
pub fn more(count: i32, listed: usize) -> usize {
    usize::try_from(count).unwrap_or(0).saturating_sub(listed)
}

/// The command that lists everything on the token, and when not to run it.
pub fn list_all(partition: &HsmPartition) -> String {
    let token = partition.status.as_ref().and_then(|status| status.token.as_ref());
    let probed = token.and_then(|token| token.probed.as_ref());
    let quirk = probed.and_then(|probed| probed.quirks.iter().find(|quirk| quirk.name == LISTINGS));
    let care =
        quirk.map(|quirk| format!("\n  Listings {}: {}", quirk.value, quirk.means)).unwrap_or_default();
    format!("{} --list-objects{care}", tool(partition))
}

fn some(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

fn lines(all: &[String]) -> String {
    all.iter().map(|one| format!("{one}\n")).collect()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// One word for a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(status: Value) -> HsmPartition {
        let mut partition: HsmPartition = serde_json::from_value(json!({
            "apiVersion": "hsm-operator.io/v1alpha1", "kind": "HsmPartition", "metadata": {"name": "p"},
            "spec": {
                "pkcs11": {
                    "library": "/hsm/lib.so", "tokenLabel": "t", "pinSecretRef": {"name": "s"},
                    "environment": [{"name": "CONF", "value": "/hsm/a b"}]
                },
                "allowedNamespaces": {}
            }
        }))
        .unwrap();
        partition.status = serde_json::from_value(status).unwrap();
        partition
    }

    fn status(unclaimed: Value, ghosts: Value) -> Value {
        json!({
            "conditions": [{
                "type": "Reachable", "status": "True", "reason": "Connected", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"
            }],
            "token": {
                "label": "my token", "manufacturer": "", "model": "", "serial": "", "firmware": "", "library": "",
                "keyAlgorithms": [], "signatureAlgorithms": []
            },
            "unclaimed": unclaimed,
            "inventory": {
                "time": "2026-01-01T00:00:00Z", "keys": 5, "recoverable": 0, "ghosts": ghosts,
                "duplicates": {"count": 0, "ids": []}, "missing": {"count": 1, "keys": ["ns/gone"]}
            }
        })
    }

    #[test]
    fn a_key_comes_with_the_commands_that_adopt_and_destroy_it() {
        let key = json!({
            "id": "0a0b", "label": "it's", "algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7", "madeFor": "ns/k"
        });
        let none = json!({"count": 0, "objects": []});
        let text = as_text(&partition(status(json!({"count": 21, "keys": [key]}), none)));
        for wanted in [
            "0a0b  it's   EC P-256  ns/k",
            r#"echo '{"apiVersion":"hsm-operator.io/v1alpha1","kind":"HsmKey","#,
            r#""metadata":{"name":"k","namespace":"ns"}"#,
            r#""label":"it'\''s""#,
            "CONF='/hsm/a b' pkcs11-tool --module /hsm/lib.so --token-label 'my token' --login --delete-object --type \
             privkey --id 0a0b",
            "and 20 more",
            "--token-label 'my token' --login --list-objects",
            "HsmKeys whose key is gone: 1",
            "  ns/gone",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
    }

    #[test]
    fn who_is_told_to_list_a_token_is_told_when_not_to() {
        let mut partition =
            partition(status(json!({"count": 0, "keys": []}), json!({"count": 0, "objects": []})));
        let bare = list_all(&partition);
        let probed = json!({
            "curves": [], "mechanisms": [], "mechanismCount": 0, "limits": {},
            "quirks": [{"name": LISTINGS, "value": "spoil keys", "odd": true, "means": "not now"}]
        });
        let token = partition.status.as_mut().unwrap().token.as_mut().unwrap();
        token.probed = Some(serde_json::from_value(probed).unwrap());
        assert_eq!(list_all(&partition), format!("{bare}\n  Listings spoil keys: not now"));
    }

    #[test]
    fn the_manifest_of_a_key_is_one_that_the_operator_reads() {
        let key: UnclaimedKey = serde_json::from_value(
            json!({"id": "0a", "label": "Old Signer", "algorithm": "RSA", "keySize": 4096}),
        )
        .unwrap();
        let manifest = manifest(&partition(json!({"conditions": []})), &key).unwrap();
        let read: crate::api::HsmKey = serde_json::from_value(manifest).unwrap();
        assert!(read.spec.adopt && read.label() == "Old Signer" && read.spec.key_size == Some(4096));
        assert_eq!(read.name_any(), KeyLabel::new("Old Signer").unwrap().object_name());
        let without = UnclaimedKey { id: String::new(), ..key };
        assert!(super::manifest(&partition(json!({"conditions": []})), &without).is_err());
    }

    #[test]
    fn what_is_left_of_keys_is_destroyed_by_what_it_has() {
        let ghosts = json!({"count": 4, "objects": [
            {"id": "", "label": "", "kind": "PrivateKey"},
            {"id": "", "label": "half", "kind": "PublicKey"},
            {"id": "0c", "label": "", "kind": "SecretKey"},
            {"id": "0d", "label": "", "kind": "Unreadable"},
        ]});
        let text = as_text(&partition(status(json!({"count": 0, "keys": []}), ghosts)));
        assert!(text.contains("neither id nor label"), "{text}");
        assert!(
            text.contains("--type pubkey --label half") && text.contains("--type secrkey --id 0c"),
            "{text}"
        );
        assert!(text.contains("it may be a key that is used") && !text.contains("--id 0d"), "{text}");
        assert!(as_text(&partition(json!({"conditions": []}))).contains("not been listed yet"));
    }
}
