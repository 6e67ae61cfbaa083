//! Keys of LMS, which SoftHSM does not have: it keeps each as a pair on P-256, marked by its `CKA_SUBJECT`, and what is
//! signed is signed here.
//!
//! Seeds, in plain, and what is spent are in a file beside the store, which processes lock. It also has a line for each call
//! of `C_Sign`, for tests to count.
#![allow(non_snake_case, reason = "the names are the standard's")]

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Write},
    path::PathBuf,
    sync::{LazyLock, Mutex, PoisonError},
};

use cryptoki_sys::*;
use sha2::{Digest, Sha256};

use super::{
    curve::Curve,
    keys::{Place, attribute, checked},
    lms::Key,
    module,
    template::{self, Row},
    wrap::real,
};

/// What of it SoftHSM does not have, and what it is for.
pub const MECHANISMS: [(CK_MECHANISM_TYPE, CK_FLAGS); 2] =
    [(CKM_HSS_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR), (CKM_HSS, CKF_SIGN)];

/// What `CKA_SUBJECT` of its keys begins with.
const MARK: &[u8; 4] = b"hss:";

fn file() -> PathBuf {
    module().store.path().with_extension("hss")
}

/// The key of a seed, with parameters that its file has as well.
fn key(seed: [u8; 32], tree: u32, one_time: u32) -> Key {
    let hash = Sha256::new_with_prefix(b"id").chain_update(seed).finalize();
    Key { id: hash[..16].try_into().expect("half of it"), seed, tree, one_time }
}

/// What the file says of a key.
struct Kept {
    key: Key,
    spent: u32,
}

fn read(text: &str, mark: &str) -> Option<Kept> {
    let of = |what: &str| format!("{what} {mark}");
    let words = text.lines().find_map(|line| line.strip_prefix(&of("key")))?;
    let [seed, tree, one_time] = words.split_whitespace().collect::<Vec<_>>().try_into().ok()?;
    let key = key(hex::decode(seed).ok()?.try_into().ok()?, tree.parse().ok()?, one_time.parse().ok()?);
    let spent = text.lines().filter(|line| line.starts_with(&of("spent"))).count();
    Some(Kept { key, spent: u32::try_from(spent).ok()? })
}

/// The file, locked until it is closed, and what is in it.
fn opened() -> Result<(File, String), CK_RV> {
    let open = || {
        let mut file = File::options().create(true).read(true).append(true).open(file())?;
        file.lock()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok::<_, std::io::Error>((file, text))
    };
    open().map_err(|_| CKR_DEVICE_ERROR)
}

fn write(file: &mut File, line: &str) -> Result<(), CK_RV> {
    file.write_all(format!("{line}\n").as_bytes())
        .and_then(|()| file.sync_data())
        .map_err(|_| CKR_DEVICE_ERROR)
}

