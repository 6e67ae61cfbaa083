//! Reads PKCS #8 (RFC 5958), PKCS #1 (RFC 8017) and the bytes of secret keys.

use der::{
    Decode, Sequence, Tag, Tagged,
    asn1::{AnyRef, ObjectIdentifier, OctetStringRef, UintRef},
};
use pkcs8::PrivateKeyInfoRef;
use sec1::EcPrivateKey;

use super::{Key, check};
use crate::{
    model::{
        KeyAlgorithm,
        algorithm::{InvalidParameter, Parameter},
        curve::{CURVES, Curve, ED448_OID, ED25519_OID},
        material::{Material, RsaNumbers},
        secret::Plaintext,
    },
    public_key::{ParseError, PublicKey},
};

pub(super) const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
pub(super) const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
pub(super) const DSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10040.4.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap(ED25519_OID);
const ED448: ObjectIdentifier = ObjectIdentifier::new_unwrap(ED448_OID);

/// Longest key for HMAC in bytes: four blocks of the hash; what is longer than one is hashed by everybody who uses it.
const HMAC_MAX: usize = 256;

/// Why a key is not taken. None of it says anything of the key's secret part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Neither of both forms.
    #[error("the private key is neither DER of PKCS #8 nor, for RSA, of PKCS #1")]
    Der,
    /// An encrypted PKCS #8.
    #[error("the private key is encrypted; it is taken in plain only")]
    Encrypted,
    /// An algorithm that is not read.
    #[error("private keys of algorithm {0} are not taken")]
    Algorithm(String),
    /// Algorithm parameters that do not belong to the algorithm.
    #[error("the parameters of the {0} key are not as its standard demands")]
    Parameters(&'static str),
    /// More than two primes.
    #[error("an RSA key of more than two primes is not taken")]
    Primes,
    /// The inside of PKCS #8 is something else.
    #[error("the inside of the PKCS #8 is no private key of {0}")]
    Inside(&'static str),
    /// A curve that the contract does not have.
    #[error("Unsupported Curve: '{0}'")]
    Curve(String),
    /// A scalar or seed that is too short or too long.
    #[error("the private key of {curve} has {length} bytes, this one has {given}")]
    ScalarLength {
        /// Name of the curve.
        curve: &'static str,
        /// Bytes that it has.
        length: usize,
        /// Bytes given.
        given: usize,
    },
    /// Numbers out of range, or that do not belong together.
    #[error("the numbers of the private key are out of range or do not belong together")]
    Numbers,
    /// A public half beside it that is another key's.
    #[error("the public key within the private key is not its own")]
    OtherPublic,
    /// A public half that is not taken.
    #[error(transparent)]
    Public(#[from] ParseError),
    /// A size that is not taken.
    #[error(transparent)]
    Size(#[from] InvalidParameter),
    /// Not a number of bytes that such a secret key has.
    #[error("a secret key of type {algorithm} has {allowed} bytes, this one has {given}")]
    SecretLength {
        /// Algorithm of the key.
        algorithm: KeyAlgorithm,
        /// Bytes that it may have.
        allowed: String,
        /// Bytes given.
        given: usize,
    },
    /// Not a secret key's algorithm, or not a pair's.
    #[error("{0} keys are not of this kind")]
    Kind(KeyAlgorithm),
}

/// PKCS #1 `RSAPrivateKey` of two primes.
#[derive(Sequence)]
pub(super) struct Pkcs1<'a> {
    pub version: u8,
    pub n: UintRef<'a>,
    pub e: UintRef<'a>,
    pub d: UintRef<'a>,
    pub p: UintRef<'a>,
    pub q: UintRef<'a>,
    pub dp: UintRef<'a>,
    pub dq: UintRef<'a>,
    pub inverse: UintRef<'a>,
}

/// `EncryptedPrivateKeyInfo`, to tell it from nonsense.
#[derive(Sequence)]
struct Encrypted<'a> {
    _algorithm: spki::AlgorithmIdentifierRef<'a>,
    _data: &'a OctetStringRef,
}

/// Reads a private key and works out its public half.
///
/// PKCS #8 of RSA (2048 to 8192 bits), DSA (1024, 2048 and 3072 bits), EC, Ed25519 and Ed448, and PKCS #1. A public half in
/// it has to be its own; on curves that aws-lc does not have, this is for somebody else to find out.
///
/// # Errors
/// [`Unreadable`].
pub fn private_key(der: &[u8]) -> Result<Key, Unreadable> {
    let Ok(info) = PrivateKeyInfoRef::try_from(der) else {
        if Encrypted::from_der(der).is_ok() {
            return Err(Unreadable::Encrypted);
        }
        return match Pkcs1::from_der(der) {
            Ok(_) => rsa(der),
            Err(_) => Err(Unreadable::Der),
        };
    };
    let inside = info.private_key.as_bytes();
    let key = match info.algorithm.oid {
        RSA => {
            if !info.algorithm.parameters.is_some_and(|any| any.tag() == Tag::Null && any.value().is_empty())
            {
                return Err(Unreadable::Parameters("RSA"));
            }
            rsa(inside)?
        }
        DSA => dsa(&info)?,
        EC => ec(info.algorithm.parameters, inside)?,
        ED25519 => edwards(ED25519_OID, info.algorithm.parameters, inside)?,
        ED448 => edwards(ED448_OID, info.algorithm.parameters, inside)?,
        other => return Err(Unreadable::Algorithm(other.to_string())),
    };
    // Of the second version of PKCS #8: the bytes of the public half, without what they are.
    if let Some(beside) = info.public_key
        && !key
            .public
            .as_ref()
            .or(key.claimed.as_ref())
            .is_some_and(|public| is_of(public, beside.as_bytes()))
    {
        return Err(Unreadable::OtherPublic);
    }
    Ok(key)
}

/// Whether bytes are those of a public key.
fn is_of(public: &PublicKey, bytes: Option<&[u8]>) -> bool {
    let own = spki::SubjectPublicKeyInfoRef::try_from(public.spki());
    own.is_ok_and(|own| bytes.is_some() && own.subject_public_key.as_bytes() == bytes)
}

fn rsa(der: &[u8]) -> Result<Key, Unreadable> {
    let key = Pkcs1::from_der(der).map_err(|_| Unreadable::Inside("RSA"))?;
    if key.version != 0 {
        return Err(Unreadable::Primes);
    }
    let bits = bit_length(key.n.as_bytes());
    KeyAlgorithm::Rsa.check(Some(bits), None)?;
    let public = check::rsa(der)?;
    let secret = |number: UintRef<'_>| Plaintext::from(number.as_bytes().to_vec());
    let numbers = RsaNumbers {
        modulus: key.n.as_bytes().to_vec().into(),
        public_exponent: key.e.as_bytes().to_vec().into(),
        private_exponent: secret(key.d),
        prime1: secret(key.p),
        prime2: secret(key.q),
        exponent1: secret(key.dp),
        exponent2: secret(key.dq),
        coefficient: secret(key.inverse),
    };
    Ok(Key {
        algorithm: KeyAlgorithm::Rsa,
        key_size: Some(bits),
        curve_oid: None,
        public: Some(public),
        claimed: None,
        material: Material::Rsa(Box::new(numbers)),
    })
}

fn dsa(info: &PrivateKeyInfoRef<'_>) -> Result<Key, Unreadable> {
    let group = info.algorithm.parameters.and_then(|any| any.decode_as::<::dsa::Components>().ok());
    if group.is_none() {
        return Err(Unreadable::Parameters("DSA"));
    }
    let inside = info.private_key.as_bytes();
    let number = UintRef::from_der(inside).map_err(|_| Unreadable::Inside("DSA"))?;
    let public = check::dsa(info)?;
    KeyAlgorithm::Dsa.check(Some(public.bits()), None)?;
    Ok(Key {
        algorithm: KeyAlgorithm::Dsa,
        key_size: Some(public.bits()),
        curve_oid: None,
        public: Some(public),
        claimed: None,
        material: Material::Exponent(number.as_bytes().to_vec().into()),
    })
}

fn bit_length(bytes: &[u8]) -> u32 {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX / 8);
    bytes.first().map_or(0, |first| (length * 8).saturating_sub(first.leading_zeros()))
}

