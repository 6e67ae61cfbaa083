//! `SigningRequest`: one signature, asked for and answered by an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LocalRef;
use crate::model::{SignatureAlgorithm, SignatureType, payload::PayloadType, vocabulary_enum as vocabulary};

/// A request for one signature. Its spec never changes; its status receives the signature once.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "hsm-operator.io",
    version = "v1alpha1",
    kind = "SigningRequest",
    namespaced,
    doc = "A request for one signature. Its spec never changes; its status receives the signature once.",
    derive = "PartialEq",
    status = "SigningRequestStatus",
    shortname = "sr",
    category = "hsm",
    selectable = ".spec.keyRef.name",
    printcolumn(name = "Key", type_ = "string", json_path = ".spec.keyRef.name"),
    printcolumn(name = "Algorithm", type_ = "string", json_path = ".spec.signatureAlgorithm"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Requester", type_ = "string", json_path = ".spec.requester.username", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a SigningRequest never changes: make a new one"))]
#[x_kube(validation = Rule::new("size(self.payload) <= (self.payloadType == 'HEX' ? 131072 : 87384)")
    .message("the payload has more than 64 KiB: hash it yourself and sign the digest with a NONE… algorithm"))]
pub struct SigningRequestSpec {
    /// HsmKey in this namespace that signs.
    pub key_ref: LocalRef,
    /// What is signed: base64, or hexadecimal when payloadType is HEX. At most 64 KiB decoded: hash larger data
    /// yourself and sign the digest with a NONE… algorithm.
    #[schemars(length(max = 1_400_000))]
    pub payload: String,
    /// How the payload is written, and what it is said to be.
    #[serde(default)]
    pub payload_type: PayloadType,
    /// Signature algorithm, in the words of the REST API.
    pub signature_algorithm: SignatureAlgorithm,
    /// How the signature is written.
    #[serde(default)]
    pub signature_type: SignatureType,
    /// Context that is signed along with the payload: base64, at most 255 bytes decoded. Only the signature algorithms of
    /// ML-DSA and SLH-DSA have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 340))]
    pub context: Option<String>,
    /// Base64, shown to approvers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65_536))]
    pub meta_data: Option<String>,
    /// Base64, signature of the decoded metaData by the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16_384))]
    pub meta_data_signature: Option<String>,
    /// Seconds after which a finished request is deleted. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<i32>,
    /// Who asked. Written at admission from the authenticated user, whatever was given here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<Requester>,
}

/// The user who created a request, as the API server authenticated them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Requester {
    /// User name.
    #[schemars(length(max = 1024))]
    pub username: String,
    /// User's unique identifier, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub uid: Option<String>,
}

vocabulary! {
    /// Where a request stands.
    State {
        /// Waiting: for its key, or for approvals.
        Pending = "PENDING",
        /// Approved and not executed yet.
        Approved = "APPROVED",
        /// Signed.
        Executed = "EXECUTED",
        /// Refused; the condition says why.
        Failed = "FAILED",
        /// Approvals did not come in time.
        Expired = "EXPIRED",
        /// Approvers refused.
        Rejected = "REJECTED",
        /// Taken back.
        Cancelled = "CANCELLED",
    }
}

impl State {
    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Approved)
    }
}

/// What came of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SigningRequestStatus {
    /// Ready: the signature is there. Stalled: the request failed for good.
    #[serde(default)]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the request stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// The signature, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// When the request was finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_time: Option<String>,
}
