//! Keys for Camellia, which SoftHSM does not have: it keeps each as an AES key of the same value, and what is encrypted with
//! it is encrypted here.
//!
//! Their values are in a file beside the store, in plain, because SoftHSM does not show those of sensitive keys.
#![allow(non_snake_case, reason = "the names are the standard's")]

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    path::PathBuf,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use cryptoki_sys::*;

use super::{
    camellia::{self, BLOCK, Mode, Refused},
    keys::{attribute, checked},
    module,
    template::{self, Row},
    wrap::{code, real},
};

/// What of it SoftHSM does not have, and what it is for.
pub const MECHANISMS: [(CK_MECHANISM_TYPE, CK_FLAGS); 4] = [
    (CKM_CAMELLIA_KEY_GEN, CKF_GENERATE),
    (CKM_CAMELLIA_ECB, CKF_ENCRYPT | CKF_DECRYPT),
    (CKM_CAMELLIA_CBC, CKF_ENCRYPT | CKF_DECRYPT),
    (CKM_CAMELLIA_CBC_PAD, CKF_ENCRYPT | CKF_DECRYPT),
];

fn file() -> PathBuf {
    module().store.path().with_extension("camellia")
}

/// What SoftHSM and the file both know a key by: its id, and three bytes that an AES key of its value makes.
fn name(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> Option<String> {
    let read = |kind| attribute(session, object, kind).ok().filter(|value| !value.is_empty());
    if read(CKA_CLASS)? != CKO_SECRET_KEY.to_ne_bytes() {
        return None;
    }
    Some(format!("{}.{}", hex::encode(read(CKA_ID)?), hex::encode(read(CKA_CHECK_VALUE)?)))
}

/// A key for Camellia.
pub struct Kept {
    value: Vec<u8>,
    local: bool,
}

/// What the module knows of a key for Camellia; nothing of every other object.
pub fn kept(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> Option<Kept> {
    let (text, name) = (std::fs::read_to_string(file()).ok()?, name(session, object)?);
    let words = text.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '))?;
    let (local, value) = words.split_once(' ')?;
    Some(Kept { value: hex::decode(value).ok()?, local: local == "true" })
}

/// What the module says of one in SoftHSM's place.
pub fn own(kept: &Kept, kind: CK_ATTRIBUTE_TYPE) -> Option<Vec<u8>> {
    match kind {
        CKA_KEY_TYPE => Some(CKK_CAMELLIA.to_ne_bytes().to_vec()),
        CKA_LOCAL => Some(vec![CK_BBOOL::from(kept.local)]),
        _ => None,
    }
}

/// Gives a key of a value to SoftHSM.
fn keep(
    session: CK_SESSION_HANDLE,
    mut rows: Vec<Row>,
    value: &[u8],
    local: bool,
) -> Result<CK_OBJECT_HANDLE, CK_RV> {
    rows.retain(|row| row.0 != CKA_VALUE_LEN);
    template::set_number(&mut rows, CKA_CLASS, CKO_SECRET_KEY);
    template::set_number(&mut rows, CKA_KEY_TYPE, CKK_AES);
    template::set(&mut rows, CKA_VALUE, value);
    let (mut written, mut handle) = (template::write(&rows), 0);
    let count = written.len() as CK_ULONG;
    checked(real!(C_CreateObject(session, written.as_mut_ptr(), count, &raw mut handle)))?;
    let name = name(session, handle).ok_or(CKR_TEMPLATE_INCOMPLETE)?;
    let line = format!("{name} {local} {}\n", hex::encode(value));
    let file = File::options().create(true).append(true).open(file());
    file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|_| CKR_DEVICE_ERROR)?;
    Ok(handle)
}

pub unsafe extern "C" fn C_GenerateKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: the standard says what it points to.
    if unsafe { (*mechanism).mechanism } != CKM_CAMELLIA_KEY_GEN {
        return real!(C_GenerateKey(session, mechanism, template, count, key));
    }
    // SAFETY: the caller's word.
    let rows = unsafe { template::read(template, count) };
    let make = || {
        let length = template::find(&rows, CKA_VALUE_LEN).ok_or(CKR_TEMPLATE_INCOMPLETE)?;
        let length = CK_ULONG::from_ne_bytes(length.try_into().map_err(|_| CKR_ATTRIBUTE_VALUE_INVALID)?);
        if ![16, 24, 32].contains(&length) {
            return Err(CKR_ATTRIBUTE_VALUE_INVALID);
        }
        let mut value = vec![0; usize::try_from(length).map_err(|_| CKR_ATTRIBUTE_VALUE_INVALID)?];
        checked(real!(C_GenerateRandom(session, value.as_mut_ptr(), length)))?;
        keep(session, rows.clone(), &value, true)
    };
    // SAFETY: the standard obliges the caller to have it point somewhere.
    code(make().map(|made| unsafe { key.write(made) }))
}

/// A key that is brought.
pub unsafe extern "C" fn C_CreateObject(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: the caller's word.
    let rows = unsafe { template::read(template, count) };
    let camellia = CKK_CAMELLIA.to_ne_bytes();
    match (template::find(&rows, CKA_KEY_TYPE), template::find(&rows, CKA_VALUE)) {
        (Some(kind), Some(value)) if kind == camellia && [16, 24, 32].contains(&value.len()) => {
            let value = value.to_vec();
            // SAFETY: the standard obliges the caller to have it point somewhere.
            code(keep(session, rows, &value, false).map(|made| unsafe { object.write(made) }))
        }
        _ => real!(C_CreateObject(session, template, count, object)),
    }
}

