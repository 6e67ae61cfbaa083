//! The HSM's own attestation: its key, the certificates of that, and the statement about another key.
//!
//! The private key is one of SoftHSM's, marked by its `CKA_SUBJECT`. What certifies it, device and root, is in files
//! beside the store, in plain: it is a module for tests, and its statements prove nothing.

use std::{ffi::c_void, path::PathBuf, ptr};

use base64::{Engine, engine::general_purpose::STANDARD};
use cryptoki_sys::*;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256,
    RsaKeySize, SubjectPublicKeyInfo, date_time_ymd,
};

use super::{
    keys::{Place, checked},
    module,
    numbers::*,
    template::{self, Row},
    wrap::{self, real},
};

/// What `CKA_SUBJECT` of attestation keys begins with.
const MARK: &[u8; 4] = b"rks:";
/// Bits that the vendor's samples ask for.
const BITS_MIN: CK_ULONG = 2048;

/// A file beside the store.
fn file(name: &str) -> PathBuf {
    module().store.path().with_extension(name)
}

/// Whether an object is an attestation key's private half.
pub fn is_one(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> bool {
    kept(session, object).is_some()
}

/// What the module says of an attestation key in SoftHSM's place.
pub fn own(mark: &[u8], kind: CK_ATTRIBUTE_TYPE) -> Option<Vec<u8>> {
    match kind {
        CKA_RKS_ATTESTATION_SIGN => Some(vec![CK_TRUE]),
        // That it signs others' documents is not the ordinary way to sign.
        CKA_SIGN => Some(vec![CK_FALSE]),
        CKA_RKS_CERTIFICATE_CHAIN => std::fs::read(file(&hex::encode(mark))).ok(),
        _ => None,
    }
}

/// The mark of an attestation key; nothing for every other object. SoftHSM is asked: the wrapped call asks here.
pub fn kept(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> Option<Vec<u8>> {
    let mut value = [0_u8; 64];
    let length = value.len() as CK_ULONG;
    let mut row = CK_ATTRIBUTE { type_: CKA_SUBJECT, pValue: value.as_mut_ptr().cast(), ulValueLen: length };
    let code = real!(C_GetAttributeValue(session, object, &raw mut row, 1));
    let length = usize::try_from(row.ulValueLen).ok()?;
    let mark = value.get(..length).filter(|mark| code == CKR_OK && mark.starts_with(MARK))?;
    let mut class: CK_OBJECT_CLASS = 0;
    let mut row = CK_ATTRIBUTE {
        type_: CKA_CLASS,
        pValue: (&raw mut class).cast(),
        ulValueLen: size_of::<CK_OBJECT_CLASS>() as CK_ULONG,
    };
    let code = real!(C_GetAttributeValue(session, object, &raw mut row, 1));
    (code == CKR_OK && class == CKO_PRIVATE_KEY).then(|| mark.to_vec())
}

/// Makes an attestation key and its certificates.
///
/// # Safety
/// As the standard says of the arguments of `C_GenerateKeyPair`.
pub unsafe fn make(place: &Place, mut public: Vec<Row>, mut private: Vec<Row>) -> Result<(), CK_RV> {
    if module().no_rks {
        return Err(CKR_GENERAL_ERROR);
    }
    if !template::is_true(&private, CKA_RKS_ATTESTATION_SIGN) {
        return Err(CKR_TEMPLATE_INCOMPLETE);
    }
    if [CKA_SIGN, CKA_DECRYPT, CKA_UNWRAP].iter().any(|usage| template::is_true(&private, *usage)) {
        return Err(CKR_TEMPLATE_INCONSISTENT);
    }
    let bits = template::find(&public, CKA_MODULUS_BITS).and_then(number).ok_or(CKR_TEMPLATE_INCOMPLETE)?;
    if bits < BITS_MIN {
        return Err(CKR_KEY_SIZE_RANGE);
    }
    let mut random = [0_u8; 16];
    checked(real!(C_GenerateRandom(place.session, random.as_mut_ptr(), 16)))?;
    let mark = [&MARK[..], &random].concat();
    private.retain(|row| row.0 != CKA_RKS_ATTESTATION_SIGN);
    // For SoftHSM it is a key that signs.
    template::set(&mut private, CKA_SIGN, &[CK_TRUE]);
    if !module().passes_over_rks {
        template::set(&mut private, CKA_SUBJECT, &mark);
    }
    template::set(&mut public, CKA_VERIFY, &[CK_TRUE]);
    let (mut public_rows, mut private_rows) = (template::write(&public), template::write(&private));
    let mut mechanism = plain(CKM_RSA_PKCS_KEY_PAIR_GEN);
    checked(real!(C_GenerateKeyPair(
        place.session,
        &raw mut mechanism,
        public_rows.as_mut_ptr(),
        public_rows.len() as CK_ULONG,
        private_rows.as_mut_ptr(),
        private_rows.len() as CK_ULONG,
        place.public,
        place.private,
    )))?;
    // SAFETY: the call has written there.
    let made = unsafe { *place.public };
    let label = template::find(&private, CKA_LABEL).map(String::from_utf8_lossy).unwrap_or_default();
    let spki = spki(place.session, made).ok_or(CKR_FUNCTION_FAILED)?;
    let chain = certified(&label, &spki).ok_or(CKR_FUNCTION_FAILED)?;
    std::fs::write(file(&hex::encode(&mark)), chain).map_err(|_| CKR_DEVICE_ERROR)?;
    if module().dies_of_rks && !file("died").exists() {
        std::fs::write(file("died"), []).map_err(|_| CKR_DEVICE_ERROR)?;
        std::process::abort();
    }
    Ok(())
}

/// The certificates of an attestation key: its own, the device's and the root.
fn certified(label: &str, spki: &[u8]) -> Option<String> {
    let params = |name: &str, is_ca: IsCa, usages: &[KeyUsagePurpose]| {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::OrganizationName, "vendor module");
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date_time_ymd(2024, 8, 21), date_time_ymd(2054, 8, 14));
        (params.is_ca, params.key_usages) = (is_ca, usages.to_vec());
        params
    };
    let ca = [KeyUsagePurpose::ContentCommitment, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root_params = params("VENDOR_MODULE_ROOTKEY", IsCa::Ca(BasicConstraints::Constrained(1)), &ca);
    let device_params = params("VENDOR MODULE KEY (SN: 1)", IsCa::Ca(BasicConstraints::Constrained(0)), &ca);
    let leaf = [KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment];
    let leaf_params = params(label, IsCa::ExplicitNoCa, &leaf);
    let made = file("device");
    if !made.exists() {
        let key = || KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072).ok();
        let (root, device) = (key()?, key()?);
        let root_certificate = root_params.self_signed(&root).ok()?;
        let device_certificate =
            device_params.signed_by(&device, &Issuer::from_params(&root_params, &root)).ok()?;
        let chain = format!("{}{}", device_certificate.pem(), root_certificate.pem());
        std::fs::write(file("device-chain"), chain).ok()?;
        std::fs::write(&made, device.serialize_pem()).ok()?;
    }
    let device = KeyPair::from_pem(&std::fs::read_to_string(&made).ok()?).ok()?;
    let key = SubjectPublicKeyInfo::from_der(spki).ok()?;
    let leaf = leaf_params.signed_by(&key, &Issuer::from_params(&device_params, &device)).ok()?;
    Some(format!("{}{}", leaf.pem(), std::fs::read_to_string(file("device-chain")).ok()?))
}

