//! Decides what to do. Pure. Never guesses: a key that was there once is not made again.

use kube::ResourceExt;

use super::gather::{Presence, Seen};
use crate::{
    api::{HsmKey, condition, key::Source, partition::Recovery},
    hsm::protocol::{HsmError, KeyFacts},
    model::{
        KeyAlgorithm, KeyLabel,
        address::NoAddress,
        curve,
        derivation::{self, DerivationPath, DerivedName, NoTree},
        policy::PolicyError,
    },
    public_key::PublicKey,
    service::{address, attest::own_keys},
};

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing changed: see that the Secret is there.
    Keep,
    /// Make the key, unless it is there.
    Generate,
    /// The key is there and not fully reported yet: a run was interrupted.
    Describe(Box<KeyFacts>),
    /// The key was brought to the token, and nobody told of it yet.
    Receive(Box<KeyFacts>),
    /// Take over the key that is there.
    Adopt(Box<KeyFacts>),
    /// Take over the key that was made for an earlier object of this name.
    Recover(Box<KeyFacts>),
    /// Wait for something that passes by itself: reason and sentence.
    Wait(&'static str, String),
    /// A person must act.
    Refuse(Refusal),
}

/// Why a person must act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The condition's reason.
    pub reason: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Refusal {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// What a token refused for good.
    pub fn hsm(error: &HsmError) -> Self {
        Self::new(crate::controller::error::reason(error.kind), error.message.clone())
    }

    /// The key is there, and nobody attests it.
    pub fn not_attested(why: String) -> Self {
        Self::new(NOT_ATTESTED, why)
    }

    /// Nobody can tell which of them is meant.
    pub fn duplicate(key: &HsmKey) -> Self {
        let what = format!(
            "the token has several keys with this id or label ('{}'): destroy all but one",
            key.label()
        );
        Self::new("DuplicateObject", what)
    }

    /// The key is there, and taking it over is for a person to decide.
    fn recoverable(key: &HsmKey, facts: &KeyFacts) -> Self {
        let id = facts.id.as_ref().map(ToString::to_string).unwrap_or_default();
        Self::new(
            "Recoverable",
            format!(
                "the token has the key {id}, made for an earlier HsmKey of this namespace, name and label: set recovery: Adopt on HsmPartition {} (see kubectl hsm recover) or adopt: true here to take it over, or choose another label to have a new one made",
                key.spec.partition_ref.name
            ),
        )
    }

    /// The certificate that the spec asks for cannot be had. The key can be used without it.
    pub fn certificate(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(reason, message)
    }

    /// A Secret of that name belongs to somebody else.
    pub fn secret(name: &str) -> Self {
        Self::new(
            "SecretConflict",
            format!(
                "Secret {name} exists and is not ours: delete or rename it, or choose another name by publicKeySecretName"
            ),
        )
    }
}

