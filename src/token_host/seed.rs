//! Masters of trees that the token makes from a seed which is brought to it.
//!
//! The seed is the parameter of the vendor's mechanism that makes a master, as its users publish it
//! (<https://github.com/gmikeska/emvault-securosys>): the token makes both halves at one stroke, and no object is made of
//! the seed, so that none can be left over.

use cryptoki_sys::*;

use super::{
    index::Objects,
    object::{self, Halves, Life, Made},
    raw::Attribute,
    tree,
};
use crate::{
    hsm::protocol::{HsmError, KeyTemplate, Kind},
    model::{KeyId, secret::Plaintext},
};

/// Makes the master of a tree.
pub fn master(objects: &Objects<'_>, template: &KeyTemplate, seed: &Plaintext) -> Result<Made, HsmError> {
    if !template.attributes.tree {
        return Err(HsmError::new(Kind::Invalid, "from a seed comes the master of a tree"));
    }
    let outcome = attempt(objects, template, seed, Life::Token);
    // A module that knows neither `CKA_COPYABLE` nor `CKA_DESTROYABLE`.
    let outcome = match outcome {
        Err(error) if error.code == Some(CKR_ATTRIBUTE_TYPE_INVALID) => {
            attempt(objects, template, seed, Life::OlderToken)
        }
        outcome => outcome,
    };
    outcome.map_err(|error| {
        let not_taken = error.kind == Kind::Unsupported
            || not_this_way(template, &error)
            || matches!(error.code, Some(CKR_MECHANISM_PARAM_INVALID | CKR_TEMPLATE_INCONSISTENT));
        if !not_taken {
            return error;
        }
        let message = format!(
            "token {} makes no {} key from this seed that others are derived from ({})",
            objects.token.facts.label, template.algorithm, error.message
        );
        HsmError { kind: Kind::Unsupported, message, ..error }
    })
}

/// Whether a key on the token is the master that comes from a seed: the same master is made for a moment and compared.
/// `None` where the token makes no keys for a moment.
pub fn is_of(
    objects: &Objects<'_>,
    template: &KeyTemplate,
    seed: &Plaintext,
    public_key: &[u8],
) -> Result<Option<bool>, HsmError> {
    let mut passing = template.clone();
    // Nobody shall take it for the one that is wanted.
    passing.id = KeyId::for_purpose("derived");
    let made = match attempt(objects, &passing, seed, Life::Session) {
        Ok(made) => made,
        Err(error) if matches!(error.kind, Kind::Lost | Kind::Device) => return Err(error),
        Err(_) => return Ok(None),
    };
    let public = made.public.expect("a master is a pair");
    let facts = object::facts_of_pair(objects.session, made.private, public);
    for half in [made.private, public] {
        // What cannot be destroyed ends with the session.
        let _ = objects.session.end(half);
    }
    Ok(Some(facts?.public_key.as_deref() == Some(public_key)))
}

fn attempt(
    objects: &Objects<'_>,
    template: &KeyTemplate,
    seed: &Plaintext,
    life: Life,
) -> Result<Made, HsmError> {
    let (token, session) = (objects.token, objects.session);
    let numbers = tree::generator(token, template.algorithm)?;
    let mut last = None;
    for specific in object::specifics(session, template)? {
        let specific = specific.into_iter().filter(|attribute| attribute.kind != CKA_KEY_TYPE);
        let key_type = Attribute::number(CKA_KEY_TYPE, numbers.key_type);
        let Halves { mut own, public } = Halves::of(template, life);
        let mut public = public.expect("only pairs are masters");
        if life == Life::Session {
            // Two of one label would be trouble to the HSM.
            for half in [&mut own, &mut public] {
                half.retain(|attribute| attribute.kind != CKA_LABEL);
            }
        }
        public.extend(specific.chain([key_type.clone()]));
        own.push(key_type);
        match session.pair_of_seed(numbers.generate, seed.expose(), &public, &own) {
            Ok((public, private)) => return Ok(Made { private, public: Some(public) }),
            Err(failure) => {
                let error = HsmError::from(failure);
                let other_way = not_this_way(template, &error);
                last = Some(error);
                if !other_way {
                    break;
                }
            }
        }
    }
    Err(last.expect("there is at least one way to write a template"))
}

/// Whether the token certainly made nothing, for the way in which the curve is written: after an error that may mean anything
/// there may be a master.
fn not_this_way(template: &KeyTemplate, error: &HsmError) -> bool {
    error.kind != Kind::Device && object::curve_refused(template.algorithm, error)
}