/// The vendor's attestation of a key.
///
/// # Safety
/// `mechanism` points to one, the lengths to numbers that say how much room there is at what comes before them.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the name is the vendor's")]
pub unsafe extern "C" fn C_RKSAttestKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    by: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    xml: *mut CK_BYTE,
    xml_length: *mut CK_ULONG,
    signature: *mut CK_BYTE,
    signature_length: *mut CK_ULONG,
) -> CK_RV {
    // Whether a question for the size is answered is not public, so that it is not answered.
    if mechanism.is_null()
        || xml.is_null()
        || xml_length.is_null()
        || signature.is_null()
        || signature_length.is_null()
    {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: the caller's word.
    let (how, room) = unsafe { (*mechanism, *xml_length) };
    if how.mechanism != CKM_SHA256_RSA_PKCS_PSS {
        return CKR_MECHANISM_INVALID;
    }
    if !how.pParameter.is_null() || how.ulParameterLen != 0 {
        return CKR_MECHANISM_PARAM_INVALID;
    }
    if get(session, by, CKA_CLASS).is_none() || get(session, key, CKA_CLASS).is_none() {
        return CKR_OBJECT_HANDLE_INVALID;
    }
    if !is_one(session, by) {
        return CKR_KEY_FUNCTION_NOT_PERMITTED;
    }
    let Some(document) = document(session, key) else { return CKR_FUNCTION_FAILED };
    let wanted = module().attest_room.max(document.len() as CK_ULONG);
    if room < wanted {
        // SAFETY: as above.
        unsafe { *xml_length = wanted };
        return CKR_BUFFER_TOO_SMALL;
    }
    let mut pss = CK_RSA_PKCS_PSS_PARAMS { hashAlg: CKM_SHA256, mgf: CKG_MGF1_SHA256, sLen: 32 };
    let mut how = CK_MECHANISM {
        mechanism: CKM_SHA256_RSA_PKCS_PSS,
        pParameter: (&raw mut pss).cast::<c_void>(),
        ulParameterLen: size_of::<CK_RSA_PKCS_PSS_PARAMS>() as CK_ULONG,
    };
    let code = real!(C_SignInit(session, &raw mut how, by));
    if code != CKR_OK {
        return code;
    }
    let (start, length) = (document.as_ptr().cast_mut(), document.len() as CK_ULONG);
    let code = real!(C_Sign(session, start, length, signature, signature_length));
    if code == CKR_OK {
        // SAFETY: as above, and there is room.
        unsafe {
            ptr::copy_nonoverlapping(document.as_ptr(), xml, document.len());
            *xml_length = length;
        }
    }
    code
}

const fn plain(mechanism: CK_MECHANISM_TYPE) -> CK_MECHANISM {
    CK_MECHANISM { mechanism, pParameter: ptr::null_mut(), ulParameterLen: 0 }
}

/// An attribute, by the module's own word; up to 4 KiB.
fn get(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, kind: CK_ATTRIBUTE_TYPE) -> Option<Vec<u8>> {
    let mut value = vec![0_u8; 4096];
    let length = value.len() as CK_ULONG;
    let mut row = CK_ATTRIBUTE { type_: kind, pValue: value.as_mut_ptr().cast(), ulValueLen: length };
    // SAFETY: the row points to so many bytes.
    let code = unsafe { wrap::C_GetAttributeValue(session, object, &raw mut row, 1) };
    let length = usize::try_from(row.ulValueLen).ok().filter(|length| *length <= value.len())?;
    value.truncate(length);
    (code == CKR_OK).then_some(value)
}

fn number(bytes: &[u8]) -> Option<CK_ULONG> {
    Some(CK_ULONG::from_ne_bytes(bytes.try_into().ok()?))
}

/// DER of a tag.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut all = vec![tag];
    match content.len() {
        short @ 0..0x80 => all.push(u8::try_from(short).expect("it is below 128")),
        _ => {
            all.push(0x80 | u8::try_from(length.len()).expect("at most 8"));
            all.extend_from_slice(length);
        }
    }
    all.extend_from_slice(content);
    all
}