/// What a session is about to do.
struct Begun {
    key: Vec<u8>,
    mode: Mode,
    iv: [u8; BLOCK],
}

type All = HashMap<CK_SESSION_HANDLE, Begun>;
static ENCRYPTING: LazyLock<Mutex<All>> = LazyLock::new(Mutex::default);
static DECRYPTING: LazyLock<Mutex<All>> = LazyLock::new(Mutex::default);

fn locked(all: &'static Mutex<All>) -> MutexGuard<'static, All> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What of a mechanism is Camellia; nothing of every other.
unsafe fn begin(
    session: CK_SESSION_HANDLE,
    mechanism: &CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
    usage: CK_ATTRIBUTE_TYPE,
) -> Result<Option<Begun>, CK_RV> {
    let mode = match mechanism.mechanism {
        CKM_CAMELLIA_ECB => Mode::Ecb,
        CKM_CAMELLIA_CBC => Mode::Cbc,
        CKM_CAMELLIA_CBC_PAD => Mode::CbcPad,
        _ if kept(session, key).is_some() => return Err(CKR_KEY_TYPE_INCONSISTENT),
        _ => return Ok(None),
    };
    let mut iv = [0; BLOCK];
    let wanted = if mode == Mode::Ecb { 0 } else { BLOCK };
    if usize::try_from(mechanism.ulParameterLen) != Ok(wanted)
        || mechanism.pParameter.is_null() != (wanted == 0)
    {
        return Err(CKR_MECHANISM_PARAM_INVALID);
    }
    if wanted > 0 {
        // SAFETY: it is a block long, by the caller's word.
        iv = unsafe { mechanism.pParameter.cast::<[u8; BLOCK]>().read_unaligned() };
    }
    let Kept { value, .. } = kept(session, key).ok_or(CKR_KEY_TYPE_INCONSISTENT)?;
    if attribute(session, key, usage)? != [CK_TRUE] {
        return Err(CKR_KEY_FUNCTION_NOT_PERMITTED);
    }
    Ok(Some(Begun { key: value, mode, iv }))
}

/// Writes an answer of known length; the operation goes on if there is no room for it.
unsafe fn answer(
    begun: Begun,
    all: &'static Mutex<All>,
    session: CK_SESSION_HANDLE,
    made: &[u8],
    (out, length): (*mut CK_BYTE, *mut CK_ULONG),
) -> CK_RV {
    // SAFETY: the caller's word on the buffer and its length.
    unsafe {
        let room = length.replace(made.len() as CK_ULONG);
        if out.is_null() || room < made.len() as CK_ULONG {
            locked(all).insert(session, begun);
            return if out.is_null() { CKR_OK } else { CKR_BUFFER_TOO_SMALL };
        }
        std::ptr::copy_nonoverlapping(made.as_ptr(), out, made.len());
    }
    CKR_OK
}

/// The two steps of one direction.
macro_rules! direction {
    ($init:ident, $act:ident, $all:ident, $usage:ident, $with:path, $length:ident, $padding:ident) => {
        pub unsafe extern "C" fn $init(
            session: CK_SESSION_HANDLE,
            mechanism: *mut CK_MECHANISM,
            key: CK_OBJECT_HANDLE,
        ) -> CK_RV {
            locked(&$all).remove(&session);
            // SAFETY: the standard says what it points to.
            match unsafe { begin(session, &*mechanism, key, $usage) } {
                Ok(None) => real!($init(session, mechanism, key)),
                Ok(Some(begun)) => {
                    locked(&$all).insert(session, begun);
                    CKR_OK
                }
                Err(code) => code,
            }
        }

        pub unsafe extern "C" fn $act(
            session: CK_SESSION_HANDLE,
            data: *mut CK_BYTE,
            data_length: CK_ULONG,
            out: *mut CK_BYTE,
            length: *mut CK_ULONG,
        ) -> CK_RV {
            let Some(begun) = locked(&$all).remove(&session) else {
                return real!($act(session, data, data_length, out, length));
            };
            // SAFETY: the caller's word.
            let data = match usize::try_from(data_length) {
                Ok(length) if length > 0 => unsafe { std::slice::from_raw_parts(data, length) },
                _ => &[],
            };
            match $with(begun.mode, &begun.key, begun.iv, data) {
                // SAFETY: the caller's word.
                Ok(made) => unsafe { answer(begun, &$all, session, &made, (out, length)) },
                Err(Refused::Key) => CKR_KEY_SIZE_RANGE,
                Err(Refused::Length) => $length,
                Err(Refused::Padding) => $padding,
            }
        }
    };
}

direction!(
    C_EncryptInit,
    C_Encrypt,
    ENCRYPTING,
    CKA_ENCRYPT,
    camellia::encrypt,
    CKR_DATA_LEN_RANGE,
    CKR_GENERAL_ERROR
);
direction!(
    C_DecryptInit,
    C_Decrypt,
    DECRYPTING,
    CKA_DECRYPT,
    camellia::decrypt,
    CKR_ENCRYPTED_DATA_LEN_RANGE,
    CKR_ENCRYPTED_DATA_INVALID
);
