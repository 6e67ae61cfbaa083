//! Attestation by the HSM itself: found out whether there is any, its key made, other keys attested with it.
//!
//! What the vendor's samples show and third parties tell of the numbers is confirmed by the token before it is believed.

use std::cell::Cell;

use cryptoki_sys::*;
use x509_cert::der::{Decode, Encode, Sequence, asn1::UintRef};

use super::{
    index::Objects,
    mechanism::KeyShape,
    object::{self, flag},
    pool,
    raw::{Attribute, Mechanism, Module, Object, Session, TokenInfo},
    removal,
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
    let own = found.is_empty() || found.iter().any(|facts| facts.id.as_ref() == Some(id));
    let name = objects.token.facts.label.clone();
    let (facts, private) = if own {
        let (facts, made) = make(objects, id, label, numbers)?;
        match attesting(objects, &facts, numbers)? {
            Some(private) => (facts, private),
            // None of them can be addressed.
            None if facts.twins > 1 => return Ok(Reply::Keys(vec![facts])),
            None if made => return Err(useless(objects, id, label)),
            None => {
                let message =
                    format!("key {label} of token {name} is not one that the HSM attests others with");
                return Err(HsmError::new(Kind::Forbidden, message));
            }
        }
    } else {
        // Made by somebody else, with the vendor's tools for example.
        let [one] = found.as_slice() else { return Ok(Reply::Keys(found)) };
        match attesting(objects, one, numbers)? {
            Some(private) => (one.clone(), private),
            None => return Ok(Reply::Keys(found)),
        }
    };
    let [chain] = objects.session.attributes(private, [numbers.certificate_chain])?;
    // Some write a NUL behind a text.
    let chain = chain.and_then(|chain| String::from_utf8(chain).ok());
    let chain = chain.map(|chain| chain.trim_end_matches('\0').to_owned()).filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| {
        let message = format!("token {name} has no readable certificates for its attestation key {label}");
        HsmError::new(Kind::Unsupported, message)
    })?;
    Ok(Reply::AttestationKey(Box::new(AttestationKey { facts, chain })))
}

/// The private half of a key that was found, if it can be used to attest others.
fn attesting(
    objects: &mut Objects<'_>,
    facts: &KeyFacts,
    numbers: RksNumbers,
) -> Result<Option<Object>, HsmError> {
    let Some(id) = facts.id.as_ref().filter(|_| facts.twins == 1) else { return Ok(None) };
    let private = object::sign_key(objects, id)?.object;
    let [own] = objects.session.attributes(private, [numbers.attestation_sign])?;
    Ok((flag(&own) == Some(true)).then_some(private))
}

/// Makes the key, unless there is one with this id; says also whether it was made now.
fn make(
    objects: &mut Objects<'_>,
    id: &KeyId,
    label: &KeyLabel,
    numbers: RksNumbers,
) -> Result<(KeyFacts, bool), HsmError> {
    // To sign is another matter than to attest. It can go, because a token that does not know the vendor's attribute may
    // make an ordinary key of it. The root is the HSM's, so that a next key would end in the same one.
    let attributes =
        RequestedAttributes { modifiable: Some(false), destroyable: Some(true), ..Default::default() };
    let template = KeyTemplate {
        id: id.clone(),
        label: label.clone(),
        algorithm: KeyAlgorithm::Rsa,
        key_size: Some(KEY_BITS),
        curve_oid: None,
        attributes: attributes.resolved(),
    };
    let (session, made) = (objects.session, Cell::new(false));
    let facts = object::make_with(objects, &template, |public, private| {
        let (mut public, mut private) = (public.to_vec(), private.to_vec());
        public.push(Attribute::number(CKA_MODULUS_BITS, CK_ULONG::from(KEY_BITS)));
        public.push(Attribute::bytes(CKA_PUBLIC_EXPONENT, [1, 0, 1]));
        private.push(Attribute::bool(numbers.attestation_sign, true));
        let pair = session.generate_pair(&Mechanism::plain(numbers.generate), &public, &private);
        made.set(pair.is_ok());
        pair.map_err(|failure| refused(HsmError::from(failure)))
    })?;
    Ok((facts, made.get()))
}

/// Why no attestation key was made. Without a root key store, or a licence for attestations, the HSM says just this, and it
/// stays so until a person does something about it.
fn refused(error: HsmError) -> HsmError {
    if error.code != Some(CKR_GENERAL_ERROR) {
        return error;
    }
    let message = format!(
        "the HSM makes no attestation key ({}): its root key store (RKS) may not be initialised, or the partition may have no \
         licence or permission for attestations; have that set right with the vendor's tools",
        error.message
    );
    HsmError { kind: Kind::Unsupported, message, ..error }
}

