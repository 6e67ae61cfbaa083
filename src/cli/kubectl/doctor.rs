//! `kubectl hsm doctor`.

use std::fmt::Write;

use anyhow::{Context, anyhow};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::client;
use crate::api::{
    HsmPartition,
    partition::{HsmPartitionStatus, Probed, TokenLimits, TokenStatus},
    sessions::{Sessions, SessionsMeasured, SessionsStatus},
};

/// Widest line of the report.
const WIDTH: usize = 100;
/// Where the values begin.
const INDENT: usize = 12;

/// Prints what is known of a partition's token: what it can do, how fast, what is odd about it, and how it stands.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the HsmPartition.
    partition: String,
    /// text, for people, or json.
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    output: String,
}

/// Prints it.
///
/// # Errors
/// There is no such partition, the person may not see it, or no cluster answers.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let partition =
        client::runtime()?.block_on(async { get(client::client().await?, &args.partition).await })?;
    match args.output.as_str() {
        "json" => println!("{}", serde_json::to_string_pretty(&record(&partition))?),
        _ => print!("{}", text(&partition)),
    }
    Ok(())
}

/// The partition, or a sentence on why there is none.
async fn get(client: Client, name: &str) -> anyhow::Result<HsmPartition> {
    let partitions: Api<HsmPartition> = Api::all(client);
    match partitions.get(name).await {
        Ok(partition) => Ok(partition),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            Err(match partitions.list_metadata(&kube::api::ListParams::default()).await {
                Ok(all) if all.items.is_empty() => {
                    anyhow!("there is no HsmPartition '{name}', nor any other")
                }
                Ok(all) => {
                    let names: Vec<_> = all.items.iter().map(ResourceExt::name_any).collect();
                    anyhow!("there is no HsmPartition '{name}'; there are: {}", names.join(", "))
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    anyhow!("the cluster does not know HsmPartitions: install hsm-operator first")
                }
                Err(_) => anyhow!("there is no HsmPartition '{name}'"),
            })
        }
        Err(kube::Error::Api(status)) if status.code == 403 => Err(anyhow!(
            "you may not look at it: {}; the ClusterRole hsm-operator-view allows it, bound by a ClusterRoleBinding",
            status.message
        )),
        Err(kube::Error::Api(status)) if status.code == 401 => {
            Err(anyhow!("the cluster does not know you: {}; log in again", status.message))
        }
        Err(error @ kube::Error::Api(_)) => Err(error).context("the API server does not answer the question"),
        Err(error @ kube::Error::SerdeError(_)) => {
            Err(error).context("cannot read the HsmPartition: it was written under another version")
        }
        Err(error) => Err(error).context("cannot reach the cluster of the kubeconfig"),
    }
}

/// For programs.
fn record(partition: &HsmPartition) -> serde_json::Value {
    let status = partition.status.clone().unwrap_or_default();
    json!({
        "partition": partition.name_any(),
        "library": partition.spec.pkcs11.library,
        "token": status.token,
        "sessions": { "spec": partition.spec.sessions, "now": partition.sessions(), "measured": status.sessions },
        "hsmKeys": status.key_count,
        "unclaimed": status.unclaimed.as_ref().map(|unclaimed| unclaimed.count),
        "attestation": status.attestation.as_ref().map(|by| json!({
            "mode": by.mode, "keyName": by.key_name, "rootFingerprint": by.root_fingerprint,
        })),
        "conditions": status.conditions,
    })
}