fn ec(parameters: Option<AnyRef<'_>>, inside: &[u8]) -> Result<Key, Unreadable> {
    let named = parameters.and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
    let named = named.ok_or(Unreadable::Parameters("EC"))?;
    let curve = curve(&named.to_string()).filter(|curve| curve.weierstrass.is_some());
    let curve = curve.ok_or_else(|| Unreadable::Curve(named.to_string()))?;
    let key = EcPrivateKey::from_der(inside).map_err(|_| Unreadable::Inside("EC"))?;
    // They may be there once more, and then have to be the same.
    if key.parameters.is_some_and(|again| again.named_curve() != Some(named)) {
        return Err(Unreadable::Parameters("EC"));
    }
    let Some(public) = check::ec(curve, key.private_key)? else {
        let claimed = key.public_key.map(|point| check::of_point(curve, point)).transpose()?;
        return Ok(Key { claimed, ..on_curve(KeyAlgorithm::Ec, curve, None, key.private_key) });
    };
    if key.public_key.is_some() && !is_of(&public, key.public_key) {
        return Err(Unreadable::OtherPublic);
    }
    Ok(on_curve(KeyAlgorithm::Ec, curve, Some(public), key.private_key))
}

fn edwards(oid: &str, parameters: Option<AnyRef<'_>>, inside: &[u8]) -> Result<Key, Unreadable> {
    let curve = curve(oid).ok_or_else(|| Unreadable::Curve(oid.to_owned()))?;
    if parameters.is_some() {
        return Err(Unreadable::Parameters(curve.name));
    }
    let seed = <&OctetStringRef>::from_der(inside).map_err(|_| Unreadable::Inside(curve.name))?;
    let public = check::edwards(curve, seed.as_bytes())?;
    Ok(on_curve(KeyAlgorithm::Ed, curve, Some(public), seed.as_bytes()))
}

