//! Keys that are derived from others.

use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::{
    plan::{AWAITED, Refusal},
    report::Done,
};
use crate::{
    api::{HsmKey, IMPORTING, key::DerivedFrom, password::PASSWORD_REQUIRED},
    controller::context::Context,
    hsm::protocol::{DerivedTemplate, KeyTemplate, Request},
    model::derivation::DerivationPath,
    service::directory::Usable,
};

/// Reason of a key that waits for the one it is derived from.
pub const MASTER_NOT_READY: &str = "MasterNotReady";

/// Why the token is not asked to derive a key.
#[derive(Debug)]
pub enum Unasked {
    /// It cannot be, or not now.
    Done(Done),
    /// Its master has a password, which a gateway was given and checked: whatever has the key's id is what that derived. This
    /// is said of a key that is not there.
    ByGateway(Done),
}

impl From<Done> for Unasked {
    fn from(done: Done) -> Self {
        Self::Done(done)
    }
}

/// What is asked of the token for a derived key, or why it is not asked.
pub fn request(
    key: &HsmKey,
    from: &DerivedFrom,
    template: KeyTemplate,
    ctx: &Context,
) -> Result<Request, Unasked> {
    let name = ObjectRef::new(&from.key).within(&key.namespace().unwrap_or_default());
    let known = ctx.keys.get(&name);
    let master = known.as_ref().and_then(|guarded| guarded.0.as_ref().ok());
    let Some(master) = master else {
        let message = format!("there is no HsmKey {} to derive from", from.key);
        return Err(Done::Waiting(MASTER_NOT_READY, message).into());
    };
    let refuse = |reason, message: String| Err(Done::Refused(Refusal { reason, message }).into());
    if let Some(why) = mismatch(key, from, master) {
        return refuse("InvalidSpec", why);
    }
    // Whoever asked over REST may have given it, and whoever wrote a manifest did not.
    if master.spec.password.is_some() {
        // A gateway that was given it is about to derive the key, or was when it died.
        if key.annotations().contains_key(IMPORTING) {
            let message = format!(
                "the gateway that was given the password of HsmKey {} derives the key; if that was cut off, the same \
                 POST /v1/derivedKey completes it",
                from.key
            );
            return Err(Unasked::ByGateway(Done::Waiting(AWAITED, message)));
        }
        let message = format!(
            "HsmKey {} has or had a password, which a manifest does not carry: derive the key by POST /v1/derivedKey",
            from.key
        );
        return Err(Unasked::ByGateway(Done::Refused(Refusal { reason: PASSWORD_REQUIRED, message })));
    }
    let Some(usable) = Usable::of(master) else {
        return Err(Done::Waiting(MASTER_NOT_READY, format!("HsmKey {} is not Ready", from.key)).into());
    };
    if master.status.as_ref().is_none_or(|status| status.derivation.is_none()) {
        let message = format!(
            "nothing can be derived from HsmKey {}: it was made without attributes.bip32 and slip10",
            from.key
        );
        return refuse("InvalidSpec", message);
    }
    let path = DerivationPath::parse(&from.path)
        .map_err(|error| Done::Refused(Refusal { reason: "InvalidSpec", message: error.to_string() }))?;
    Ok(Request::Derive(Box::new(DerivedTemplate { template, master: usable.id, path })))
}

