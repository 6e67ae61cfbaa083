//! `HsmKey`: a key in a partition.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    IMPORTING, LocalRef,
    attestation::AttestationMode,
    certificate::{CertificateSpec, CertificateStatus},
    condition,
    password::PasswordRef,
};
use crate::model::{
    KeyAlgorithm, KeyAttributes, KeyPolicy, RequestedAttributes, SignatureAlgorithm, address::AddressFormat,
    curve, vocabulary_enum as vocabulary,
};

/// A key that lives in an HSM partition; the cluster only ever sees its public half.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "hsm-operator.io",
    version = "v1alpha1",
    kind = "HsmKey",
    namespaced,
    doc = "A key that lives in an HSM partition; the cluster only ever sees its public half.",
    derive = "PartialEq",
    status = "HsmKeyStatus",
    shortname = "hk",
    category = "hsm",
    selectable = ".spec.partitionRef.name",
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
    printcolumn(name = "Partition", type_ = "string", json_path = ".spec.partitionRef.name"),
    printcolumn(name = "Algorithm", type_ = "string", json_path = ".spec.algorithm"),
    printcolumn(name = "Label", type_ = "string", json_path = ".status.label", priority = 1),
    printcolumn(name = "Fingerprint", type_ = "string", json_path = ".status.fingerprint", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.derivedFrom) || self.source == 'Generated'")
    .message("a key that is derived is not imported: leave source out"))]
#[x_kube(validation = Rule::new("self.source != 'ImportedPublic' || (!has(self.policy) && !(has(self.adopt) && self.adopt) && !(has(self.certificate) && has(self.certificate.selfSigned)))")
    .message("a public key alone has no policy, signs no certificate, and is brought, not adopted"))]
#[x_kube(validation = Rule::new("has(self.label) == has(oldSelf.label) && (!has(self.label) || self.label == oldSelf.label)")
    .message("label cannot change: it is the key's name on the HSM"))]
#[x_kube(validation = Rule::new("has(self.keySize) == has(oldSelf.keySize) && (!has(self.keySize) || self.keySize == oldSelf.keySize)")
    .message("keySize cannot change: make a new key"))]
#[x_kube(validation = Rule::new("has(self.curveOid) == has(oldSelf.curveOid) && (!has(self.curveOid) || self.curveOid == oldSelf.curveOid)")
    .message("curveOid cannot change: make a new key"))]
#[x_kube(validation = Rule::new("self.deletionPolicy != 'Destroy' || (has(self.attributes.destroyable) && self.attributes.destroyable)")
    .message("deletionPolicy Destroy needs attributes.destroyable: true"))]
#[x_kube(validation = Rule::new("self.algorithm != 'EC' || has(self.curveOid) || self.source != 'Generated'")
    .message("algorithm EC needs a curveOid"))]
#[x_kube(validation = Rule::new("!(self.algorithm in ['RSA', 'AES']) || has(self.keySize) || self.source != 'Generated'")
    .message("algorithms RSA and AES need a keySize"))]
#[x_kube(validation = Rule::new("has(self.derivedFrom) == has(oldSelf.derivedFrom) && (!has(self.derivedFrom) || self.derivedFrom == oldSelf.derivedFrom)")
    .message("derivedFrom cannot change: derive a new key"))]
#[x_kube(validation = Rule::new("has(self.derivedFrom) || !has(self.label) || !self.label.contains('/')")
    .message("'/' in a label starts a derivation path: only keys with derivedFrom have one"))]
#[x_kube(validation = Rule::new("!has(self.derivedFrom) || (has(self.label) && self.label.endsWith('/' + self.derivedFrom.path))")
    .message("the label of a derived key is the label of the key in derivedFrom, '/' and the path"))]
#[x_kube(validation = Rule::new("!has(self.derivedFrom) || (self.algorithm in ['EC', 'ED'] && !(has(self.adopt) && self.adopt))")
    .message("keys with derivedFrom are EC or ED keys, and are derived, not adopted"))]
#[x_kube(validation = Rule::new("!(self.algorithm in ['LMS', 'XMSS-SHA256_10_256', 'XMSS-SHAKE256_10_256']) || (self.source == 'Generated' && !(has(self.attributes.extractable) && self.attributes.extractable) && !(has(self.attributes.copyable) && self.attributes.copyable) && !(has(self.attributes.sensitive) && !self.attributes.sensitive))")
    .message("keys of the algorithms LMS and XMSS have a state and no copies: they are generated, sensitive, and neither extractable nor copyable"))]
#[x_kube(validation = Rule::new("!has(self.certificate) || self.algorithm in ['RSA', 'EC', 'ED']")
    .message("only keys of the algorithms RSA, EC and ED have certificates"))]
