//! The audit record: one line for every use of a key, allowed or refused (target `audit`).

use sha2::{Digest, Sha256};

use crate::model::SignatureAlgorithm;

/// A use of a key, about to be decided.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// Who uses it: a user name.
    pub caller: &'a str,
    /// Namespace of the key.
    pub namespace: &'a str,
    /// Label of the key.
    pub key: &'a str,
    /// What is done.
    pub operation: &'static str,
    /// With which algorithm.
    pub algorithm: Option<SignatureAlgorithm>,
    /// What for; only its SHA-256 is recorded.
    pub payload: &'a [u8],
    /// Request that asked.
    pub request_id: &'a str,
}

impl Use<'_> {
    /// Records the decision; `refused` says why it was refused.
    pub fn record(&self, refused: Option<&str>) {
        tracing::info!(
            target: crate::telemetry::logs::AUDIT,
            caller = self.caller,
            namespace = self.namespace,
            key = self.key,
            operation = self.operation,
            algorithm = self.algorithm.map(SignatureAlgorithm::name),
            payload_sha256 = %hex::encode(Sha256::digest(self.payload)),
            decision = if refused.is_some() { "refused" } else { "allowed" },
            reason = refused,
            request_id = self.request_id,
            "key use"
        );
    }
}

/// A use of a data object, about to be decided. Nothing of its value is recorded: a digest of a short secret tells it.
#[derive(Clone, Copy, Debug)]
pub struct DataUse<'a> {
    /// Who uses it: a user name.
    pub caller: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub data_object: &'a str,
    /// The verb: `create`, `get` or `delete`.
    pub operation: &'static str,
    /// Request that asked.
    pub request_id: &'a str,
}

impl DataUse<'_> {
    /// Records the decision; `refused` says why it was refused.
    pub fn record(&self, refused: Option<&str>) {
        tracing::info!(
            target: crate::telemetry::logs::AUDIT,
            caller = self.caller,
            namespace = self.namespace,
            data_object = self.data_object,
            operation = self.operation,
            decision = if refused.is_some() { "refused" } else { "allowed" },
            reason = refused,
            request_id = self.request_id,
            "data object use"
        );
    }
}