/// Not `by_oid`: an alias of the contract may mean another curve to everybody else.
fn curve(oid: &str) -> Option<Curve> {
    CURVES.iter().find(|row| row.oid == oid)
}

fn on_curve(algorithm: KeyAlgorithm, curve: Curve, public: Option<PublicKey>, scalar: &[u8]) -> Key {
    Key {
        algorithm,
        key_size: None,
        curve_oid: Some(curve.oid.to_owned()),
        public,
        claimed: None,
        material: Material::Scalar(scalar.to_vec().into()),
    }
}

/// Takes the bytes of a secret key.
///
/// # Errors
/// Where a key of this algorithm has another length, or is none.
pub fn secret_key(algorithm: KeyAlgorithm, bytes: Plaintext) -> Result<Key, Unreadable> {
    if algorithm.row().asymmetric {
        return Err(Unreadable::Kind(algorithm));
    }
    let given = bytes.expose().len();
    let bits = u32::try_from(given * 8).unwrap_or(u32::MAX);
    let (fits, allowed) = match (algorithm, algorithm.row().parameter) {
        (_, Parameter::Size(sizes)) => {
            let list: Vec<_> = sizes.iter().map(|size| (size / 8).to_string()).collect();
            (sizes.contains(&bits), list.join(" or "))
        }
        (KeyAlgorithm::Tdea, _) => (given == 24, "24".to_owned()),
        _ => ((1..=HMAC_MAX).contains(&given), format!("1 to {HMAC_MAX}")),
    };
    if !fits {
        return Err(Unreadable::SecretLength { algorithm, allowed, given });
    }
    let key_size = matches!(algorithm.row().parameter, Parameter::Size(_)).then_some(bits);
    Ok(Key {
        algorithm,
        key_size,
        curve_oid: None,
        public: None,
        claimed: None,
        material: Material::Secret(bytes),
    })
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use der::{Encode, asn1::BitStringRef};
    use spki::AlgorithmIdentifierRef;

    use super::*;

    /// RFC 8410, 10.3: the first version, and the second with attributes and the public half.
    const RFC_8410: &str =
        "302e020100300506032b657004220420d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842";
    const RFC_8410_2: &str = "MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhCoB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
    const RFC_8410_PUBLIC: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

    fn bytes(hex: &str) -> Vec<u8> {
        hex::decode(hex).unwrap()
    }

    fn public_of(der: &[u8]) -> String {
        hex::encode(private_key(der).unwrap().public.unwrap().spki())
    }

    fn pkcs8(oid: &str, curve: Option<&str>, inside: &[u8], beside: Option<&[u8]>) -> Vec<u8> {
        let curve = curve.map(|oid| oid.parse::<ObjectIdentifier>().unwrap());
        let parameters = curve.as_ref().map(AnyRef::from);
        let algorithm = AlgorithmIdentifierRef { oid: oid.parse().unwrap(), parameters };
        let mut info = PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(inside).unwrap());
        info.public_key = beside.map(|bytes| BitStringRef::from_bytes(bytes).unwrap());
        info.to_der().unwrap()
    }

    fn p256(scalar: &[u8], again: Option<&str>, public_key: Option<&[u8]>) -> Vec<u8> {
        let parameters = again.map(|oid| sec1::EcParameters::NamedCurve(oid.parse().unwrap()));
        let inside = EcPrivateKey { private_key: scalar, parameters, public_key }.to_der().unwrap();
        pkcs8("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7"), &inside, None)
    }

    #[test]
    fn the_keys_of_rfc_8410_have_their_public_half() {
        for der in [bytes(RFC_8410), STANDARD.decode(RFC_8410_2).unwrap()] {
            assert!(public_of(&der).ends_with(RFC_8410_PUBLIC));
        }
        let mut other = STANDARD.decode(RFC_8410_2).unwrap();
        *other.last_mut().unwrap() ^= 1;
        assert_eq!(private_key(&other).unwrap_err(), Unreadable::OtherPublic);
    }

    #[test]
    fn a_key_of_rfc_8032_on_ed448_has_its_public_half() {
        let seed = bytes(
            "c4eab05d357007c632f3dbb48489924d552b08fe0c353a0d4a1f00acda2c463afbea67c5e8d2877c5e3bc397a659949ef8021e954e0a12274e",
        );
        let inside = |seed: &[u8]| OctetStringRef::new(seed).unwrap().to_der().unwrap();
        let public = public_of(&pkcs8(ED448_OID, None, &inside(&seed), None));
        assert!(public.ends_with(
            "43ba28f430cdff456ae531545f7ecd0ac834a55d9358c0372bfa0c6c6798c0866aea01eb00742802b8438ea4cb82169c235160627b4c3a9480"
        ));
        let short = private_key(&pkcs8(ED448_OID, None, &inside(&seed[1..]), None)).unwrap_err();
        assert_eq!(short, Unreadable::ScalarLength { curve: "Ed448", length: 57, given: 56 });
        let bare = private_key(&pkcs8(ED448_OID, None, &seed, None)).unwrap_err();
        assert_eq!(bare, Unreadable::Inside("Ed448"));
    }

    #[test]
    fn the_scalar_one_gives_the_generator_and_one_out_of_range_nothing() {
        let mut one = [0; 32];
        one[31] = 1;
        let g = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
        assert!(public_of(&p256(&one, None, None)).ends_with(g));
        assert!(public_of(&p256(&one, Some("1.2.840.10045.3.1.7"), Some(&bytes(g)))).ends_with(g));
        let mut other = bytes(g);
        other[64] ^= 1;
        for (der, error) in [
            (p256(&[0; 32], None, None), Unreadable::Numbers),
            (p256(&bytes(ORDER), None, None), Unreadable::Numbers),
            (p256(&one[1..], None, None), Unreadable::ScalarLength { curve: "P-256", length: 32, given: 31 }),
            (p256(&one, Some("1.3.132.0.34"), None), Unreadable::Parameters("EC")),
            (p256(&one, None, Some(&other)), Unreadable::OtherPublic),
            (p256(&one, None, Some(b"")), Unreadable::OtherPublic),
            (pkcs8("1.2.840.10045.2.1", None, &one, None), Unreadable::Parameters("EC")),
            (pkcs8("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7"), &one, None), Unreadable::Inside("EC")),
            (pkcs8("1.2.840.113549.1.1.1", None, &one, None), Unreadable::Parameters("RSA")),
            (pkcs8("1.2.3", None, &one, None), Unreadable::Algorithm("1.2.3".into())),
        ] {
            assert_eq!(private_key(&der).unwrap_err(), error);
        }
    }

    #[test]
    fn nothing_may_follow_a_key_and_no_length_may_be_written_in_a_long_way() {
        let good = bytes(RFC_8410);
        let long_form = [&[0x30, 0x81, 0x2e][..], &good[2..]].concat();
        for bad in [[&good[..], &[0]].concat(), good[..47].to_vec(), long_form, vec![]] {
            assert_eq!(private_key(&bad).unwrap_err(), Unreadable::Der);
        }
    }

    #[test]
    fn an_error_says_nothing_of_the_key() {
        let mut scalar = bytes(ORDER);
        scalar[31] ^= 0xff;
        let error = format!("{:?}", private_key(&p256(&scalar, None, None)).unwrap_err());
        assert!(error.len() < 20, "{error}");
    }
}
