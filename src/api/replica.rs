//! Replicas of a partition's token: what they are in its spec and its status.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::partition::{Pkcs11, SecretKeyRef, Variable};

/// A further token with the same keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct Replica {
    /// Its name in status, logs and metrics.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(validation = Rule::new("self != 'primary'").message("'primary' is the name of the partition's own token"))]
    pub name: String,
    /// How it is reached, as far as that differs from the partition's own token.
    pub pkcs11: ReplicaPkcs11,
}

/// How a replica is reached. What is left out is that of the partition's own token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.tokenLabel), has(self.serial), has(self.slot)].filter(given, given).size() <= 1")
    .message("at most one of tokenLabel, serial and slot chooses the token"))]
#[x_kube(validation = Rule::new("[has(self.library), has(self.tokenLabel), has(self.serial), has(self.slot), has(self.initArgs), has(self.environment)].exists(given, given)")
    .message("a replica that is reached in the same way is the same token: say what differs"))]
pub struct ReplicaPkcs11 {
    /// Absolute path of the PKCS#11 library in the operator's containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^/"))]
    pub library: Option<String>,
    /// Chooses the token by its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub token_label: Option<String>,
    /// Chooses the token by its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub serial: Option<String>,
    /// Chooses the token by slot number, for modules whose numbers never change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub slot: Option<i64>,
    /// Secret in the operator's namespace that holds the PIN of the token's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_secret_ref: Option<SecretKeyRef>,
    /// Text that is handed to C_Initialize, for modules that are configured by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub init_args: Option<String>,
    /// Environment of the process that loads the library, in place of the partition's. Never put a PIN here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub environment: Option<Vec<Variable>>,
}

impl Replica {
    /// How it is reached, in full.
    #[must_use]
    pub fn reached(&self, primary: &Pkcs11) -> Pkcs11 {
        let own = self.pkcs11.clone();
        let chosen = own.token_label.is_some() || own.serial.is_some() || own.slot.is_some();
        let (token_label, serial, slot) = if chosen {
            (own.token_label, own.serial, own.slot)
        } else {
            (primary.token_label.clone(), primary.serial.clone(), primary.slot)
        };
        Pkcs11 {
            library: own.library.unwrap_or_else(|| primary.library.clone()),
            token_label,
            serial,
            slot,
            pin_secret_ref: own.pin_secret_ref.unwrap_or_else(|| primary.pin_secret_ref.clone()),
            init_args: own.init_args.or_else(|| primary.init_args.clone()),
            environment: own.environment.unwrap_or_else(|| primary.environment.clone()),
        }
    }
}

/// What the controller knows of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Its name in the spec.
    pub name: String,
    /// Whether it signs.
    pub healthy: bool,
    /// A word that says why.
    pub reason: String,
    /// A sentence that says why.
    pub message: String,
    /// Serial number of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// When `healthy` or `reason` changed.
    pub last_change: String,
    /// Version of the PIN Secret that the token accepted, and a digest of how it was reached. Gateways log in with no other
    /// PIN and in no other way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_pin: Option<String>,
    /// Version of the PIN Secret that the token refused; it is not tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_pin: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_replica_has_of_the_partition_what_it_does_not_say_itself() {
        let primary: Pkcs11 = serde_json::from_value(json!({
            "library": "/a.so", "tokenLabel": "a", "pinSecretRef": {"name": "pin"}, "initArgs": "x",
            "environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        }))
        .unwrap();
        let reached = |own| {
            let own = serde_json::from_value(json!({"name": "b", "pkcs11": own})).unwrap();
            Replica::reached(&own, &primary)
        };
        let environment = reached(json!({"environment": [{"name": "A", "value": "3"}]}));
        assert_eq!(environment.environment.len(), 1);
        assert_eq!((environment.token_label.as_deref(), &*environment.library), (Some("a"), "/a.so"));
        assert_eq!(environment.pin_secret_ref.name, "pin");
        let slot = reached(json!({"slot": 7}));
        assert_eq!(
            (slot.token_label, slot.serial, slot.slot),
            (None, None, Some(7)),
            "one choice, and not two"
        );
        assert_eq!((slot.init_args.as_deref(), slot.environment.len()), (Some("x"), 2));
    }
}
