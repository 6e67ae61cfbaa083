//! Where the password of a key is.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Type of the Secrets that hold what checks a password. They are in the operator's namespace.
pub const SECRET_TYPE: &str = "hsm-operator.io/key-password";
/// Label on them, to find them by; its value is `true`.
pub const SECRET_LABEL: &str = "hsm-operator.io/key-password";
/// What their names begin with; 32 hexadecimal digits follow.
pub const SECRET_PREFIX: &str = "hsm-key-password-";
/// Reason of conditions: something is not done with a key that has a password.
pub const PASSWORD_REQUIRED: &str = "PasswordRequired";

/// The Secret with what checks a key's password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasswordRef {
    /// Name of the Secret, in the operator's namespace. The gateway makes it.
    #[schemars(length(max = 64), regex(pattern = "^hsm-key-password-[0-9a-f]{32}$"))]
    pub secret_name: String,
}

/// A new name for such a Secret.
#[must_use]
pub fn new_secret_name() -> String {
    format!("{SECRET_PREFIX}{}", hex::encode(rand::random::<[u8; 16]>()))
}
