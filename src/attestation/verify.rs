//! Checks an attestation offline, with nothing trusted but the fingerprint of a root.

use super::chain;
use super::read::{self, ReadError, Statements};
use crate::model::{KeyAlgorithm, SignatureAlgorithm};
use crate::public_key::{ParseError, PublicKey};
use const_oid::AssociatedOid;
use const_oid::db::rfc5912::{ECDSA_WITH_SHA_256, SHA_256_WITH_RSA_ENCRYPTION};
use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier};
use der::{Decode, Encode, Sequence};
use jiff::Timestamp;
use spki::AlgorithmIdentifierRef;
use x509_cert::Certificate;
use x509_cert::ext::pkix::{BasicConstraints, CertificatePolicies, KeyUsage};

/// Longest chain that is followed.
const CHAIN_MAX: usize = 5;

/// Extensions that may be critical: what they say is checked, or asks nothing of us.
const UNDERSTOOD: [ObjectIdentifier; 3] = [BasicConstraints::OID, KeyUsage::OID, CertificatePolicies::OID];

/// What somebody hands over to prove something of a key.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The document, exactly as received.
    pub xml: &'a [u8],
    /// The signature over it.
    pub signature: &'a [u8],
    /// Certificates in DER, leaf first, root last.
    pub chain: &'a [Vec<u8>],
}

/// Why the evidence proves nothing. `index` counts certificates from the leaf, 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// No chain, or one longer than any that is made.
    #[error("a chain has 2 to {CHAIN_MAX} certificates, this one has {0}")]
    ChainLength(usize),
    /// The last certificate is not the trusted root.
    #[error("the root's SHA-256 is {found}, trusted is another one")]
    UntrustedRoot {
        /// Fingerprint of the last certificate.
        found: String,
    },
    /// Not a certificate.
    #[error("certificate {index} is not one in DER")]
    Certificate {
        /// Place in the chain.
        index: usize,
        /// What is wrong.
        source: der::Error,
    },
    /// Its key is not usable.
    #[error("certificate {index} has no usable key")]
    Key {
        /// Place in the chain.
        index: usize,
        /// What is wrong.
        source: ParseError,
    },
    /// The next certificate has another name.
    #[error("certificate {index} names another issuer than the next certificate")]
    Issuer {
        /// Place in the chain.
        index: usize,
    },
    /// The next certificate's key did not sign it.
    #[error("the signature on certificate {index} is wrong or of an unsupported kind")]
    CertificateSignature {
        /// Place in the chain.
        index: usize,
    },
    /// Not valid at the time asked for.
    #[error("certificate {index} is not valid at {at}")]
    Validity {
        /// Place in the chain.
        index: usize,
        /// The time asked for.
        at: Timestamp,
    },
    /// Not allowed to do what it did: constraints or key usage.
    #[error("certificate {index} may not {what}")]
    NotAllowed {
        /// Place in the chain.
        index: usize,
        /// What it did.
        what: &'static str,
    },
    /// A critical extension that is not understood.
    #[error("certificate {index} has the critical extension {oid}, which is not understood")]
    CriticalExtension {
        /// Place in the chain.
        index: usize,
        /// The extension.
        oid: ObjectIdentifier,
    },
    /// The document's signature.
    #[error("the signature is not one of the attestation key over these bytes")]
    Signature,
    /// The signature is right, the document is not one.
    #[error("the signed document cannot be read")]
    Document(#[from] ReadError),
}

/// Checks the chain, then the signature over the exact bytes, and only then reads the document.
///
/// `root` is the SHA-256 of the trusted root certificate in hexadecimal, with or without colons. The
/// chain must be valid `at` that time. The result is what the issuer states; whether that is enough is
/// for the caller to judge ([`Statements::protection`]).
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(evidence: &Evidence<'_>, root: &str, at: Timestamp) -> Result<Statements, EvidenceError> {
    let leaf = verify_chain(evidence.chain, root, at)?;
    let algorithms: &[SignatureAlgorithm] = match leaf.algorithm() {
        // Firmware of hardware modules may choose PSS.
        KeyAlgorithm::Rsa => &[SignatureAlgorithm::Sha256WithRsa, SignatureAlgorithm::Sha256WithRsaPss],
        KeyAlgorithm::Ec => &[SignatureAlgorithm::Sha256WithEcdsa],
        _ => &[],
    };
    let fits = |algorithm: &SignatureAlgorithm| {
        leaf.verify(*algorithm, evidence.xml, evidence.signature) == Ok(true)
    };
    if !algorithms.iter().any(fits) {
        return Err(EvidenceError::Signature);
    }
    Ok(read::statements(evidence.xml)?)
}

