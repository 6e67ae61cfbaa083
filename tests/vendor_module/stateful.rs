//! Keys of LMS and XMSS, which SoftHSM does not have: it keeps each as a pair on P-256, marked by its `CKA_SUBJECT`, and what is
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
    lms, module,
    template::{self, Row},
    wrap::real,
    xmss,
};

/// What of it SoftHSM does not have, and what it is for.
pub const MECHANISMS: [(CK_MECHANISM_TYPE, CK_FLAGS); 4] = [
    (CKM_HSS_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR),
    (CKM_HSS, CKF_SIGN),
    (CKM_XMSS_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR),
    (CKM_XMSS, CKF_SIGN),
];

/// What `CKA_SUBJECT` of its keys begins with.
const MARK: &[u8; 6] = b"state:";

fn file() -> PathBuf {
    module().store.path().with_extension("hss")
}

/// A key, with everything that its signatures take.
enum Secret {
    Lms(lms::Key),
    /// With the nodes of its tree, which take seconds.
    Xmss(xmss::Key, Vec<[u8; 32]>),
}

/// What the file says of a key.
struct Kept {
    secret: Secret,
    spent: u32,
}

impl Kept {
    fn leaves(&self) -> u32 {
        match &self.secret {
            Secret::Lms(key) => key.leaves(),
            Secret::Xmss(..) => xmss::LEAVES,
        }
    }

    fn public(&self) -> Vec<u8> {
        match &self.secret {
            Secret::Lms(key) => key.public(),
            Secret::Xmss(key, nodes) => key.public(nodes),
        }
    }

    fn sign(&self, randomizer: &[u8; 32], message: &[u8]) -> Vec<u8> {
        match &self.secret {
            Secret::Lms(key) => key.sign(self.spent, randomizer, message),
            Secret::Xmss(key, nodes) => key.sign(nodes, self.spent, randomizer, message),
        }
    }
}

/// The key of a seed, of which all but the seed is shown.
fn lms_key(seed: [u8; 32], tree: u32, one_time: u32) -> lms::Key {
    let hash = Sha256::new_with_prefix(b"id").chain_update(seed).finalize();
    lms::Key { id: hash[..16].try_into().expect("half of it"), seed, tree, one_time }
}

fn xmss_key(seed: [u8; 32]) -> xmss::Key {
    xmss::Key { secret: seed, public: Sha256::new_with_prefix(b"id").chain_update(seed).finalize().into() }
}

/// Where the nodes of a tree are.
fn nodes_of(mark: &str) -> PathBuf {
    module().store.path().with_extension(mark)
}

fn read(text: &str, mark: &str) -> Option<Kept> {
    let of = |what: &str| format!("{what} {mark}");
    let words = text.lines().find_map(|line| line.strip_prefix(&of("key")))?;
    let words: Vec<&str> = words.split_whitespace().collect();
    let seed = |hex: &str| hex::decode(hex).ok()?.try_into().ok();
    let secret = match words.as_slice() {
        ["lms", hex, tree, one_time] => {
            Secret::Lms(lms_key(seed(hex)?, tree.parse().ok()?, one_time.parse().ok()?))
        }
        ["xmss", hex] => {
            let nodes = std::fs::read(nodes_of(mark)).ok()?;
            Secret::Xmss(xmss_key(seed(hex)?), nodes.as_chunks().0.to_vec())
        }
        _ => return None,
    };
    let spent = text.lines().filter(|line| line.starts_with(&of("spent"))).count();
    Some(Kept { secret, spent: u32::try_from(spent).ok()? })
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

/// The mark of such a key, either half; nothing for every other object.
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
    let is_lms = !nodes_of(mark).exists();
    let number = |number: CK_ULONG| Some(Some(number.to_ne_bytes().to_vec()));
    match kind {
        CKA_KEY_TYPE => number(if is_lms { CKK_HSS } else { CKK_XMSS }),
        CKA_PARAMETER_SET if !is_lms => number(xmss::SET.into()),
        CKA_EC_PARAMS | CKA_EC_POINT => Some(None),
        CKA_VALUE if public => Some(kept().map(|kept| kept.public())),
        CKA_HSS_KEYS_REMAINING if is_lms && !public => {
            Some(kept().map(|kept| CK_ULONG::from(kept.leaves() - kept.spent).to_ne_bytes().to_vec()))
        }
        _ => None,
    }
}

fn number(rows: &[Row], kind: CK_ATTRIBUTE_TYPE) -> Result<u32, CK_RV> {
    let bytes = template::find(rows, kind).ok_or(CKR_TEMPLATE_INCOMPLETE)?;
    let number = CK_ULONG::from_ne_bytes(bytes.try_into().map_err(|_| CKR_ATTRIBUTE_VALUE_INVALID)?);
    u32::try_from(number).map_err(|_| CKR_ATTRIBUTE_VALUE_INVALID)
}

