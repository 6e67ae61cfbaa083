//! What stops a reconcile.

use std::time::Duration;

use crate::hsm::protocol::{HsmError, Kind};

/// What stopped a reconcile; it is tried again with back-off.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum Error {
    /// Reading a Secret.
    #[error("cannot read Secret {name}")]
    ReadSecret {
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Reading a namespace.
    #[error("cannot read namespace {name}")]
    ReadNamespace {
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Reading another HsmKey.
    #[error("cannot read HsmKey {name}")]
    ReadKey {
        /// Namespace and name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Writing a Secret.
    #[error("cannot write Secret {name}")]
    WriteSecret {
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Writing a status.
    #[error("cannot write the status of {name}")]
    WriteStatus {
        /// Name of the object.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Writing an object.
    #[error("cannot write {name}")]
    Write {
        /// Name of the object.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Asking a token.
    #[error("the HSM did not complete {operation}")]
    Hsm {
        /// What was asked.
        operation: &'static str,
        /// Why not.
        source: HsmError,
    },
    /// Making a key: others have its label since the last look.
    #[error("other keys have the label")]
    LabelTaken,
    /// Making an attestation.
    #[error("cannot attest")]
    Attest(#[from] crate::service::attest::AttestError),
    /// The object has no UID or namespace: it was not read from an API server.
    #[error("the object has no {0}")]
    Incomplete(&'static str),
}

impl Error {
    /// The variant's name: metric label.
    #[must_use]
    pub fn category(&self) -> &'static str {
        self.into()
    }

    /// The token's own trouble, if that is what it was.
    #[must_use]
    pub fn hsm(&self) -> Option<&HsmError> {
        match self {
            Self::Hsm { source, .. } => Some(source),
            Self::Attest(error) => error.hsm(),
            _ => None,
        }
    }
}

/// The word for a condition's reason.
#[must_use]
pub const fn reason(kind: Kind) -> &'static str {
    match kind {
        Kind::LibraryNotLoaded => "LibraryNotLoaded",
        Kind::TokenNotFound => "TokenNotFound",
        Kind::TokenNotInitialized => "TokenNotInitialized",
        Kind::PinRejected => "PinRejected",
        Kind::PinLocked => "PinLocked",
        Kind::PinFinalTry => "PinFinalTry",
        Kind::KeyNotFound => "MissingOnToken",
        Kind::Ambiguous => "DuplicateObject",
        Kind::Unsupported => "Unsupported",
        Kind::Invalid => "InvalidSpec",
        Kind::Forbidden => "ForbiddenByToken",
        Kind::Full => "TokenFull",
        Kind::Lost | Kind::Unavailable | Kind::Crashed | Kind::Timeout => "TokenUnavailable",
        Kind::Busy => "TokenBusy",
        Kind::Poisonous => "CrashesLibrary",
        Kind::Device => "TokenError",
    }
}

/// How long to wait after `failures` failures in a row: 1 s doubling to 5 min, with jitter.
#[must_use]
pub fn backoff(failures: u32) -> Duration {
    let seconds = 1_u64 << failures.saturating_sub(1).min(9);
    let base = Duration::from_secs(seconds.min(300));
    base.mul_f64(0.8 + 0.4 * rand::random::<f64>())
}