/// Decides what to do.
pub fn plan(key: &HsmKey, seen: &Seen) -> Step {
    let spec = &key.spec;
    let refuse = |reason, message: String| Step::Refuse(Refusal::new(reason, message));
    let size = spec.key_size.and_then(|size| u32::try_from(size).ok());
    let curve = spec.curve();
    let checked = match spec.source {
        Source::Generated => spec.algorithm.check(size, curve),
        Source::Imported | Source::ImportedPublic => spec.algorithm.check_given(size, curve),
    };
    if let Err(error) = checked {
        return refuse("InvalidSpec", error.to_string());
    }
    if let Err(error) = label(key) {
        return refuse("InvalidSpec", error);
    }
    let master = match derivation::is_master(&spec.attributes, spec.algorithm, curve) {
        Ok(master) => master,
        Err(error @ NoTree::Cardano) => return refuse("Unsupported", error.to_string()),
        Err(error) => return refuse("InvalidSpec", error.to_string()),
    };
    if spec.derived_from.is_some() && spec.source != Source::Generated {
        return refuse("InvalidSpec", "a key that is derived is not imported: leave source out".into());
    }
    if spec.algorithm.is_stateful() {
        if spec.source != Source::Generated {
            let message = "keys with a state are made on the token and stay there: leave source out";
            return refuse("InvalidSpec", message.into());
        }
        if let Some(how) = spec.attributes.unfit_for_state() {
            let message =
                format!("a key of {} cannot be {how}: it has a state, and no copies", spec.algorithm);
            return refuse("InvalidSpec", message);
        }
    }
    if let Some(why) = not_public(key, master) {
        return refuse("InvalidSpec", format!("source is ImportedPublic, and {why}"));
    }
    if master && spec.derived_from.is_some() {
        return refuse(
            "InvalidSpec",
            "a derived key is not the master of a tree: leave out bip32 and slip10".into(),
        );
    }
    if let Some(policy) = &spec.policy {
        if !spec.algorithm.row().asymmetric {
            return refuse("InvalidSpec", "only key pairs have policies: leave policy out".into());
        }
        match policy.check() {
            Ok(()) => {}
            Err(error @ (PolicyError::Approvals { .. } | PolicyError::Blocked)) => {
                return refuse("Unsupported", error.to_string());
            }
            Err(error) => return refuse("InvalidSpec", error.to_string()),
        }
    }
    if let Some(wanted) = spec.address_format {
        if spec.policy.is_none() {
            return refuse(
                "InvalidSpec",
                "only keys with a policy have an address: leave addressFormat out".into(),
            );
        }
        match wanted.format.check(spec.algorithm, curve_of(key)) {
            Ok(()) => {}
            Err(error @ NoAddress::Unsupported(_)) => return refuse("Unsupported", error.to_string()),
            Err(error) => return refuse("InvalidSpec", error.to_string()),
        }
    }
    let partition = &spec.partition_ref.name;
    if seen.partition.is_none() {
        return Step::Wait("PartitionNotFound", format!("there is no HsmPartition {partition}"));
    }
    // Also of a key that is there: it is not used any more, and Ready must not say that it is.
    if spec.algorithm.is_stateful() && has_replicas(seen) {
        let message = format!(
            "HsmPartition {partition} has replicas, and {} keys have a state, and no copies: choose a partition without, or take the replicas out of it",
            spec.algorithm
        );
        return refuse("Unsupported", message);
    }
    if !seen.allowed {
        return refuse(
            "NamespaceNotAllowed",
            format!("HsmPartition {partition} does not allow this namespace: see its allowedNamespaces"),
        );
    }
    // The HSM's may have been made by the vendor's tools, with any id, and may not be there yet. A key that was recorded before
    // goes on.
    if !recorded(key) && attests(&key.label(), seen) {
        return refuse("Conflict", taken_by_us(key));
    }
    if let Some(rival) = &seen.rival {
        return refuse(
            "Conflict",
            format!(
                "HsmKey {} came first and has the label '{}' on this partition: choose another label",
                rival.name,
                key.label()
            ),
        );
    }
    match &seen.presence {
        Presence::NotAsked => Step::Wait(
            "PartitionNotReady",
            format!("HsmPartition {partition} is not Ready; its conditions say why"),
        ),
        Presence::Recorded => Step::Keep,
        Presence::Ours(keys) | Presence::Labelled(keys)
            if keys.len() > 1 || keys.iter().any(|one| one.twins > 1) =>
        {
            Step::Refuse(Refusal::duplicate(key))
        }
        Presence::Ours(keys) => match keys.first() {
            Some(facts) if complete(key) => match differs(key, facts) {
                Some(refusal) => Step::Refuse(refusal),
                None if hardened(key, facts).is_some() => Step::Describe(Box::new(facts.clone())),
                None => Step::Keep,
            },
            Some(facts) if recorded(key) => Step::Describe(Box::new(facts.clone())),
            Some(facts) if spec.source != Source::Generated => Step::Receive(Box::new(facts.clone())),
            // A run was interrupted before it told of the key. Generation takes it if it is whole.
            Some(_) => Step::Generate,
            None => refuse("MissingOnToken", missing(key)),
        },
        Presence::Labelled(_) if was_generated(key) => refuse("MissingOnToken", missing(key)),
        Presence::Labelled(keys) if key.is_public_only() && !keys.is_empty() => refuse(
            "Conflict",
            format!(
                "the token has a key with the label '{}', which is another: choose another label",
                key.label()
            ),
        ),
        Presence::Labelled(keys) => match keys.first() {
            None if key.spec.adopt => refuse(
                "NothingToAdopt",
                format!("adopt is true and the token has no key with the label '{}'", key.label()),
            ),
            None if spec.source != Source::Generated => Step::Wait(AWAITED, awaited(key)),
            None => match seen.hsm.as_ref().and_then(|hsm| hsm.token()) {
                Some(token)
                    if (master || spec.derived_from.is_some())
                        && !token.capabilities.derived.contains(&spec.algorithm) =>
                {
                    let message = format!(
                        "the token '{}' derives no {} keys along a path: it does not list the vendor's mechanisms",
                        token.label, spec.algorithm
                    );
                    refuse("Unsupported", message)
                }
                Some(_) if spec.derived_from.is_some() => Step::Generate,
                Some(token) if !token.capabilities.generates(spec.algorithm, size) => refuse(
                    "Unsupported",
                    format!(
                        "the token '{}' makes no {}{} keys; it makes {}",
                        token.label,
                        spec.algorithm,
                        size.map_or_else(String::new, |size| format!(" {size}")),
                        token.capabilities.summary()
                    ),
                ),
                _ => Step::Generate,
            },
            Some(facts) if is_own(facts, seen) => refuse("Conflict", taken_by_us(key)),
            Some(_) if let Some(holder) = &seen.holder => refuse(
                "Conflict",
                format!(
                    "HsmKey {holder} has the key that is on the token under the label '{}': choose another label",
                    key.label()
                ),
            ),
            Some(facts) if key.spec.adopt => {
                differs(key, facts).map_or_else(|| Step::Adopt(Box::new(facts.clone())), Step::Refuse)
            }
            Some(facts) if made_for_this_name(key, facts) => match differs(key, facts) {
                Some(refusal) => Step::Refuse(refusal),
                None if recovery(seen) == Recovery::Adopt => Step::Recover(Box::new(facts.clone())),
                None => Step::Refuse(Refusal::recoverable(key, facts)),
            },
            Some(_) => refuse(
                "Conflict",
                format!(
                    "the token already has a key with the label '{}': set adopt: true to take it over, or choose another label",
                    key.label()
                ),
            ),
        },
    }
}

/// The reason of a key that is on the token and that the HSM does not attest.
pub const NOT_ATTESTED: &str = "NotAttested";

/// The reason of a key that nobody brought yet.
pub const AWAITED: &str = "MaterialAwaited";

