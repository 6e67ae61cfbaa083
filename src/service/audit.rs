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

/// What tells a use apart; only its SHA-256 is recorded.
#[derive(Clone, Copy, Debug)]
pub enum About<'a> {
    /// The payload.
    Payload(&'a [u8]),
    /// The ciphertext that is to be decrypted.
    Ciphertext(&'a [u8]),
    /// Nothing: a plaintext that is to be encrypted could be guessed from its digest.
    Nothing,
}

impl Use<'_> {
    /// Records the decision; `refused` says why it was refused.
    pub fn record(&self, refused: Option<&str>) {
        self.record_of(self.algorithm.map(SignatureAlgorithm::name), About::Payload(self.payload), refused);
    }

    /// The same with an algorithm that is none of a signature, and with something else than the payload to tell the use
    /// apart by.
    pub fn record_of(&self, algorithm: Option<&str>, about: About<'_>, refused: Option<&str>) {
        let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
        let (payload, ciphertext) = match about {
            About::Payload(bytes) => (Some(digest(bytes)), None),
            About::Ciphertext(bytes) => (None, Some(digest(bytes))),
            About::Nothing => (None, None),
        };
        tracing::info!(
            target: crate::telemetry::logs::AUDIT,
            caller = self.caller,
            namespace = self.namespace,
            key = self.key,
            operation = self.operation,
            algorithm,
            payload_sha256 = payload,
            ciphertext_sha256 = ciphertext,
            decision = if refused.is_some() { "refused" } else { "allowed" },
            reason = refused,
            request_id = self.request_id,
            "key use"
        );
    }
}
