//! DSA keys: pairs are made within a group, and the group is made first.

use cryptoki_sys::*;

use x509_cert::der::{Decode, Sequence, asn1::UintRef};

use super::raw::{Attribute, Failure, Mechanism, Object, Session};
use crate::hsm::protocol::{HsmError, Kind};

/// Prime, subprime and base: what the keys of a group have in common.
const GROUP: [CK_ATTRIBUTE_TYPE; 3] = [CKA_PRIME, CKA_SUBPRIME, CKA_BASE];

/// A group of this size that nobody else uses, as the token makes it; it is not kept.
///
/// Well-known groups would save seconds. Nobody can show that theirs were made without a trapdoor.
///
/// # Errors
/// What the token says.
pub fn group(session: &Session, bits: CK_ULONG) -> Result<Vec<Attribute>, HsmError> {
    let wanted = [
        Attribute::number(CKA_CLASS, CKO_DOMAIN_PARAMETERS),
        Attribute::number(CKA_KEY_TYPE, CKK_DSA),
        Attribute::bool(CKA_TOKEN, false),
        Attribute::bool(CKA_PRIVATE, false),
        Attribute::number(CKA_PRIME_BITS, bits),
    ];
    let made = session.generate_key(&Mechanism::plain(CKM_DSA_PARAMETER_GEN), &wanted)?;
    let read = session.attributes(made, GROUP);
    let gone = session.end(made);
    let numbers = read?;
    gone?;
    let mut group = vec![Attribute::number(CKA_KEY_TYPE, CKK_DSA)];
    for (kind, number) in GROUP.into_iter().zip(numbers) {
        let number = number.filter(|number| !number.is_empty()).ok_or_else(|| {
            HsmError::new(Kind::Device, "the token made a group for DSA keys and does not show it")
        })?;
        group.push(Attribute::bytes(kind, number));
    }
    Ok(group)
}

/// Prime and subprime of a key, empty where it is no DSA key or was never finished.
pub fn size(
    session: &Session,
    object: Object,
    key_type: Option<CK_KEY_TYPE>,
) -> Result<[Option<Vec<u8>>; 2], Failure> {
    if key_type != Some(CKK_DSA) {
        return Ok([None, None]);
    }
    session.attributes(object, [CKA_PRIME, CKA_SUBPRIME])
}

/// The numbers of a public key: prime, subprime, base and the key's own.
pub fn public(session: &Session, object: Object) -> Result<Option<[Vec<u8>; 4]>, Failure> {
    let numbers = session.attributes(object, [CKA_PRIME, CKA_SUBPRIME, CKA_BASE, CKA_VALUE])?;
    let numbers = numbers.map(|number| number.filter(|number| !number.is_empty()));
    Ok(match numbers {
        [Some(prime), Some(subprime), Some(base), Some(value)] => Some([prime, subprime, base, value]),
        _ => None,
    })
}

/// `Dss-Parms` (RFC 3279, 2.3.2).
#[derive(Sequence)]
struct Parameters<'a> {
    prime: UintRef<'a>,
    subprime: UintRef<'a>,
    base: UintRef<'a>,
}

/// What a token is told of a key: what both halves have in common, and the number of the public one.
///
/// # Errors
/// `Invalid` for what is no public half of DSA.
pub fn half(spki: &[u8]) -> Result<(Vec<Attribute>, Attribute), HsmError> {
    let read = || {
        let info = spki::SubjectPublicKeyInfoRef::try_from(spki).ok()?;
        let group = info.algorithm.parameters?.decode_as::<Parameters<'_>>().ok()?;
        let value = UintRef::from_der(info.subject_public_key.as_bytes()?).ok()?;
        let group = vec![
            Attribute::number(CKA_KEY_TYPE, CKK_DSA),
            Attribute::bytes(CKA_PRIME, group.prime.as_bytes()),
            Attribute::bytes(CKA_SUBPRIME, group.subprime.as_bytes()),
            Attribute::bytes(CKA_BASE, group.base.as_bytes()),
        ];
        Some((group, Attribute::bytes(CKA_VALUE, value.as_bytes())))
    };
    read().ok_or_else(|| HsmError::new(Kind::Invalid, "the key's public half makes no sense"))
}
