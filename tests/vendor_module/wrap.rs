//! The wrapped functions, and those that the standard does not have.
#![allow(non_snake_case, reason = "the names are the standard's and the vendor's")]

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use cryptoki_sys::*;

use super::{
    curve::Curve,
    keys::{self, Place},
    numbers::*,
    rks, schnorr, secret, stateful,
    store::{Kept, Origin},
    template,
};

/// SoftHSM's function of this name, with these arguments.
macro_rules! real {
    ($function:ident($($argument:expr),* $(,)?)) => {
        match $crate::module().real.$function {
            // SAFETY: what our caller says of the arguments is passed on; our own live until the call returns.
            Some(function) => unsafe { function($($argument),*) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    };
}
pub(super) use real;

/// Mechanisms for key pairs that SoftHSM does not have, and what they are for.
const MECHANISMS: [(CK_MECHANISM_TYPE, CK_FLAGS); 5] = [
    (CKM_SLIP10_CHILD_DERIVE, CKF_DERIVE),
    (CKM_EC_SLIP10_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR),
    (CKM_EC_EDWARDS_SLIP10_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR),
    (CKM_SCHNORR_BIP340, CKF_SIGN),
    (CKM_RKS_RSA_PKCS_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR),
];

/// All mechanisms that SoftHSM does not have.
fn mechanisms() -> impl Iterator<Item = (CK_MECHANISM_TYPE, CK_FLAGS)> {
    MECHANISMS.into_iter().chain(secret::MECHANISMS).chain(stateful::MECHANISMS)
}

/// Puts the wrapped functions in place of SoftHSM's.
pub fn wrap(list: &mut CK_FUNCTION_LIST) {
    list.C_GetInfo = Some(C_GetInfo);
    list.C_GetTokenInfo = Some(C_GetTokenInfo);
    list.C_GetMechanismList = Some(C_GetMechanismList);
    list.C_GetMechanismInfo = Some(C_GetMechanismInfo);
    list.C_GenerateKeyPair = Some(C_GenerateKeyPair);
    list.C_GetAttributeValue = Some(C_GetAttributeValue);
    list.C_SignInit = Some(C_SignInit);
    list.C_Sign = Some(C_Sign);
    list.C_GenerateKey = Some(secret::C_GenerateKey);
    list.C_CreateObject = Some(secret::C_CreateObject);
    list.C_EncryptInit = Some(secret::C_EncryptInit);
    list.C_Encrypt = Some(secret::C_Encrypt);
    list.C_DecryptInit = Some(secret::C_DecryptInit);
    list.C_Decrypt = Some(secret::C_Decrypt);
}

pub(super) const fn code(result: Result<(), CK_RV>) -> CK_RV {
    match result {
        Ok(()) => CKR_OK,
        Err(code) => code,
    }
}

/// Text padded with blanks.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    std::array::from_fn(|at| text.as_bytes().get(at).copied().unwrap_or(b' '))
}

unsafe extern "C" fn C_GetInfo(info: *mut CK_INFO) -> CK_RV {
    let code = real!(C_GetInfo(info));
    if code == CKR_OK {
        // SAFETY: the call has written there.
        unsafe { (*info).manufacturerID = padded("Securosys SA") };
    }
    code
}

unsafe extern "C" fn C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    let code = real!(C_GetTokenInfo(slot, info));
    if code == CKR_OK {
        // SAFETY: the call has written there.
        unsafe {
            (*info).manufacturerID = padded("Securosys SA");
            (*info).model = padded("PRIMUS HSM");
        }
    }
    code
}

unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    let mut known: CK_ULONG = 0;
    let code = real!(C_GetMechanismList(slot, std::ptr::null_mut(), &raw mut known));
    if code != CKR_OK {
        return code;
    }
    let mut all = vec![0; usize::try_from(known).unwrap_or(0)];
    let code = real!(C_GetMechanismList(slot, all.as_mut_ptr(), &raw mut known));
    if code != CKR_OK {
        return code;
    }
    all.truncate(usize::try_from(known).unwrap_or(0));
    all.extend(mechanisms().map(|(mechanism, _)| mechanism));
    // SAFETY: the standard obliges the caller to have `count` say how much room there is at `list`.
    unsafe {
        let room = *count;
        *count = all.len() as CK_ULONG;
        if list.is_null() {
            return CKR_OK;
        }
        if room < *count {
            return CKR_BUFFER_TOO_SMALL;
        }
        std::ptr::copy_nonoverlapping(all.as_ptr(), list, all.len());
    }
    CKR_OK
}

unsafe extern "C" fn C_GetMechanismInfo(
    slot: CK_SLOT_ID,
    mechanism: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    let Some((_, flags)) = mechanisms().find(|row| row.0 == mechanism) else {
        return real!(C_GetMechanismInfo(slot, mechanism, info));
    };
    let (least, most) = match mechanism {
        CKM_RKS_RSA_PKCS_KEY_PAIR_GEN => (2048, 4096),
        CKM_HSS_KEY_PAIR_GEN | CKM_HSS | CKM_XMSS_KEY_PAIR_GEN | CKM_XMSS => (0, 0),
        _ if secret::MECHANISMS.iter().any(|row| row.0 == mechanism) => (16, 32),
        _ => (256, 256),
    };
    // SAFETY: the standard obliges the caller to have it point somewhere.
    unsafe { info.write(CK_MECHANISM_INFO { ulMinKeySize: least, ulMaxKeySize: most, flags }) };
    CKR_OK
}

