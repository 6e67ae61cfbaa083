//! Signing and verifying: the same for REST and for SigningRequests.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use moka::sync::Cache;

use super::directory::Usable;
use crate::{
    api::partition::VerifySignatures,
    hsm::{
        Hsm, Source,
        protocol::{HsmError, Kind, Reply, Request},
    },
    model::{
        KeyAlgorithm, KeyId, SignatureAlgorithm, SignatureType, derivation::DerivationPath, signature::Scheme,
    },
    public_key::{PublicKey, VerifyError, encoding},
    telemetry::{Metrics, metrics::Partition},
};

/// A signature to make.
#[derive(Clone, Debug)]
pub struct Job {
    /// How.
    pub algorithm: SignatureAlgorithm,
    /// In which form.
    pub form: SignatureType,
    /// Of what, decoded.
    pub payload: Bytes,
    /// In which context; only signatures of ML-DSA and SLH-DSA have one that is not empty.
    pub context: Bytes,
    /// Whether it is checked.
    pub verify: VerifySignatures,
}

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Keys of this kind do not sign so, or not in this form.
    #[error("{0}")]
    Mismatch(String),
    /// The payload does not fit the algorithm.
    #[error("{0}")]
    Payload(String),
    /// The key has no public half to check signatures with.
    #[error("the key has no public half")]
    NoPublicKey,
    /// The key has no private half here.
    #[error("the key is a public key alone, whose private half is not on this token")]
    NoPrivateKey,
    /// Every token that was asked answered with something else than a signature of the payload.
    #[error(
        "asked for {algorithm} with the key {key}, {} answered with something that is not a signature of the payload; it is not handed out. The key is damaged there, or the token ignores a parameter of the algorithm or is broken",
        those(.tokens)
    )]
    Wrong {
        /// How it was to be made.
        algorithm: SignatureAlgorithm,
        /// With what.
        key: KeyId,
        /// Who made it, as the partition calls its tokens.
        tokens: Vec<String>,
    },
    /// The token did not sign.
    #[error(transparent)]
    Hsm(#[from] HsmError),
}

/// Of signatures that need not all be checked, one of so many is.
const SAMPLE: u32 = 32;

/// Bytes that are signed as BIP-340 says.
const SCHNORR_PAYLOAD: usize = 32;

/// A key on one of the tokens of its partition, and how it signs.
type Way = (String, Source, KeyId, SignatureAlgorithm);

/// Makes signatures, and checks them before they are handed out: tokens exist that answer with a valid signature of
/// something else, and tokens break.
pub struct Signer {
    /// What was right at its last check. By partition too: two tokens may have adopted keys of the same id; and by token.
    right: Cache<Way, ()>,
    /// Tokens of a partition that were wrong a while ago, with whatever key: all their signatures are checked. A token
    /// that begins to break does so with every key, and each by itself would be found out by chance.
    suspect: Cache<(String, Source), ()>,
    metrics: Arc<Metrics>,
}