#[x_kube(validation = Rule::new("!has(oldSelf.password) || (has(self.password) && self.password.secretName == oldSelf.password.secretName)")
    .message("password cannot be taken away or exchanged: change it over REST, by key/changePassword"))]
#[x_kube(validation = Rule::new("has(self.policy) == has(oldSelf.policy) && (!has(self.policy) || self.policy == oldSelf.policy)")
    .message("policy cannot change, come or go: make a new key"))]
#[x_kube(validation = Rule::new("has(self.addressFormat) == has(oldSelf.addressFormat) && (!has(self.addressFormat) || self.addressFormat == oldSelf.addressFormat)")
    .message("addressFormat cannot change, come or go: make a new key"))]
#[x_kube(validation = Rule::new("!has(self.addressFormat) || has(self.policy)")
    .message("only keys with a policy have an address: give the key a policy, which may ask nobody"))]
#[x_kube(validation = Rule::new("!has(self.policy) || !has(self.attributes.extractable) || !self.attributes.extractable")
    .message("a key with a policy is never extractable"))]
pub struct HsmKeySpec {
    /// Partition that holds the key. Cannot change.
    #[x_kube(validation = Rule::new("self == oldSelf").message("partitionRef cannot change: make a new key"))]
    pub partition_ref: LocalRef,
    /// Name of the key on the HSM, unique on its partition. Default: the name of this object. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub label: Option<String>,
    /// Algorithm, in the words of the REST API. Keys of LMS and XMSS have a state: each makes so many signatures and no more,
    /// and they are refused on partitions with replicas. Cannot change.
    #[x_kube(validation = Rule::new("self == oldSelf").message("algorithm cannot change: make a new key"))]
    pub algorithm: KeyAlgorithm,
    /// Where the key comes from: made on the HSM, or brought to it over the REST API. Cannot change.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("source cannot change: make a new key"))]
    pub source: Source,
    /// Size in bits, for algorithms that have sizes: RSA 2048 to 8192, AES 128, 192 or 256. Of an imported key it may be
    /// left out; status has it then. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16384))]
    pub key_size: Option<i32>,
    /// Curve, for EC keys: `1.2.840.10045.3.1.7` is P-256, `1.3.132.0.10` secp256k1. Of an imported key it may be left
    /// out; status has it then. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[0-9]+(\.[0-9]+)+$"))]
    pub curve_oid: Option<String>,
    /// What the key may do and how it is protected. Cannot change.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("attributes cannot change: make a new key"))]
    pub attributes: RequestedAttributes,
    /// Take over a key that is already on the HSM under this label, instead of making one.
    #[serde(default)]
    pub adopt: bool,
    /// What happens to the key on the HSM when this object is deleted. Destroy needs `attributes.destroyable`.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Name of the Secret that receives public key and attestation. Default: `<name>-public`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub public_key_secret_name: Option<String>,
    /// Derive the key from another one, along a path (BIP-32, SLIP-10), instead of making a new one. Needs a token that
    /// derives. Algorithm and curve are those of the other key, and the label is its label, `/` and the path. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derived_from: Option<DerivedFrom>,
    /// The key's certificate: `tls.crt` of the Secret. It can change, come and go while the key is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateSpec>,
    /// Who has to approve what is done with the key. Only policies that ask nobody are served yet, and only of key pairs.
    /// Cannot change, come or go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<KeyPolicy>,
    /// Address that the key is to have; status has it then. Of EC keys on secp256k1, for XRP also of ED keys, and only with a
    /// policy, which may be one that asks nobody: `policy: {keyStatus: {blocked: false}}`. Cannot change, come or go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_format: Option<AddressSpec>,
    /// The key has a password, or had one. The gateway writes this when a key gets its first password over REST; it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordRef>,
}

/// Which address a key is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddressSpec {
    /// The cryptocurrency. XLM and IOTA are words of the REST API and are not served: what their 20 bytes are is not public.
    pub format: AddressFormat,
}

vocabulary! {
    /// Where a key comes from.
    #[derive(Default)]
    Source {
        /// It is made on the HSM.
        #[default]
        Generated = "Generated",
        /// It is brought to the HSM by a request of the REST API: `POST /v1/key/import/plain`, `/v1/synchronousUnwrap`,
        /// or comes from a seed that is brought so: `/v1/importedKey`. Until then it is waited for, and never made.
        Imported = "Imported",
        /// It is the public half of a key that is elsewhere, or a certificate with one, and is brought in the same way by
        /// `POST /v1/key/import/plain`. It verifies, encrypts and wraps; nothing that takes a private key can be done with it.
        ImportedPublic = "ImportedPublic",
    }
}

