//! Custom resources of the group `hsm-operator.io`: plain data and small accessors.

#![allow(
    clippy::duplicated_attributes,
    reason = "printer columns share their types; the derive names them one by one"
)]

pub mod attestation;
pub mod certificate;
pub mod condition;
pub mod key;
pub mod partition;
pub mod password;
pub mod pins;
pub mod replica;
pub mod sessions;
pub mod signing_request;
pub mod timestamp;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::{CustomResourceExt, KubeSchema};
use serde::{Deserialize, Serialize};

pub use key::HsmKey;
pub use partition::HsmPartition;
pub use signing_request::SigningRequest;

/// Group of every resource here.
pub const GROUP: &str = "hsm-operator.io";
/// Annotation that asks the controller to look for a key on its token again, and says since when: somebody missed it
/// there. The controller takes it off once it has looked.
pub const MISSED: &str = "hsm-operator.io/missed";
/// Annotation of an object whose key is being brought to its token by a request, and says since when. The gateway takes it
/// off when the key is there.
pub const IMPORTING: &str = "hsm-operator.io/importing";
/// Annotation on a partition that asks the controller to list the token's objects again, and says since when. The
/// controller takes it off once it has.
pub const TAKE_INVENTORY: &str = "hsm-operator.io/take-inventory";
/// Label on Secrets that carry a key's public half.
pub const KEY_LABEL: &str = "hsm-operator.io/key";
/// Finalizer on keys: the token is asked before the object goes.
pub const KEY_FINALIZER: &str = "hsm-operator.io/key";
/// Finalizer on partitions: none goes while keys refer to it.
pub const PARTITION_FINALIZER: &str = "hsm-operator.io/partition";
/// Audience of the tokens that the gateway accepts.
pub const AUDIENCE: &str = "hsm-operator";

/// Name of an object in the same namespace, or of a cluster-scoped one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
pub struct LocalRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Every CRD, in the order in which they are printed.
#[must_use]
pub fn all_crds() -> Vec<CustomResourceDefinition> {
    [HsmPartition::crd(), HsmKey::crd(), SigningRequest::crd()].map(pending_at_first).into()
}

/// Gives objects that the controller has not looked at yet a status that says so. Without one, tools that wait for
/// objects (kstatus, and with it Flux) take them for finished.
fn pending_at_first(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let pending = serde_json::json!({"conditions": [{
        "type": condition::READY, "status": "Unknown", "reason": "Pending",
        "message": "the controller has not looked at it yet", "lastTransitionTime": "1970-01-01T00:00:00Z",
    }]});
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let properties = schema.and_then(|schema| schema.properties.as_mut());
        if let Some(status) = properties.and_then(|properties| properties.get_mut("status")) {
            status.default = Some(JSON(pending.clone()));
        }
    }
    crd
}