impl Signer {
    /// A signer that counts wrong signatures.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        fn lasting<K: std::hash::Hash + Eq + Send + Sync + 'static>(hours: u64) -> Cache<K, ()> {
            Cache::builder().max_capacity(100_000).time_to_live(Duration::from_secs(hours * 3600)).build()
        }
        Self { right: lasting(24), suspect: lasting(1), metrics }
    }

    /// Signs `job` with `key`.
    ///
    /// # Errors
    /// [`SignError`]; what can be refused is refused before the token is asked.
    pub async fn sign(&self, hsm: &dyn Hsm, key: &Usable, job: Job) -> Result<Vec<u8>, SignError> {
        self.sign_at(hsm, key, None, job).await
    }

    /// The same with the key at the end of a path, which is derived for this: `key` has the master's id and the derived
    /// public half. Its signatures are always checked.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub async fn sign_at(
        &self,
        hsm: &dyn Hsm,
        key: &Usable,
        path: Option<&DerivationPath>,
        job: Job,
    ) -> Result<Vec<u8>, SignError> {
        let Job { algorithm, form, payload, context, verify } = job;
        if key.public_only {
            return Err(SignError::NoPrivateKey);
        }
        if !algorithm.fits(key.algorithm) {
            return Err(SignError::Mismatch(format!(
                "{algorithm} is not a signature algorithm of {} keys; these are: {}",
                key.algorithm,
                fitting(SignatureAlgorithm::ALL, key)
            )));
        }
        if !context.is_empty() && (!algorithm.takes_context() || path.is_some()) {
            return Err(SignError::Mismatch(VerifyError::Context(algorithm).to_string()));
        }
        let public = key.public.as_deref().ok_or(SignError::NoPublicKey)?;
        encoding::check_form(form, algorithm, public)
            .map_err(|error| SignError::Mismatch(error.to_string()))?;
        algorithm.prepare(&payload).map_err(|error| SignError::Payload(error.to_string()))?;
        if algorithm.row().scheme == Scheme::SchnorrBip340 {
            if public.curve().is_none_or(|curve| curve.name != "secp256k1") {
                return Err(SignError::Mismatch(format!("{algorithm} is for keys on secp256k1 only")));
            }
            if payload.len() != SCHNORR_PAYLOAD {
                return Err(SignError::Payload(format!(
                    "{algorithm} signs {SCHNORR_PAYLOAD} bytes, the payload has {}",
                    payload.len()
                )));
            }
        }
        if let Some(token) = hsm.token()
            && !token.capabilities.signature_algorithms.contains(&algorithm)
        {
            let message = format!(
                "the token '{}' makes no {algorithm} signatures; with {} keys it makes {}",
                token.label,
                key.algorithm,
                fitting(&token.capabilities.signature_algorithms, key)
            );
            return Err(HsmError::new(Kind::Unsupported, message).into());
        }

        let way = |source| (key.partition.clone(), source, key.id.clone(), algorithm);
        let (mut wrong, mut tokens) = (Vec::new(), Vec::new());
        let signature = loop {
            let what = (algorithm, &context, &payload);
            let (signature, source) = ask(hsm, (key, path), what, &wrong).await?;
            // Those of keys with a state are all checked: there are few of them, and none is made again.
            let usual = path.is_none() && context.is_empty() && !algorithm.is_stateful();
            if usual && wrong.is_empty() && !self.is_due(verify, &way(source), public) {
                break signature;
            }
            if is_right(public, what, &signature) {
                // That a derived key signs rightly says nothing of its master, one in a context nothing of those without, and
                // one part of a key with a state nothing of the next.
                if usual {
                    self.right.insert(way(source), ());
                }
                break signature;
            }
            // A good signature, of something else than what was asked for: neither the key nor the token is damaged.
            if !context.is_empty() && is_right(public, (algorithm, &Bytes::new(), &payload), &signature) {
                let message = format!(
                    "the token ignores the context of {algorithm} signatures; what it signed is not handed out"
                );
                return Err(HsmError::new(Kind::Unsupported, message).into());
            }
            let token = self.wrong(hsm, source, key, algorithm);
            // There is nobody left who was not wrong.
            if wrong.contains(&source) {
                return Err(SignError::Wrong { algorithm, key: key.id.clone(), tokens });
            }
            wrong.push(source);
            tokens.push(token);
            // Each try spends a part of it.
            if algorithm.is_stateful() {
                return Err(SignError::Wrong { algorithm, key: key.id.clone(), tokens });
            }
        };
        encoding::encode(&signature, form, algorithm, public, &payload)
            .map_err(|error| SignError::Mismatch(error.to_string()))
    }

    fn is_due(&self, verify: VerifySignatures, way: &Way, public: &PublicKey) -> bool {
        let (partition, source, ..) = way;
        let first =
            || !self.right.contains_key(way) || self.suspect.contains_key(&(partition.clone(), *source));
        let sampled = || public.algorithm() == KeyAlgorithm::Rsa || rand::random_ratio(1, SAMPLE);
        match verify {
            VerifySignatures::Always => true,
            VerifySignatures::First => first(),
            VerifySignatures::Auto => sampled() || first(),
        }
    }

    /// Takes note of a wrong signature. Returns whose it was.
    fn wrong(&self, hsm: &dyn Hsm, source: Source, key: &Usable, algorithm: SignatureAlgorithm) -> String {
        let token = hsm.wrong(source, &key.id);
        tracing::error!(key_id = %key.id, %algorithm, token, "the token answered with a wrong signature");
        self.suspect.insert((key.partition.clone(), source), ());
        let labels = Partition { partition: key.partition.clone() };
        self.metrics.wrong_signatures.get_or_create(&labels).inc();
        token
    }
}

