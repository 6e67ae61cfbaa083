//! The HSM's own attestation. It says nothing that is believed before chain and signature were checked, and the document is
//! about the key that was asked for.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};

use super::{AttestError, colons, failed, ids, software::Software};
use crate::{
    api::{
        key::Attestation,
        partition::{AttestationMode, AttestationStatus},
    },
    attestation::{
        Evidence, EvidenceError, Statements, chain, document, fingerprint, verify, verify::verify_chain,
    },
    hsm::{
        Hsm,
        protocol::{AttestationKey, Find, HsmError, KeyFacts, Kind, Reply, Request},
    },
    model::{KeyId, KeyLabel},
    public_key::PublicKey,
    service::sign::unexpected,
};

/// How far the clock of an HSM may be ahead of ours: a certificate is valid from when it was made there.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// What the vendor's provider puts behind a label that several objects have, with a number behind it.
const SUFFIX: &str = "@?!";

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
                let message = unfit(&found, key_name);
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
        let public = verify_chain(&chain, &root, now + SKEW)
            .map_err(|error| doubt(format!("do not hold: {error}")))?;
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

    /// Has one key attested whose kind every such HSM knows, so that one that only seems to attest is found out before it is
    /// relied on.
    pub async fn try_out(
        &self,
        hsm: &dyn Hsm,
        software: &Software,
        now: Timestamp,
    ) -> Result<(), AttestError> {
        let found = match hsm.call(Request::Find(Find::Id(software.leaf().clone()))).await {
            Ok(Reply::Keys(found)) => found,
            Ok(other) => return Err(AttestError::NotByHsm(unexpected(&other))),
            Err(source) => return Err(AttestError::NotByHsm(source)),
        };
        let [known] = found.as_slice() else {
            return Err(failed("a search for its own attestation key", missing(software.status())));
        };
        match self.statement(hsm, known, now).await {
            Ok(_) => Ok(()),
            Err(AttestError::Hsm { source, .. }) => Err(AttestError::NotByHsm(source)),
            Err(AttestError::Unfit(said)) => {
                Err(AttestError::NotByHsm(HsmError::new(Kind::Unsupported, said)))
            }
            Err(AttestError::Answer(what)) => {
                let message = format!("asked to attest a key, the HSM answered with {what}");
                Err(AttestError::NotByHsm(HsmError::new(Kind::Unsupported, message)))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the token still has the key; what is said where it has not.
    pub async fn is_there(&self, hsm: &dyn Hsm) -> Result<(), AttestError> {
        match hsm.call(Request::Find(Find::Id(self.key.clone()))).await {
            Ok(Reply::Keys(found)) if found.len() == 1 && found[0].twins == 1 => Ok(()),
            Ok(Reply::Keys(_)) => Err(AttestError::NotByHsm(missing(&self.status))),
            Ok(other) => Err(failed("a search for its attestation key", unexpected(&other))),
            Err(source) => Err(failed("a search for its attestation key", source)),
        }
    }

    /// What the HSM says of a key, or that it does not attest this one. With which code a module refuses a kind of key is not
    /// public; where another key is attested in between, it is the key, and no trouble that passes.
    pub async fn attest(
        &self,
        hsm: &dyn Hsm,
        software: &Software,
        facts: &KeyFacts,
        now: Timestamp,
    ) -> Result<Attestation, AttestError> {
        let first = match self.statement(hsm, facts, now).await {
            Err(error) if is_failure(&error) => error,
            said => return said,
        };
        if self.try_out(hsm, software, now).await.is_err() {
            return Err(first);
        }
        match self.statement(hsm, facts, now).await {
            Err(error) if !is_failure(&error) => Err(error),
            Err(AttestError::Hsm { operation, source }) => {
                // What comes behind the code is that it is tried again.
                let code = source.message.split(':').next().unwrap_or_default();
                let message = format!("the HSM attests other keys and fails at this one ({code})");
                Err(failed(operation, HsmError { kind: Kind::Unsupported, message, ..source }))
            }
            said => said,
        }
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
        let said = verify(&evidence, &self.status.root_fingerprint, now + SKEW);
        // What was signed rightly and is not about the key will not be about it later either.
        let unfit = |what| AttestError::Unfit(format!("what the HSM says of key '{}' {what}", facts.label));
        let said = said.map_err(|error| match error {
            EvidenceError::Document(why) => unfit(format!("cannot be read: {why}")),
            error => {
                let message = format!("what the HSM says of key '{}' does not hold: {error}", facts.label);
                failed(OPERATION, HsmError::new(Kind::Device, message))
            }
        })?;
        about(&said, facts).map_err(unfit)?;
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

/// Whether it is a code of the module's that may mean that it does not attest the key.
fn is_failure(error: &AttestError) -> bool {
    error.hsm().is_some_and(|source| {
        source.code.is_some() && matches!(source.kind, Kind::Device | Kind::Invalid | Kind::Forbidden)
    })
}

/// Why the HSM attests nothing with what has the label of its key.
fn unfit(found: &[KeyFacts], label: &str) -> String {
    match found {
        [one] if one.id.is_none() => format!(
            "the key '{label}' has no CKA_ID, by which it would be addressed: give it one with the vendor's tools, or choose \
             another label by attestation.deviceKeyName"
        ),
        _ => format!(
            "the token has {} of the label '{label}' with which the HSM attests nothing: choose another label by \
             attestation.deviceKeyName",
            if found.len() == 1 { "a key" } else { "several keys" }
        ),
    }
}

fn missing(key: &AttestationStatus) -> HsmError {
    let message = format!(
        "it is the attestation key '{}' that is not on the token any more, or not once; it is looked for again, and made again \
         where its label is free",
        key.key_name
    );
    HsmError::new(Kind::KeyNotFound, message)
}

/// That a document is the HSM's, and about this key; or what it says instead.
fn about(said: &Statements, facts: &KeyFacts) -> Result<(), String> {
    if said.is_software() {
        return Err("says that software wrote it".into());
    }
    // A secret key has none.
    if said.public_key.as_deref() != facts.public_key.as_deref() {
        return Err("is about another public key".into());
    }
    // What the root of a secret key is called, no public source tells.
    if facts.public_key.is_some() && said.kind != "private_key" {
        return Err(format!("is about a '{}'", said.kind));
    }
    // A suffix of the provider's may be in one of the two. Where there is no public key, the label is all that tells one key
    // from another.
    let bare = |label: &str| label.split(SUFFIX).next().unwrap_or_default().to_owned();
    let same =
        said.label == facts.label || (facts.public_key.is_some() && bare(&said.label) == bare(&facts.label));
    if !same {
        return Err(format!("is about a key with the label '{}'", said.label));
    }
    Ok(())
}