/// Where a derived key comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DerivedFrom {
    /// Name of the HsmKey from which it is derived, in the same namespace and on the same partition: a key made with
    /// attributes.derive, and bip32 or slip10.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// The way from there: numbers below 2147483648, with `'` behind those that are hardened, separated by `/`. With ED keys
    /// all are hardened.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^(0|[1-9][0-9]{0,9})'?(/(0|[1-9][0-9]{0,9})'?)*$")
    )]
    pub path: String,
}

vocabulary! {
    /// What happens to a key on the HSM when its object is deleted.
    #[derive(Default)]
    DeletionPolicy {
        /// The key stays.
        #[default]
        Retain = "Retain",
        /// The key is destroyed, both halves.
        Destroy = "Destroy",
    }
}

/// What is known of a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HsmKeyStatus {
    /// Ready: the key can be used. Generated, Published, Attested: the steps to it. Certified: it has
    /// the certificate that the spec asks for. Stalled: a person must act.
    #[serde(default)]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Identifier of the key on its token (CKA_ID), in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Label of the key on its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Public key: base64 of the SubjectPublicKeyInfo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// SHA-256 of the SubjectPublicKeyInfo, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Identifier of the algorithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm_oid: Option<String>,
    /// Size in bits, for RSA and secret keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_size: Option<i32>,
    /// Curve, for EC keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curve_oid: Option<String>,
    /// Attributes as the token reports them, which need not be those asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<KeyAttributes>,
    /// Chain code of a key of a tree, as the token reports it. Together with the public key it is enough to compute the
    /// public keys below, and with one private key below without hardened step, the private key itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derivation: Option<Derivation>,
    /// The key's address, if the spec asks for one. It follows from the public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// When the operator first saw the key. Tokens do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_time: Option<String>,
    /// The signed statement about the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Attestation>,
    /// The key's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    /// Uses are refused. Blocking comes with approvals.
    #[serde(default)]
    pub blocked: bool,
}

/// Place of a key in a tree of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Derivation {
    /// Kind of tree: `SLIP-10`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Chain code, in upper-case hexadecimal.
    pub value: String,
}

/// A key's address in a cryptocurrency, without prefix and checksum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Address {
    /// The cryptocurrency.
    pub format: AddressFormat,
    /// The 20 bytes of the address, in upper-case hexadecimal. BTC and XRP: HASH160 of the compressed public key; ETH: the end
    /// of the Keccak-256 of the public key.
    pub value: String,
}

/// A signed statement about a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attestation {
    /// The statement: XML, to the byte.
    pub xml: String,
    /// Signature of its bytes, base64.
    pub xml_signature: String,
    /// How the signature was made: `SHA256_WITH_RSA`, also where nothing is said, `SHA256_WITH_RSA_PSS` or
    /// `SHA256_WITH_ECDSA`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature_algorithm: Option<String>,
    /// Label of the key that signed.
    pub attestation_key_name: String,
    /// When it was made.
    pub attest_time: String,
    /// `Software`: the operator states what the token reported. `Vendor`: the HSM states it.
    pub mode: String,
}

impl Attestation {
    /// How the signature was made; `None` for what is not known.
    #[must_use]
    pub fn algorithm(&self) -> Option<SignatureAlgorithm> {
        self.signature_algorithm
            .as_ref()
            .map_or(Some(SignatureAlgorithm::Sha256WithRsa), |name| name.parse().ok())
    }

    /// Whether it is the HSM itself that speaks.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.mode == AttestationMode::Vendor.name()
    }
}

impl HsmKeySpec {
    /// Identifier of the curve that is meant: the contract has others for some.
    #[must_use]
    pub fn curve(&self) -> Option<&str> {
        self.curve_oid.as_deref().map(curve::meant)
    }
}

impl HsmKey {
    /// Whether only the public half is on the HSM, by intention.
    #[must_use]
    pub fn is_public_only(&self) -> bool {
        self.spec.source == Source::ImportedPublic
    }

    /// Since when a gateway brings the key, as it noted.
    #[must_use]
    pub fn importing_since(&self) -> Option<Timestamp> {
        self.annotations().get(IMPORTING)?.parse().ok()
    }

    /// The key's name on the HSM.
    #[must_use]
    pub fn label(&self) -> String {
        self.spec.label.clone().unwrap_or_else(|| self.name_any())
    }

    /// Name of the Secret with the public half.
    #[must_use]
    pub fn public_secret(&self) -> String {
        self.spec.public_key_secret_name.clone().unwrap_or_else(|| format!("{}-public", self.name_any()))
    }

    /// Whether the key can be used.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, condition::READY))
    }
}
