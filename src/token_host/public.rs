//! Public keys from PKCS#11 attributes to SubjectPublicKeyInfo.

use std::str::FromStr;

use const_oid::ObjectIdentifier;
use cryptoki_sys::*;
use x509_cert::der::{Decode, Encode, asn1::OctetStringRef};

use super::object::number;
use crate::model::{KeyAlgorithm, curve};

const RSA_ENCRYPTION: &str = "1.2.840.113549.1.1.1";
const DSA: &str = "1.2.840.10040.4.1";
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";

/// DER of an object identifier.
pub fn oid(text: &str) -> Option<Vec<u8>> {
    <ObjectIdentifier>::from_str(text).ok()?.to_der().ok()
}

/// The curve that `CKA_EC_PARAMS` names, in the spelling of the table; `None` for explicit parameters.
pub fn curve_oid(params: &[u8]) -> Option<String> {
    match params {
        [0x13, length, name @ ..] if usize::from(*length) == name.len() => match name {
            b"edwards25519" => Some(curve::ED25519_OID.to_owned()),
            b"edwards448" => Some(curve::ED448_OID.to_owned()),
            _ => None,
        },
        _ => {
            let text = <ObjectIdentifier>::from_der(params).ok()?.to_string();
            Some(curve::by_oid(&text).map_or(text, |row| row.oid.to_owned()))
        }
    }
}

/// What a public half is asked for, if it is of a type that is told by these alone.
pub const ATTRIBUTES: [CK_ATTRIBUTE_TYPE; 5] =
    [CKA_KEY_TYPE, CKA_MODULUS, CKA_PUBLIC_EXPONENT, CKA_EC_PARAMS, CKA_EC_POINT];

/// SubjectPublicKeyInfo of a key with these [`ATTRIBUTES`]; `None` where they do not tell it.
pub fn of([key_type, rest @ ..]: [Option<Vec<u8>>; ATTRIBUTES.len()]) -> Option<Vec<u8>> {
    let [modulus, exponent, params, point] = rest.map(|value| value.filter(|value| !value.is_empty()));
    match number(&key_type)? {
        CKK_RSA => Some(rsa(&modulus?, &exponent?)),
        CKK_EC | CKK_EC_EDWARDS => ec(&params?, &point?),
        _ => None,
    }
}

/// SubjectPublicKeyInfo of an RSA key.
pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let key = tlv(0x30, &[integer(modulus), integer(exponent)].concat());
    let oid = oid(RSA_ENCRYPTION).expect("the identifier is well-formed");
    spki(&[oid, vec![0x05, 0x00]].concat(), &key)
}

/// SubjectPublicKeyInfo of a DSA key (RFC 3279, 2.3.2): prime, subprime, base and the key's own number.
pub fn dsa([prime, subprime, base, value]: &[Vec<u8>; 4]) -> Vec<u8> {
    let group = tlv(0x30, &[integer(prime), integer(subprime), integer(base)].concat());
    spki(&[oid(DSA).expect("the identifier is well-formed"), group].concat(), &integer(value))
}

/// SubjectPublicKeyInfo of a key on a curve, from `CKA_EC_PARAMS` and `CKA_EC_POINT`. The point may be wrapped
/// into an OCTET STRING, as the standard says, or not, as some tokens do it.
pub fn ec(params: &[u8], point: &[u8]) -> Option<Vec<u8>> {
    let name = curve_oid(params)?;
    let row = curve::by_oid(&name)?;
    let unwrapped = || Some(<&OctetStringRef>::from_der(point).ok()?.as_bytes());
    match &row.weierstrass {
        Some(parameters) => {
            // An OCTET STRING and an uncompressed point begin with the same byte: only the length tells.
            let length = 1 + parameters.p.len();
            let good = |point: &&[u8]| point.len() == length && point.first() == Some(&4);
            let point = Some(point).filter(good).or_else(|| unwrapped().filter(good))?;
            Some(spki(&[oid(EC_PUBLIC_KEY)?, oid(row.oid)?].concat(), point))
        }
        None => {
            let length = if row.oid == curve::ED448_OID { 57 } else { 32 };
            let good = |point: &&[u8]| point.len() == length;
            let point = Some(point).filter(good).or_else(|| unwrapped().filter(good))?;
            Some(spki(&oid(row.oid)?, point))
        }
    }
}

/// SubjectPublicKeyInfo of a key that is told by its algorithm alone and is a string of bytes, like those of FIPS 203 to 205.
pub fn plain(algorithm: KeyAlgorithm, key: &[u8]) -> Option<Vec<u8>> {
    Some(spki(&oid(algorithm.row().oid)?, key))
}

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let bits = tlv(0x03, &[&[0], key].concat());
    tlv(0x30, &[tlv(0x30, algorithm), bits].concat())
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let bytes = &bytes[zeros..];
    match bytes.first() {
        Some(first) if *first < 0x80 => tlv(0x02, bytes),
        _ => tlv(0x02, &[&[0], bytes].concat()),
    }
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut out = vec![tag];
    match length {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).expect("a length has at most 8 bytes"));
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_of_a_point_give_the_same_key() {
        let params = oid("1.2.840.10045.3.1.7").unwrap();
        let raw = [&[4_u8][..], &[7; 64]].concat();
        let wrapped = tlv(0x04, &raw);
        assert_eq!(ec(&params, &raw), ec(&params, &wrapped));
        assert!(ec(&params, &raw).is_some());
        assert_eq!(ec(&params, &raw[..64]), None);
        let ed = ec(b"\x13\x0cedwards25519", &[9; 32]).unwrap();
        assert_eq!(ed, ec(&oid("1.3.101.112").unwrap(), &tlv(4, &[9; 32])).unwrap());
        assert_eq!(ed.len(), 44);
    }

    #[test]
    fn the_result_reads_as_a_public_key() {
        let modulus = [0x80_u8; 256];
        let der = rsa(&modulus, &[0, 1, 0, 1]);
        let info = spki::SubjectPublicKeyInfoRef::try_from(der.as_slice()).unwrap();
        assert_eq!(info.algorithm.oid.to_string(), RSA_ENCRYPTION);
        assert_eq!(der.len(), 294);
    }

    #[test]
    fn lengths_of_any_size_are_written() {
        assert_eq!(tlv(4, &[0; 127])[..2], [4, 127]);
        assert_eq!(tlv(4, &[0; 128])[..3], [4, 0x81, 128]);
        assert_eq!(tlv(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(tlv(4, &[]), [4, 0]);
    }
}