/// Has the token sign; of several tokens none of `but`, if another can.
async fn ask(
    hsm: &dyn Hsm,
    (key, path): (&Usable, Option<&DerivationPath>),
    (algorithm, context, payload): (SignatureAlgorithm, &Bytes, &Bytes),
    but: &[Source],
) -> Result<(Bytes, Source), SignError> {
    let (key, path, payload) = (key.id.clone(), path.cloned(), payload.clone());
    let request = match path {
        None if algorithm.is_stateful() => Request::SignStateful { key, algorithm, payload },
        None if context.is_empty() => Request::Sign { key, algorithm, payload },
        None => Request::SignInContext { key, algorithm, context: context.clone(), payload },
        Some(path) => Request::SignDerived { master: key, path, algorithm, payload },
    };
    match hsm.call_but(request, but).await {
        Ok((Reply::Signature(signature), source)) => Ok((signature, source)),
        Ok((other, _)) => Err(unexpected(&other).into()),
        Err(error) if error.kind == Kind::Invalid => Err(SignError::Payload(error.message)),
        Err(error) => Err(error.into()),
    }
}

/// Tokens by name, for a person to read.
fn those(tokens: &[String]) -> String {
    format!("token {}", tokens.join(" and token "))
}

/// Those of `algorithms` that fit the key, for a person to read.
fn fitting(algorithms: &[SignatureAlgorithm], key: &Usable) -> String {
    let names: Vec<_> =
        algorithms.iter().filter(|one| one.fits(key.algorithm)).map(|one| one.name()).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn is_right(
    public: &PublicKey,
    (algorithm, context, payload): (SignatureAlgorithm, &Bytes, &Bytes),
    signature: &[u8],
) -> bool {
    matches!(public.verify_in_context(algorithm, context, payload, signature), Ok(true))
}

/// An answer that does not belong to its request.
#[must_use]
pub fn unexpected(reply: &Reply) -> HsmError {
    let name = match reply {
        Reply::Opened(_) => "Opened",
        Reply::Done => "Done",
        Reply::Alive { .. } => "Alive",
        Reply::Key(_) => "Key",
        Reply::Keys(_) => "Keys",
        Reply::Inventory(_) => "Inventory",
        Reply::Signature(_) => "Signature",
        Reply::Random(_) => "Random",
        Reply::Certificate(_) => "Certificate",
        Reply::Crashed(_) => "Crashed",
        Reply::Recovery { .. } => "Recovery",
        Reply::DataKept(_) | Reply::Data(_) | Reply::DataGone(_) => "data_object",
        Reply::Findings(_) => "Findings",
        Reply::Encrypted { .. } => "Encrypted",
        Reply::Decrypted(_) => "Decrypted",
        Reply::Hmac(_) => "Hmac",
        Reply::Exported(_) => "Exported",
        Reply::Wrapped(_) => "Wrapped",
        Reply::Agreed(_) => "Agreed",
        Reply::Untold(_) => "Untold",
        Reply::AttestationKey(_) => "AttestationKey",
        Reply::Attested(_) => "Attested",
    };
    HsmError::new(Kind::Device, format!("the token-host answered another request ({name})"))
}
