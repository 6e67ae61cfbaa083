//! `HsmPartition`: a token and how it is reached.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{
    CustomResource, KubeSchema,
    core::{Selector, SelectorExt},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::attestation::{
    AttestationKeyName, AttestationMode, AttestationSettings, AttestationStatus, OTHERS_MAX,
};
use super::{
    replica::{Replica, ReplicaStatus},
    sessions::{Sessions, SessionsStatus},
    timestamp::TimestampSettings,
};
use crate::model::{KeyAlgorithm, digest::Hash, vendor::VendorMechanisms, vocabulary_enum as vocabulary};

/// A token behind a PKCS#11 library: an HSM partition, or anything that acts like one.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "hsm-operator.io",
    version = "v1alpha1",
    kind = "HsmPartition",
    doc = "A token behind a PKCS#11 library that holds keys: an HSM partition, or anything that acts like one.",
    derive = "PartialEq",
    status = "HsmPartitionStatus",
    shortname = "hp",
    category = "hsm",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(
        name = "Signable",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="Signable")].status"#
    ),
    printcolumn(
        name = "Creatable",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="Creatable")].status"#
    ),
    printcolumn(name = "Token", type_ = "string", json_path = ".status.token.label"),
    printcolumn(name = "Model", type_ = "string", json_path = ".status.token.model"),
    printcolumn(name = "Keys", type_ = "integer", json_path = ".status.keyCount"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct HsmPartitionSpec {
    /// The PKCS#11 library, which of its tokens, and the PIN.
    pub pkcs11: Pkcs11,
    /// Further tokens with the same keys, which sign as well. Keys are made on the token of `pkcs11` alone; bringing them
    /// to the replicas is the business of the HSM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub replicas: Vec<Replica>,
    /// Namespaces whose HsmKeys may live here, by the namespaces' labels. `{}` allows every namespace; there is
    /// no default, so that opening a partition is always a decision.
    pub allowed_namespaces: LabelSelector,
    /// Sessions that sign at the same time, in each process that uses the partition: 1 to 64, or `auto`. With `auto` the
    /// controller measures how many are worth it, once for each token as it presents itself, which loads the token for
    /// some seconds; `status.sessions` shows what it chose.
    #[serde(default)]
    pub sessions: Sessions,
    /// Processes of each gateway that load the library and sign, with `sessions` sessions each. More than one is worth
    /// it for libraries whose threads wait for each other.
    #[serde(default = "default_token_hosts")]
    #[schemars(range(min = 1, max = 16))]
    pub token_hosts: i32,
    /// Which signatures are verified with the public key before they are handed out. Those of SigningRequests and
    /// attestations always are.
    #[serde(default)]
    pub verify_signatures: VerifySignatures,
    /// How keys are attested.
    #[serde(default)]
    pub attestation: AttestationSettings,
    /// What becomes of a key on the token that was made for an HsmKey of the same namespace, name and label before this
    /// one: after the cluster's data was lost, a restore, or a deletion with Retain. Set it to Adopt for the time of a
    /// recovery, and never where another cluster uses the token.
    #[serde(default)]
    pub recovery: Recovery,
    /// Who makes the timestamps of `POST /v1/createRfcTimestamp` for the namespaces of the partition. Default: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<TimestampSettings>,
    /// Numbers of the vendor's own mechanisms, as `0x80000E01`, where they are not those that are publicly known. They count
    /// where the token lists the mechanisms.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub vendor_mechanisms: VendorMechanisms,
}

fn is_usual(vendor: &VendorMechanisms) -> bool {
    *vendor == VendorMechanisms::default()
}

const fn default_token_hosts() -> i32 {
    1
}

/// How a token is reached over PKCS#11.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.tokenLabel), has(self.serial), has(self.slot)].filter(given, given).size() == 1")
    .message("exactly one of tokenLabel, serial and slot chooses the token"))]
pub struct Pkcs11 {
    /// Absolute path of the PKCS#11 library in the operator's containers.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^/"))]
    pub library: String,
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
    pub pin_secret_ref: SecretKeyRef,
    /// Text that is handed to C_Initialize, for modules that are configured by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub init_args: Option<String>,
    /// Environment of the process that loads the library. Never put a PIN here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub environment: Vec<Variable>,
}