unsafe extern "C" fn C_GenerateKeyPair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public_template: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private_template: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public: *mut CK_OBJECT_HANDLE,
    private: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: the standard says what these point to.
    let how = unsafe { *mechanism };
    if how.mechanism == CKM_RKS_RSA_PKCS_KEY_PAIR_GEN {
        let place = Place { session, public, private };
        // SAFETY: as above.
        return code(unsafe {
            let public = template::read(public_template, public_count);
            rks::make(&place, public, template::read(private_template, private_count))
        });
    }
    if matches!(how.mechanism, CKM_HSS_KEY_PAIR_GEN | CKM_XMSS_KEY_PAIR_GEN) {
        let place = Place { session, public, private };
        // SAFETY: as above.
        return code(unsafe {
            let public = template::read(public_template, public_count);
            let private = template::read(private_template, private_count);
            stateful::make(&place, how.mechanism, public, private)
        });
    }
    if !matches!(how.mechanism, CKM_EC_SLIP10_KEY_PAIR_GEN | CKM_EC_EDWARDS_SLIP10_KEY_PAIR_GEN) {
        return real!(C_GenerateKeyPair(
            session,
            mechanism,
            public_template,
            public_count,
            private_template,
            private_count,
            public,
            private
        ));
    }
    let place = Place { session, public, private };
    // SAFETY: as above.
    code(unsafe {
        let public = template::read(public_template, public_count);
        keys::master(&place, &how, public, template::read(private_template, private_count))
    })
}

/// The vendor's derivation of a pair.
///
/// # Safety
/// As for `C_DeriveKey` of the standard, with both halves' templates and handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DeriveKeyPair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    base: CK_OBJECT_HANDLE,
    public_template: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private_template: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public: *mut CK_OBJECT_HANDLE,
    private: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let place = Place { session, public, private };
    // SAFETY: the caller's word.
    code(unsafe {
        let public = template::read(public_template, public_count);
        keys::child(&place, &*mechanism, base, public, template::read(private_template, private_count))
    })
}

/// What the module says of its own keys in SoftHSM's place.
fn own(kept: &Kept, kind: CK_ATTRIBUTE_TYPE) -> Option<Vec<u8>> {
    let edwards = kept.node.curve == Curve::Ed25519;
    Some(match kind {
        CKA_KEY_TYPE => if edwards { CKK_EC_EDWARDS_SLIP10 } else { CKK_EC_SLIP10 }.to_ne_bytes().to_vec(),
        CKA_SLIP10_CHAIN_CODE => kept.node.chain.to_vec(),
        CKA_LOCAL => vec![CK_BBOOL::from(kept.origin == Origin::Generated)],
        _ => return None,
    })
}

pub unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let length = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller's template has that many rows.
    let rows = unsafe { std::slice::from_raw_parts_mut(template, length) };
    let room: Vec<CK_ULONG> = rows.iter().map(|row| row.ulValueLen).collect();
    let answer = real!(C_GetAttributeValue(session, object, template, count));
    let may_be_ours = matches!(
        answer,
        CKR_OK | CKR_ATTRIBUTE_TYPE_INVALID | CKR_ATTRIBUTE_SENSITIVE | CKR_BUFFER_TOO_SMALL
    );
    let of = |kinds: &[CK_ATTRIBUTE_TYPE]| rows.iter().any(|row| kinds.contains(&row.type_));
    let tree = of(&[CKA_KEY_TYPE, CKA_SLIP10_CHAIN_CODE, CKA_LOCAL]);
    let rks = of(&[CKA_SIGN, CKA_RKS_ATTESTATION_SIGN, CKA_RKS_CERTIFICATE_CHAIN]);
    let hss = of(&[
        CKA_KEY_TYPE,
        CKA_VALUE,
        CKA_EC_PARAMS,
        CKA_EC_POINT,
        CKA_HSS_KEYS_REMAINING,
        CKA_PARAMETER_SET,
    ]);
    if !may_be_ours || !(tree || rks || hss) {
        return answer;
    }
    let kept = if tree { keys::kept(session, object).ok().flatten() } else { None };
    let mark = if rks { rks::kept(session, object) } else { None };
    let camellia = if tree { secret::kept(session, object) } else { None };
    let hss = if hss { stateful::mark(session, object) } else { None };
    if kept.is_none() && mark.is_none() && camellia.is_none() && hss.is_none() {
        return answer;
    }
    // What is said in SoftHSM's place, or that there is no such attribute.
    let own = |kind| match (&kept, &mark, &camellia, &hss) {
        (Some(kept), ..) => own(kept, kind).map(Some),
        (None, Some(mark), ..) => rks::own(mark, kind).map(Some),
        (None, None, Some(key), _) => secret::own(key, kind).map(Some),
        (None, None, None, Some(mark)) => stateful::own(session, object, mark, kind),
        (None, None, None, None) => None,
    };
    let mut small = false;
    for (row, room) in rows.iter_mut().zip(room) {
        let Some(value) = own(row.type_) else { continue };
        let Some(value) = value else {
            row.ulValueLen = CK_UNAVAILABLE_INFORMATION;
            continue;
        };
        if row.pValue.is_null() {
            row.ulValueLen = value.len() as CK_ULONG;
        } else if usize::try_from(room).is_ok_and(|room| room >= value.len()) {
            // SAFETY: there is room, as the caller said.
            unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), row.pValue.cast::<u8>(), value.len()) };
            row.ulValueLen = value.len() as CK_ULONG;
        } else {
            row.ulValueLen = CK_UNAVAILABLE_INFORMATION;
            small = true;
        }
    }
    let missing = rows.iter().any(|row| row.ulValueLen == CK_UNAVAILABLE_INFORMATION);
    match answer {
        _ if small => CKR_BUFFER_TOO_SMALL,
        CKR_OK if missing => CKR_ATTRIBUTE_TYPE_INVALID,
        CKR_ATTRIBUTE_TYPE_INVALID if !missing => CKR_OK,
        answer => answer,
    }
}

