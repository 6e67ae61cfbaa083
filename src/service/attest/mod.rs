//! Attestations: by the HSM itself where it offers that, or by the operator.
//!
//! The operator's own keys and certificates are made on every partition, whoever attests: a signature with its attestation
//! key also shows that a replica has the keys.

mod device;
mod ids;
mod software;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::HashMap, sync::Mutex};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use self::{device::Device, software::Software};
use crate::{
    api::{
        HsmPartition,
        key::{Attestation, HsmKeySpec, Source},
        partition::{AttestationMode, AttestationSettings, AttestationStatus, HsmPartitionStatus},
    },
    attestation::{ChainError, DocumentError, bundle::attestation_key, chain},
    hsm::{
        Hsm,
        protocol::{Actor, HsmError, KeyFacts, Kind},
    },
    model::address::NoAddress,
};

pub use self::ids::{device as device_key, leaf, own_keys};

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
    /// The HSM itself is to attest keys, and does not.
    #[error("the HSM itself does not attest keys")]
    NotByHsm(#[source] HsmError),
    /// The HSM signed something about a key that is not what its attestation has to be.
    #[error("{0}")]
    Unfit(String),
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
            Self::Hsm { source, .. } | Self::NotByHsm(source) => Some(source),
            _ => None,
        }
    }

    /// What the HSM is to have set right by a person before it attests anything; trouble that passes is not of this kind.
    #[must_use]
    pub const fn refusal(&self) -> Option<&HsmError> {
        match self {
            Self::NotByHsm(error) if !matches!(error.kind.actor(), Actor::Nobody) => Some(error),
            _ => None,
        }
    }

    /// Why a key that can be used is not attested, and will not be before a person decides otherwise.
    #[must_use]
    pub fn unattested(&self) -> Option<String> {
        match self {
            Self::Hsm { source, .. } if source.kind == Kind::Unsupported => Some(source.message.clone()),
            Self::Unfit(said) => Some(format!(
                "{said}; report that to its maker, or choose attestation.mode Software to have the operator attest"
            )),
            _ => None,
        }
    }
}

/// How long the operator attests in place of an HSM that offers to, before it is asked again.
const ASKED_AGAIN: SignedDuration = SignedDuration::from_mins(10);

const fn failed(operation: &'static str, source: HsmError) -> AttestError {
    AttestError::Hsm { operation, source }
}

/// Who attests the keys of a partition, as it was found out.
#[derive(Clone, Debug, Default)]
pub struct Attesting {
    /// The key that attests from now on.
    pub current: AttestationStatus,
    /// The operator's own, which is there whoever attests.
    pub software: AttestationStatus,
    /// Why it is the operator who attests, although the HSM says that it could.
    pub instead: Option<String>,
}

/// Attestation keys by partition, once they are known to be there.
#[derive(Default)]
pub struct Attestor {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone)]
struct Known {
    settings: AttestationSettings,
    /// Whether the HSM said then that it attests keys.
    offered: bool,
    software: Software,
    device: Option<Device>,
    instead: Option<String>,
    asked: Timestamp,
}

impl Known {
    /// Whether the HSM is to be asked again, because something may have been set right. One that attests is not.
    fn is_old(&self, now: Timestamp) -> bool {
        self.instead.is_some() && now.duration_since(self.asked) >= ASKED_AGAIN
    }
}

impl Attestor {
    /// Makes what is missing of keys and certificates on a partition, and says what there is.
    ///
    /// With mode `Auto` the operator attests where the HSM cannot, as far as that is known not to pass by itself. Once the HSM
    /// has attested keys of a partition, it does so until the spec says otherwise.
    ///
    /// # Errors
    /// When the token does not do its part.
    pub async fn ensure(
        &self,
        hsm: &dyn Hsm,
        partition: &HsmPartition,
        now: Timestamp,
    ) -> Result<Attesting, AttestError> {
        let Known { software, device, instead, .. } = self.known(hsm, partition, now).await?;
        let current = device.map_or_else(|| software.status().clone(), |device| device.status().clone());
        Ok(Attesting { current, software: software.status().clone(), instead })
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
        let (name, settings) = (partition.name_any(), partition.spec.attestation.clone());
        let known = self.known.lock().expect("no panic while it is held").get(&name).cloned();
        // Another version of the library may offer what an earlier one did not, or no more.
        let offered = device::offered(hsm)?;
        let known = known.filter(|known| known.settings == settings && known.offered == offered);
        let known = match known {
            Some(known) if !known.is_old(now) => return Ok(known),
            Some(known) => {
                // Whatever comes of it, the operator can go on.
                let (device, instead) = who(hsm, partition, offered, &known.software, now)
                    .await
                    .unwrap_or_else(|_| (None, known.instead.clone()));
                Known { device, instead, asked: now, ..known }
            }
            None => {
                let software = Software::ensure(hsm, &name, &settings.key_name.0, now).await?;
                let (device, instead) = who(hsm, partition, offered, &software, now).await?;
                Known { settings, offered, software, device, instead, asked: now }
            }
        };
        self.known.lock().expect("no panic while it is held").insert(name, known.clone());
        Ok(known)
    }

