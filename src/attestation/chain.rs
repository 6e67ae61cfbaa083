//! The three certificates from a root to an attestation key.
//!
//! The keys are on the token, so a certificate is made in two steps: [`Tbs::new`] writes the bytes that
//! the issuer's key signs there, [`Tbs::assemble`] puts the signature to them.
//!
//! | | Root | CA | Leaf |
//! | --- | --- | --- | --- |
//! | basicConstraints (critical) | CA, pathlen 1 | CA, pathlen 0 | no CA |
//! | keyUsage (critical) | nonRepudiation, keyCertSign, cRLSign | same | digitalSignature, nonRepudiation |
//! | subject | names operator and partition | same | CN is the attestation key's label, O the operator |

use super::{ISSUER, SIGNATURE_ALGORITHM};
use crate::model::KeyAlgorithm;
use crate::model::digest::Hash;
use crate::public_key::PublicKey;
use const_oid::AssociatedOid;
use const_oid::db::rfc4519::{COMMON_NAME, ORGANIZATION_NAME, ORGANIZATIONAL_UNIT_NAME};
use const_oid::db::rfc5912::SHA_256_WITH_RSA_ENCRYPTION;
use der::asn1::{Any, BitString, ObjectIdentifier, OctetString, Utf8StringRef};
use der::{Decode, Encode, Sequence};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::Certificate;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::certificate::{Rfc5280, Version};
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, KeyUsage, KeyUsages, SubjectKeyIdentifier,
};
use x509_cert::ext::{Extension, Extensions};
use x509_cert::name::{Name, RelativeDistinguishedName};
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::{Time, Validity};

/// What names in the certificates of HSMs contain.
const MAKERS: [&str; 2] = ["primus", "securosys"];

/// Longest value of one part of a name (RFC 5280, upper bounds), in characters.
const NAME_PART_MAX: usize = 64;

/// Place in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Signs itself and the CA; its fingerprint is what people pin.
    Root,
    /// Signs attestation keys.
    Ca,
    /// The attestation key, which signs documents.
    Leaf,
}

/// What a certificate shall say.
#[derive(Clone, Debug)]
pub struct CertificateRequest<'a> {
    /// Place in the chain.
    pub role: Role,
    /// Name of the partition, in the names of root and CA.
    pub partition: &'a str,
    /// Label of the attestation key: the leaf's name.
    pub attestation_key: &'a str,
    /// The key that is certified.
    pub subject: &'a PublicKey,
    /// The key that will sign; for a root the same one.
    pub issuer: &'a PublicKey,
    /// 128 random bits.
    pub serial: [u8; 16],
    /// Begin of validity.
    pub not_before: Timestamp,
    /// End of validity; see [`root_end`].
    pub not_after: Timestamp,
}

/// A certificate without its signature.
#[derive(Clone, Debug)]
pub struct Tbs {
    der: Vec<u8>,
    issuer: PublicKey,
}

/// Why a certificate cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Certificates are signed with RSA only.
    #[error("certificates of attestation keys are signed with RSA keys, not with {0}")]
    IssuerKey(KeyAlgorithm),
    /// A root that somebody else signs.
    #[error("a root certificate is signed with its own key")]
    RootIssuer,
    /// A value that DER or RFC 5280 has no place for.
    #[error("a value does not fit a certificate")]
    Encode(#[from] der::Error),
    /// The signature is not the issuer's.
    #[error("the signature over the certificate is not one of its issuer's key")]
    Signature,
}

/// End of a root's life, 30 years after its begin; CA and leaf end with it.
#[must_use]
pub fn root_end(begin: Timestamp) -> Timestamp {
    let end = begin.to_zoned(TimeZone::UTC).checked_add(30.years());
    end.map_or(Timestamp::MAX, |end| end.timestamp())
}

/// SHA-256 of a DER certificate in lower-case hexadecimal.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> String {
    hex::encode(Hash::Sha256.digest(certificate))
}

