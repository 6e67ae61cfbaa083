//! Who makes timestamps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The key that signs timestamps (RFC 3161), and what they say of themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimestampSettings {
    /// The HsmKey that signs: RSA or EC, with a certificate whose extended key usage is `TIME_STAMPING` and nothing else. Who may `use` it gets
    /// timestamps.
    pub key_ref: KeyRef,
    /// Object identifier of the policy that timestamps are made under.
    #[schemars(length(min = 3, max = 128), regex(pattern = r"^[0-2](\.(0|[1-9][0-9]{0,9}))+$"))]
    pub policy: String,
    /// How far the clocks of the gateways may be off, in seconds.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 3600))]
    pub accuracy_seconds: i32,
}

const fn one() -> i32 {
    1
}

/// An HsmKey of some namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
