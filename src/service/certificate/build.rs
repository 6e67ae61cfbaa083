//! Writes requests and certificates around a signature that a token makes.

use std::time::Duration;

use const_oid::db::rfc5912;
use der::{
    Decode, Encode,
    asn1::{Any, BitString, OctetString},
    referenced::OwnedToRef,
};
use jiff::Timestamp;
use signature::Keypair;
use spki::{
    AlgorithmIdentifierOwned, Document, DynSignatureAlgorithmIdentifier, EncodePublicKey,
    SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef,
};
use x509_cert::{
    TbsCertificate,
    builder::{self, Builder, CertificateBuilder, profile::BuilderProfile},
    ext::{
        Extension,
        pkix::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, SubjectKeyIdentifier},
    },
    name::Name,
    request::RequestBuilder,
    serial_number::SerialNumber,
    time::{Time, Validity},
};

use super::{Chain, Error, Usages, usage::extension};
use crate::{
    api::partition::VerifySignatures,
    hsm::Hsm,
    model::{SignatureType, certificate::CertificateAlgorithm},
    public_key::PublicKey,
    service::{
        directory::Usable,
        sign::{Job, Signer},
    },
};

const DAY: u64 = 24 * 3600;

/// A certificate or a request that only lacks its signature.
pub struct Unsigned {
    draft: Draft,
    signer: TokenKey,
    algorithm: CertificateAlgorithm,
    bytes: Vec<u8>,
}

enum Draft {
    Request(Box<RequestBuilder>),
    Certificate(Box<CertificateBuilder<Profile>>),
}

/// The key that will sign: all that the library asks of a signer but the signature.
#[derive(Clone)]
struct TokenKey {
    spki: Vec<u8>,
    algorithm: AlgorithmIdentifierOwned,
}

#[derive(Clone)]
struct Spki(Vec<u8>);

impl EncodePublicKey for Spki {
    fn to_public_key_der(&self) -> spki::Result<Document> {
        Ok(Document::try_from(self.0.as_slice())?)
    }
}

impl Keypair for TokenKey {
    type VerifyingKey = Spki;

    fn verifying_key(&self) -> Spki {
        Spki(self.spki.clone())
    }
}

impl DynSignatureAlgorithmIdentifier for TokenKey {
    fn signature_algorithm_identifier(&self) -> spki::Result<AlgorithmIdentifierOwned> {
        Ok(self.algorithm.clone())
    }
}

impl TokenKey {
    fn new(key: &PublicKey, algorithm: CertificateAlgorithm) -> Result<Self, Error> {
        let of_key = key.algorithm();
        if !algorithm.signature().fits(of_key) {
            let fitting: Vec<_> = CertificateAlgorithm::ALL
                .iter()
                .filter(|one| one.signature().fits(of_key))
                .map(|one| one.name())
                .collect();
            let fitting = if fitting.is_empty() { "none".into() } else { fitting.join(", ") };
            let message =
                format!("{algorithm} does not sign certificates with {of_key} keys; these do: {fitting}");
            return Err(Error::Mismatch(message));
        }
        let (oid, parameters) = match algorithm {
            CertificateAlgorithm::Sha224WithRsa => (rfc5912::SHA_224_WITH_RSA_ENCRYPTION, Some(Any::null())),
            CertificateAlgorithm::Sha256WithRsa => (rfc5912::SHA_256_WITH_RSA_ENCRYPTION, Some(Any::null())),
            CertificateAlgorithm::Sha384WithRsa => (rfc5912::SHA_384_WITH_RSA_ENCRYPTION, Some(Any::null())),
            CertificateAlgorithm::Sha512WithRsa => (rfc5912::SHA_512_WITH_RSA_ENCRYPTION, Some(Any::null())),
            CertificateAlgorithm::Sha256WithEcdsa => (rfc5912::ECDSA_WITH_SHA_256, None),
            CertificateAlgorithm::Sha384WithEcdsa => (rfc5912::ECDSA_WITH_SHA_384, None),
            CertificateAlgorithm::Sha512WithEcdsa => (rfc5912::ECDSA_WITH_SHA_512, None),
            // Edwards curves name key and signature alike (RFC 8410).
            CertificateAlgorithm::EdDsa => {
                (SubjectPublicKeyInfoRef::from_der(key.spki())?.algorithm.oid, None)
            }
        };
        Ok(Self { spki: key.spki().to_vec(), algorithm: AlgorithmIdentifierOwned { oid, parameters } })
    }
}