fn integer(number: &[u8]) -> Vec<u8> {
    let number = &number[number.iter().take_while(|byte| **byte == 0).count()..];
    let sign: &[u8] = if number.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    der(2, &[sign, number].concat())
}

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// The public key as X.509 has it, from an object that tells it.
fn spki(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> Option<Vec<u8>> {
    let bits = |key: &[u8]| der(3, &[&[0], key].concat());
    // The octet string around a point.
    let point =
        || get(session, object, CKA_EC_POINT).map(|point| point.get(2..).unwrap_or_default().to_vec());
    let (algorithm, key) = match number(&get(session, object, CKA_KEY_TYPE)?)? {
        CKK_RSA => {
            let modulus = integer(&get(session, object, CKA_MODULUS)?);
            let exponent = integer(&get(session, object, CKA_PUBLIC_EXPONENT)?);
            ([der(6, RSA), der(5, &[])].concat(), der(0x30, &[modulus, exponent].concat()))
        }
        CKK_EC | CKK_EC_SLIP10 => ([der(6, EC), get(session, object, CKA_EC_PARAMS)?].concat(), point()?),
        CKK_EC_EDWARDS | CKK_EC_EDWARDS_SLIP10 => (der(6, ED25519), point()?),
        _ => return None,
    };
    Some(der(0x30, &[der(0x30, &algorithm), bits(&key)].concat()))
}

/// The other half of a pair.
fn public_half(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> Option<CK_OBJECT_HANDLE> {
    let (mut found, mut count) = (0, 0);
    let wanted =
        [(CKA_CLASS, CKO_PUBLIC_KEY.to_ne_bytes().to_vec()), (CKA_ID, get(session, object, CKA_ID)?)];
    let mut rows = template::write(&wanted);
    checked(real!(C_FindObjectsInit(session, rows.as_mut_ptr(), rows.len() as CK_ULONG))).ok()?;
    let code = real!(C_FindObjects(session, &raw mut found, 1, &raw mut count));
    checked(real!(C_FindObjectsFinal(session))).ok()?;
    (code == CKR_OK && count == 1).then_some(found)
}

/// An object identifier with dots, from the inside of its DER.
fn dotted(oid: &[u8]) -> String {
    let mut arcs: Vec<u64> = vec![0];
    for byte in oid {
        let last = arcs.last_mut().expect("there is one");
        *last = *last << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(0);
        }
    }
    arcs.pop();
    let first = arcs.first().copied().unwrap_or(0);
    let head = (first / 40).min(2);
    let rest = arcs.iter().skip(1).map(|arc| format!(".{arc}"));
    format!("{head}.{}{}", first - 40 * head, rest.collect::<String>())
}

/// What the HSM says of a key.
fn document(session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) -> Option<Vec<u8>> {
    let class = number(&get(session, key, CKA_CLASS)?)?;
    let is = |kind| get(session, key, kind).is_some_and(|value| value == [CK_TRUE]);
    let label = String::from_utf8(get(session, key, CKA_LABEL)?).ok()?;
    let label = label.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let label = label.replace('\'', "&apos;").replace('"', "&quot;");
    // When a key was made SoftHSM does not remember.
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let kind = if class == CKO_SECRET_KEY { "secret_key" } else { "private_key" };
    let creation = if is(CKA_LOCAL) { "generated" } else { "imported" };
    let mut lines = vec![
        r#"<?xml version="1.0" encoding="UTF-8"?>"#.to_owned(),
        format!(r#"<{kind} creation="{creation}">"#),
        format!("\t<label>{label}</label>"),
        format!("\t<create_time>{now}</create_time>"),
        format!("\t<attest_time>{now}</attest_time>"),
    ];
    let mut say = |name: &str, value: String| lines.push(format!("\t<{name}>{value}</{name}>"));
    match number(&get(session, key, CKA_KEY_TYPE)?)? {
        CKK_RSA => {
            let modulus = get(session, key, CKA_MODULUS)?;
            say("algorithm", "RSA".into());
            say("algorithm_oid", dotted(RSA));
            say("key_size", (8 * modulus.len()).to_string());
        }
        CKK_EC | CKK_EC_SLIP10 => {
            say("algorithm", "EC".into());
            say("algorithm_oid", dotted(EC));
            say("curve_oid", dotted(get(session, key, CKA_EC_PARAMS)?.get(2..)?));
        }
        CKK_EC_EDWARDS | CKK_EC_EDWARDS_SLIP10 => {
            say("algorithm", "ED".into());
            say("algorithm_oid", dotted(ED25519));
        }
        CKK_AES => {
            say("algorithm", "AES".into());
            say("algorithm_oid", "2.16.840.1.101.3.4.1".into());
            say("key_size", (8 * number(&get(session, key, CKA_VALUE_LEN)?)?).to_string());
        }
        _ => return None,
    }
    if class == CKO_PRIVATE_KEY {
        say("public_key", STANDARD.encode(spki(session, public_half(session, key)?)?));
    }
    lines.push("\t<attributes>".to_owned());
    for (name, kind) in [
        ("decrypt", CKA_DECRYPT),
        ("sign", CKA_SIGN),
        ("unwrap", CKA_UNWRAP),
        ("derive", CKA_DERIVE),
        ("sensitive", CKA_SENSITIVE),
        ("always_sensitive", CKA_ALWAYS_SENSITIVE),
        ("extractable", CKA_EXTRACTABLE),
        ("never_extractable", CKA_NEVER_EXTRACTABLE),
        ("modifiable", CKA_MODIFIABLE),
        ("copyable", CKA_COPYABLE),
        ("destroyable", CKA_DESTROYABLE),
    ] {
        lines.push(format!("\t\t<{name}>{}</{name}>", is(kind)));
    }
    lines.push("\t\t<unique>true</unique>".to_owned());
    lines.push("\t</attributes>".to_owned());
    lines.push(format!("</{kind}>\n\n"));
    Some(lines.join("\n").into_bytes())
}
