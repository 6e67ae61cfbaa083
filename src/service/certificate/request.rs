//! Certificate requests (PKCS #10, RFC 2986) that somebody else made.

use const_oid::db::{rfc5912, rfc8410};
use der::{
    Decode, Encode, Sequence,
    asn1::{Any, BitString, ObjectIdentifier},
};
use spki::AlgorithmIdentifierOwned;
use x509_cert::request::CertReqInfo;

use super::{Error, armour};
use crate::{model::SignatureAlgorithm, public_key::PublicKey};

/// A request that whoever has its key has signed.
#[derive(Clone, Debug)]
pub struct Request {
    key: PublicKey,
    der: Vec<u8>,
}

/// The signed part to the byte: what was signed is not what another encoder would write.
#[derive(Sequence)]
struct Signed {
    info: Any,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

impl Request {
    /// Reads a request and checks its signature with the key in it: nobody gets a certificate for another's key.
    ///
    /// # Errors
    /// [`Error::Request`] says what is wrong.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| Error::Request(format!("the certificate signing request {why}"));
        let blocks = armour::read(text, &armour::REQUEST)
            .map_err(|error| refuse(format!("cannot be read: {error}")))?;
        let [der] = <[Vec<u8>; 1]>::try_from(blocks)
            .map_err(|blocks| refuse(format!("is one of {}, where one is wanted", blocks.len())))?;
        let unreadable = |error: der::Error| refuse(format!("is not the DER of one: {error}"));
        let signed = Signed::from_der(&der).map_err(unreadable)?;
        let bytes = signed.info.to_der().map_err(unreadable)?;
        let info = CertReqInfo::from_der(&bytes).map_err(unreadable)?;
        let spki = info.public_key.to_der().map_err(unreadable)?;
        let key = PublicKey::from_spki(&spki)
            .map_err(|error| refuse(format!("has a key that is not taken: {error}")))?;
        let oid = signed.algorithm.oid;
        let algorithm = algorithm(oid)
            .ok_or_else(|| refuse(format!("is signed by {oid}, which cannot be checked here")))?;
        let signature = signed.signature.as_bytes().unwrap_or_default();
        match key.verify(algorithm, &bytes, signature) {
            Ok(true) => Ok(Self { key, der }),
            Ok(false) => Err(refuse("does not have a good signature of the key in it".into())),
            Err(error) => Err(refuse(format!("has a signature that cannot be checked: {error}"))),
        }
    }

    /// The key to be certified.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The request as it was given, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

/// SHA-1 is not among them: a signature over it proves nothing any more.
fn algorithm(oid: ObjectIdentifier) -> Option<SignatureAlgorithm> {
    use SignatureAlgorithm as A;
    Some(match oid {
        rfc5912::SHA_224_WITH_RSA_ENCRYPTION => A::Sha224WithRsa,
        rfc5912::SHA_256_WITH_RSA_ENCRYPTION => A::Sha256WithRsa,
        rfc5912::SHA_384_WITH_RSA_ENCRYPTION => A::Sha384WithRsa,
        rfc5912::SHA_512_WITH_RSA_ENCRYPTION => A::Sha512WithRsa,
        rfc5912::ECDSA_WITH_SHA_224 => A::Sha224WithEcdsa,
        rfc5912::ECDSA_WITH_SHA_256 => A::Sha256WithEcdsa,
        rfc5912::ECDSA_WITH_SHA_384 => A::Sha384WithEcdsa,
        rfc5912::ECDSA_WITH_SHA_512 => A::Sha512WithEcdsa,
        rfc8410::ID_ED_25519 | rfc8410::ID_ED_448 => A::EdDsa,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use proptest::prelude::*;

    use super::*;

    /// A request of openssl's: P-256, CN=x.
    const GOOD: &str = "MIHFMG4CAQAwDDEKMAgGA1UEAwwBeDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABF4YkZRfYXf55IjcxeL6NR0h//2VdMn9k7MLcLOUz+/gU9HXW/+RTwU+fudjTTJ5EvlvpC/O0dhuwas2lP4fiCGgADAKBggqhkjOPQQDAgNHADBEAiBuGbK/3aV1fNfugU/bNY0md19ngSp4vrnkGjfDmFiW0gIgE0Tki9H8yKlAaBex9naiffekx570vEN4dbYGgEzddDc=";

    fn armoured(der: &[u8]) -> String {
        armour::request(der)
    }

    #[test]
    fn no_byte_of_a_request_can_be_another() {
        let der = STANDARD.decode(GOOD).unwrap();
        assert!(Request::from_pem(&armoured(&der)).is_ok());
        for at in 0..der.len() {
            for bit in [0x01, 0x10, 0x80] {
                let mut bad = der.clone();
                bad[at] ^= bit;
                assert!(matches!(Request::from_pem(&armoured(&bad)), Err(Error::Request(_))), "{at} {bit}");
            }
            assert!(Request::from_pem(&armoured(&der[..at])).is_err(), "cut at {at}");
        }
        assert!(Request::from_pem(&armoured(&[&der[..], &[0]].concat())).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_refused_and_nothing_breaks(text in "\\PC{0,200}", der in any::<Vec<u8>>()) {
            for text in [text, armoured(&der)] {
                prop_assert!(matches!(Request::from_pem(&text), Err(Error::Request(_))));
            }
        }
    }
}