/// Names and extensions of a certificate, in the library's words.
struct Profile {
    subject: Name,
    /// `None` of a certificate that is signed with its own key.
    issuer: Option<Authority>,
    extensions: Vec<Extension>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, subject: &Name) -> Name {
        self.issuer.as_ref().map_or_else(|| subject.clone(), |issuer| issuer.name.clone())
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        spk: SubjectPublicKeyInfoRef<'_>,
        _: SubjectPublicKeyInfoRef<'_>,
        _: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        let mut all = self.extensions.clone();
        all.push(extension(false, &SubjectKeyIdentifier::try_from(spk)?)?);
        if let Some(issuer) = &self.issuer {
            let authority = AuthorityKeyIdentifier {
                key_identifier: Some(issuer.key_identifier.clone()),
                authority_cert_issuer: None,
                authority_cert_serial_number: None,
            };
            all.push(extension(false, &authority)?);
        }
        Ok(all)
    }
}

/// Whoever issues certificates: as its own certificate names it.
#[derive(Clone, Debug)]
pub struct Authority {
    name: Name,
    key_identifier: OctetString,
    /// Whether the certificates that it issues may be authorities' in turn.
    issues_authorities: bool,
}

impl Authority {
    /// The authority that a certificate speaks of.
    ///
    /// # Errors
    /// [`Error::Unfit`] when nobody would accept a certificate that it issues now.
    pub fn of(certificate: &Chain, now: Timestamp) -> Result<Self, Error> {
        let leaf = certificate.leaf();
        let unfit = |why: &str| Err(Error::Unfit(format!("the certificate of the signing key {why}")));
        let (begin, end) = (certificate.not_before(), certificate.not_after());
        if now < begin || end < now {
            return unfit(&format!("is valid from {begin} to {end} only"));
        }
        let constraints =
            leaf.get_extension::<BasicConstraints>().map_err(|_| unreadable("basicConstraints"))?;
        let Some((_, constraints)) = constraints.filter(|(_, constraints)| constraints.ca) else {
            return unfit(
                "is not an authority's: attach one that is, as selfsign does with certificateAuthority true",
            );
        };
        let usage = leaf.get_extension::<KeyUsage>().map_err(|_| unreadable("keyUsage"))?;
        if usage.is_some_and(|(_, usage)| !usage.key_cert_sign()) {
            return unfit("has no keyUsage KEY_CERT_SIGN");
        }
        let identifier = leaf
            .get_extension::<SubjectKeyIdentifier>()
            .map_err(|_| unreadable("subjectKeyIdentifier"))?
            .map(|(_, identifier)| identifier);
        let identifier = match identifier {
            Some(identifier) => identifier,
            None => SubjectKeyIdentifier::try_from(leaf.subject_public_key_info().owned_to_ref())?,
        };
        Ok(Self {
            name: leaf.subject().clone(),
            key_identifier: identifier.0,
            issues_authorities: constraints.path_len_constraint != Some(0),
        })
    }
}

fn unreadable(extension: &str) -> Error {
    Error::Unfit(format!(
        "the certificate of the signing key has an extension {extension} that cannot be read"
    ))
}

impl Unsigned {
    /// A request for a certificate of `key`.
    ///
    /// # Errors
    /// When the algorithm does not fit the key.
    pub fn request(
        key: &PublicKey,
        algorithm: CertificateAlgorithm,
        subject: Name,
        usages: &Usages,
    ) -> Result<Self, Error> {
        let signer = TokenKey::new(key, algorithm)?;
        let mut builder = RequestBuilder::new(subject)?;
        for extension in usages.of_request()? {
            builder.add_extension(extension)?;
        }
        let identifier = SubjectKeyIdentifier::try_from(SubjectPublicKeyInfoRef::from_der(key.spki())?)?;
        builder.add_extension(extension(false, &identifier)?)?;
        let bytes = builder.finalize(&signer)?;
        Ok(Self { draft: Draft::Request(Box::new(builder)), signer, algorithm, bytes })
    }