    /// Makes the signed statement about a key: what the HSM says of it, or what the token says of it and the policy that it was
    /// made with. The statement tells which of the two it is.
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
        let Known { settings, software, device, .. } = self.known(hsm, partition, now).await?;
        if let Some(device) = device {
            let attested = match spec.source {
                // It has no private half there that the HSM could speak of.
                Source::ImportedPublic => Err(unsaid("a public key alone")),
                Source::Generated | Source::Imported => device.attest(hsm, &software, facts, now).await,
            };
            match attested {
                Err(error) if is_of_the_key(&error) => {
                    self.forget(&partition.name_any());
                    return Err(device.is_there(hsm).await.err().unwrap_or(error));
                }
                Err(AttestError::Hsm { source, .. })
                    if source.kind == Kind::Unsupported && settings.mode == AttestationMode::Auto =>
                {
                    tracing::info!(
                        key = facts.label,
                        error = source.message,
                        "the operator attests this key"
                    );
                }
                attested => return attested,
            }
        }
        software.statement(hsm, facts, spec, create_time, now).await
    }
}

/// Whether it may be the attestation key that is gone, or another one now.
const fn is_of_the_key(error: &AttestError) -> bool {
    match error {
        AttestError::Hsm { source, .. } => matches!(source.kind, Kind::KeyNotFound | Kind::Ambiguous),
        AttestError::Answer(_) => true,
        _ => false,
    }
}

/// The HSM's attestation key, if it is the HSM that attests; or why it does not, although it offers to.
async fn who(
    hsm: &dyn Hsm,
    partition: &HsmPartition,
    offered: bool,
    software: &Software,
    now: Timestamp,
) -> Result<(Option<Device>, Option<String>), AttestError> {
    let settings = &partition.spec.attestation;
    let attested = partition.status.as_ref().and_then(|status| status.attestation.as_ref());
    let before = attested.is_some_and(AttestationStatus::is_device);
    match settings.mode {
        AttestationMode::Software => return Ok((None, None)),
        AttestationMode::Auto if !before && !offered => return Ok((None, None)),
        AttestationMode::Auto | AttestationMode::Vendor => {}
    }
    let tried = async {
        let device = Device::ensure(hsm, &settings.device_key_name(), now).await?;
        device.try_out(hsm, software, now).await?;
        Ok::<_, AttestError>(device)
    };
    match tried.await {
        Ok(device) => Ok((Some(device), None)),
        Err(error) => match error.refusal() {
            Some(refusal) if settings.mode == AttestationMode::Auto && !before => {
                Ok((None, Some(refusal.message.clone())))
            }
            _ => Err(error),
        },
    }
}

/// The statement about a key that is derived for a moment, by the operator's attestation key that is there already: nothing
/// is made. The HSM says nothing of such a key, because it is gone before anybody could ask.
///
/// # Errors
/// When only the HSM is to attest keys, when the partition has no attestation key yet, or the token does not do its part.
pub async fn attest_passing(
    hsm: &dyn Hsm,
    partition: &HsmPartition,
    facts: &KeyFacts,
    spec: &HsmKeySpec,
    create_time: &str,
    now: Timestamp,
) -> Result<Attestation, AttestError> {
    if partition.spec.attestation.mode == AttestationMode::Vendor {
        return Err(unsaid(
            "a key that is derived for a moment (one that is kept with derivedKey it attests)",
        ));
    }
    let status = partition.status.as_ref().and_then(HsmPartitionStatus::software_attestation);
    let software = Software::read(status.ok_or(AttestError::Answer("no attestation key yet"))?)?;
    software.statement(hsm, facts, spec, create_time, now).await
}

fn unsaid(of_what: &'static str) -> AttestError {
    let message = format!(
        "the HSM attests nothing of {of_what}, and attestation.mode of the partition is Vendor: with Auto the operator does"
    );
    failed("an attestation", HsmError::new(Kind::Unsupported, message))
}

/// The certificates that belong to a statement: those of the key that signed it, as far as they are remembered.
#[must_use]
pub fn chain_of<'a>(
    status: &'a HsmPartitionStatus,
    statement: &Attestation,
) -> Option<&'a AttestationStatus> {
    let signature = STANDARD.decode(&statement.xml_signature).ok()?;
    let algorithm = statement.algorithm()?;
    let signed = |one: &&AttestationStatus| {
        let leaf = chain::from_pem(&one.chain).ok().and_then(|chain| attestation_key(&chain).ok());
        leaf.is_some_and(|leaf| leaf.verify(algorithm, statement.xml.as_bytes(), &signature) == Ok(true))
    };
    status.attestations().filter(|one| one.is_device() == statement.is_device()).find(signed)
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