/// Whether a certificate of a chain is one of the operator's, by the organisation that subject or issuer names. One that cannot be
/// read is nobody's.
#[must_use]
pub fn names_operator<C: AsRef<[u8]>>(certificates: &[C]) -> bool {
    let ours = |name: &Name| {
        name.iter().any(|part| part.oid == ORGANIZATION_NAME && part.value.value() == ISSUER.as_bytes())
    };
    certificates.iter().any(|der| {
        Certificate::from_der(der.as_ref()).is_ok_and(|certificate| {
            let tbs = certificate.tbs_certificate();
            ours(tbs.subject()) || ours(tbs.issuer())
        })
    })
}

/// Certificates as `CERTIFICATE` blocks of PEM, in the order given.
#[must_use]
pub fn to_pem<C: AsRef<[u8]>>(certificates: &[C]) -> String {
    let block = |der: &C| {
        der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, der.as_ref())
            .expect("a short label and bytes in memory can always be written")
    };
    certificates.iter().map(block).collect()
}

/// Reads `CERTIFICATE` blocks of PEM, in their order; text around them is passed over.
///
/// # Errors
/// When a block does not end or is not PEM.
pub fn from_pem(text: &str) -> Result<Vec<Vec<u8>>, der::pem::Error> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut certificates = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find(BEGIN) {
        rest = &rest[begin..];
        let end = rest.find(END).ok_or(der::pem::Error::PostEncapsulationBoundary)? + END.len();
        certificates.push(der::pem::decode_vec(&rest.as_bytes()[..end])?.1);
        rest = &rest[end..];
    }
    Ok(certificates)
}

/// The fields of RFC 5280 in their order: the type of `x509-cert` cannot be built from outside it.
#[derive(Sequence)]
struct Fields {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: Version,
    serial: SerialNumber,
    signature: AlgorithmIdentifierOwned,
    issuer: Name,
    validity: Validity,
    subject: Name,
    spki: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Extensions,
}

#[derive(Sequence)]
struct Signed {
    tbs: Any,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

fn signature_algorithm() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: SHA_256_WITH_RSA_ENCRYPTION, parameters: Some(Any::null()) }
}

impl Tbs {
    /// Writes everything but the signature.
    ///
    /// # Errors
    /// When the keys do not fit the role, or a value has no place in a certificate.
    pub fn new(request: &CertificateRequest<'_>) -> Result<Self, ChainError> {
        if request.issuer.algorithm() != KeyAlgorithm::Rsa {
            return Err(ChainError::IssuerKey(request.issuer.algorithm()));
        }
        if request.role == Role::Root && request.issuer != request.subject {
            return Err(ChainError::RootIssuer);
        }
        let issuer_role = match request.role {
            Role::Root | Role::Ca => Role::Root,
            Role::Leaf => Role::Ca,
        };
        let fields = Fields {
            version: Version::V3,
            serial: SerialNumber::<Rfc5280>::new(&request.serial)?,
            signature: signature_algorithm(),
            issuer: name(issuer_role, request)?,
            validity: Validity::new(time(request.not_before)?, time(request.not_after)?),
            subject: name(request.role, request)?,
            spki: SubjectPublicKeyInfoOwned::from_der(request.subject.spki())?,
            extensions: extensions(request)?,
        };
        Ok(Self { der: fields.to_der()?, issuer: request.issuer.clone() })
    }

    /// The bytes to sign with the issuer's key: RSA PKCS #1 v1.5 with SHA-256.
    #[must_use]
    pub fn to_be_signed(&self) -> &[u8] {
        &self.der
    }

    /// Puts the signature to it and returns the certificate in DER.
    ///
    /// # Errors
    /// When the signature is not the issuer's: a certificate that nobody could verify is not made.
    pub fn assemble(self, signature: &[u8]) -> Result<Vec<u8>, ChainError> {
        if self.issuer.verify(SIGNATURE_ALGORITHM, &self.der, signature) != Ok(true) {
            return Err(ChainError::Signature);
        }
        let signed = Signed {
            tbs: Any::from_der(&self.der)?,
            algorithm: signature_algorithm(),
            signature: BitString::from_bytes(signature)?,
        };
        Ok(signed.to_der()?)
    }
}

