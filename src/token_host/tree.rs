//! Keys of trees: found out whether the token has them, derived for a moment or to stay.
//!
//! Everything happens on the token. Where its list has no mechanism for it, there are no trees.

use cryptoki_sys::*;

use super::{
    index::Objects,
    mechanism,
    object::{self, Made},
    pool,
    raw::{self, Attribute, Module, Object, Session},
    token::Token,
};
use crate::{
    hsm::protocol::{DerivedTemplate, Find, HsmError, KeyFacts, KeyTemplate, Kind, Reply},
    model::{
        KeyAlgorithm, KeyId, SignatureAlgorithm,
        derivation::DerivationPath,
        vendor::{TreeNumbers, VendorNumbers},
    },
};

/// Sees whether the token has trees, and tells the module. Returns of which keys.
pub fn find_out(
    module: &Module,
    numbers: &VendorNumbers,
    mechanisms: &[CK_MECHANISM_TYPE],
) -> Vec<KeyAlgorithm> {
    if !mechanisms.contains(&numbers.derive) || !module.derives_pairs() {
        return Vec::new();
    }
    let made = |tree: &TreeNumbers| mechanisms.contains(&tree.generate);
    let kinds = [
        (KeyAlgorithm::Ec, CKK_EC, Some(numbers.ec).filter(made)),
        (KeyAlgorithm::Ed, CKK_EC_EDWARDS, numbers.ed.filter(made)),
    ];
    let kinds = kinds.into_iter().filter_map(|(algorithm, plain, tree)| Some((algorithm, plain, tree?)));
    let kinds: Vec<_> = kinds.collect();
    module.has_trees(raw::Tree {
        derive: numbers.derive,
        chain_code: numbers.chain_code,
        key_types: kinds.iter().map(|(_, plain, tree)| (tree.key_type, *plain)).collect(),
    });
    kinds.into_iter().map(|(algorithm, ..)| algorithm).collect()
}

/// How the master of a tree is made.
///
/// # Errors
/// `Unsupported` where the token makes none.
pub fn generator(token: &Token, algorithm: KeyAlgorithm) -> Result<TreeNumbers, HsmError> {
    let numbers = match algorithm {
        KeyAlgorithm::Ec => Some(token.vendor.ec),
        KeyAlgorithm::Ed => token.vendor.ed,
        _ => None,
    };
    let offered = token.facts.capabilities.derived.contains(&algorithm);
    numbers.filter(|_| offered).ok_or_else(|| {
        let message =
            format!("token {} makes no {algorithm} key that others are derived from", token.facts.label);
        HsmError::new(Kind::Unsupported, message)
    })
}

/// A pair that is destroyed with this value.
struct Passing<'a> {
    session: &'a Session,
    public: Object,
    private: Object,
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        for object in [self.private, self.public] {
            // What cannot be destroyed ends with the session.
            let _ = self.session.end(object);
        }
    }
}

/// Derives a pair that lasts for one operation.
fn passing<'a>(
    session: &'a Session,
    token: &Token,
    master: &KeyId,
    path: &DerivationPath,
) -> Result<Passing<'a>, HsmError> {
    let base = parent(session, token, master)?;
    // The derived key may do what its master may.
    let [sign] =
        session.attributes(base, [CKA_SIGN]).map_err(|failure| failed(token, master, failure.into()))?;
    let half = |private: bool, usage| {
        vec![
            Attribute::bool(CKA_TOKEN, false),
            Attribute::bool(CKA_PRIVATE, private),
            // Nobody shall take it for a key that is wanted. The HSM gives it a label: two of one label would be trouble.
            Attribute::bytes(CKA_ID, KeyId::for_purpose("derived").as_bytes()),
            Attribute::bool(CKA_DERIVE, false),
            usage,
        ]
    };
    let public = half(false, Attribute::bool(CKA_VERIFY, true));
    let mut private = half(true, Attribute::bool(CKA_SIGN, object::flag(&sign) == Some(true)));
    private.extend([Attribute::bool(CKA_SENSITIVE, true), Attribute::bool(CKA_EXTRACTABLE, false)]);
    let path: Vec<u32> = path.indexes().collect();
    let derived = session.derive_pair(base, &path, &public, &private);
    let (public, private) = derived.map_err(|failure| failed(token, master, failure.into()))?;
    Ok(Passing { session, public, private })
}

