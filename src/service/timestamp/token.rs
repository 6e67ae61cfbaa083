//! The structures of RFC 3161 and RFC 5035, and how they go into CMS.

use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use cms::{
    cert::{CertificateChoices, IssuerAndSerialNumber},
    content_info::{CmsVersion, ContentInfo},
    signed_data::{
        CertificateSet, EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos,
    },
};
use const_oid::{
    ObjectIdentifier,
    db::{rfc5911, rfc5912},
};
use der::{
    Any, DateTime, Encode, Sequence, Tag,
    asn1::{GeneralizedTime, OctetString, SetOfVec, Uint, UtcTime},
};
use jiff::Timestamp;
use spki::AlgorithmIdentifierOwned;
use x509_cert::{
    Certificate,
    attr::{Attribute, Attributes},
    ext::pkix::name::{GeneralName, GeneralNames},
    serial_number::SerialNumber,
};

use crate::model::{certificate::CertificateAlgorithm, digest::Hash};

/// `id-ct-TSTInfo` (RFC 3161, 2.4.2).
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
/// `id-aa-signingCertificateV2` (RFC 5035, 3).
const SIGNING_CERTIFICATE_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");

/// What is said of a payload. Neither a nonce, which the contract has no place for, nor the name of the authority, which is in
/// its certificate, nor extensions.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub struct TstInfo {
    /// Always 1.
    pub version: u8,
    /// Under which policy.
    pub policy: ObjectIdentifier,
    /// Digest of the payload.
    pub message_imprint: MessageImprint,
    /// Tells it from all others.
    pub serial_number: Uint,
    /// When.
    pub gen_time: GeneralizedTime,
    /// How far that may be off.
    pub accuracy: Option<Accuracy>,
}

/// Digest of what is stamped.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub struct MessageImprint {
    /// By which hash.
    pub hash_algorithm: AlgorithmIdentifierOwned,
    /// The digest.
    pub hashed_message: OctetString,
}

impl MessageImprint {
    /// The digest of a payload.
    ///
    /// # Errors
    /// None, in practice.
    pub fn of(hash: Hash, payload: &[u8]) -> Result<Self, der::Error> {
        let hashed_message = OctetString::new(hash.digest(payload))?;
        Ok(Self { hash_algorithm: identifier(hash), hashed_message })
    }
}

/// How far the time may be off.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub struct Accuracy {
    /// In seconds.
    pub seconds: Option<u32>,
}

/// Says which certificate belongs to the signature, so that no other can be put in its place.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub struct SigningCertificateV2 {
    /// The signer's certificate.
    pub certs: Vec<EssCertIdV2>,
}

/// A certificate by its SHA-256, which is the default and so is not said.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub struct EssCertIdV2 {
    /// SHA-256 of the certificate.
    pub cert_hash: OctetString,
    /// Whose it is.
    pub issuer_serial: Option<IssuerSerial>,
}

/// Issuer and serial number of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub struct IssuerSerial {
    /// The issuer.
    pub issuer: GeneralNames,
    /// The serial number.
    pub serial_number: SerialNumber,
}

/// 128 random bits: at most 160 may be used.
pub(super) fn serial() -> Option<Uint> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Uint::new(&bytes).ok()
}

fn since_1970(now: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0))
}

pub(super) fn time(now: Timestamp) -> Result<GeneralizedTime, der::Error> {
    GeneralizedTime::from_unix_duration(since_1970(now))
}

fn identifier(hash: Hash) -> AlgorithmIdentifierOwned {
    let oid = match hash {
        Hash::Sha384 => rfc5912::ID_SHA_384,
        Hash::Sha512 => rfc5912::ID_SHA_512,
        _ => rfc5912::ID_SHA_256,
    };
    AlgorithmIdentifierOwned { oid, parameters: None }
}

fn attribute(oid: ObjectIdentifier, value: &impl Encode) -> Result<Attribute, der::Error> {
    let value = der::Decode::from_der(&value.to_der()?)?;
    Ok(Attribute { oid, values: SetOfVec::try_from(vec![value])? })
}