fn time(at: Timestamp) -> Result<Time, der::Error> {
    let seconds = u64::try_from(at.as_second()).map_err(|_| der::Error::from(der::ErrorKind::DateTime))?;
    Ok(Time::from(der::DateTime::from_unix_duration(std::time::Duration::from_secs(seconds))?))
}

fn name(role: Role, request: &CertificateRequest<'_>) -> Result<Name, der::Error> {
    let common = match role {
        Role::Root => format!("{ISSUER} software attestation root (partition {})", request.partition),
        Role::Ca => format!("{ISSUER} software attestation CA (partition {})", request.partition),
        Role::Leaf if sounds_like_a_device(request.attestation_key) => {
            format!("{ISSUER} software attestation key {}", request.attestation_key)
        }
        Role::Leaf => request.attestation_key.to_owned(),
    };
    let partition = format!("partition {}", request.partition);
    let parts = [
        (ORGANIZATION_NAME, ISSUER),
        (ORGANIZATIONAL_UNIT_NAME, partition.as_str()),
        (COMMON_NAME, common.as_str()),
    ];
    let parts = parts.into_iter().map(|(oid, value)| part(oid, value)).collect::<Result<Vec<_>, _>>()?;
    // `Name` cannot be built from its parts, but read.
    Name::from_der(&parts.to_der()?)
}

/// Whether a label, which people choose, could be taken for the name of an HSM or its maker.
fn sounds_like_a_device(label: &str) -> bool {
    let label = label.to_ascii_lowercase();
    MAKERS.iter().any(|maker| label.contains(maker))
}

fn part(oid: ObjectIdentifier, value: &str) -> Result<RelativeDistinguishedName, der::Error> {
    let value: String = value.chars().take(NAME_PART_MAX).collect();
    let value = Any::encode_from(&Utf8StringRef::new(&value)?)?;
    RelativeDistinguishedName::try_from(vec![AttributeTypeAndValue { oid, value }])
}

fn extensions(request: &CertificateRequest<'_>) -> Result<Extensions, der::Error> {
    let (constraints, usage) = match request.role {
        Role::Root | Role::Ca => (
            BasicConstraints {
                ca: true,
                path_len_constraint: Some(if request.role == Role::Root { 1 } else { 0 }),
            },
            KeyUsages::NonRepudiation | KeyUsages::KeyCertSign | KeyUsages::CRLSign,
        ),
        Role::Leaf => (
            BasicConstraints { ca: false, path_len_constraint: None },
            KeyUsages::DigitalSignature | KeyUsages::NonRepudiation,
        ),
    };
    let mut extensions = vec![
        extension(true, &constraints)?,
        extension(true, &KeyUsage(usage))?,
        extension(false, &SubjectKeyIdentifier(key_identifier(request.subject)?))?,
    ];
    if request.role != Role::Root {
        let authority = AuthorityKeyIdentifier {
            key_identifier: Some(key_identifier(request.issuer)?),
            authority_cert_issuer: None,
            authority_cert_serial_number: None,
        };
        extensions.push(extension(false, &authority)?);
    }
    Ok(extensions)
}

fn extension<T: AssociatedOid + Encode>(critical: bool, value: &T) -> Result<Extension, der::Error> {
    Ok(Extension { extn_id: T::OID, critical, extn_value: OctetString::new(value.to_der()?)? })
}

/// The leftmost 160 bits of SHA-256 over the key (RFC 7093, method 1).
fn key_identifier(key: &PublicKey) -> Result<OctetString, der::Error> {
    let info = SubjectPublicKeyInfoOwned::from_der(key.spki())?;
    OctetString::new(&Hash::Sha256.digest(info.subject_public_key.raw_bytes())[..20])
}
