//! Public keys on the token whose private halves are elsewhere: brought and found.
//!
//! A public half that a killed process left under a key's id looks the same. Whoever asks knows which of the two it is:
//! these are looked for by [`crate::hsm::protocol::Find::Public`] alone, and every other look-up passes over them.

use cryptoki_sys::*;

use super::{
    import::{self, halves_of},
    index::Objects,
    object::{self, Group, Halves, Life, flag, number},
    public,
    raw::Object,
    removal,
};
use crate::{
    hsm::{
        import::Import,
        protocol::{FIND_MAX, Find, HsmError, KeyFacts, KeyTemplate, Kind, Reply},
    },
    model::{KeyAttributes, KeyId},
};

/// Keeps a public key, unless it is there. `there` is what is under its id, without private or secret keys.
pub fn import(
    objects: &mut Objects<'_>,
    job: &Import,
    there: Group,
    tried: &mut bool,
) -> Result<Reply, HsmError> {
    let template = &job.template;
    let spki = job.public_key.as_deref();
    let spki = spki.ok_or_else(|| HsmError::new(Kind::Invalid, "the public key is not told"))?;
    // One that the token does not describe whole was never finished.
    let known = facts(objects, &there.public)?.into_iter().filter(|found| found.public_key.is_some());
    let known: Vec<_> = known.collect();
    if let Some(found) = known.iter().find(|found| found.public_key.as_deref() == Some(spki)) {
        return Ok(Reply::Key(Box::new(found.clone())));
    }
    if !known.is_empty() {
        return Ok(Reply::Keys(known));
    }
    // Where two look before either makes anything, the second look, below, may tell; where it does not, the controller does.
    let others = namesakes(objects, template)?;
    if !others.is_empty() {
        return Ok(Reply::Keys(others));
    }
    // What is left there is nobody's.
    removal::clear(objects, &template.id, there)?;
    *tried = true;
    let made = make(objects, template, spki)?;
    objects.made(made, &template.id, template.label.as_str());
    objects.ask_again();
    let now = Group::now(objects, &template.id)?;
    let mut labelled = object::find_keys(objects, &Find::Label(template.label.clone()))?;
    labelled.extend(namesakes(objects, template)?);
    if !labelled.is_empty() || now.public.len() > 1 {
        // Another process did the same, or made a key of the label. At least one of the two takes its own away.
        removal::discard(objects, made);
        *tried = false;
        if !labelled.is_empty() {
            return Ok(Reply::Keys(labelled));
        }
        let message = "two requests brought the key at the same time; this one was undone";
        return Err(HsmError::new(Kind::Busy, message));
    }
    match facts(objects, &now.public)?.pop() {
        Some(facts) => Ok(Reply::Key(Box::new(facts))),
        None => Err(HsmError::new(Kind::Crashed, "the token took a public key and does not show it yet")),
    }
}

/// Public keys of the same label that are there alone under other ids, proven. What a killed process left of a pair looks the
/// same; it may be of a key that is just being brought, and takes the name, too.
fn namesakes(objects: &mut Objects<'_>, template: &KeyTemplate) -> Result<Vec<KeyFacts>, HsmError> {
    let public = Group::now(objects, &template.label)?.public;
    let twins = u32::try_from(public.len()).unwrap_or(u32::MAX);
    let mut others = Vec::new();
    for object in public {
        let found = read(objects, object, twins)?;
        let Some(id) = found.id.clone().filter(|id| *id != template.id) else { continue };
        // The halves of a pair need not share their label: the pair has the one of its private half.
        if found.public_key.is_some() && Group::find(objects, &id)?.whole.is_empty() {
            others.push(found);
        }
        if others.len() == FIND_MAX {
            break;
        }
    }
    Ok(others)
}

fn make(objects: &Objects<'_>, template: &KeyTemplate, spki: &[u8]) -> Result<Object, HsmError> {
    let mut last = None;
    for specific in halves_of(template, spki)? {
        for life in [Life::Token, Life::OlderToken] {
            let half = Halves::of(template, life).public;
            let mut half =
                half.ok_or_else(|| HsmError::new(Kind::Invalid, "a secret key has no public half"))?;
            half.extend_from_slice(&specific);
            match objects.session.create(&half) {
                Ok(made) => return Ok(made),
                Err(failure) => {
                    let error = HsmError::from(failure);
                    if !import::not_taken(&error) {
                        return Err(error);
                    }
                    last = Some(error);
                }
            }
        }
    }
    Err(import::refused(objects, template, last.expect("there is at least one way to write a template")))
}

/// See [`Find::Public`].
pub fn find(objects: &mut Objects<'_>, id: &KeyId) -> Result<Vec<KeyFacts>, HsmError> {
    let Group { whole, public, .. } = Group::lone(objects, id)?;
    if whole.is_empty() { facts(objects, &public) } else { Ok(Vec::new()) }
}

/// The public key of an id, which has to be this one.
pub fn of(objects: &mut Objects<'_>, id: &KeyId, spki: &[u8]) -> Result<Object, HsmError> {
    let public = Group::lone(objects, id)?.public;
    let told = facts(objects, &public)?;
    match (public.as_slice(), told.as_slice()) {
        ([object], [facts]) if facts.public_key.as_deref() == Some(spki) => Ok(*object),
        ([], _) => {
            let token = &objects.token.facts.label;
            Err(HsmError::new(Kind::KeyNotFound, format!("token {token} has no public key {id}")))
        }
        _ => {
            let token = &objects.token.facts.label;
            Err(HsmError::new(
                Kind::Ambiguous,
                format!(
                    "token {token} has another public key with the id {id} than the one on record, or several"
                ),
            ))
        }
    }
}

fn facts(objects: &Objects<'_>, public: &[Object]) -> Result<Vec<KeyFacts>, HsmError> {
    let twins = u32::try_from(public.len()).unwrap_or(u32::MAX);
    public.iter().take(FIND_MAX).map(|object| read(objects, *object, twins)).collect()
}

/// What is reported of a public key: it does nothing that takes a private half, which is not protected either.
fn read(objects: &Objects<'_>, object: Object, twins: u32) -> Result<KeyFacts, HsmError> {
    let session = objects.session;
    let [key_type, id, label, modulus, params, modifiable, copyable, destroyable] = session.attributes(
        object,
        [
            CKA_KEY_TYPE,
            CKA_ID,
            CKA_LABEL,
            CKA_MODULUS,
            CKA_EC_PARAMS,
            CKA_MODIFIABLE,
            CKA_COPYABLE,
            CKA_DESTROYABLE,
        ],
    )?;
    let key_type = number(&key_type);
    let curve = params.filter(|params| !params.is_empty()).and_then(|params| public::curve_oid(&params));
    let public_key = object::public_half(session, object, key_type)?;
    let bits = object::modulus_len(modulus.as_deref()) * 8;
    Ok(KeyFacts {
        id: id.and_then(|id| KeyId::from_bytes(id).ok()),
        label: label.map(|label| String::from_utf8_lossy(&label).into_owned()).unwrap_or_default(),
        algorithm: object::algorithm(key_type, curve.as_deref(), None),
        key_size: u32::try_from(bits).ok().filter(|bits| *bits > 0),
        curve_oid: curve,
        public_key: public_key.map(Into::into),
        attributes: KeyAttributes {
            decrypt: Some(false),
            sign: Some(false),
            unwrap: Some(false),
            derive: Some(false),
            modifiable: flag(&modifiable),
            copyable: flag(&copyable),
            destroyable: flag(&destroyable),
            ..KeyAttributes::default()
        },
        local: Some(false),
        chain_code: None,
        twins,
    })
}