fn awaited(key: &HsmKey) -> String {
    let tree = key.spec.attributes.resolved().tree;
    let how = match key.spec.source {
        Source::ImportedPublic => "/v1/key/import/plain",
        _ if tree => "/v1/importedKey",
        _ => "/v1/key/import/plain or /v1/synchronousUnwrap",
    };
    format!(
        "source is {}, and the key was not brought to the token yet: POST {how} with the label '{}', the same attributes and this object's other settings brings it",
        key.spec.source,
        key.label()
    )
}

/// What of a spec does not go with a public key alone.
fn not_public(key: &HsmKey, master: bool) -> Option<&'static str> {
    let spec = &key.spec;
    if !key.is_public_only() {
        return None;
    }
    let signs = spec.certificate.as_ref().is_some_and(|certificate| certificate.self_signed.is_some());
    match spec.algorithm {
        KeyAlgorithm::Rsa | KeyAlgorithm::Ec | KeyAlgorithm::Ed => {}
        _ => return Some("only public keys of the algorithms RSA, EC and ED are kept alone"),
    }
    match () {
        () if spec.adopt => Some("such a key is brought: leave adopt out"),
        () if spec.policy.is_some() => Some("a policy is about the private half: leave it out"),
        () if master => Some("nothing is derived from it: leave bip32 and slip10 out"),
        () if signs => Some("it signs no certificate: leave certificate.selfSigned out"),
        () => None,
    }
}

/// The key's label: one with a derivation path for a key that is derived along it, and one without for every other.
pub fn label(key: &HsmKey) -> Result<KeyLabel, String> {
    let Some(from) = &key.spec.derived_from else {
        return KeyLabel::new(key.label()).map_err(|error| error.to_string());
    };
    let path = DerivationPath::parse(&from.path).map_err(|error| format!("derivedFrom.path: {error}"))?;
    if let Some(step) = path.impossible(key.spec.algorithm) {
        return Err(format!(
            "derivedFrom.path: ED keys are derived by hardened steps only, and {step} is none"
        ));
    }
    let name = DerivedName::parse(&key.label()).map_err(|error| error.to_string())?;
    if name.path != path {
        return Err(format!("the label '{}' does not end with the path {path}", key.label()));
    }
    KeyLabel::stored(key.label()).map_err(|error| error.to_string())
}

/// Whether the key was made for an object of this namespace and name, which this one is not or was not then.
fn made_for_this_name(key: &HsmKey, facts: &KeyFacts) -> bool {
    let (namespace, name) = (key.namespace().unwrap_or_default(), key.name_any());
    facts.id.as_ref().is_some_and(|id| id.is_made_for(&namespace, &name))
}

fn recovery(seen: &Seen) -> Recovery {
    seen.partition.as_ref().map(|partition| partition.spec.recovery).unwrap_or_default()
}

fn has_replicas(seen: &Seen) -> bool {
    seen.partition.as_ref().is_some_and(|partition| !partition.spec.replicas.is_empty())
}

/// Whoever could sign with an attestation key could attest anything.
fn is_own(facts: &KeyFacts, seen: &Seen) -> bool {
    let Some(partition) = &seen.partition else { return false };
    let own = own_keys(&partition.spec.attestation, partition.status.as_ref());
    facts.id.as_ref().is_some_and(|id| own.contains(id))
}

/// Whether a label is that of a key that attests others on the partition, or will be.
fn attests(label: &str, seen: &Seen) -> bool {
    seen.partition.as_ref().is_some_and(|partition| partition.spec.attestation.is_name(label))
}

fn taken_by_us(key: &HsmKey) -> String {
    format!(
        "the label '{}' belongs to a key that attests others, which nobody takes over: choose another",
        key.label()
    )
}

fn recorded(key: &HsmKey) -> bool {
    key.status.as_ref().is_some_and(|status| status.key_id.is_some())
}

/// Whether the object says that its key was on the token.
pub fn was_generated(key: &HsmKey) -> bool {
    let status = key.status.as_ref();
    status.is_some_and(|status| condition::is_true(&status.conditions, condition::GENERATED))
}

fn complete(key: &HsmKey) -> bool {
    key.status.as_ref().is_some_and(|status| status.attestation.is_some()) && was_generated(key)
}

fn missing(key: &HsmKey) -> String {
    let id = key.status.as_ref().and_then(|status| status.key_id.clone()).unwrap_or_default();
    let next = match key.spec.algorithm.is_stateful() {
        // The token would count its signatures from there again.
        true => "never restore a backup of the token, but delete this object and make a new key",
        false => "restore the token's backup, or delete this object and make a new key",
    };
    format!("the key with id {id} was on the token and is gone. It is not made again: {next}")
}

/// What the token says otherwise than the status does: attributes can be changed by whoever reaches the token, as a rule to
/// harder ones only.
pub fn hardened(key: &HsmKey, facts: &KeyFacts) -> Option<String> {
    let before = key.status.as_ref()?.attributes.as_ref()?;
    let [before, now] = [before, &facts.attributes].map(|one| serde_json::to_value(one).unwrap_or_default());
    let changed: Vec<_> = now
        .as_object()?
        .iter()
        .filter(|(name, value)| before[name.as_str()] != **value)
        .map(|(name, value)| format!("{name} is {value}, and was {}", before[name.as_str()]))
        .collect();
    (!changed.is_empty()).then(|| changed.join("; "))
}

/// The curve that the spec names, by its usual identifier.
fn curve_of(key: &HsmKey) -> Option<&'static str> {
    key.spec.curve().and_then(curve::by_oid).map(|curve| curve.oid)
}

