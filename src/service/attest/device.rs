//! The HSM's own attestation. It says nothing that is believed before chain and signature were checked, and the document is
//! about the key that was asked for.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;

use super::{AttestError, colons, failed, ids};
use crate::{
    api::{
        key::Attestation,
        partition::{AttestationMode, AttestationStatus},
    },
    attestation::{Evidence, Statements, chain, document, fingerprint, verify, verify::verify_chain},
    hsm::{
        Hsm,
        protocol::{AttestationKey, HsmError, KeyFacts, Kind, Reply, Request},
    },
    model::{KeyId, KeyLabel},
    public_key::PublicKey,
    service::sign::unexpected,
};

/// The key that an HSM attests others with.
#[derive(Clone)]
pub(super) struct Device {
    key: KeyId,
    public: PublicKey,
    chain: Vec<Vec<u8>>,
    status: AttestationStatus,
}

/// Whether the token says that the HSM attests keys.
pub(super) fn offered(hsm: &dyn Hsm) -> Result<bool, AttestError> {
    let unreached = || HsmError::new(Kind::Unavailable, "the token is not reached at the moment");
    let token = hsm.token().ok_or_else(|| failed("an attestation", unreached()))?;
    Ok(token.capabilities.attests)
}

impl Device {
    /// Has the key made, unless there is one.
    pub async fn ensure(hsm: &dyn Hsm, key_name: &str, now: Timestamp) -> Result<Self, AttestError> {
        let unsupported = |message| AttestError::NotByHsm(HsmError::new(Kind::Unsupported, message));
        if let Some(token) = hsm.token().filter(|token| !token.capabilities.attests) {
            return Err(unsupported(format!("the token '{}' offers no attestation of its own", token.label)));
        }
        let label = KeyLabel::new(key_name).map_err(|error| {
            let message = format!("attestation.deviceKeyName: {error}");
            AttestError::NotByHsm(HsmError::new(Kind::Invalid, message))
        })?;
        let request = Request::AttestationKey { id: ids::device(key_name), label };
        match hsm.call(request).await {
            Ok(Reply::AttestationKey(key)) => Self::read(*key, now).map_err(unsupported),
            Ok(Reply::Keys(found)) => {
                let message = format!(
                    "the token has {} of the label '{key_name}' with which the HSM attests nothing: choose another label by \
                     attestation.deviceKeyName",
                    if found.len() == 1 { "a key" } else { "several keys" }
                );
                Err(AttestError::NotByHsm(HsmError::new(Kind::Ambiguous, message)))
            }
            Ok(other) => Err(AttestError::NotByHsm(unexpected(&other))),
            Err(source) => Err(AttestError::NotByHsm(source)),
        }
    }

    /// Takes a key whose certificates hold. Which root they end in is for people to judge.
    fn read(AttestationKey { facts, chain }: AttestationKey, now: Timestamp) -> Result<Self, String> {
        let doubt =
            |what: String| format!("the certificates of the HSM's attestation key '{}' {what}", facts.label);
        let chain = chain::from_pem(&chain).map_err(|error| doubt(format!("cannot be read: {error}")))?;
        let root = chain.last().map(|root| fingerprint(root)).unwrap_or_default();
        let public =
            verify_chain(&chain, &root, now).map_err(|error| doubt(format!("do not hold: {error}")))?;
        if facts.public_key.as_deref() != Some(public.spki()) {
            return Err(doubt("are those of another key".into()));
        }
        if chain::names_operator(&chain) {
            return Err(doubt("bear the operator's name".into()));
        }
        let key = facts.id.clone().ok_or_else(|| doubt("belong to a key without id".into()))?;
        let status = AttestationStatus {
            mode: AttestationMode::Vendor.to_string(),
            key_name: facts.label,
            key_id: Some(key.to_string()),
            root_fingerprint: colons(&root),
            chain: chain::to_pem(&chain),
        };
        Ok(Self { key, public, chain, status })
    }

    pub const fn status(&self) -> &AttestationStatus {
        &self.status
    }

    /// What the HSM says of a key.
    pub async fn statement(
        &self,
        hsm: &dyn Hsm,
        facts: &KeyFacts,
        now: Timestamp,
    ) -> Result<Attestation, AttestError> {
        const OPERATION: &str = "an attestation by the HSM itself";
        let key = facts.id.clone().ok_or(AttestError::Answer("a key without id"))?;
        let attested = match hsm.call(Request::Attest { by: self.key.clone(), key }).await {
            Ok(Reply::Attested(attested)) => *attested,
            Ok(other) => return Err(failed(OPERATION, unexpected(&other))),
            Err(source) => return Err(failed(OPERATION, source)),
        };
        if self.public.verify(attested.algorithm, &attested.xml, &attested.signature) != Ok(true) {
            return Err(AttestError::Answer("a wrong signature of the HSM's attestation key"));
        }
        let evidence = Evidence { xml: &attested.xml, signature: &attested.signature, chain: &self.chain };
        let said = verify(&evidence, &self.status.root_fingerprint, now).map_err(|error| {
            let message = format!("what the HSM says of key '{}' does not hold: {error}", facts.label);
            failed(OPERATION, HsmError::new(Kind::Device, message))
        })?;
        about(&said, facts)?;
        let xml = String::from_utf8(attested.xml.to_vec()).map_err(|_| AttestError::Answer("no text"))?;
        Ok(Attestation {
            xml,
            xml_signature: STANDARD.encode(&attested.signature),
            signature_algorithm: Some(attested.algorithm.to_string()),
            attestation_key_name: self.status.key_name.clone(),
            attest_time: document::time(said.attest_time),
            mode: self.status.mode.clone(),
        })
    }
}

/// That a document is the HSM's, and about this key.
fn about(said: &Statements, facts: &KeyFacts) -> Result<(), AttestError> {
    if said.is_software() {
        return Err(AttestError::Answer("a document that says that software wrote it"));
    }
    if said.label != facts.label {
        return Err(AttestError::Answer("a document about a key of another label"));
    }
    // A secret key has none.
    if said.public_key.as_deref() != facts.public_key.as_deref() {
        return Err(AttestError::Answer("a document about another public key"));
    }
    let whole = if facts.public_key.is_some() { "private_key" } else { "secret_key" };
    if said.kind != whole {
        return Err(AttestError::Answer("a document about another kind of key"));
    }
    Ok(())
}