/// The mark of a key of LMS, either half; nothing for every other object.
pub fn mark(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> Option<String> {
    let subject = attribute(session, object, CKA_SUBJECT).ok()?;
    subject.starts_with(MARK).then(|| hex::encode(subject))
}

/// What the module says of one in SoftHSM's place, if it says something; that there is no such attribute, too.
pub fn own(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    mark: &str,
    kind: CK_ATTRIBUTE_TYPE,
) -> Option<Option<Vec<u8>>> {
    let kept = || read(&std::fs::read_to_string(file()).ok()?, mark);
    let class = attribute(session, object, CKA_CLASS).ok()?;
    let public = class == CKO_PUBLIC_KEY.to_ne_bytes();
    match kind {
        CKA_KEY_TYPE => Some(Some(CKK_HSS.to_ne_bytes().to_vec())),
        CKA_EC_PARAMS | CKA_EC_POINT => Some(None),
        CKA_VALUE if public => Some(kept().map(|kept| kept.key.public())),
        CKA_HSS_KEYS_REMAINING if !public => Some(
            kept().map(|Kept { key, spent }| CK_ULONG::from(key.leaves() - spent).to_ne_bytes().to_vec()),
        ),
        _ => None,
    }
}

/// Makes a pair, as the standard has it: the parameters are in the template of the private half.
pub fn make(
    Place { session, public: public_handle, private: private_handle }: &Place,
    mut public: Vec<Row>,
    mut private: Vec<Row>,
) -> Result<(), CK_RV> {
    const PARAMETERS: [CK_ATTRIBUTE_TYPE; 3] = [CKA_HSS_LEVELS, CKA_HSS_LMS_TYPES, CKA_HSS_LMOTS_TYPES];
    let given = PARAMETERS.map(|kind| {
        let bytes = template::find(&private, kind).ok_or(CKR_TEMPLATE_INCOMPLETE)?;
        bytes.try_into().map(CK_ULONG::from_ne_bytes).map_err(|_| CKR_ATTRIBUTE_VALUE_INVALID)
    });
    let (levels, tree, one_time) = (given[0]?, given[1]?, given[2]?);
    if public.iter().any(|row| PARAMETERS.contains(&row.0)) {
        return Err(CKR_TEMPLATE_INCONSISTENT);
    }
    if levels != 1 || tree != 5 || !(1..=4).contains(&one_time) {
        return Err(CKR_ATTRIBUTE_VALUE_INVALID);
    }
    let is = |kind| template::is_true(&private, kind);
    if !is(CKA_SENSITIVE) || is(CKA_EXTRACTABLE) || is(CKA_COPYABLE) {
        return Err(CKR_TEMPLATE_INCONSISTENT);
    }
    let mut seed = [0; 32];
    checked(real!(C_GenerateRandom(*session, seed.as_mut_ptr(), 32)))?;
    let subject = [&MARK[..], &Sha256::digest(seed)[..]].concat();
    private.retain(|row| !PARAMETERS.contains(&row.0));
    for rows in [&mut public, &mut private] {
        template::set_number(rows, CKA_KEY_TYPE, CKK_EC);
        template::set(rows, CKA_SUBJECT, &subject);
    }
    template::set(&mut public, CKA_EC_PARAMS, Curve::P256.params());
    let (mut file, _) = opened()?;
    write(&mut file, &format!("key {} {} {tree} {one_time}", hex::encode(&subject), hex::encode(seed)))?;
    let (mut public, mut private) = (template::write(&public), template::write(&private));
    let mut mechanism =
        CK_MECHANISM { mechanism: CKM_EC_KEY_PAIR_GEN, pParameter: std::ptr::null_mut(), ulParameterLen: 0 };
    checked(real!(C_GenerateKeyPair(
        *session,
        &raw mut mechanism,
        public.as_mut_ptr(),
        public.len() as CK_ULONG,
        private.as_mut_ptr(),
        private.len() as CK_ULONG,
        *public_handle,
        *private_handle,
    )))
}

/// Sessions that are about to sign, and the marks of the keys.
static SIGNING: LazyLock<Mutex<HashMap<CK_SESSION_HANDLE, String>>> = LazyLock::new(Mutex::default);

fn signing() -> std::sync::MutexGuard<'static, HashMap<CK_SESSION_HANDLE, String>> {
    SIGNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins a signature; `None` where it is not one of these.
pub fn begin(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_TYPE,
    key: CK_OBJECT_HANDLE,
) -> Option<Result<(), CK_RV>> {
    signing().remove(&session);
    let begun = match (mechanism == CKM_HSS, mark(session, key)) {
        (false, None) => return None,
        (true, Some(mark)) => attribute(session, key, CKA_SIGN).and_then(|may| match may.as_slice() {
            [CK_TRUE] => Ok(mark),
            _ => Err(CKR_KEY_FUNCTION_NOT_PERMITTED),
        }),
        // Of a session that was logged out SoftHSM says that there is no such object.
        _ => attribute(session, key, CKA_CLASS).and(Err(CKR_KEY_TYPE_INCONSISTENT)),
    };
    Some(begun.map(|mark| drop(signing().insert(session, mark))))
}

/// Signs; `None` where nothing of this was begun.
///
/// # Safety
/// As the standard says of the arguments of `C_Sign`.
pub unsafe fn sign(
    session: CK_SESSION_HANDLE,
    (data, data_length): (*mut CK_BYTE, CK_ULONG),
    (signature, length): (*mut CK_BYTE, *mut CK_ULONG),
) -> Option<CK_RV> {
    let mark = signing().remove(&session)?;
    let signed = || {
        let (mut file, text) = opened()?;
        write(&mut file, &format!("asked {mark}"))?;
        let Kept { key, spent } = read(&text, &mark).ok_or(CKR_DEVICE_ERROR)?;
        if spent >= key.leaves() {
            return Err(CKR_KEY_EXHAUSTED);
        }
        let mut randomizer = [0; 32];
        checked(real!(C_GenerateRandom(session, randomizer.as_mut_ptr(), 32)))?;
        // SAFETY: the caller's word.
        let data = match usize::try_from(data_length) {
            Ok(length) if length > 0 => unsafe { std::slice::from_raw_parts(data, length) },
            _ => &[],
        };
        let made = key.sign(spent, &randomizer, data);
        // SAFETY: the caller's word on the buffer and its length.
        unsafe {
            let room = length.replace(made.len() as CK_ULONG);
            if signature.is_null() || room < made.len() as CK_ULONG {
                signing().insert(session, mark.clone());
                return if signature.is_null() { Ok(()) } else { Err(CKR_BUFFER_TOO_SMALL) };
            }
            // Before anybody sees it.
            write(&mut file, &format!("spent {mark} {spent}"))?;
            std::ptr::copy_nonoverlapping(made.as_ptr(), signature, made.len());
        }
        Ok(())
    };
    Some(match signed() {
        Ok(()) => CKR_OK,
        Err(code) => code,
    })
}