    /// A certificate of `key`, signed with itself, for `days` days from the last midnight (UTC).
    ///
    /// # Errors
    /// When the algorithm does not fit the key, or the usages contradict each other.
    pub fn self_signed(
        key: &PublicKey,
        algorithm: CertificateAlgorithm,
        subject: Name,
        usages: &Usages,
        days: u32,
        now: Timestamp,
    ) -> Result<Self, Error> {
        usages.check()?;
        let profile = Profile { subject, issuer: None, extensions: usages.of_certificate()? };
        let now = seconds(now)?;
        Self::certificate(key, algorithm, profile, key.spki(), now - now % DAY, days)
    }

    /// A certificate of what `request` asks for, signed with `key`, for `days` days from now.
    ///
    /// # Errors
    /// When the algorithm does not fit the key, the usages contradict each other, or the authority may not issue it.
    #[allow(clippy::too_many_arguments, reason = "all that a certificate says")]
    pub fn issued(
        key: &PublicKey,
        algorithm: CertificateAlgorithm,
        authority: Authority,
        request: &super::Request,
        subject: Name,
        usages: &Usages,
        days: u32,
        now: Timestamp,
    ) -> Result<Self, Error> {
        usages.check()?;
        if usages.authority && !authority.issues_authorities {
            let message = "the certificate of the signing key allows no authority below it (its pathLenConstraint is 0)";
            return Err(Error::Unfit(message.into()));
        }
        let profile = Profile { subject, issuer: Some(authority), extensions: usages.of_certificate()? };
        Self::certificate(key, algorithm, profile, request.key().spki(), seconds(now)?, days)
    }

    fn certificate(
        key: &PublicKey,
        algorithm: CertificateAlgorithm,
        profile: Profile,
        spki: &[u8],
        begin: u64,
        days: u32,
    ) -> Result<Self, Error> {
        let signer = TokenKey::new(key, algorithm)?;
        let validity = Validity::new(time(begin)?, time(begin + u64::from(days) * DAY)?);
        let spki = SubjectPublicKeyInfoOwned::from_der(spki)?;
        let mut builder = CertificateBuilder::new(profile, serial()?, validity, spki)?;
        let bytes = builder.finalize(&signer)?;
        Ok(Self { draft: Draft::Certificate(Box::new(builder)), signer, algorithm, bytes })
    }

    /// The bytes that the key signs.
    #[must_use]
    pub fn to_be_signed(&self) -> &[u8] {
        &self.bytes
    }

    /// Has `key` sign it. Returns the DER.
    ///
    /// # Errors
    /// When the token does not sign, or not rightly: what is signed here is kept, so every signature is checked.
    pub async fn signed(self, signer: &Signer, hsm: &dyn Hsm, key: &Usable) -> Result<Vec<u8>, Error> {
        let job = Job {
            algorithm: self.algorithm.signature(),
            form: SignatureType::Der,
            payload: self.bytes.clone().into(),
            context: "".into(),
            verify: VerifySignatures::Always,
        };
        let signature = signer.sign(hsm, key, job).await?;
        self.assemble(&signature)
    }

    fn assemble(self, signature: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = BitString::from_bytes(signature)?;
        Ok(match self.draft {
            Draft::Request(builder) => builder.assemble(signature, &self.signer)?.to_der()?,
            Draft::Certificate(builder) => builder.assemble(signature, &self.signer)?.to_der()?,
        })
    }
}

/// 126 random bits: positive, never zero, always of 16 octets.
fn serial() -> Result<SerialNumber, Error> {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(SerialNumber::new(&serial)?)
}

fn seconds(at: Timestamp) -> Result<u64, Error> {
    u64::try_from(at.as_second()).map_err(|_| der::Error::from(der::ErrorKind::DateTime).into())
}

/// UTCTime until 2049, GeneralizedTime from then on (RFC 5280, 4.1.2.5).
fn time(seconds: u64) -> Result<Time, Error> {
    Ok(Time::from(der::DateTime::from_unix_duration(Duration::from_secs(seconds))?))
}
