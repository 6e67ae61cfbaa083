//! Attestation by the HSM itself: found out whether there is any, its key made, other keys attested with it.
//!
//! What the vendor's samples show and third parties tell of the numbers is confirmed by the token before it is believed.

use cryptoki_sys::*;
use x509_cert::der::{Decode, Encode, Sequence, asn1::UintRef};

use super::{
    index::Objects,
    object::{self, flag},
    pool,
    raw::{Attribute, Mechanism, Module, Object, Session, TokenInfo},
    token::Token,
};
use crate::{
    hsm::protocol::{AttestationKey, Attested, Find, HsmError, KeyFacts, KeyTemplate, Kind, Reply},
    model::{KeyAlgorithm, KeyId, KeyLabel, RequestedAttributes, SignatureAlgorithm, vendor::RksNumbers},
};

/// `CK_TOKEN_INFO.manufacturerID` and `model` of the HSMs that the numbers are for; tools differ in how they write them.
const MAKER: (&str, &str) = ("Securosys SA", "PRIMUS HSM");
/// Bits of an attestation key, as the vendor's samples make it.
const KEY_BITS: u32 = 3072;

/// Whether the HSM attests its keys: it is one of those that do, the library has the call, and the token knows the
/// mechanism that makes the key for it.
pub fn offered(module: &Module, slot: CK_SLOT_ID, token: &TokenInfo, numbers: &RksNumbers) -> bool {
    let (manufacturer, model) = MAKER;
    token.manufacturer.eq_ignore_ascii_case(manufacturer)
        && token.model.eq_ignore_ascii_case(model)
        && module.attests_keys()
        && module.key_sizes(slot, numbers.generate).is_ok()
}

/// The numbers.
///
/// # Errors
/// `Unsupported` where the token attests nothing.
fn numbers(token: &Token) -> Result<RksNumbers, HsmError> {
    if token.facts.capabilities.attests {
        return Ok(token.vendor.rks);
    }
    let message = format!("token {} offers no attestation of its own", token.facts.label);
    Err(HsmError::new(Kind::Unsupported, message))
}

/// See [`crate::hsm::protocol::Request::AttestationKey`].
pub fn key(objects: &mut Objects<'_>, id: &KeyId, label: &KeyLabel) -> Result<Reply, HsmError> {
    let numbers = numbers(objects.token)?;
    let found = object::find_keys(objects, &Find::Label(label.clone()))?;
    let facts = match found.as_slice() {
        _ if found.iter().any(|facts| facts.id.as_ref() == Some(id)) => make(objects, id, label, numbers)?,
        [] => make(objects, id, label, numbers)?,
        // Made by somebody else, with the vendor's tools for example.
        [one] if attests(objects, one, numbers)? => one.clone(),
        _ => return Ok(Reply::Keys(found)),
    };
    if facts.twins > 1 {
        // None of them can be addressed.
        return Ok(Reply::Keys(vec![facts]));
    }
    let own = facts.id.clone().ok_or_else(|| HsmError::new(Kind::Ambiguous, "a key without an id"))?;
    let private = object::sign_key(objects, &own)?.object;
    let (session, name) = (objects.session, &objects.token.facts.label);
    if !is_for_attestation(session, private, numbers)? {
        let message = format!("key {label} of token {name} is not one that the HSM attests others with");
        return Err(HsmError::new(Kind::Forbidden, message));
    }
    let [chain] = session.attributes(private, [numbers.certificate_chain])?;
    // Some write a NUL behind a text.
    let chain = chain.and_then(|chain| String::from_utf8(chain).ok());
    let chain = chain.map(|chain| chain.trim_end_matches('\0').to_owned()).filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| {
        let message = format!("token {name} has no readable certificates for its attestation key {label}");
        HsmError::new(Kind::Unsupported, message)
    })?;
    Ok(Reply::AttestationKey(Box::new(AttestationKey { facts, chain })))
}

/// Whether a key that was found can be used to attest others.
fn attests(objects: &mut Objects<'_>, facts: &KeyFacts, numbers: RksNumbers) -> Result<bool, HsmError> {
    match &facts.id {
        Some(id) if facts.twins == 1 => {
            let private = object::sign_key(objects, id)?.object;
            is_for_attestation(objects.session, private, numbers)
        }
        _ => Ok(false),
    }
}