impl Pkcs11 {
    /// What is written down when the token that is reached in this way accepted the PIN of a version of the Secret. Reached in
    /// another way, it may be another token, which has not.
    #[must_use]
    pub fn accepted(&self, version: &str) -> String {
        let way = Hash::Sha256.digest(&serde_json::to_vec(self).expect("plain data"));
        format!("{version}-{}", hex::encode(&way[..4]))
    }
}

/// An environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Variable {
    /// Its name.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Its value.
    #[schemars(length(max = 4096))]
    pub value: String,
}

/// A key of a Secret in the operator's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data.
    #[serde(default = "default_pin_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn default_pin_key() -> String {
    "pin".into()
}

vocabulary! {
    /// What becomes of a key that was made for an earlier HsmKey of the same name.
    #[derive(Default)]
    Recovery {
        /// It stays as it is, and the HsmKey says Recoverable.
        #[default]
        Never = "Never",
        /// The HsmKey takes it over.
        Adopt = "Adopt",
    }
}

vocabulary! {
    /// Which signatures are verified before they are handed out.
    #[derive(Default)]
    VerifySignatures {
        /// Every one of an RSA key, where that costs little beside signing. Of other keys the first with each algorithm
        /// and one of 32 of the rest; all of a token for an hour after one of it was wrong, with whatever key.
        #[default]
        Auto = "Auto",
        /// Every one.
        Always = "Always",
        /// The first of each key with each algorithm.
        First = "First",
    }
}

/// What is known of a partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HsmPartitionStatus {
    /// Ready: keys can be made and used. Reachable: the token answers. Signable: at least one token signs. Creatable: keys
    /// can be made. Attesting: who attests keys, or why nobody does. Stalled: a person must act.
    #[serde(default)]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The token as it presents itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenStatus>,
    /// How it stands with each replica.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub replicas: Vec<ReplicaStatus>,
    /// How many sessions are worth it, where `sessions` is `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<SessionsStatus>,
    /// HsmKeys that are on the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_count: Option<i32>,
    /// Keys on the token that no HsmKey claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unclaimed: Option<Unclaimed>,
    /// What else was found when the token's objects were last listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<InventoryStatus>,
    /// The key that attests keys of this partition from now on, and its certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<AttestationStatus>,
    /// Others: the operator's own where the HSM attests, and those that attested before, the newest first, at most 8. A key
    /// keeps the attestation that it has, and the certificates that belong to it are here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub other_attestations: Vec<AttestationStatus>,
    /// Version of the PIN Secret that the token accepted, and a digest of how it was reached. Gateways log in with no other
    /// PIN and in no other way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_pin: Option<String>,
    /// Version of the PIN Secret that the token refused; it is not tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_pin: Option<String>,
}

/// A token as it presents itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenStatus {
    /// Label.
    pub label: String,
    /// Manufacturer.
    pub manufacturer: String,
    /// Model.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Firmware version.
    pub firmware: String,
    /// Description and version of the library.
    pub library: String,
    /// Key algorithms that it makes, with sizes in bits.
    pub key_algorithms: Vec<String>,
    /// Signature algorithms that it makes.
    pub signature_algorithms: Vec<String>,
    /// Ciphers with which its keys encrypt or decrypt.
    #[serde(default)]
    pub cipher_algorithms: Vec<String>,
    /// What trying it found out; absent until it was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probed: Option<Probed>,
}

/// What trying a token found out, measured once for each token as it presents itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probed {
    /// Curves on which it makes keys.
    pub curves: Vec<String>,
    /// The first 200 mechanisms of its list, by name.
    pub mechanisms: Vec<String>,
    /// How many mechanisms its list has.
    pub mechanism_count: i32,
    /// What it has room for.
    pub limits: TokenLimits,
    /// How long one signature takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<SignatureSpeed>,
    /// In what it differs from others, or does not.
    pub quirks: Vec<TokenQuirk>,
}

