//! Attestations: what is said of a key, how it is signed and how anyone checks it. Sans-IO.
//!
//! An attestation is an XML [`document`] with a detached RSA signature (PKCS #1 v1.5, SHA-256) over its
//! exact bytes, and a [`chain`] of three certificates from the attestation key to a root. A [`bundle`]
//! packs them as the contract's zip, [`verify()`] checks them offline against a pinned root. An HSM that attests keys itself
//! makes documents of the same form, with certificates of its own; it does not say `enforcement`, and signs with RSASSA-PSS.
//!
//! # What one of the operator proves
//! The token tells the operator about the key; the operator repeats it under a key of its own. So an
//! attestation proves that *this operator recorded at this time what the token reported*, and that nobody
//! changed it since. It does not prove what the hardware did: whoever has the token's PIN can sign any
//! document. The signed bytes say so themselves (`enforcement="software"`), and so do the names in the
//! certificates.

pub mod bundle;
pub mod chain;
pub mod document;
mod policy;
mod read;
pub mod verify;

pub use self::bundle::{Bundle, BundleError, Signer};
pub use self::chain::{CertificateRequest, ChainError, Role, Tbs, fingerprint};
pub use self::document::{AttestedKey, DocumentError};
pub use self::read::{Protection, ReadError, Statements};
pub use self::verify::{Evidence, EvidenceError, verify};

/// Reads a document of which nobody knows who made it; for tests of the reader, and of no use for anything else.
///
/// # Errors
/// [`ReadError`].
#[doc(hidden)]
pub fn read_unverified(xml: &[u8]) -> Result<Statements, ReadError> {
    read::statements(xml)
}

use crate::model::SignatureAlgorithm;

/// The algorithm with which attestation keys sign, documents and certificates alike.
pub const SIGNATURE_ALGORITHM: SignatureAlgorithm = SignatureAlgorithm::Sha256WithRsa;
/// Bits of the RSA keys of root, CA and attestation key.
pub const KEY_BITS: u32 = 3072;
/// The attribute `issuer` of the document's root, and the organisation in the certificates.
pub const ISSUER: &str = "hsm-operator";