/// Makes a pair, as the standard has it: the parameters are in the template of the private half for HSS, and in that of the
/// public one for XMSS.
pub fn make(
    place: &Place,
    mechanism: CK_MECHANISM_TYPE,
    mut public: Vec<Row>,
    mut private: Vec<Row>,
) -> Result<(), CK_RV> {
    const HSS: [CK_ATTRIBUTE_TYPE; 3] = [CKA_HSS_LEVELS, CKA_HSS_LMS_TYPES, CKA_HSS_LMOTS_TYPES];
    const XMSS: [CK_ATTRIBUTE_TYPE; 1] = [CKA_PARAMETER_SET];
    let is = |kind| template::is_true(&private, kind);
    if !is(CKA_SENSITIVE) || is(CKA_EXTRACTABLE) || is(CKA_COPYABLE) {
        return Err(CKR_TEMPLATE_INCONSISTENT);
    }
    let (told, other, kinds): (_, _, &[_]) = match mechanism {
        CKM_HSS_KEY_PAIR_GEN => (&mut private, &mut public, &HSS),
        _ => (&mut public, &mut private, &XMSS),
    };
    if other.iter().any(|row| kinds.contains(&row.0)) {
        return Err(CKR_TEMPLATE_INCONSISTENT);
    }
    let given = kinds.iter().map(|kind| number(told, *kind)).collect::<Result<Vec<_>, _>>()?;
    told.retain(|row| !kinds.contains(&row.0));
    let mut seed = [0; 32];
    checked(real!(C_GenerateRandom(place.session, seed.as_mut_ptr(), 32)))?;
    let subject = [&MARK[..], &Sha256::digest(seed)[..]].concat();
    let (mark, hex) = (hex::encode(&subject), hex::encode(seed));
    let line = match given.as_slice() {
        [1, tree @ 5, one_time @ 1..=4] => format!("key {mark} lms {hex} {tree} {one_time}"),
        [xmss::SET] => {
            let nodes = xmss_key(seed).nodes().concat();
            std::fs::write(nodes_of(&mark), nodes).map_err(|_| CKR_DEVICE_ERROR)?;
            format!("key {mark} xmss {hex}")
        }
        [_] => return Err(CKR_PARAMETER_SET_NOT_SUPPORTED),
        _ => return Err(CKR_ATTRIBUTE_VALUE_INVALID),
    };
    write(&mut opened()?.0, &line)?;
    for rows in [&mut public, &mut private] {
        template::set_number(rows, CKA_KEY_TYPE, CKK_EC);
        template::set(rows, CKA_SUBJECT, &subject);
    }
    template::set(&mut public, CKA_EC_PARAMS, Curve::P256.params());
    let (mut public, mut private) = (template::write(&public), template::write(&private));
    let mut mechanism =
        CK_MECHANISM { mechanism: CKM_EC_KEY_PAIR_GEN, pParameter: std::ptr::null_mut(), ulParameterLen: 0 };
    checked(real!(C_GenerateKeyPair(
        place.session,
        &raw mut mechanism,
        public.as_mut_ptr(),
        public.len() as CK_ULONG,
        private.as_mut_ptr(),
        private.len() as CK_ULONG,
        place.public,
        place.private,
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
    let wanted = matches!(mechanism, CKM_HSS | CKM_XMSS);
    let begun = match mark(session, key) {
        None if !wanted => return None,
        Some(mark) if wanted && nodes_of(&mark).exists() == (mechanism == CKM_XMSS) => {
            attribute(session, key, CKA_SIGN).and_then(|may| match may.as_slice() {
                [CK_TRUE] => Ok(mark),
                _ => Err(CKR_KEY_FUNCTION_NOT_PERMITTED),
            })
        }
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
        let mut info = CK_SESSION_INFO::default();
        checked(real!(C_GetSessionInfo(session, &raw mut info)))?;
        if !matches!(info.state, CKS_RO_USER_FUNCTIONS | CKS_RW_USER_FUNCTIONS) {
            return Err(CKR_USER_NOT_LOGGED_IN);
        }
        let kept = read(&text, &mark).ok_or(CKR_DEVICE_ERROR)?;
        if kept.spent >= kept.leaves() {
            return Err(CKR_KEY_EXHAUSTED);
        }
        let mut randomizer = [0; 32];
        checked(real!(C_GenerateRandom(session, randomizer.as_mut_ptr(), 32)))?;
        // SAFETY: the caller's word.
        let data = match usize::try_from(data_length) {
            Ok(length) if length > 0 => unsafe { std::slice::from_raw_parts(data, length) },
            _ => &[],
        };
        let made = kept.sign(&randomizer, data);
        // SAFETY: the caller's word on the buffer and its length.
        unsafe {
            let room = length.replace(made.len() as CK_ULONG);
            if signature.is_null() || room < made.len() as CK_ULONG {
                signing().insert(session, mark.clone());
                return if signature.is_null() { Ok(()) } else { Err(CKR_BUFFER_TOO_SMALL) };
            }
            // Before anybody sees it.
            write(&mut file, &format!("spent {mark} {}", kept.spent))?;
            std::ptr::copy_nonoverlapping(made.as_ptr(), signature, made.len());
        }
        Ok(())
    };
    Some(match signed() {
        Ok(()) => CKR_OK,
        Err(code) => code,
    })
}
