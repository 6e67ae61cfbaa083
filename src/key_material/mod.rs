//! Private keys in their files: read strictly, proven to be whole, and written.
//!
//! A key is here for as long as it takes to bring it to a token, or to hand it out when it comes from one. Everything that
//! is worked out of it (a public half, whether its numbers belong together) is worked out by aws-lc or, for Ed448 and
//! DSA, by `ed448-goldilocks` and `dsa`, in constant time.

mod check;
mod read;
mod write;

use bytes::Bytes;

use crate::{
    model::{KeyAlgorithm, material::Material},
    public_key::PublicKey,
};

pub use read::{Unreadable, private_key, secret_key};
pub use write::{Unwritable, pkcs8};

/// A key that makes sense: its parts belong together.
#[derive(Clone, Debug)]
pub struct Key {
    /// Algorithm.
    pub algorithm: KeyAlgorithm,
    /// Bits, where the algorithm has sizes.
    pub key_size: Option<u32>,
    /// Curve, where the algorithm has curves; the standard identifier.
    pub curve_oid: Option<String>,
    /// The public half, worked out of the private one; `None` where no library here knows the curve.
    pub public: Option<PublicKey>,
    /// The public half that it says it has, where it was not worked out.
    pub claimed: Option<PublicKey>,
    /// The rest.
    pub material: Material,
}

impl Key {
    /// SubjectPublicKeyInfo of the public half, DER.
    #[must_use]
    pub fn spki(&self) -> Option<Bytes> {
        self.public.as_ref().map(|public| Bytes::copy_from_slice(public.spki()))
    }
}