/// What was made is no attestation key: the token passed over the attribute, whose number may be another one there. It
/// would be in the way of one that is made with the right number.
fn useless(objects: &mut Objects<'_>, id: &KeyId, label: &KeyLabel) -> HsmError {
    let gone = match removal::destroy(objects, id) {
        Ok(()) => "it was destroyed again".to_owned(),
        Err(error) => format!("it cannot be destroyed again ({error}): do so with the vendor's tools"),
    };
    let message = format!(
        "token {} made key {label} and does not say that it attests others, so that {gone}; see \
         vendorMechanisms.rksAttestationSign",
        objects.token.facts.label
    );
    HsmError::new(Kind::Unsupported, message)
}

/// See [`crate::hsm::protocol::Request::Attest`].
pub fn attest(token: &Token, session: &Session, by: &KeyId, key: &KeyId) -> Result<Reply, HsmError> {
    numbers(token)?;
    let (own, other) = (pool::look_up(token, session, by)?, pool::look_up(token, session, key)?);
    // The only two that the vendor has for this; both without parameters.
    let (mechanism, algorithm) = match own.shape {
        KeyShape::Rsa(_) => (CKM_SHA256_RSA_PKCS_PSS, SignatureAlgorithm::Sha256WithRsaPss),
        KeyShape::Ec(_) => (CKM_ECDSA_SHA256, SignatureAlgorithm::Sha256WithEcdsa),
        KeyShape::Dsa(_) | KeyShape::Ed | KeyShape::Ed448 | KeyShape::Set(_) | KeyShape::Other(_) => {
            let message = format!("key {by} is neither of RSA nor on a known curve: it attests nothing");
            return Err(HsmError::new(Kind::Unsupported, message));
        }
    };
    let made = session.attest(&Mechanism::plain(mechanism), own.object, other.object);
    let document = made.map_err(HsmError::from).inspect_err(|error| {
        // Which of the two handles is not good any more is not said.
        if matches!(error.kind, Kind::Lost | Kind::Device) {
            token.forget_all(&[by.clone(), key.clone()]);
        }
    })?;
    let signature = match own.shape {
        KeyShape::Ec(bits) => in_der(document.signature, bits)?,
        _ => document.signature,
    };
    let xml = document.xml.into();
    Ok(Reply::Attested(Box::new(Attested { xml, signature: signature.into(), algorithm })))
}

/// A signature of ECDSA in DER.
#[derive(Sequence)]
struct Ecdsa<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// An ECDSA signature in DER, whichever of the two forms the module has. The one without DER has an exact length; what has
/// another one and is no DER to the byte is neither.
fn in_der(signature: Vec<u8>, order_bits: u32) -> Result<Vec<u8>, HsmError> {
    let unreadable = || HsmError::new(Kind::Device, "an attestation's signature that cannot be read");
    let half = usize::try_from(order_bits.div_ceil(8)).unwrap_or(usize::MAX);
    if half.checked_mul(2) != Some(signature.len()) {
        return if Ecdsa::from_der(&signature).is_ok() { Ok(signature) } else { Err(unreadable()) };
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
        let der = in_der(raw.clone(), 256).unwrap();
        assert_eq!(ecdsa_der_to_raw(&der, 32).unwrap(), raw);
        assert_eq!(in_der(der.clone(), 256).unwrap(), der);
        // A zero too many: not the one form, and not the other.
        let mut loose = der.clone();
        loose[1] += 1;
        loose[3] += 1;
        loose.insert(4, 0);
        let cut = &raw[1..63];
        for bad in [&[][..], &[1, 2, 3], &loose, cut, &der[..der.len() - 1]] {
            assert_eq!(in_der(bad.to_vec(), 256).unwrap_err().kind, Kind::Device, "{bad:?}");
        }
        // Of another curve.
        assert_eq!(in_der(raw, 384).unwrap_err().kind, Kind::Device);
    }

    #[test]
    fn an_hsm_without_a_root_key_store_is_told_from_trouble_that_passes() {
        let error = |code| HsmError { kind: Kind::Device, code: Some(code), message: "CKR".into() };
        let refused_for_good = refused(error(CKR_GENERAL_ERROR));
        assert_eq!(refused_for_good.kind, Kind::Unsupported);
        assert!(refused_for_good.message.contains("RKS"), "{refused_for_good}");
        assert_eq!(refused(error(CKR_DEVICE_ERROR)), error(CKR_DEVICE_ERROR));
    }
}
