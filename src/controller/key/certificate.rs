//! The key's certificate: the one that the spec gives, or one that the key signs itself.

use jiff::Timestamp;
use kube::ResourceExt;

use super::{gather::Seen, plan::Refusal};
use crate::{
    api::{
        HsmKey,
        certificate::{CertificateStatus, SelfSigned},
        key::HsmKeyStatus,
    },
    controller::{
        context::{Context, MANAGER},
        error::Error,
    },
    hsm::{Hsm, protocol::Kind},
    model::certificate::CertificateAlgorithm,
    public_key::PublicKey,
    service::{
        audit::Use,
        certificate::{self, Chain, Unsigned, Usages},
        directory::Usable,
        sign::SignError,
    },
};

/// How it stands with a key's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certified {
    /// The spec asks for none.
    NotAsked,
    /// It is there.
    Yes,
    /// A person must act. The key can be used all the same, and an earlier certificate stays where it is.
    Refused(Refusal),
}

/// What to do about a key's certificate.
#[derive(Debug)]
enum Step<'a> {
    /// There is to be none.
    Drop,
    /// The one in the status is right.
    Keep,
    /// This one was given.
    Take(Box<Chain>),
    /// The key signs one.
    Make(&'a SelfSigned),
    /// A person must act.
    Refuse(Refusal),
}

/// Brings the certificate in `status` to what the spec asks for.
///
/// # Errors
/// When the token does not sign just now.
pub async fn certify(
    key: &HsmKey,
    usable: Option<Usable>,
    status: &mut HsmKeyStatus,
    seen: &Seen,
    ctx: &Context,
) -> Result<Certified, Error> {
    let public = usable.as_ref().and_then(|usable| usable.public.as_deref());
    match plan(key, public, status.certificate.as_ref(), ctx.now()) {
        Step::Drop => {
            status.certificate = None;
            Ok(Certified::NotAsked)
        }
        Step::Keep => Ok(Certified::Yes),
        Step::Take(chain) => {
            status.certificate = Some(described(&chain, None));
            Ok(Certified::Yes)
        }
        Step::Refuse(refusal) => Ok(Certified::Refused(refusal)),
        Step::Make(wanted) => {
            let usable = usable.as_ref().ok_or(Error::Incomplete("keyId"))?;
            match made(key, wanted, usable, seen.hsm()?.as_ref(), ctx).await {
                Ok(chain) => {
                    let certificate = described(&chain, Some(wanted.digest()));
                    let note = format!("signed a certificate until {}", certificate.not_after);
                    ctx.event(key, false, "CertificateMade", "Certify", note).await;
                    status.certificate = Some(certificate);
                    Ok(Certified::Yes)
                }
                Err(certificate::Error::Sign(SignError::Hsm(source))) => match source.kind {
                    Kind::Unsupported | Kind::Invalid | Kind::Forbidden => {
                        Ok(Certified::Refused(Refusal::hsm(&source)))
                    }
                    kind => {
                        if matches!(kind, Kind::KeyNotFound | Kind::Ambiguous) {
                            ctx.inventories.missed(&usable.partition, &usable.id).await;
                        }
                        Err(Error::Hsm { operation: "the signature of a certificate", source })
                    }
                },
                Err(error) => Ok(Certified::Refused(refusal(&error))),
            }
        }
    }
}

/// Decides what to do. Pure.
fn plan<'a>(
    key: &'a HsmKey,
    public: Option<&PublicKey>,
    have: Option<&CertificateStatus>,
    now: Timestamp,
) -> Step<'a> {
    let Some(spec) = &key.spec.certificate else { return Step::Drop };
    let Some(public) = public else {
        let message = format!("a key of the algorithm {} has no public half to certify", key.spec.algorithm);
        return Step::Refuse(Refusal::certificate("InvalidCertificate", message));
    };
    match (&spec.pem, &spec.self_signed) {
        (Some(pem), None) => match Chain::from_pem(pem, public) {
            Ok(chain) => Step::Take(Box::new(chain)),
            Err(error) => Step::Refuse(refusal(&error)),
        },
        (None, Some(wanted)) => {
            let made = have.filter(|have| have.made_for.as_ref() == Some(&wanted.digest()));
            let still_good = made.and_then(|have| Chain::from_pem(&have.pem, public).ok());
            if still_good.is_some_and(|chain| now < renewal(&chain)) {
                Step::Keep
            } else {
                Step::Make(wanted)
            }
        }
        _ => {
            let message =
                "exactly one of certificate.pem and certificate.selfSigned says what the certificate is";
            Step::Refuse(Refusal::certificate("InvalidCertificate", message))
        }
    }
}

/// When two thirds of a certificate's time are over.
fn renewal(chain: &Chain) -> Timestamp {
    let (begin, end) = (chain.not_before().as_second(), chain.not_after().as_second());
    Timestamp::from_second(begin + (end - begin) / 3 * 2).unwrap_or(Timestamp::MAX)
}

async fn made(
    key: &HsmKey,
    wanted: &SelfSigned,
    usable: &Usable,
    hsm: &dyn Hsm,
    ctx: &Context,
) -> Result<Chain, certificate::Error> {
    let public = usable.public.as_deref().ok_or(SignError::NoPublicKey)?;
    let suits = CertificateAlgorithm::default_for(public.algorithm(), public.curve().map(|curve| curve.oid));
    let algorithm = wanted.signature_algorithm.or(suits).ok_or(SignError::NoPublicKey)?;
    let usages = Usages {
        key: wanted.key_usage.clone(),
        extended: wanted.extended_key_usage.clone(),
        authority: wanted.certificate_authority,
    };
    let days = certificate::days(wanted.validity_days.map(i64::from))?;
    let subject = certificate::name(&wanted.subject)?;
    let unsigned = Unsigned::self_signed(public, algorithm, subject, &usages, days, ctx.now())?;
    let record = Use {
        caller: MANAGER,
        namespace: &key.namespace().unwrap_or_default(),
        key: &key.label(),
        operation: "certificate selfsign",
        algorithm: Some(algorithm.signature()),
        payload: unsigned.to_be_signed(),
        request_id: &key.uid().unwrap_or_default(),
    };
    record.record(None);
    Chain::from_der(unsigned.signed(&ctx.signer, hsm, usable).await?, public)
}

fn described(chain: &Chain, made_for: Option<String>) -> CertificateStatus {
    CertificateStatus {
        pem: chain.pem(),
        not_before: chain.not_before().to_string(),
        not_after: chain.not_after().to_string(),
        fingerprint: chain.fingerprint(),
        made_for,
    }
}

fn refusal(error: &certificate::Error) -> Refusal {
    use certificate::Error as E;
    let reason = match error {
        E::Unfit(_) => "CertificateMismatch",
        E::Mismatch(_) => "AlgorithmMismatch",
        E::Sign(_) => "CertificateNotSigned",
        E::Subject(_)
        | E::Usage(_)
        | E::Validity(_)
        | E::Request(_)
        | E::Unreadable(_)
        | E::Encode(_)
        | E::Write(_) => "InvalidCertificate",
    };
    Refusal::certificate(reason, format!("spec.certificate cannot be carried out: {error}"))
}