/// For people.
fn text(partition: &HsmPartition) -> String {
    let mut page = Page::default();
    let nothing = HsmPartitionStatus::default();
    let status = partition.status.as_ref().unwrap_or(&nothing);
    page.line("Partition", &partition.name_any());
    page.line("Library", &partition.spec.pkcs11.library);
    match &status.token {
        None => page.line("Token", "it was never reached"),
        Some(token) => page.token(token, status, partition),
    }
    page.head("Conditions");
    for condition in &status.conditions {
        page.condition(condition);
    }
    if status.conditions.is_empty() {
        page.item("none: no controller has looked at this partition yet");
    }
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    /// A name and what is to be said of it, in as many lines as it takes.
    fn line(&mut self, name: &str, value: &str) {
        let mut start = format!("{name:<INDENT$}");
        for line in wrapped(value, WIDTH - INDENT) {
            let _ = writeln!(self.0, "{start}{line}");
            start = " ".repeat(INDENT);
        }
    }

    fn head(&mut self, name: &str) {
        let _ = writeln!(self.0, "\n{name}");
    }

    fn item(&mut self, text: &str) {
        let mut start = "  ";
        for line in wrapped(text, WIDTH - 4) {
            let _ = writeln!(self.0, "{start}{line}");
            start = "    ";
        }
    }

    fn token(&mut self, token: &TokenStatus, status: &HsmPartitionStatus, partition: &HsmPartition) {
        let TokenStatus { label, manufacturer, model, serial, firmware, library, .. } = token;
        self.line("", library);
        self.line(
            "Token",
            &format!("{label}: {model} of {manufacturer}, serial {serial}, firmware {firmware}"),
        );
        self.line("Keys", &or_none(&token.key_algorithms));
        if let Some(probed) = &token.probed {
            self.line("Curves", &or_none(&probed.curves));
        }
        self.line("Signatures", &or_none(&token.signature_algorithms));
        self.line("Ciphers", &or_none(&token.cipher_algorithms));
        if let Some(probed) = &token.probed {
            if let Some(speed) = &probed.speed {
                let what =
                    format!("{} µs for one {} signature, in one session", speed.microseconds, speed.key);
                self.line("Speed", &what);
            }
            self.line("Limits", &limits(&probed.limits));
        }
        self.sessions(partition, status.sessions.as_ref());
        let counted = |count: Option<i32>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
        let unclaimed = status.unclaimed.as_ref().map(|unclaimed| unclaimed.count);
        let objects = format!(
            "{} HsmKeys, {} keys that no HsmKey claims",
            counted(status.key_count),
            counted(unclaimed)
        );
        self.line("Objects", &objects);
        if let Some(by) = &status.attestation {
            let who = if by.is_device() { "the HSM itself" } else { "the operator" };
            self.line("Attests", &format!("{who}, with key {}; root {}", by.key_name, by.root_fingerprint));
        }
        match &token.probed {
            None => self.line("Quirks", "it was not tried yet"),
            Some(probed) => self.probed(probed),
        }
    }

    fn sessions(&mut self, partition: &HsmPartition, status: Option<&SessionsStatus>) {
        let count = partition.sessions();
        match (partition.spec.sessions, status) {
            (Sessions::Count(_), _) => self.line("Sessions", &format!("{count} in each token-host")),
            (Sessions::Auto, None) => {
                self.line("Sessions", &format!("{count} in each token-host, until it is measured"));
            }
            (Sessions::Auto, Some(status)) => {
                self.line("Sessions", &format!("{count} in each token-host, chosen: {}", status.message));
                for SessionsMeasured { sessions, speeds } in &status.measured {
                    let speeds: Vec<_> =
                        speeds.iter().map(|one| format!("{} {}", one.per_second, one.key)).collect();
                    self.line("", &format!("with {sessions}: {} signatures/s", speeds.join(", ")));
                }
            }
        }
    }

    fn probed(&mut self, probed: &Probed) {
        let more =
            usize::try_from(probed.mechanism_count).unwrap_or(0).saturating_sub(probed.mechanisms.len());
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let names = probed.mechanisms.join(", ");
        self.line("Mechanisms", &format!("{}: {names}{more}", probed.mechanism_count));
        let (odd, usual): (Vec<_>, Vec<_>) = probed.quirks.iter().partition(|quirk| quirk.odd);
        for (head, quirks) in [("What is odd", odd), ("What is as usual", usual)] {
            self.head(head);
            for quirk in &quirks {
                self.item(&format!("{}: {}; {}", quirk.name, quirk.value, quirk.means));
            }
            if quirks.is_empty() {
                self.item("nothing");
            }
        }
    }

    fn condition(&mut self, condition: &Condition) {
        let Condition { type_, status, reason, message, .. } = condition;
        self.item(&format!("{type_} {status}, {reason}: {message}"));
        let bad = (type_ == "Stalled") == (status == "True") || reason == "SoftwareInstead";
        if bad {
            self.item(&format!("  see docs/troubleshooting.md#{}", section(reason)));
        }
    }
}