/// The master's private key.
fn parent(session: &Session, token: &Token, master: &KeyId) -> Result<Object, HsmError> {
    if token.facts.capabilities.derived.is_empty() {
        let message = format!("token {} offers no key derivation along a path", token.facts.label);
        return Err(HsmError::new(Kind::Unsupported, message));
    }
    Ok(pool::look_up(token, session, master)?.object)
}

/// A handle that is not good any more is that of the master.
fn failed(token: &Token, master: &KeyId, error: HsmError) -> HsmError {
    if matches!(error.kind, Kind::Lost | Kind::Device) {
        token.forget(master);
    }
    error
}

/// See [`crate::hsm::protocol::Request::Derived`].
pub fn facts(
    token: &Token,
    session: &Session,
    master: &KeyId,
    path: &DerivationPath,
) -> Result<KeyFacts, HsmError> {
    let pair = passing(session, token, master, path)?;
    Ok(KeyFacts { id: None, ..object::facts_of_pair(session, pair.private, pair.public)? })
}

/// See [`crate::hsm::protocol::Request::SignDerived`].
pub fn sign(
    token: &Token,
    session: &Session,
    master: &KeyId,
    path: &DerivationPath,
    (algorithm, payload): (SignatureAlgorithm, &[u8]),
) -> Result<Reply, HsmError> {
    let pair = passing(session, token, master, path)?;
    let shape = object::shape(session, pair.private)?;
    let (mechanism, data) = mechanism::plan(algorithm, shape, &token.mechanisms, payload)?;
    Ok(Reply::Signature(session.sign(&mechanism, pair.private, &data)?.into()))
}

/// See [`crate::hsm::protocol::Request::Derive`].
pub fn derive(objects: &mut Objects<'_>, wanted: &DerivedTemplate) -> Result<Reply, HsmError> {
    let DerivedTemplate { template, master, path } = wanted;
    let found = object::find_keys(objects, &Find::Label(template.label.clone()))?;
    let own = |facts: &KeyFacts| facts.id.as_ref() == Some(&template.id);
    if !found.is_empty() && !found.iter().any(own) {
        return Ok(Reply::Keys(found));
    }
    let (session, base) = (objects.session, base(objects, master)?);
    let indexes: Vec<u32> = path.indexes().collect();
    let make = |public: &[Attribute], private: &[Attribute]| {
        Ok(session.derive_pair(base, &indexes, public, private)?)
    };
    Ok(Reply::Key(Box::new(object::make_with(objects, template, make)?)))
}

/// Derives a pair to stay, where the caller knows that it is not there. See [`crate::hsm::import::Origin::Derived`].
pub fn made(
    objects: &mut Objects<'_>,
    template: &KeyTemplate,
    master: &KeyId,
    path: &DerivationPath,
) -> Result<Made, HsmError> {
    let base = base(objects, master)?;
    let indexes: Vec<u32> = path.indexes().collect();
    object::pair_by(template, |public, private| {
        Ok(objects.session.derive_pair(base, &indexes, public, private)?)
    })
}

/// The private key that others are derived from, to stay.
fn base(objects: &mut Objects<'_>, master: &KeyId) -> Result<Object, HsmError> {
    let token = objects.token;
    if token.facts.capabilities.derived.is_empty() {
        let message = format!("token {} offers no key derivation along a path", token.facts.label);
        return Err(HsmError::new(Kind::Unsupported, message));
    }
    Ok(object::sign_key(objects, master)?.object)
}
