//! The operator's own attestation: keys and certificates made on the partition at first use, and the signed
//! statements made with them.

use std::{collections::HashMap, sync::Mutex};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use kube::ResourceExt;

use super::{address, sign::unexpected};
use crate::{
    api::{
        HsmPartition,
        key::{Attestation, HsmKeySpec, Source},
        partition::AttestationStatus,
    },
    attestation::{
        AttestedKey, CertificateRequest, ChainError, DocumentError, KEY_BITS, Role, SIGNATURE_ALGORITHM, Tbs,
        chain, document,
    },
    hsm::{
        Hsm,
        protocol::{HsmError, KeyFacts, KeyTemplate, Kind, Reply, Request},
    },
    model::{KeyAlgorithm, KeyId, KeyLabel, RequestedAttributes, address::NoAddress, derivation::SLIP10},
    public_key::PublicKey,
};

/// Why there is no attestation.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// The token did not do its part.
    #[error("the HSM did not complete {operation}")]
    Hsm {
        /// What was asked.
        operation: &'static str,
        /// Why not.
        source: HsmError,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate of the attestation chain")]
    Chain(#[from] ChainError),
    /// The key cannot be described.
    #[error("the key cannot be described")]
    Document(#[from] DocumentError),
    /// The address that the key is to have cannot be had.
    #[error(transparent)]
    Address(#[from] NoAddress),
    /// What the token answered is not what was asked for.
    #[error("the token answered with {0}")]
    Answer(&'static str),
}

impl AttestError {
    /// The token's own trouble, if that is what it was.
    #[must_use]
    pub const fn hsm(&self) -> Option<&HsmError> {
        match self {
            Self::Hsm { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Attestation keys by partition, once they are known to be there.
#[derive(Default)]
pub struct Attestor {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone)]
struct Known {
    leaf: KeyId,
    public: PublicKey,
    status: AttestationStatus,
}

/// Purpose of each key of the chain: its identifier follows from it, so that whoever comes later finds it.
const fn purpose(role: Role) -> &'static str {
    match role {
        Role::Root => "attestation-root",
        Role::Ca => "attestation-ca",
        Role::Leaf => "attestation-key",
    }
}

/// Identifiers of the operator's own keys on a partition.
#[must_use]
pub fn own_keys(attestation_key: &str) -> [KeyId; 3] {
    [Role::Root, Role::Ca, Role::Leaf].map(|role| id(role, attestation_key))
}

fn id(role: Role, attestation_key: &str) -> KeyId {
    match role {
        Role::Root | Role::Ca => KeyId::for_purpose(purpose(role)),
        Role::Leaf => KeyId::for_purpose(&format!("{}/{attestation_key}", purpose(role))),
    }
}

impl Attestor {
    /// Makes what is missing of keys and certificates on a partition, and says what there is.
    ///
    /// # Errors
    /// When the token does not do its part.
    pub async fn ensure(
        &self,
        hsm: &dyn Hsm,
        partition: &HsmPartition,
        now: Timestamp,
    ) -> Result<AttestationStatus, AttestError> {
        Ok(self.known(hsm, partition, now).await?.status)
    }

    /// Forgets a partition whose token may be another one now.
    pub fn forget(&self, partition: &str) {
        self.known.lock().expect("no panic while it is held").remove(partition);
    }

    async fn known(
        &self,
        hsm: &dyn Hsm,
        partition: &HsmPartition,
        now: Timestamp,
    ) -> Result<Known, AttestError> {
        let (name, key_name) = (partition.name_any(), partition.spec.attestation.key_name.0.clone());
        let known = self.known.lock().expect("no panic while it is held").get(&name).cloned();
        if let Some(known) = known.filter(|known| known.status.key_name == key_name) {
            return Ok(known);
        }
        let root = key(hsm, Role::Root, &key_name).await?;
        let ca = key(hsm, Role::Ca, &key_name).await?;
        let leaf = key(hsm, Role::Leaf, &key_name).await?;
        let mut certificates: Vec<Vec<u8>> = Vec::new();
        for (role, subject, issuer) in
            [(Role::Root, &root, &root), (Role::Ca, &ca, &root), (Role::Leaf, &leaf, &ca)]
        {
            certificates.insert(0, certificate(hsm, role, subject, issuer, &name, &key_name, now).await?);
        }
        let root_certificate = certificates.last().ok_or(AttestError::Answer("no root"))?;
        let status = AttestationStatus {
            mode: "Software".into(),
            key_name: key_name.clone(),
            root_fingerprint: colons(&chain::fingerprint(root_certificate)),
            chain: chain::to_pem(&certificates),
        };
        let known = Known { leaf: id(Role::Leaf, &key_name), public: leaf, status };
        self.known.lock().expect("no panic while it is held").insert(name, known.clone());
        Ok(known)
    }

    /// Makes the signed statement about a key: what the token says of it, and the policy that it was made with.
    ///
    /// # Errors
    /// When the token does not do its part.
    pub async fn attest(
        &self,
        hsm: &dyn Hsm,
        partition: &HsmPartition,
        facts: &KeyFacts,
        spec: &HsmKeySpec,
        create_time: &str,
        now: Timestamp,
    ) -> Result<Attestation, AttestError> {
        let known = self.known(hsm, partition, now).await?;
        statement(hsm, &known, facts, spec, create_time, now).await
    }
}

/// The statement about a key that is derived for a moment, by an attestation key that is there already: nothing is made.
///
/// # Errors
/// When the partition has no attestation key yet, or the token does not do its part.
pub async fn attest_passing(
    hsm: &dyn Hsm,
    partition: &HsmPartition,
    facts: &KeyFacts,
    spec: &HsmKeySpec,
    create_time: &str,
    now: Timestamp,
) -> Result<Attestation, AttestError> {
    const MISSING: AttestError = AttestError::Answer("no attestation key yet");
    let status = partition.status.as_ref().and_then(|status| status.attestation.clone()).ok_or(MISSING)?;
    let certificates =
        chain::from_pem(&status.chain).map_err(|_| AttestError::Answer("a chain that cannot be read"))?;
    let leaf = certificates.first().ok_or(MISSING)?;
    let public = spki_of(leaf).ok_or(AttestError::Answer("a certificate that cannot be read"))?;
    let known = Known { leaf: id(Role::Leaf, &status.key_name), public, status };
    statement(hsm, &known, facts, spec, create_time, now).await
}

fn spki_of(certificate: &[u8]) -> Option<PublicKey> {
    use der::{Decode, Encode};
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    PublicKey::from_spki(&certificate.tbs_certificate().subject_public_key_info().to_der().ok()?).ok()
}

async fn statement(
    hsm: &dyn Hsm,
    known: &Known,
    facts: &KeyFacts,
    spec: &HsmKeySpec,
    create_time: &str,
    now: Timestamp,
) -> Result<Attestation, AttestError> {
    let public = facts.public_key.as_deref().and_then(|spki| PublicKey::from_spki(spki).ok());
    let address = public.map(|public| address::of(spec, &public)).transpose()?.flatten();
    let xml = AttestedKey {
        label: &facts.label,
        create_time: create_time.parse().unwrap_or(now),
        attest_time: now,
        algorithm: spec.algorithm,
        curve_oid: facts.curve_oid.as_deref(),
        key_size: facts.key_size,
        public_key: facts.public_key.as_deref(),
        attributes: &facts.attributes,
        derivation: facts.chain_code.as_deref().map(|code| (SLIP10, code)),
        address: address.as_ref().map(|address| (address.format.name(), address.value.as_str())),
        public_only: spec.source == Source::ImportedPublic,
        // What was brought was elsewhere before, also where the token says that it made it: from a seed that it was given.
        local: facts.local.filter(|_| spec.source == Source::Generated),
        // A key is attested when it is made, and made unblocked.
        policy: spec.policy.as_ref().map(|policy| (policy, false)),
    }
    .to_xml()?;
    let signature = sign(hsm, &known.leaf, &known.public, xml.as_bytes()).await?;
    Ok(Attestation {
        xml,
        xml_signature: STANDARD.encode(signature),
        attestation_key_name: known.status.key_name.clone(),
        attest_time: document::time(now),
        mode: known.status.mode.clone(),
    })
}

async fn key(hsm: &dyn Hsm, role: Role, attestation_key: &str) -> Result<PublicKey, AttestError> {
    const OPERATION: &str = "generation of an attestation key";
    let label = match role {
        Role::Root => "hsm-operator-attestation-root",
        Role::Ca => "hsm-operator-attestation-ca",
        Role::Leaf => attestation_key,
    };
    let label = KeyLabel::new(label).map_err(|error| {
        failed(OPERATION, HsmError::new(Kind::Invalid, format!("attestation.keyName: {error}")))
    })?;
    // Not destroyable: these keys outlive every key that they speak of.
    let attributes = RequestedAttributes { sign: Some(true), modifiable: Some(false), ..Default::default() };
    let template = KeyTemplate {
        id: id(role, attestation_key),
        label,
        algorithm: KeyAlgorithm::Rsa,
        key_size: Some(KEY_BITS),
        curve_oid: None,
        attributes: attributes.resolved(),
    };
    match hsm.call(Request::Generate(template)).await {
        Ok(Reply::Key(facts)) if facts.twins > 1 => {
            Err(AttestError::Answer("several attestation keys of one id: destroy all but one"))
        }
        Ok(Reply::Key(facts)) => {
            let spki = facts.public_key.ok_or(AttestError::Answer("a key without its public half"))?;
            PublicKey::from_spki(&spki).map_err(|_| AttestError::Answer("a public key that cannot be read"))
        }
        Ok(other) => Err(failed(OPERATION, unexpected(&other))),
        Err(source) => Err(failed(OPERATION, source)),
    }
}

async fn certificate(
    hsm: &dyn Hsm,
    role: Role,
    subject: &PublicKey,
    issuer: &PublicKey,
    partition: &str,
    attestation_key: &str,
    now: Timestamp,
) -> Result<Vec<u8>, AttestError> {
    const OPERATION: &str = "storage of an attestation certificate";
    let subject_id = id(role, attestation_key);
    match hsm.call(Request::GetCertificate(subject_id.clone())).await {
        Ok(Reply::Certificate(Some(der))) => return Ok(der.to_vec()),
        Ok(Reply::Certificate(None)) => {}
        Ok(other) => return Err(failed(OPERATION, unexpected(&other))),
        Err(source) => return Err(failed(OPERATION, source)),
    }
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    let request = CertificateRequest {
        role,
        partition,
        attestation_key,
        subject,
        issuer,
        serial,
        not_before: now,
        not_after: chain::root_end(now),
    };
    let tbs = Tbs::new(&request)?;
    let issuer_id = match role {
        Role::Root | Role::Ca => id(Role::Root, attestation_key),
        Role::Leaf => id(Role::Ca, attestation_key),
    };
    let signature = sign(hsm, &issuer_id, issuer, tbs.to_be_signed()).await?;
    let der = tbs.assemble(&signature)?;
    let put = Request::PutCertificate {
        key: subject_id,
        label: format!("hsm-operator {}", purpose(role)),
        der: Bytes::copy_from_slice(&der),
    };
    hsm.call(put).await.map_err(|source| failed(OPERATION, source))?;
    Ok(der)
}

/// A signature that is right: what is signed here is kept.
async fn sign(
    hsm: &dyn Hsm,
    key: &KeyId,
    public: &PublicKey,
    message: &[u8],
) -> Result<Vec<u8>, AttestError> {
    const OPERATION: &str = "a signature of an attestation key";
    let request = Request::Sign {
        key: key.clone(),
        algorithm: SIGNATURE_ALGORITHM,
        payload: Bytes::copy_from_slice(message),
    };
    match hsm.call(request).await {
        Ok(Reply::Signature(signature)) => {
            let right = public.verify(SIGNATURE_ALGORITHM, message, &signature) == Ok(true);
            right
                .then(|| signature.to_vec())
                .ok_or(AttestError::Answer("a wrong signature of an attestation key"))
        }
        Ok(other) => Err(failed(OPERATION, unexpected(&other))),
        Err(source) => Err(failed(OPERATION, source)),
    }
}

const fn failed(operation: &'static str, source: HsmError) -> AttestError {
    AttestError::Hsm { operation, source }
}

/// `AB:CD:…`, as openssl prints fingerprints.
fn colons(hex: &str) -> String {
    let pairs: Vec<String> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| pair.iter().map(|byte| char::from(byte.to_ascii_uppercase())).collect())
        .collect();
    pairs.join(":")
}