fn is_for_attestation(session: &Session, key: Object, numbers: RksNumbers) -> Result<bool, HsmError> {
    let [own] = session.attributes(key, [numbers.attestation_sign])?;
    Ok(flag(&own) == Some(true))
}

/// Makes the key, unless there is one with this id.
fn make(
    objects: &mut Objects<'_>,
    id: &KeyId,
    label: &KeyLabel,
    numbers: RksNumbers,
) -> Result<KeyFacts, HsmError> {
    // To sign is another matter than to attest. It outlives every key that it speaks of.
    let attributes = RequestedAttributes { modifiable: Some(false), ..Default::default() }.resolved();
    let template = KeyTemplate {
        id: id.clone(),
        label: label.clone(),
        algorithm: KeyAlgorithm::Rsa,
        key_size: Some(KEY_BITS),
        curve_oid: None,
        attributes,
    };
    let session = objects.session;
    object::make_with(objects, &template, |public, private| {
        let (mut public, mut private) = (public.to_vec(), private.to_vec());
        public.push(Attribute::number(CKA_MODULUS_BITS, CK_ULONG::from(KEY_BITS)));
        public.push(Attribute::bytes(CKA_PUBLIC_EXPONENT, [1, 0, 1]));
        private.push(Attribute::bool(numbers.attestation_sign, true));
        Ok(session.generate_pair(&Mechanism::plain(numbers.generate), &public, &private)?)
    })
}

/// See [`crate::hsm::protocol::Request::Attest`].
pub fn attest(token: &Token, session: &Session, by: &KeyId, key: &KeyId) -> Result<Reply, HsmError> {
    numbers(token)?;
    let (own, other) = (pool::look_up(token, session, by)?, pool::look_up(token, session, key)?);
    let [kind] = session.attributes(own.object, [CKA_KEY_TYPE]).map_err(HsmError::from)?;
    let elliptic = kind.is_some_and(|kind| kind == CKK_EC.to_ne_bytes());
    // The only two that the vendor has for this; both without parameters.
    let (mechanism, algorithm) = if elliptic {
        (CKM_ECDSA_SHA256, SignatureAlgorithm::Sha256WithEcdsa)
    } else {
        (CKM_SHA256_RSA_PKCS_PSS, SignatureAlgorithm::Sha256WithRsaPss)
    };
    let made = session.attest(&Mechanism::plain(mechanism), own.object, other.object);
    let document = made.map_err(HsmError::from).inspect_err(|error| {
        // Which of the two handles is not good any more is not said.
        if matches!(error.kind, Kind::Lost | Kind::Device) {
            token.forget_all(&[by.clone(), key.clone()]);
        }
    })?;
    let signature = if elliptic { in_der(document.signature)? } else { document.signature };
    let xml = document.xml.into();
    Ok(Reply::Attested(Box::new(Attested { xml, signature: signature.into(), algorithm })))
}

/// A signature of ECDSA in DER.
#[derive(Sequence)]
struct Ecdsa<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// An ECDSA signature in DER, whichever of the two forms the module has.
fn in_der(signature: Vec<u8>) -> Result<Vec<u8>, HsmError> {
    if Ecdsa::from_der(&signature).is_ok() {
        return Ok(signature);
    }
    let unreadable = || HsmError::new(Kind::Device, "an attestation's signature that cannot be read");
    let half = signature.len() / 2;
    if half == 0 || !signature.len().is_multiple_of(2) {
        return Err(unreadable());
    }
    let (r, s) = signature.split_at(half);
    let number = |half| UintRef::new(half).map_err(|_| unreadable());
    Ecdsa { r: number(r)?, s: number(s)? }.to_der().map_err(|_| unreadable())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::public_key::ecdsa_der_to_raw;

    #[test]
    fn both_forms_of_an_ecdsa_signature_come_out_as_der() {
        // The first half begins with a zero, the second one with a bit that looks like a sign.
        let raw: Vec<u8> = (0..32).chain(0xd0..0xf0).collect();
        let der = in_der(raw.clone()).unwrap();
        assert_eq!(ecdsa_der_to_raw(&der, 32).unwrap(), raw);
        assert_eq!(in_der(der.clone()).unwrap(), der);
        for bad in [&[][..], &[1, 2, 3]] {
            assert_eq!(in_der(bad.to_vec()).unwrap_err().kind, Kind::Device);
        }
    }
}
