//! Words shared by CRD specs and REST bodies; no I/O, no Kubernetes, no PKCS#11.
//!
//! Algorithms, curves, signature algorithms and ciphers are tables ([`algorithm`], [`curve`], [`signature`], [`cipher`]):
//! the whole vocabulary of the REST contract is there, and what a token can do with a row is found
//! out by asking the token.

pub mod address;
pub mod algorithm;
pub mod attributes;
pub mod bip340;
pub mod certificate;
pub mod cipher;
pub mod context;
pub mod curve;
pub mod data;
pub mod derivation;
pub mod digest;
pub mod material;
pub mod name;
pub mod password;
pub mod payload;
pub mod policy;
pub mod secret;
pub mod signature;
pub mod vendor;
pub(crate) mod vocabulary;
pub mod wrap;

pub use algorithm::KeyAlgorithm;
pub use attributes::{KeyAttributes, RequestedAttributes};
pub use cipher::CipherAlgorithm;
pub use name::{KeyId, KeyLabel};
pub use password::Password;
pub use policy::KeyPolicy;
pub use signature::{SignatureAlgorithm, SignatureType};
pub(crate) use vocabulary::vocabulary as vocabulary_enum;
pub use wrap::WrapMethod;
