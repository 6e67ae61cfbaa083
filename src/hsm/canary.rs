//! A signature that shows that a token has the keys of its partition.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Hsm,
    protocol::{HsmError, Kind, Reply, Request},
};
use crate::{
    api::HsmPartition,
    attestation::{SIGNATURE_ALGORITHM, bundle::attestation_key, chain},
    model::KeyId,
    public_key::PublicKey,
    service::attest::leaf,
};

/// Nothing that an attestation key signs otherwise begins like this, so that no canary is an attestation.
const PREFIX: &[u8] = b"hsm-operator canary ";

/// A key that is on every token of a partition: the operator's attestation key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    key: KeyId,
    public: Arc<PublicKey>,
}

/// How a canary ended.
#[derive(Debug)]
pub enum Sung {
    /// The signature is right.
    Right,
    /// There is a signature, and it is none of the key's.
    Wrong,
    /// There is none.
    Failed(HsmError),
}

impl Canary {
    /// A key and its public half.
    #[must_use]
    pub fn new(key: KeyId, public: PublicKey) -> Self {
        Self { key, public: Arc::new(public) }
    }

    /// The operator's attestation key, as the controller found it on the partition's own token; `None` as long as it has not.
    #[must_use]
    pub fn of(partition: &HsmPartition) -> Option<Self> {
        // Also where the HSM itself attests: its key signs nothing else.
        let attestation = partition.status.as_ref()?.software_attestation()?;
        let public = attestation_key(&chain::from_pem(&attestation.chain).ok()?).ok()?;
        Some(Self::new(leaf(&attestation.key_name), public))
    }

    /// Has a token sign.
    pub async fn sing(&self, hsm: &dyn Hsm) -> Sung {
        let payload: Bytes = [PREFIX, &rand::random::<[u8; 16]>()].concat().into();
        let algorithm = SIGNATURE_ALGORITHM;
        let request = Request::Sign { key: self.key.clone(), algorithm, payload: payload.clone() };
        match hsm.call(request).await {
            Ok(Reply::Signature(signature)) => {
                let right = self.public.verify(algorithm, &payload, &signature) == Ok(true);
                if right { Sung::Right } else { Sung::Wrong }
            }
            Ok(_) => Sung::Failed(HsmError::new(Kind::Device, "the token-host answered another request")),
            Err(error) => Sung::Failed(error),
        }
    }
}