/// What a signature of BIP-340 takes besides the message; our own guess, because the vendor's is not public. Both are
/// 32 bytes, or null.
#[repr(C)]
struct SchnorrParameters {
    aux: *const CK_BYTE,
    tweak: *const CK_BYTE,
}

struct Signing {
    private: [u8; 32],
    aux: [u8; 32],
    tweak: Option<[u8; 32]>,
}

/// Sessions that are about to sign as BIP-340 says.
static SIGNING: LazyLock<Mutex<HashMap<CK_SESSION_HANDLE, Signing>>> = LazyLock::new(Mutex::default);

fn signing(
    session: CK_SESSION_HANDLE,
    mechanism: &CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> Result<Signing, CK_RV> {
    let kept = keys::kept(session, key)?.ok_or(CKR_KEY_TYPE_INCONSISTENT)?;
    if kept.node.curve != Curve::Secp256k1 {
        return Err(CKR_KEY_TYPE_INCONSISTENT);
    }
    let mut aux = [0; 32];
    keys::checked(real!(C_GenerateRandom(session, aux.as_mut_ptr(), 32)))?;
    let mut tweak = None;
    if !mechanism.pParameter.is_null() {
        if usize::try_from(mechanism.ulParameterLen) != Ok(size_of::<SchnorrParameters>()) {
            return Err(CKR_MECHANISM_PARAM_INVALID);
        }
        // SAFETY: it is as long as it has to be, and what it points to is 32 bytes, by the caller's word.
        unsafe {
            let given = mechanism.pParameter.cast::<SchnorrParameters>().read_unaligned();
            let read = |bytes: *const CK_BYTE| bytes.cast::<[u8; 32]>().read_unaligned();
            if !given.aux.is_null() {
                aux = read(given.aux);
            }
            tweak = (!given.tweak.is_null()).then(|| read(given.tweak));
        }
    }
    Ok(Signing { private: kept.node.private, aux, tweak })
}

unsafe extern "C" fn C_SignInit(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let mut all = SIGNING.lock().unwrap_or_else(PoisonError::into_inner);
    all.remove(&session);
    // SAFETY: the standard says what it points to.
    let how = unsafe { *mechanism };
    if how.mechanism != CKM_SCHNORR_BIP340 {
        drop(all);
        if let Some(begun) = stateful::begin(session, how.mechanism, key) {
            return code(begun);
        }
        if rks::is_one(session, key) {
            return CKR_KEY_FUNCTION_NOT_PERMITTED;
        }
        return real!(C_SignInit(session, mechanism, key));
    }
    code(signing(session, &how, key).map(|signing| {
        all.insert(session, signing);
    }))
}

unsafe extern "C" fn C_Sign(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    data_length: CK_ULONG,
    signature: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: the caller's word.
    if let Some(code) = unsafe { stateful::sign(session, (data, data_length), (signature, length)) } {
        return code;
    }
    let begun = SIGNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
    let Some(Signing { private, aux, tweak }) = begun else {
        return real!(C_Sign(session, data, data_length, signature, length));
    };
    if data_length != 32 {
        return CKR_DATA_LEN_RANGE;
    }
    // SAFETY: the caller's word on both buffers.
    unsafe {
        let room = length.replace(64);
        if signature.is_null() || room < 64 {
            let begun = Signing { private, aux, tweak };
            SIGNING.lock().unwrap_or_else(PoisonError::into_inner).insert(session, begun);
            return if signature.is_null() { CKR_OK } else { CKR_BUFFER_TOO_SMALL };
        }
        let message = std::slice::from_raw_parts(data, 32);
        match schnorr::sign(&private, &aux, tweak.as_ref(), message) {
            Some(made) => std::ptr::copy_nonoverlapping(made.as_ptr(), signature, 64),
            None => return CKR_FUNCTION_FAILED,
        }
    }
    CKR_OK
}
