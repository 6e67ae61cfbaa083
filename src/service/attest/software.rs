//! The operator's own attestation: keys and certificates made on the partition at first use, and the signed
//! statements made with them.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiff::Timestamp;

use super::{
    AttestError, colons, failed,
    ids::{self, purpose},
};
use crate::{
    api::{
        key::{Attestation, HsmKeySpec, Source},
        partition::{AttestationMode, AttestationStatus},
    },
    attestation::{
        AttestedKey, CertificateRequest, KEY_BITS, Role, SIGNATURE_ALGORITHM, Tbs, bundle::attestation_key,
        chain, document,
    },
    hsm::{
        Hsm,
        protocol::{HsmError, KeyFacts, KeyTemplate, Kind, Reply, Request},
    },
    model::{KeyAlgorithm, KeyId, KeyLabel, RequestedAttributes, derivation::SLIP10},
    public_key::PublicKey,
    service::{address, sign::unexpected},
};

/// The operator's attestation key on a partition.
#[derive(Clone)]
pub(super) struct Software {
    leaf: KeyId,
    public: PublicKey,
    status: AttestationStatus,
}

impl Software {
    /// Makes what is missing of keys and certificates.
    pub async fn ensure(
        hsm: &dyn Hsm,
        partition: &str,
        key_name: &str,
        now: Timestamp,
    ) -> Result<Self, AttestError> {
        let root = key(hsm, Role::Root, key_name).await?;
        let ca = key(hsm, Role::Ca, key_name).await?;
        let leaf = key(hsm, Role::Leaf, key_name).await?;
        let mut certificates: Vec<Vec<u8>> = Vec::new();
        for (role, subject, issuer) in
            [(Role::Root, &root, &root), (Role::Ca, &ca, &root), (Role::Leaf, &leaf, &ca)]
        {
            certificates.insert(0, certificate(hsm, role, subject, issuer, partition, key_name, now).await?);
        }
        let root_certificate = certificates.last().ok_or(AttestError::Answer("no root"))?;
        let status = AttestationStatus {
            mode: AttestationMode::Software.to_string(),
            key_name: key_name.to_owned(),
            key_id: None,
            root_fingerprint: colons(&chain::fingerprint(root_certificate)),
            chain: chain::to_pem(&certificates),
        };
        Ok(Self { leaf: ids::leaf(key_name), public: leaf, status })
    }

    /// What a status says of it; nothing is made.
    pub fn read(status: &AttestationStatus) -> Result<Self, AttestError> {
        let certificates =
            chain::from_pem(&status.chain).map_err(|_| AttestError::Answer("a chain that cannot be read"))?;
        let public = attestation_key(&certificates)
            .map_err(|_| AttestError::Answer("a certificate that cannot be read"))?;
        Ok(Self { leaf: ids::leaf(&status.key_name), public, status: status.clone() })
    }

    pub const fn leaf(&self) -> &KeyId {
        &self.leaf
    }

    pub const fn status(&self) -> &AttestationStatus {
        &self.status
    }

    /// What the operator says of a key.
    pub async fn statement(
        &self,
        hsm: &dyn Hsm,
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
        let signature = sign(hsm, &self.leaf, &self.public, xml.as_bytes()).await?;
        Ok(Attestation {
            xml,
            xml_signature: STANDARD.encode(signature),
            signature_algorithm: Some(SIGNATURE_ALGORITHM.to_string()),
            attestation_key_name: self.status.key_name.clone(),
            attest_time: document::time(now),
            mode: self.status.mode.clone(),
        })
    }
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
        id: ids::software(role, attestation_key),
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
    let subject_id = ids::software(role, attestation_key);
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
        Role::Root | Role::Ca => ids::software(Role::Root, attestation_key),
        Role::Leaf => ids::software(Role::Ca, attestation_key),
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