/// What of a key does not go with the one it is to be derived from.
fn mismatch(key: &HsmKey, from: &DerivedFrom, master: &HsmKey) -> Option<String> {
    let (spec, other) = (&key.spec, &master.spec);
    let label = format!("{}/{}", master.label(), from.path);
    if spec.partition_ref != other.partition_ref {
        return Some(format!("HsmKey {} is on partition {}", from.key, other.partition_ref.name));
    }
    if spec.algorithm != other.algorithm || spec.curve() != other.curve() {
        return Some(format!("HsmKey {} is of another algorithm or on another curve", from.key));
    }
    if spec.policy != other.policy {
        return Some(format!("policy has to be that of HsmKey {}", from.key));
    }
    if let Some(how) = spec.attributes.weaker_than(&other.attributes) {
        return Some(format!("a key that is derived from HsmKey {} cannot be {how}", from.key));
    }
    (key.label() != label).then(|| format!("the label of this key has to be '{label}'"))
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher::Event};
    use serde_json::json;

    use super::*;
    use crate::{
        controller::context::Guarded,
        model::{KeyAlgorithm, KeyId, KeyLabel, RequestedAttributes},
    };

    /// What is asked of the token for `m/0'/1` while the cluster has this object, or the reason why nothing is.
    fn asked(master: Option<serde_json::Value>) -> Result<DerivedTemplate, &'static str> {
        asked_of(master, false)
    }

    /// The same where a gateway noted that it derives the key, or where none did.
    fn asked_of(master: Option<serde_json::Value>, noted: bool) -> Result<DerivedTemplate, &'static str> {
        let (keys, mut seen) = reflector::store::<Guarded<HsmKey>>();
        let ctx = Context::alone(kube::Client::new(axum::Router::new(), "default"), keys);
        if let Some(master) = master {
            seen.apply_watcher_event(&Event::Apply(serde_json::from_value(master).unwrap()));
        }
        let from = DerivedFrom { key: "m".into(), path: "0'/1".into() };
        let mut derived = key(json!({"label": "m/0'/1"}));
        derived.metadata.namespace = Some("ns".into());
        if noted {
            derived.annotations_mut().insert(IMPORTING.into(), "2026-01-01T00:00:00Z".into());
        }
        let template = KeyTemplate {
            id: KeyId::for_purpose("child"),
            label: KeyLabel::stored("m/0'/1").unwrap(),
            algorithm: KeyAlgorithm::Ec,
            key_size: None,
            curve_oid: None,
            attributes: RequestedAttributes::default().resolved(),
        };
        match request(&derived, &from, template, &ctx) {
            Ok(Request::Derive(wanted)) => Ok(*wanted),
            Ok(other) => panic!("{other:?}"),
            Err(
                Unasked::Done(Done::Waiting(reason, _) | Done::Refused(Refusal { reason, .. }))
                | Unasked::ByGateway(Done::Waiting(reason, _) | Done::Refused(Refusal { reason, .. })),
            ) => Err(reason),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn master(ready: bool, chain: bool) -> serde_json::Value {
        let derivation = json!({"type": "SLIP-10", "value": "AB"});
        json!({
            "apiVersion": "hsm-operator.io/v1alpha1", "kind": "HsmKey",
            "metadata": {"name": "m", "namespace": "ns", "uid": "u"},
            "spec": {"partitionRef": {"name": "p"}, "algorithm": "EC", "curveOid": "1.3.132.0.10"},
            "status": {
                "keyId": KeyId::for_purpose("master").to_string(),
                "derivation": if chain { derivation } else { serde_json::Value::Null },
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "reason": "r",
                    "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        })
    }

    #[tokio::test]
    async fn the_master_is_waited_for_and_has_to_be_one() {
        assert_eq!(asked(None).unwrap_err(), MASTER_NOT_READY);
        assert_eq!(asked(Some(master(false, true))).unwrap_err(), MASTER_NOT_READY);
        assert_eq!(asked(Some(master(true, false))).unwrap_err(), "InvalidSpec");
        let wanted = asked(Some(master(true, true))).unwrap();
        assert_eq!(wanted.master, KeyId::for_purpose("master"));
        assert_eq!((wanted.path.to_string().as_str(), wanted.template.label.as_str()), ("0'/1", "m/0'/1"));
    }

    #[tokio::test]
    async fn what_comes_of_a_master_with_a_password_is_never_derived_here() {
        let guarded = || {
            let mut master = master(true, true);
            master["spec"]["password"] = json!({"secretName": "s"});
            Some(master)
        };
        assert_eq!(asked_of(guarded(), false).unwrap_err(), PASSWORD_REQUIRED);
        assert_eq!(asked_of(guarded(), true).unwrap_err(), AWAITED);
        // Of another master, a note on the object changes nothing.
        assert!(asked_of(Some(master(true, true)), true).is_ok());
    }

    fn key(spec: serde_json::Value) -> HsmKey {
        let mut whole = json!({"partitionRef": {"name": "p"}, "algorithm": "EC", "curveOid": "1.3.132.0.10"});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        HsmKey::new("m", serde_json::from_value(whole).unwrap())
    }

    #[test]
    fn a_key_goes_with_the_one_it_is_derived_from() {
        let from = DerivedFrom { key: "m".into(), path: "0'/1".into() };
        let wrong = |derived: serde_json::Value, master: serde_json::Value| {
            mismatch(&key(derived), &from, &key(master)).unwrap_or_default()
        };
        assert_eq!(wrong(json!({"label": "M/0'/1"}), json!({"label": "M"})), "");
        assert_eq!(wrong(json!({"label": "m/0'/1"}), json!({})), "");
        assert_eq!(wrong(json!({"label": "x/0'/1"}), json!({})), "the label of this key has to be 'm/0'/1'");
        let elsewhere = json!({"partitionRef": {"name": "q"}});
        assert_eq!(wrong(json!({"label": "m/0'/1"}), elsewhere), "HsmKey m is on partition q");
        for other in [json!({"algorithm": "ED"}), json!({"curveOid": "1.2.840.10045.3.1.7"})] {
            let why = wrong(json!({"label": "m/0'/1"}), other);
            assert_eq!(why, "HsmKey m is of another algorithm or on another curve");
        }
    }
}