/// What the signature covers: the kind of content, its digest, the time, and the certificate.
pub(super) fn signed_attributes(
    info: &[u8],
    certificate: &Certificate,
    certificate_der: &[u8],
    hash: Hash,
    now: Timestamp,
) -> Result<Attributes, der::Error> {
    let tbs = certificate.tbs_certificate();
    let id = EssCertIdV2 {
        cert_hash: OctetString::new(Hash::Sha256.digest(certificate_der))?,
        issuer_serial: Some(IssuerSerial {
            issuer: vec![GeneralName::DirectoryName(tbs.issuer().clone())],
            serial_number: tbs.serial_number().clone(),
        }),
    };
    let digest = OctetString::new(hash.digest(info))?;
    let moment = DateTime::from_unix_duration(since_1970(now))?;
    // RFC 5652, 11.3: UTCTime until 2049.
    let signing_time = match UtcTime::from_date_time(moment) {
        Ok(time) => attribute(rfc5911::ID_SIGNING_TIME, &time)?,
        Err(_) => attribute(rfc5911::ID_SIGNING_TIME, &GeneralizedTime::from_date_time(moment))?,
    };
    SetOfVec::try_from(vec![
        attribute(rfc5911::ID_CONTENT_TYPE, &TST_INFO)?,
        attribute(rfc5911::ID_MESSAGE_DIGEST, &digest)?,
        signing_time,
        attribute(SIGNING_CERTIFICATE_V2, &SigningCertificateV2 { certs: vec![id] })?,
    ])
}

/// Puts everything together.
pub(super) fn assemble(
    info: Vec<u8>,
    attributes: Attributes,
    certificate: &Certificate,
    chain: Vec<Certificate>,
    hash: Hash,
    algorithm: CertificateAlgorithm,
    signature: &[u8],
) -> Result<Vec<u8>, der::Error> {
    let tbs = certificate.tbs_certificate();
    let signer = SignerInfo {
        version: CmsVersion::V1,
        sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
            issuer: tbs.issuer().clone(),
            serial_number: tbs.serial_number().clone(),
        }),
        digest_alg: identifier(hash),
        signed_attrs: Some(attributes),
        signature_algorithm: signature_identifier(algorithm)?,
        signature: OctetString::new(signature)?,
        unsigned_attrs: None,
    };
    let certificates: Vec<_> = chain.into_iter().map(CertificateChoices::Certificate).collect();
    let data = SignedData {
        version: CmsVersion::V3,
        digest_algorithms: SetOfVec::try_from(vec![identifier(hash)])?,
        encap_content_info: EncapsulatedContentInfo {
            econtent_type: TST_INFO,
            econtent: Some(Any::new(Tag::OctetString, info)?),
        },
        certificates: Some(CertificateSet::try_from(certificates)?),
        crls: None,
        signer_infos: SignerInfos::try_from(vec![signer])?,
    };
    let content = der::Decode::from_der(&data.to_der()?)?;
    ContentInfo { content_type: rfc5911::ID_SIGNED_DATA, content }.to_der()
}

fn signature_identifier(algorithm: CertificateAlgorithm) -> Result<AlgorithmIdentifierOwned, der::Error> {
    use CertificateAlgorithm as A;
    let rsa = |oid| AlgorithmIdentifierOwned { oid, parameters: Some(Any::null()) };
    let ecdsa = |oid| AlgorithmIdentifierOwned { oid, parameters: None };
    Ok(match algorithm {
        A::Sha224WithRsa => rsa(rfc5912::SHA_224_WITH_RSA_ENCRYPTION),
        A::Sha256WithRsa => rsa(rfc5912::SHA_256_WITH_RSA_ENCRYPTION),
        A::Sha384WithRsa => rsa(rfc5912::SHA_384_WITH_RSA_ENCRYPTION),
        A::Sha512WithRsa => rsa(rfc5912::SHA_512_WITH_RSA_ENCRYPTION),
        A::Sha256WithEcdsa => ecdsa(rfc5912::ECDSA_WITH_SHA_256),
        A::Sha384WithEcdsa => ecdsa(rfc5912::ECDSA_WITH_SHA_384),
        A::Sha512WithEcdsa => ecdsa(rfc5912::ECDSA_WITH_SHA_512),
        A::EdDsa => return Err(der::ErrorKind::OidUnknown { oid: rfc5912::ID_EC_PUBLIC_KEY }.into()),
    })
}
