//! Keys that come to a token from elsewhere, and what leaves it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::protocol::{KeyFacts, KeyTemplate};
use crate::model::{KeyId, WrapMethod, derivation::DerivationPath, material::Material, secret::Plaintext};

/// A key to bring to a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Import {
    /// How it is to be there. Of a wrapped key, size and curve are not known before.
    pub template: KeyTemplate,
    /// SubjectPublicKeyInfo of the public half, DER, where it is known. Where neither it is nor the token tells it, nothing is
    /// made, and the key's signatures tell it, see [`Untold`].
    pub public_key: Option<Bytes>,
    /// The key itself.
    pub origin: Origin,
}

/// What is signed with a key whose public half nobody knows: as long as the shortest order, so that nothing is cut.
pub const SIGNED: [&[u8; 20]; 2] = [b"whose key is it, one", b"whose key is it, two"];

/// A key on a curve whose public half nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untold {
    /// The curve.
    pub curve_oid: String,
    /// Its signatures of [`SIGNED`], `r‖s`.
    pub signatures: Vec<Bytes>,
}

/// In which form a key comes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Origin {
    /// In plain.
    Plain(Material),
    /// Encrypted by a key of the token.
    Wrapped(Wrapped),
    /// As a seed, of which the token makes the master of a tree (BIP-32, SLIP-10).
    Seed(Plaintext),
    /// Not at all: its public half is all that comes, and [`Import::public_key`] says what it is.
    Public,
    /// As a step from a master that is on the token (see [`super::protocol::Request::Derive`]).
    Derived {
        /// The master.
        master: KeyId,
        /// The way from there.
        path: DerivationPath,
    },
}

/// A key that another one encrypts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrapped {
    /// The key that decrypts it.
    pub by: KeyId,
    /// How.
    pub method: WrapMethod,
    /// The encrypted key.
    pub data: Bytes,
}

/// A key to encrypt by another one, inside of the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrap {
    /// The key that encrypts.
    pub by: KeyId,
    /// The key that is encrypted.
    pub key: KeyId,
    /// How.
    pub method: WrapMethod,
    /// Of a public key that is there alone, what is on record of it (SubjectPublicKeyInfo, DER): no other one wraps.
    pub alone: Option<Bytes>,
}

/// A key in plain, as its token gave it out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exported {
    /// What the token says of it.
    pub facts: KeyFacts,
    /// The key itself.
    pub material: Material,
}