/// Whether the key on the token is another than the one described.
pub fn differs(key: &HsmKey, facts: &KeyFacts) -> Option<Refusal> {
    let spec = &key.spec;
    let refuse =
        |what: String| Some(Refusal::new("AttributesDiffer", format!("the key on the token {what}")));
    if facts.id.is_none() {
        return refuse(
            "has no CKA_ID, so that it cannot be told from others: give it one with the vendor's tools"
                .into(),
        );
    }
    match facts.algorithm {
        Some(algorithm) if algorithm == spec.algorithm => {}
        Some(other) => return refuse(format!("is a {other} key, not {}", spec.algorithm)),
        None => return refuse(format!("is of a kind that is not served, not {}", spec.algorithm)),
    }
    let size = spec.key_size.and_then(|size| u32::try_from(size).ok());
    if let (Some(wanted), Some(found)) = (size, facts.key_size)
        && wanted != found
    {
        return refuse(format!("has {found} bits, not {wanted}"));
    }
    let wanted = curve_of(key);
    if let (Some(wanted), Some(found)) = (wanted, facts.curve_oid.as_deref())
        && wanted != found
    {
        return refuse(format!("is on the curve {found}, not {wanted}"));
    }
    let asked = spec.attributes.resolved();
    let made = spec.source == Source::Generated && made_for_this_name(key, facts);
    if made && !asked.extractable && facts.attributes.extractable == Some(true) {
        return refuse("is extractable, which was not asked for: its token does not keep to that".into());
    }
    if made && asked.sensitive && facts.attributes.sensitive == Some(false) {
        return refuse("is not sensitive, as was asked for: its token does not keep to that".into());
    }
    if spec.algorithm.is_stateful()
        && let Some(how) = facts.attributes.unfit_for_state()
    {
        let algorithm = spec.algorithm;
        return refuse(format!(
            "is {how}, and a key of {algorithm} has a state, and no copies: make a new key"
        ));
    }
    if spec.policy.is_some() && facts.attributes.extractable == Some(true) {
        return refuse("is extractable, and a key with a policy never is: leave policy out".into());
    }
    let public = facts.public_key.as_deref().and_then(|spki| PublicKey::from_spki(spki).ok());
    if let Some(public) = public
        && let Err(error) = address::of(spec, &public)
    {
        return refuse(format!("has no address as the spec asks for it: {error}"));
    }
    if spec.algorithm.row().asymmetric && facts.public_key.is_none() {
        return refuse("has no public half on the token, so that nobody could check its signatures".into());
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        api::{
            HsmPartition,
            partition::{AttestationSettings, AttestationStatus, HsmPartitionStatus},
        },
        controller::key::gather::Rival,
        model::{
            KeyAttributes, KeyId, KeyPolicy,
            policy::{Rule, Token},
        },
    };

    fn key(adopt: bool) -> HsmKey {
        let spec = serde_json::json!({
            "partitionRef": {"name": "p"}, "algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7", "adopt": adopt
        });
        let mut key = HsmKey::new("k", serde_json::from_value(spec).unwrap());
        key.metadata.namespace = Some("ns".into());
        key
    }

    fn generated() -> HsmKey {
        let now = jiff::Timestamp::from_second(1).unwrap();
        let report = condition::Report::new(condition::GENERATED, Some(true), "Generated", "");
        let mut key = key(false);
        key.status = Some(crate::api::key::HsmKeyStatus {
            key_id: Some("aa".into()),
            conditions: condition::apply(&[], &[report], None, now),
            ..Default::default()
        });
        key
    }

    fn facts() -> KeyFacts {
        KeyFacts {
            id: Some(KeyId::from_bytes([7]).unwrap()),
            label: "k".into(),
            algorithm: Some(KeyAlgorithm::Ec),
            key_size: None,
            curve_oid: Some("1.2.840.10045.3.1.7".into()),
            public_key: Some(bytes::Bytes::from_static(b"spki")),
            attributes: KeyAttributes::default(),
            local: Some(true),
            chain_code: None,
            twins: 1,
        }
    }

    fn seen(presence: Presence) -> Seen {
        let spec = serde_json::json!({
            "pkcs11": {"library": "/x", "tokenLabel": "t", "pinSecretRef": {"name": "s"}}, "allowedNamespaces": {}
        });
        let partition = HsmPartition::new("p", serde_json::from_value(spec).unwrap());
        Seen { partition: Some(Arc::new(partition)), ..Seen::alone(None, presence) }
    }

    fn reason(step: &Step) -> &'static str {
        match step {
            Step::Refuse(refusal) => refusal.reason,
            Step::Wait(reason, _) => reason,
            Step::Keep => "Keep",
            Step::Generate => "Generate",
            Step::Describe(_) => "Describe",
            Step::Receive(_) => "Receive",
            Step::Adopt(_) => "Adopt",
            Step::Recover(_) => "Recover",
        }
    }

    #[test]
    fn trees_are_for_tokens_that_have_them_and_labels_say_the_way() {
        let token: Arc<dyn crate::hsm::Hsm> = Arc::new(crate::hsm::fake::Fake::default());
        let step = |name: &str, value: serde_json::Value, label: Option<&str>| {
            let mut spec = serde_json::to_value(key(false).spec).unwrap();
            (spec[name], spec["label"]) = (value, serde_json::json!(label));
            let mut key = HsmKey::new("k", serde_json::from_value(spec).unwrap());
            key.metadata.namespace = Some("ns".into());
            let seen = Seen { hsm: Some(Arc::clone(&token)), ..seen(Presence::Labelled(vec![])) };
            match plan(&key, &seen) {
                Step::Refuse(refusal) => (refusal.reason, refusal.message),
                other => (reason(&other), String::new()),
            }
        };
        let from = |path: &str| serde_json::json!({"key": "m", "path": path});
        for (name, value, label, reason, says) in [
            (
                "attributes",
                serde_json::json!({"derive": true, "slip10": true}),
                None,
                "Unsupported",
                "'fake'",
            ),
            ("attributes", serde_json::json!({"slip10": true}), None, "InvalidSpec", "derive: true"),
            ("attributes", serde_json::json!({"derive": true}), None, "Generate", ""),
            ("derivedFrom", from("0'/1"), Some("m/0'/1"), "Unsupported", "along a path"),
            ("derivedFrom", from("0'/1"), Some("m/0'/2"), "InvalidSpec", "does not end with the path 0'/1"),
            ("derivedFrom", from("0'/1"), Some("m"), "InvalidSpec", "master key name and path"),
            ("derivedFrom", from("2147483648"), Some("m/2147483648"), "InvalidSpec", "derivedFrom.path"),
            ("adopt", serde_json::json!(false), Some("m/0"), "InvalidSpec", "derivation path"),
        ] {
            let (is, message) = step(name, value, label);
            assert!(is == reason && message.contains(says), "{label:?}: {is} {message}");
        }
    }

    #[test]
    fn a_key_is_made_only_when_nothing_of_its_name_was_ever_there() {
        assert_eq!(plan(&key(false), &seen(Presence::Labelled(vec![]))), Step::Generate);
        assert_eq!(reason(&plan(&generated(), &seen(Presence::Labelled(vec![])))), "MissingOnToken");
        assert_eq!(reason(&plan(&generated(), &seen(Presence::Labelled(vec![facts()])))), "MissingOnToken");
    }

    #[test]
    fn a_key_that_was_hardened_on_its_token_is_described_anew() {
        let mut key = generated();
        let status = key.status.as_mut().unwrap();
        status.attestation = Some(Default::default());
        status.attributes = Some(KeyAttributes { extractable: Some(false), ..Default::default() });
        let step = |now: Option<bool>| {
            let attributes = KeyAttributes { extractable: now, ..Default::default() };
            let found = KeyFacts { attributes, ..facts() };
            (plan(&key, &seen(Presence::Ours(vec![found.clone()]))), hardened(&key, &found))
        };
        assert_eq!(step(Some(false)), (Step::Keep, None));
        let (describes, says) = step(None);
        assert_eq!(reason(&describes), "Describe");
        assert_eq!(says.as_deref(), Some("extractable is null, and was false"));
    }

    #[test]
    fn a_token_that_keeps_a_key_less_well_than_asked_is_found_out() {
        let plan = |found: KeyFacts, sensitive, extractable| {
            let attributes = KeyAttributes { sensitive, extractable, ..Default::default() };
            let mut key = generated();
            let status = key.status.as_mut().unwrap();
            status.attestation = Some(Default::default());
            status.attributes = Some(attributes.clone());
            plan(&key, &seen(Presence::Ours(vec![KeyFacts { attributes, ..found }])))
        };
        let made = || earlier("ns", "k");
        assert_eq!(reason(&plan(made(), Some(true), Some(false))), "Keep");
        assert_eq!(reason(&plan(made(), Some(false), None)), "AttributesDiffer");
        assert_eq!(reason(&plan(made(), None, Some(true))), "AttributesDiffer");
        // Whoever adopts a key takes it as it is, also when the object does not say any more that it was adopted.
        assert_eq!(reason(&plan(facts(), Some(false), Some(true))), "Keep");
    }

    #[test]
    fn a_key_is_not_made_with_a_policy_that_is_not_served() {
        let policy = |change: fn(&mut KeyPolicy)| {
            let mut key = key(false);
            change(key.spec.policy.insert(KeyPolicy::default()));
            plan(&key, &seen(Presence::Labelled(vec![])))
        };
        assert_eq!(policy(|_| {}), Step::Generate);
        assert_eq!(reason(&policy(|policy| policy.key_status.blocked = true)), "Unsupported");
        let wrong = |policy: &mut KeyPolicy| {
            let token = Token { timeout: 61, name: "t".into(), ..Token::default() };
            policy.rule_use = Some(Rule { tokens: vec![token] });
        };
        assert_eq!(reason(&policy(wrong)), "InvalidSpec");
        let mut aes = key(false);
        (aes.spec.algorithm, aes.spec.key_size, aes.spec.curve_oid) = (KeyAlgorithm::Aes, Some(256), None);
        aes.spec.policy = Some(KeyPolicy::default());
        assert_eq!(reason(&plan(&aes, &seen(Presence::Labelled(vec![])))), "InvalidSpec");
        let mut adopting = key(true);
        let leaves = || {
            let attributes = KeyAttributes { extractable: Some(true), ..KeyAttributes::default() };
            Presence::Labelled(vec![KeyFacts { attributes, ..facts() }])
        };
        assert_eq!(reason(&plan(&adopting, &seen(leaves()))), "Adopt");
        adopting.spec.policy = Some(KeyPolicy::default());
        assert_eq!(reason(&plan(&adopting, &seen(leaves()))), "AttributesDiffer");
    }

    #[test]
    fn a_key_with_a_state_is_generated_and_has_no_copies() {
        let lms = |change: fn(&mut HsmKey)| {
            let mut key = key(false);
            (key.spec.algorithm, key.spec.curve_oid) = (KeyAlgorithm::Lms, None);
            change(&mut key);
            reason(&plan(&key, &seen(Presence::Labelled(vec![]))))
        };
        assert_eq!(lms(|_| ()), "Generate");
        assert_eq!(lms(|key| key.spec.source = Source::Imported), "InvalidSpec");
        assert_eq!(lms(|key| key.spec.attributes.extractable = Some(true)), "InvalidSpec");
    }

    fn lms(mut key: HsmKey) -> HsmKey {
        (key.spec.algorithm, key.spec.curve_oid) = (KeyAlgorithm::Lms, None);
        key
    }

    fn lms_facts(attributes: KeyAttributes) -> KeyFacts {
        KeyFacts { algorithm: Some(KeyAlgorithm::Lms), curve_oid: None, attributes, ..facts() }
    }

    #[test]
    fn nobody_is_told_to_restore_a_key_with_a_state() {
        let says = |key: HsmKey| match plan(&key, &seen(Presence::Labelled(vec![]))) {
            Step::Refuse(Refusal { reason: "MissingOnToken", message }) => message,
            other => panic!("{other:?}"),
        };
        assert!(says(generated()).contains(": restore the token's backup"));
        let state = says(lms(generated()));
        assert!(state.contains("never restore a backup") && state.contains("make a new key"), "{state}");
    }

    #[test]
    fn a_key_with_a_state_is_on_no_partition_with_replicas() {
        let planned = |key: &HsmKey, presence| {
            let seen = recovering(presence);
            let mut partition = HsmPartition::clone(seen.partition.as_ref().unwrap());
            let replica = serde_json::json!({"name": "b", "pkcs11": {"tokenLabel": "b"}});
            partition.spec.replicas = vec![serde_json::from_value(replica).unwrap()];
            reason(&plan(key, &Seen { partition: Some(Arc::new(partition)), ..seen }))
        };
        let found = || vec![lms_facts(KeyAttributes::default())];
        let old = vec![KeyFacts { id: earlier("ns", "k").id, ..found().remove(0) }];
        for (key, presence) in [
            (lms(key(false)), Presence::Labelled(vec![])),
            (lms(key(true)), Presence::Labelled(found())),
            (lms(key(false)), Presence::Labelled(old)),
            (lms(generated()), Presence::Ours(found())),
            (lms(generated()), Presence::Recorded),
        ] {
            let what = format!("{presence:?}");
            assert_eq!(planned(&key, presence), "Unsupported", "{what}");
        }
        assert_eq!(planned(&generated(), Presence::Recorded), "Keep");
    }

    #[test]
    fn a_key_with_a_state_that_somebody_may_have_copied_is_not_taken_whoever_made_it() {
        let of = |attributes: KeyAttributes| {
            let found = || Presence::Labelled(vec![lms_facts(attributes.clone())]);
            let mut known = lms(generated());
            let status = known.status.as_mut().unwrap();
            status.attestation = Some(Default::default());
            status.attributes = Some(attributes.clone());
            let ours = Presence::Ours(vec![lms_facts(attributes.clone())]);
            [reason(&plan(&lms(key(true)), &seen(found()))), reason(&plan(&known, &seen(ours)))]
        };
        assert_eq!(of(KeyAttributes::default()), ["Adopt", "Keep"]);
        for attributes in [
            KeyAttributes { extractable: Some(true), ..KeyAttributes::default() },
            KeyAttributes { copyable: Some(true), ..KeyAttributes::default() },
            KeyAttributes { sensitive: Some(false), ..KeyAttributes::default() },
        ] {
            assert_eq!(of(attributes.clone()), ["AttributesDiffer"; 2], "{attributes:?}");
        }
    }

    #[test]
    fn a_key_of_somebody_else_is_taken_over_only_when_asked() {
        assert_eq!(reason(&plan(&key(false), &seen(Presence::Labelled(vec![facts()])))), "Conflict");
        assert_eq!(reason(&plan(&key(true), &seen(Presence::Labelled(vec![facts()])))), "Adopt");
        assert_eq!(reason(&plan(&key(true), &seen(Presence::Labelled(vec![])))), "NothingToAdopt");
        let other = KeyFacts { algorithm: Some(KeyAlgorithm::Rsa), ..facts() };
        assert_eq!(reason(&plan(&key(true), &seen(Presence::Labelled(vec![other])))), "AttributesDiffer");
    }

    fn imported(adopt: bool, status: Option<crate::api::key::HsmKeyStatus>) -> HsmKey {
        let mut key = key(adopt);
        key.spec.source = Source::Imported;
        // Of an unwrapped key, nobody knows it before.
        key.spec.curve_oid = None;
        key.status = status;
        key
    }

    #[test]
    fn an_imported_key_is_waited_for_and_never_made() {
        let nothing = || seen(Presence::Labelled(vec![]));
        let Step::Wait(reason, message) = plan(&imported(false, None), &nothing()) else {
            panic!("it is made")
        };
        assert_eq!(reason, "MaterialAwaited");
        assert!(message.contains("import/plain") && message.contains("'k'"), "{message}");
        assert_eq!(reason_of(&imported(false, None), Presence::Ours(vec![facts()])), "Receive");
        assert_eq!(
            reason_of(&imported(false, generated().status), Presence::Ours(vec![facts()])),
            "Describe"
        );
        assert_eq!(
            reason_of(&imported(false, generated().status), Presence::Labelled(vec![])),
            "MissingOnToken"
        );
        assert_eq!(reason_of(&imported(false, None), Presence::Labelled(vec![facts()])), "Conflict");
        assert_eq!(reason_of(&imported(true, None), Presence::Labelled(vec![facts()])), "Adopt");
        assert_eq!(reason_of(&imported(true, None), Presence::Labelled(vec![])), "NothingToAdopt");
        let twins = KeyFacts { twins: 2, ..facts() };
        assert_eq!(reason_of(&imported(false, None), Presence::Ours(vec![twins])), "DuplicateObject");
    }

    #[test]
    fn a_public_key_alone_is_waited_for_and_is_nothing_else() {
        let key = |change: serde_json::Value| {
            let mut spec = serde_json::to_value(imported(false, None).spec).unwrap();
            spec["source"] = serde_json::json!("ImportedPublic");
            spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let mut key = HsmKey::new("k", serde_json::from_value(spec).unwrap());
            key.metadata.namespace = Some("ns".into());
            key
        };
        let plain = key(serde_json::json!({}));
        let nothing = || seen(Presence::Labelled(vec![]));
        let Step::Wait(reason, message) = plan(&plain, &nothing()) else { panic!("it is made") };
        assert!(reason == "MaterialAwaited" && message.starts_with("source is ImportedPublic"), "{message}");
        assert_eq!(reason_of(&plain, Presence::Ours(vec![facts()])), "Receive");
        // Neither taken over nor recovered: what has the label has a private half.
        let mut seen = recovering(Presence::Labelled(vec![earlier("ns", "k")]));
        assert_eq!(self::reason(&plan(&plain, &seen)), "Conflict");
        seen.presence = Presence::Labelled(vec![facts()]);
        assert_eq!(self::reason(&plan(&plain, &seen)), "Conflict");
        for change in [
            serde_json::json!({"adopt": true}),
            serde_json::json!({"policy": {"keyStatus": {"blocked": false}}}),
            serde_json::json!({"attributes": {"derive": true, "slip10": true}}),
            serde_json::json!({"certificate": {"selfSigned": {"subject": {"commonName": "a"}}}}),
            serde_json::json!({"algorithm": "ML-DSA-44"}),
        ] {
            let refused = plan(&key(change.clone()), &nothing());
            assert_eq!(self::reason(&refused), "InvalidSpec", "{change}");
        }
    }

    #[test]
    fn an_address_is_of_a_key_that_can_have_one() {
        let key = |change: serde_json::Value| {
            let mut spec = serde_json::json!({"partitionRef": {"name": "p"}, "algorithm": "EC",
                "curveOid": "1.3.132.0.10", "addressFormat": {"format": "BTC"},
                "policy": {"keyStatus": {"blocked": false}}});
            spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let mut key = HsmKey::new("k", serde_json::from_value(spec).unwrap());
            key.metadata.namespace = Some("ns".into());
            key
        };
        let step = |change| plan(&key(change), &seen(Presence::Labelled(vec![])));
        assert_eq!(step(serde_json::json!({})), Step::Generate);
        for (change, expected) in [
            (serde_json::json!({"policy": null}), "InvalidSpec"),
            (serde_json::json!({"curveOid": "1.2.840.10045.3.1.7"}), "InvalidSpec"),
            (serde_json::json!({"addressFormat": {"format": "XLM"}}), "Unsupported"),
        ] {
            assert_eq!(reason(&step(change.clone())), expected, "{change}");
        }
        // Of a key that is brought, the curve may be known afterwards only.
        let awaited = key(serde_json::json!({"source": "Imported", "curveOid": null}));
        assert_eq!(reason_of(&awaited, Presence::Labelled(vec![])), "MaterialAwaited");
        let head = "3059301306072a8648ce3d020106082a8648ce3d030107034200046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
        let p256 = KeyFacts { public_key: Some(hex::decode(head).unwrap().into()), ..facts() };
        let refused = differs(&awaited, &p256).unwrap();
        assert!(refused.message.contains("BTC addresses are of keys on secp256k1"), "{}", refused.message);
    }

    fn reason_of(key: &HsmKey, presence: Presence) -> &'static str {
        reason(&plan(key, &seen(presence)))
    }

    /// Of a key that was made for an object of this name with another UID.
    fn earlier(namespace: &str, name: &str) -> KeyFacts {
        KeyFacts { id: Some(KeyId::for_object(uuid::Uuid::from_u128(1), namespace, name)), ..facts() }
    }

    fn recovering(presence: Presence) -> Seen {
        let seen = seen(presence);
        let mut partition = HsmPartition::clone(seen.partition.as_ref().unwrap());
        partition.spec.recovery = Recovery::Adopt;
        Seen { partition: Some(Arc::new(partition)), ..seen }
    }

    #[test]
    fn a_key_made_for_an_earlier_object_of_the_name_is_taken_over_only_when_the_partition_says_so() {
        let found = || Presence::Labelled(vec![earlier("ns", "k")]);
        let Step::Refuse(refusal) = plan(&key(false), &seen(found())) else { panic!("taken over silently") };
        assert_eq!(refusal.reason, "Recoverable");
        let id = earlier("ns", "k").id.unwrap().to_string();
        assert!(refusal.message.contains(&id) && refusal.message.contains("recovery: Adopt"), "{refusal:?}");
        assert_eq!(
            plan(&key(false), &recovering(found())),
            Step::Recover(Box::new(earlier("ns", "k"))),
            "nothing is made while it is there"
        );
        // Who says so itself needs no permission of the partition's.
        assert_eq!(reason(&plan(&key(true), &seen(found()))), "Adopt");
    }

    #[test]
    fn a_key_made_for_another_name_or_by_others_is_never_recovered() {
        for other in [earlier("ns", "other"), earlier("other", "k"), facts()] {
            let found = Presence::Labelled(vec![other]);
            assert_eq!(reason(&plan(&key(false), &recovering(found))), "Conflict");
        }
        // There is nothing to recover, so that a key is made.
        assert_eq!(plan(&key(false), &recovering(Presence::Labelled(vec![]))), Step::Generate);
    }

    #[test]
    fn a_key_is_recovered_only_as_it_is_described_and_when_it_is_the_only_one() {
        let planned =
            |found: Vec<KeyFacts>| reason(&plan(&key(false), &recovering(Presence::Labelled(found))));
        let rsa = KeyFacts { algorithm: Some(KeyAlgorithm::Rsa), ..earlier("ns", "k") };
        assert_eq!(planned(vec![rsa]), "AttributesDiffer");
        let curve = KeyFacts { curve_oid: Some("1.3.132.0.34".into()), ..earlier("ns", "k") };
        assert_eq!(planned(vec![curve]), "AttributesDiffer");
        let half = KeyFacts { public_key: None, ..earlier("ns", "k") };
        assert_eq!(planned(vec![half]), "AttributesDiffer");
        let twins = KeyFacts { twins: 2, ..earlier("ns", "k") };
        assert_eq!(planned(vec![twins]), "DuplicateObject");
        assert_eq!(planned(vec![earlier("ns", "k"), facts()]), "DuplicateObject");
    }

    #[test]
    fn a_key_that_another_object_has_is_neither_recovered_nor_adopted() {
        for adopt in [false, true] {
            let found = Presence::Labelled(vec![earlier("ns", "k")]);
            let held = Seen { holder: Some("a/b".into()), ..recovering(found) };
            assert_eq!(reason(&plan(&key(adopt), &held)), "Conflict");
        }
    }

    #[test]
    fn a_key_that_was_there_and_is_gone_is_not_replaced_by_an_earlier_one() {
        let found = Presence::Labelled(vec![earlier("ns", "k")]);
        assert_eq!(reason(&plan(&generated(), &recovering(found))), "MissingOnToken");
    }

    #[test]
    fn the_keys_that_attest_are_nobodys_to_take() {
        for id in own_keys(&AttestationSettings::default(), None) {
            let facts = KeyFacts { id: Some(id), ..facts() };
            assert_eq!(reason(&plan(&key(true), &seen(Presence::Labelled(vec![facts])))), "Conflict");
        }
        // One that the vendor's tools made has an id of its own.
        let adopted = |status: Option<HsmPartitionStatus>| {
            let mut seen = seen(Presence::Labelled(vec![facts()]));
            let mut partition = (**seen.partition.as_ref().unwrap()).clone();
            partition.status = status;
            seen.partition = Some(Arc::new(partition));
            reason(&plan(&key(true), &seen)).to_owned()
        };
        let attestation = AttestationStatus {
            mode: "Vendor".into(),
            key_id: facts().id.map(|id| id.to_string()),
            ..AttestationStatus::default()
        };
        let status = HsmPartitionStatus { attestation: Some(attestation), ..HsmPartitionStatus::default() };
        assert_eq!(adopted(Some(status)), "Conflict");
        assert_eq!(adopted(None), "Adopt");
    }

    #[test]
    fn labels_of_keys_that_attest_are_nobodys_even_before_those_are_made() {
        for label in ["attestation-key", "attestation-key-device"] {
            for source in ["Generated", "Imported"] {
                let mut spec = serde_json::to_value(key(false).spec).unwrap();
                (spec["label"], spec["source"]) = (label.into(), source.into());
                let wanted = HsmKey { spec: serde_json::from_value(spec).unwrap(), ..key(false) };
                for presence in [Presence::NotAsked, Presence::Labelled(vec![])] {
                    assert_eq!(reason(&plan(&wanted, &seen(presence))), "Conflict", "{label} {source}");
                }
                // One that was there before goes on.
                let there = HsmKey { status: generated().status, ..wanted };
                assert_ne!(reason(&plan(&there, &seen(Presence::Recorded))), "Conflict");
            }
        }
    }

    #[test]
    fn a_key_whose_making_was_interrupted_is_completed() {
        assert_eq!(plan(&key(false), &seen(Presence::Ours(vec![facts()]))), Step::Generate);
        assert_eq!(reason(&plan(&generated(), &seen(Presence::Ours(vec![facts()])))), "Describe");
    }

    #[test]
    fn two_objects_with_one_id_are_never_used() {
        let twins = KeyFacts { twins: 2, ..facts() };
        assert_eq!(reason(&plan(&key(false), &seen(Presence::Ours(vec![twins])))), "DuplicateObject");
        assert_eq!(
            reason(&plan(&key(true), &seen(Presence::Labelled(vec![facts(), facts()])))),
            "DuplicateObject"
        );
    }

    #[test]
    fn the_younger_claim_and_a_foreign_namespace_are_refused_before_the_token_is_asked() {
        let other = Rival { name: "a/b".into(), leaving: false, recorded: true };
        let rival = Seen { rival: Some(other), ..seen(Presence::NotAsked) };
        assert_eq!(reason(&plan(&key(false), &rival)), "Conflict");
        let foreign = Seen { allowed: false, ..seen(Presence::NotAsked) };
        assert_eq!(reason(&plan(&key(false), &foreign)), "NamespaceNotAllowed");
    }
}