/// Where the page tells of a partition's reason.
fn section(reason: &str) -> String {
    match reason {
        "AllHealthy" | "Degraded" | "NoneHealthy" => "allhealthy-degraded-nonehealthy".into(),
        "SoftwareInstead" => "vendor-software-softwareinstead".into(),
        "DuplicateObject" | "InvalidSpec" => format!("{}-of-a-partition", reason.to_lowercase()),
        _ => reason.to_lowercase(),
    }
}

fn limits(limits: &TokenLimits) -> String {
    let mut all = Vec::new();
    let sessions = match (limits.sessions, limits.sessions_max) {
        (open, Some(0)) => Some((open, "no limit".to_owned())),
        (open, Some(most)) => Some((open, format!("{most} at most"))),
        (open, None) => open.map(|open| (Some(open), "how many there may be is not told".to_owned())),
    };
    match sessions {
        Some((Some(open), most)) => all.push(format!("sessions: {open} open, {most}")),
        Some((None, most)) => all.push(format!("sessions: {most}")),
        None => all.push("sessions: not told".to_owned()),
    }
    all.push(match (limits.private_memory_free, limits.private_memory) {
        (Some(free), Some(all)) => format!("memory: {free} of {all} bytes free"),
        (Some(free), None) => format!("memory: {free} bytes free"),
        (None, _) => "memory: not told".to_owned(),
    });
    if let (Some(shortest), Some(longest)) = (limits.pin_min, limits.pin_max)
        && longest >= shortest
    {
        all.push(format!("PIN: {shortest} to {longest} characters"));
    }
    all.join("; ")
}