/// What a token has room for; absent where it does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenLimits {
    /// Sessions that the controller had open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<i64>,
    /// Most sessions; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_max: Option<i64>,
    /// Most sessions that may write, as those of the operator all may; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rw_sessions_max: Option<i64>,
    /// Bytes that were free for private objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_memory_free: Option<i64>,
    /// All of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_memory: Option<i64>,
    /// Shortest PIN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_min: Option<i64>,
    /// Longest PIN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_max: Option<i64>,
}

/// How long one signature takes with one session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignatureSpeed {
    /// With which key.
    pub key: String,
    /// The median of a few.
    pub microseconds: i32,
}

/// Something in which modules differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenQuirk {
    /// What it is about.
    pub name: String,
    /// How it is here.
    pub value: String,
    /// Most are otherwise.
    pub odd: bool,
    /// What follows.
    pub means: String,
}

/// Keys on the token that no HsmKey claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unclaimed {
    /// How many.
    pub count: i32,
    /// The first 20 of them.
    pub keys: Vec<UnclaimedKey>,
}

/// A key that no HsmKey claims. Adopt it with an HsmKey of its label and `adopt: true`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnclaimedKey {
    /// Identifier on the token, in hexadecimal.
    pub id: String,
    /// Label on the token.
    pub label: String,
    /// Algorithm; absent for a kind of key that an HsmKey does not describe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<KeyAlgorithm>,
    /// Size in bits, for RSA and secret keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_size: Option<i32>,
    /// Curve, for EC keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curve_oid: Option<String>,
    /// `namespace/name` of the HsmKey that it was made for, where that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_for: Option<String>,
}

/// What was found when the token's objects were last listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InventoryStatus {
    /// When they were listed. What the controller makes and destroys is followed since.
    pub time: String,
    /// Private and secret keys, with the operator's own.
    pub keys: i32,
    /// Keys that were made for an earlier HsmKey of the name of one that has no key now. It says Recoverable.
    pub recoverable: i32,
    /// What is left of keys.
    pub ghosts: Ghosts,
    /// Identifiers that several keys have. None of these keys is used.
    pub duplicates: Duplicates,
    /// HsmKeys whose key is gone from the token.
    pub missing: Missing,
}

/// What a process that was killed while a key was made or destroyed may have left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ghosts {
    /// How many.
    pub count: i32,
    /// The first 20 of them.
    pub objects: Vec<Ghost>,
}

/// An object that is no key: nobody can use it, and the operator does not touch it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ghost {
    /// Identifier on the token, in hexadecimal; empty where it has none.
    pub id: String,
    /// Label on the token.
    pub label: String,
    /// PrivateKey or SecretKey: one that is not complete. PublicKey: the half of a pair whose private half is not there;
    /// it may have been put there on purpose. Unreadable: the token lists it and does not say what it is.
    pub kind: String,
}

/// Identifiers that several keys have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Duplicates {
    /// How many.
    pub count: i32,
    /// The first 20 of them, in hexadecimal.
    pub ids: Vec<String>,
}

/// HsmKeys whose key is gone from the token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// How many.
    pub count: i32,
    /// The first 20 of them, as `namespace/name`.
    pub keys: Vec<String>,
}

impl HsmPartition {
    /// Whether a PIN of it, of its own token or of a replica, is in the Secret of this name.
    #[must_use]
    pub fn has_pin_in(&self, secret: &str) -> bool {
        let replicas = self.spec.replicas.iter().filter_map(|one| one.pkcs11.pin_secret_ref.as_ref());
        std::iter::once(&self.spec.pkcs11.pin_secret_ref).chain(replicas).any(|pin| pin.name == secret)
    }

    /// What the controller knows of a replica.
    #[must_use]
    pub fn replica_status(&self, name: &str) -> Option<&ReplicaStatus> {
        self.status.as_ref()?.replicas.iter().find(|one| one.name == name)
    }

    /// Whether keys of a namespace with these labels may live here. A selector that cannot be read allows nobody.
    #[must_use]
    pub fn allows(&self, labels: &BTreeMap<String, String>) -> bool {
        Selector::try_from(self.spec.allowed_namespaces.clone())
            .is_ok_and(|selector| selector.matches(labels))
    }
}