/// Checks a chain and returns the leaf's key.
///
/// # Errors
/// The first thing that is wrong, as for [`verify`].
pub fn verify_chain(chain: &[Vec<u8>], root: &str, at: Timestamp) -> Result<PublicKey, EvidenceError> {
    if !(2..=CHAIN_MAX).contains(&chain.len()) {
        return Err(EvidenceError::ChainLength(chain.len()));
    }
    let trusted: String = root.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    let found = chain::fingerprint(&chain[chain.len() - 1]);
    if found != trusted {
        return Err(EvidenceError::UntrustedRoot { found });
    }
    let links = chain.iter().enumerate().map(|(index, der)| Link::read(index, der));
    let links = links.collect::<Result<Vec<_>, _>>()?;
    for link in &links {
        let issuer = links.get(link.index + 1).unwrap_or(link);
        link.check_issued_by(issuer)?;
        link.check_own(at)?;
    }
    Ok(links[0].key.clone())
}

/// A certificate of the chain.
struct Link<'a> {
    index: usize,
    certificate: Certificate,
    signed: Signed<'a>,
    key: PublicKey,
}

/// The outer frame: its first element is what was signed, byte for byte.
#[derive(Sequence)]
struct Signed<'a> {
    tbs: AnyRef<'a>,
    algorithm: AlgorithmIdentifierRef<'a>,
    signature: BitStringRef<'a>,
}

impl<'a> Link<'a> {
    fn read(index: usize, der: &'a [u8]) -> Result<Self, EvidenceError> {
        let malformed = |source| EvidenceError::Certificate { index, source };
        let certificate = Certificate::from_der(der).map_err(malformed)?;
        let signed = Signed::from_der(der).map_err(malformed)?;
        let spki = certificate.tbs_certificate().subject_public_key_info().to_der().map_err(malformed)?;
        let key = PublicKey::from_spki(&spki).map_err(|source| EvidenceError::Key { index, source })?;
        Ok(Self { index, certificate, signed, key })
    }

    fn check_issued_by(&self, issuer: &Self) -> Result<(), EvidenceError> {
        let index = self.index;
        let tbs = self.certificate.tbs_certificate();
        if tbs.issuer() != issuer.certificate.tbs_certificate().subject() {
            return Err(EvidenceError::Issuer { index });
        }
        let wrong = EvidenceError::CertificateSignature { index };
        let algorithm = match self.signed.algorithm.oid {
            SHA_256_WITH_RSA_ENCRYPTION => SignatureAlgorithm::Sha256WithRsa,
            ECDSA_WITH_SHA_256 => SignatureAlgorithm::Sha256WithEcdsa,
            _ => return Err(wrong),
        };
        // The algorithm stands twice, and only one of the two is signed.
        let same = tbs.signature() == self.certificate.signature_algorithm();
        let bytes = (self.signed.tbs.to_der().ok(), self.signed.signature.as_bytes());
        let (true, (Some(message), Some(signature))) = (same, bytes) else { return Err(wrong) };
        match issuer.key.verify(algorithm, &message, signature) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(wrong),
        }
    }

    /// Validity, constraints and key usage for the place in the chain.
    fn check_own(&self, at: Timestamp) -> Result<(), EvidenceError> {
        let index = self.index;
        let malformed = |source| EvidenceError::Certificate { index, source };
        let not_allowed = |what| Err(EvidenceError::NotAllowed { index, what });
        let tbs = self.certificate.tbs_certificate();
        let moment = u64::try_from(at.as_second()).unwrap_or(0);
        let validity = tbs.validity();
        let begin = validity.not_before.to_unix_duration().as_secs();
        let end = validity.not_after.to_unix_duration().as_secs();
        if !(begin..=end).contains(&moment) {
            return Err(EvidenceError::Validity { index, at });
        }
        for extension in tbs.extensions().into_iter().flatten() {
            if extension.critical && !UNDERSTOOD.contains(&extension.extn_id) {
                return Err(EvidenceError::CriticalExtension { index, oid: extension.extn_id });
            }
        }
        let constraints = tbs.get_extension::<BasicConstraints>().map_err(malformed)?;
        let usage = tbs.get_extension::<KeyUsage>().map_err(malformed)?;
        let is_authority = constraints.as_ref().is_some_and(|(critical, value)| *critical && value.ca);
        if index == 0 {
            if constraints.is_some_and(|(_, value)| value.ca) {
                return not_allowed("sign documents: it is a certification authority");
            }
            return match usage {
                Some((_, usage)) if usage.digital_signature() => Ok(()),
                _ => not_allowed("sign documents"),
            };
        }
        // Between this authority and the leaf are as many others as its place says, less one.
        let limit = constraints.and_then(|(_, value)| value.path_len_constraint);
        if !is_authority || limit.is_some_and(|limit| usize::from(limit) < index - 1) {
            return not_allowed("stand where it stands in the chain");
        }
        match usage {
            Some((_, usage)) if usage.key_cert_sign() => Ok(()),
            _ => not_allowed("sign certificates"),
        }
    }
}