fn or_none(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// Lines of at most so many characters, broken between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let last = lines.last_mut().expect("there is always one");
        if !last.is_empty() && last.chars().count() + word.trim_end().chars().count() > width {
            *last = last.trim_end().to_owned();
            lines.push(word.to_owned());
        } else {
            last.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(status: serde_json::Value) -> HsmPartition {
        let spec = json!({
            "pkcs11": {"library": "/lib/p11.so", "tokenLabel": "t", "pinSecretRef": {"name": "s"}},
            "allowedNamespaces": {}
        });
        let mut partition = HsmPartition::new("demo", serde_json::from_value(spec).unwrap());
        partition.status = serde_json::from_value(status).unwrap();
        partition
    }

    fn ready() -> HsmPartition {
        partition(json!({
            "keyCount": 3,
            "unclaimed": {"count": 1, "keys": []},
            "attestation": {"mode": "Vendor", "keyName": "a", "rootFingerprint": "AB:CD", "chain": ""},
            "token": {
                "label": "t", "manufacturer": "M", "model": "X", "serial": "7", "firmware": "1.2",
                "library": "P11 library 1.0", "keyAlgorithms": ["RSA 512-4096", "EC"],
                "signatureAlgorithms": ["EDDSA"], "cipherAlgorithms": ["AES_GCM"],
                "probed": {
                    "curves": ["P-256"], "mechanisms": ["AES_GCM", "RSA_PKCS"], "mechanismCount": 5,
                    "limits": {"sessions": 9, "sessionsMax": 0, "pinMin": 8, "pinMax": 0},
                    "speed": {"key": "P-256", "microseconds": 57},
                    "quirks": [
                        {"name": "ecPoint", "value": "bare bytes", "odd": true, "means": "both are read"},
                        {"name": "hmacKey", "value": "any length", "odd": false, "means": "32 bytes"}
                    ]
                }
            },
            "conditions": [
                {"type": "Attesting", "status": "True", "reason": "SoftwareInstead", "message": "no RKS", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Ready", "status": "True", "reason": "Ready", "message": "it is", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Reachable", "status": "False", "reason": "TokenFull", "message": "CKR_DEVICE_MEMORY: there is no room on the token; destroy keys or enlarge the partition", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            ]
        }))
    }

    #[test]
    fn the_report_says_what_is_known() {
        let wanted = "\
Partition   demo
Library     /lib/p11.so
            P11 library 1.0
Token       t: X of M, serial 7, firmware 1.2
Keys        RSA 512-4096, EC
Curves      P-256
Signatures  EDDSA
Ciphers     AES_GCM
Speed       57 µs for one P-256 signature, in one session
Limits      sessions: 9 open, no limit; memory: not told
Sessions    4 in each token-host
Objects     3 HsmKeys, 1 keys that no HsmKey claims
Attests     the HSM itself, with key a; root AB:CD
Mechanisms  5: AES_GCM, RSA_PKCS, and 3 more

What is odd
  ecPoint: bare bytes; both are read

What is as usual
  hmacKey: any length; 32 bytes

Conditions
  Attesting True, SoftwareInstead: no RKS
    see docs/troubleshooting.md#vendor-software-softwareinstead
  Ready True, Ready: it is
  Reachable False, TokenFull: CKR_DEVICE_MEMORY: there is no room on the token; destroy keys or
    enlarge the partition
    see docs/troubleshooting.md#tokenfull
";
        assert_eq!(text(&ready()), wanted);
        let record = record(&ready());
        assert_eq!(record["token"]["probed"]["quirks"][0]["value"], "bare bytes");
        assert_eq!((&record["partition"], &record["hsmKeys"]), (&json!("demo"), &json!(3)));
    }

    #[test]
    fn every_reason_of_a_partition_has_its_section() {
        let page = include_str!("../../../docs/troubleshooting.md");
        let headings = page.lines().filter_map(|line| line.strip_prefix("### "));
        let anchors: Vec<String> =
            headings.map(|heading| heading.replace(',', "").replace(' ', "-").to_lowercase()).collect();
        for reason in [
            "Connecting",
            "PinMissing",
            "PinRejected",
            "PinLocked",
            "PinFinalTry",
            "LibraryNotLoaded",
            "TokenNotFound",
            "TokenNotInitialized",
            "DuplicateObject",
            "Unsupported",
            "InvalidSpec",
            "ForbiddenByToken",
            "MissingOnToken",
            "TokenFull",
            "TokenUnavailable",
            "TokenBusy",
            "TokenError",
            "CrashesLibrary",
            "NoneHealthy",
            "NotAttesting",
            "SoftwareInstead",
            "InUse",
            "Malformed",
        ] {
            let sections = anchors.iter().filter(|anchor| **anchor == section(reason)).count();
            assert_eq!(sections, 1, "{reason}");
        }
        assert_eq!(section("DuplicateObject"), "duplicateobject-of-a-partition", "not that of an HsmKey");
    }

    #[test]
    fn the_report_says_how_many_sessions_were_chosen_and_why() {
        let mut partition = ready();
        partition.spec.sessions = Sessions::Auto;
        let lines = |partition: &HsmPartition| {
            let text = text(partition);
            let (_, rest) = text.split_once("Sessions    ").unwrap();
            rest.split_once("\nObjects").unwrap().0.to_owned()
        };
        assert_eq!(lines(&partition), "4 in each token-host, until it is measured");
        let speed = |key, speed| json!({"key": key, "perSecond": speed});
        let measured = json!({
            "chosen": 2, "reason": "Measured", "message": "more sign no faster",
            "measured": [{"sessions": 1, "speeds": [speed("P-256", 900), speed("RSA-2048", 80)]}],
        });
        partition.status.as_mut().unwrap().sessions = serde_json::from_value(measured).unwrap();
        let wanted = "\
2 in each token-host, chosen: more sign no faster
            with 1: 900 P-256, 80 RSA-2048 signatures/s";
        assert_eq!(lines(&partition), wanted);
        assert_eq!(record(&partition)["sessions"]["now"], json!(2));
    }

    #[test]
    fn a_partition_that_nobody_looked_at_is_no_mistake() {
        let text = text(&partition(json!(null)));
        assert!(text.contains("Token       it was never reached\n"), "{text}");
        assert!(text.contains("no controller has looked at this partition yet"), "{text}");
    }

    #[test]
    fn long_lists_are_broken_between_words() {
        assert_eq!(wrapped("aaa, bbb, ccc", 7), ["aaa,", "bbb,", "ccc"]);
        assert_eq!(wrapped("aaa, bbb, ccc", 9), ["aaa, bbb,", "ccc"]);
        assert_eq!(wrapped("", 9), [""]);
    }
}
