//! What is on a token, all of it: one search, and one question for each object.

use std::{collections::HashSet, time::Duration};

use cryptoki_sys::*;

use super::{
    dsa,
    index::{self, Objects},
    object::{self, algorithm, complete, flag, modulus_len, number},
    public,
    raw::{Attribute, Failure, Object, Session},
    token::Token,
};
use crate::{
    hsm::protocol::{HsmError, InventoryEntry, Kept, ObjectClass},
    model::{KeyAlgorithm, KeyId},
};

/// Who makes an object has long finished it after this time.
const MAKING: Duration = Duration::from_millis(300);

/// See [`crate::hsm::protocol::Request::Inventory`].
pub fn inventory(objects: &mut Objects<'_>) -> Result<Vec<InventoryEntry>, HsmError> {
    let entries = all(objects.token, objects.session)?;
    objects.more_than_known(&twins(&entries));
    Ok(entries)
}

/// Ids that several keys have.
fn twins(entries: &[InventoryEntry]) -> Vec<KeyId> {
    let (mut seen, mut twins) = (HashSet::new(), HashSet::new());
    for entry in entries.iter().filter(|entry| entry.is_key() && !entry.ghost) {
        if !seen.insert(&entry.id) {
            twins.insert(&entry.id);
        }
    }
    twins.into_iter().filter_map(|id| KeyId::from_bytes(id.clone()).ok()).collect()
}

fn all(token: &Token, session: &Session) -> Result<Vec<InventoryEntry>, HsmError> {
    let since = token.epoch();
    let mut entries = Vec::new();
    for object in index::of_token(session)? {
        entries.extend(entry(session, object)?);
    }
    let ghost = InventoryEntry {
        id: Vec::new(),
        label: String::new(),
        class: ObjectClass::Unreadable,
        ghost: true,
        algorithm: None,
        key_size: None,
        curve_oid: None,
        kept: Kept::default(),
    };
    entries.extend(std::iter::repeat_n(ghost, begun(session)?));
    // Objects of a logged-out session are only the public ones.
    token.prove(session, since)?;
    Ok(entries)
}

/// How many keys do not say that they are the token's and go on not to: left by a process that was killed when it had only
/// begun to make them. They are not asked for anything, see [`index::of_token`].
fn begun(session: &Session) -> Result<usize, Failure> {
    let some = |by: &[Attribute]| Ok::<HashSet<Object>, Failure>(session.find(by)?.into_iter().collect());
    let look = || {
        let said: HashSet<Object> = index::of_token(session)?.into_iter().collect();
        let silent: HashSet<Object> = some(&[])?.difference(&said).copied().collect();
        let mut begun: HashSet<Object> = HashSet::new();
        // Some modules have objects that are no keys, hundreds of them: kryoptic has one for each mechanism.
        for class in [CKO_PRIVATE_KEY, CKO_SECRET_KEY, CKO_PUBLIC_KEY] {
            if !silent.is_empty() {
                begun.extend(some(&[Attribute::number(CKA_CLASS, class)])?.intersection(&silent));
            }
        }
        Ok::<_, Failure>(begun)
    };
    let mut begun = look()?;
    if !begun.is_empty() {
        std::thread::sleep(MAKING);
        let still = look()?;
        begun.retain(|object| still.contains(object));
    }
    Ok(begun.len())
}

/// What is asked of an object.
const KINDS: [CK_ATTRIBUTE_TYPE; 10] = [
    CKA_CLASS,
    CKA_ID,
    CKA_LABEL,
    CKA_KEY_TYPE,
    CKA_MODULUS,
    CKA_EC_PARAMS,
    CKA_VALUE_LEN,
    CKA_LOCAL,
    CKA_SENSITIVE,
    CKA_EXTRACTABLE,
];

/// What an object that could not be read says of each attribute alone. If there is one that it does not, nobody can tell
/// what the object is: it must not look like a key that was only begun.
fn one_by_one(session: &Session, object: Object) -> [Option<Vec<u8>>; KINDS.len()] {
    let read = KINDS.map(|kind| session.attributes(object, [kind]));
    let whole = read.iter().all(Result::is_ok);
    let mut read = read.map(|one| one.map_or(None, |[value]| value));
    // The class, which is the first.
    read[0] = read[0].take().filter(|_| whole);
    read
}

/// What is told of one object, if it is of interest and still there.
fn entry(session: &Session, object: Object) -> Result<Option<InventoryEntry>, HsmError> {
    let mut read = session.attributes(object, KINDS);
    if let Err(failure) = read {
        if index::unreadable(failure)?.is_none() {
            return Ok(None);
        }
        read = Ok(one_by_one(session, object));
    }
    let [class, id, label, key_type, modulus, params, value_len, local, sensitive, extractable] = read?;
    let class = match number(&class) {
        Some(CKO_PRIVATE_KEY) => ObjectClass::PrivateKey,
        Some(CKO_SECRET_KEY) => ObjectClass::SecretKey,
        Some(CKO_PUBLIC_KEY) => ObjectClass::PublicKey,
        Some(CKO_CERTIFICATE) => ObjectClass::Certificate,
        Some(_) => return Ok(None),
        None => ObjectClass::Unreadable,
    };
    let mut entry = InventoryEntry {
        id: id.unwrap_or_default(),
        label: label.map(|label| String::from_utf8_lossy(&label).into_owned()).unwrap_or_default(),
        class,
        ghost: class == ObjectClass::Unreadable,
        algorithm: None,
        key_size: None,
        curve_oid: None,
        kept: Kept::default(),
    };
    if entry.is_key() {
        entry.kept = Kept { sensitive: flag(&sensitive), extractable: flag(&extractable) };
        let (key_type, value_len) = (number(&key_type), number(&value_len));
        let curve = params.and_then(|params| public::curve_oid(&params));
        let [prime, _] = dsa::size(session, object, key_type)?;
        let modulus = modulus.or(prime).filter(|modulus| !modulus.is_empty());
        entry.ghost = !complete(key_type, modulus.is_some(), curve.is_some(), value_len, flag(&local));
        entry.algorithm = algorithm(key_type, curve.as_deref(), object::set_of(session, object, key_type)?);
        let bits = match entry.algorithm {
            Some(KeyAlgorithm::Rsa | KeyAlgorithm::Dsa) => Some(modulus_len(modulus.as_deref()) * 8),
            Some(KeyAlgorithm::ChaCha20) => Some(256),
            Some(KeyAlgorithm::Aes | KeyAlgorithm::Camellia) => {
                value_len.and_then(|bytes| usize::try_from(bytes * 8).ok())
            }
            _ => None,
        };
        entry.key_size = bits.and_then(|bits| u32::try_from(bits).ok()).filter(|bits| *bits > 0);
        entry.curve_oid = curve;
    }
    Ok(Some(entry))
}
