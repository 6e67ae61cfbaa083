//! Objects go from a token, and are seen to have gone.
//!
//! `CKR_OK` of `C_DestroyObject` is not enough: kryoptic 1.5 says so also where its storage refused, because another
//! process was writing, and the object stays. A key that is said to be destroyed and is there would be a lie, and a public
//! half that stays would be taken for that of the next key of its id.

use cryptoki_sys::{CKA_DESTROYABLE, CKA_ID};

use super::{
    index::Objects,
    object::Group,
    raw::{Attribute, Object},
};
use crate::{
    hsm::protocol::{HsmError, Kind},
    model::KeyId,
};

/// How often a token is asked to destroy what it still shows.
const TRIES: u32 = 3;

/// See [`crate::hsm::protocol::Request::Destroy`].
pub fn destroy(objects: &mut Objects<'_>, id: &KeyId) -> Result<(), HsmError> {
    objects.token.forget(id);
    let mut left = Group::now(objects, id)?;
    for _ in 0..TRIES {
        if left.is_empty() {
            return Ok(());
        }
        once(objects, id, left)?;
        objects.ask_again();
        // What is no key and cannot be destroyed is skipped by every look-up.
        left = Group { broken: vec![], ..Group::now(objects, id)? };
    }
    if left.is_empty() {
        return Ok(());
    }
    let message =
        format!("token {} says that it destroyed key {id} and still shows it", objects.token.facts.label);
    Err(HsmError::new(Kind::Device, message))
}

fn once(objects: &mut Objects<'_>, id: &KeyId, there: Group) -> Result<(), HsmError> {
    let Group { whole, broken, public, certificates, others } = there;
    if whole.iter().any(|key| key.attributes.destroyable == Some(false)) {
        let message = format!("key {id} on token {} is not destroyable", objects.token.facts.label);
        return Err(HsmError::new(Kind::Forbidden, message));
    }
    // Private halves first: what is left after a crash is harmless and found again by its id.
    for key in whole {
        objects.destroy(key.object)?;
    }
    for key in broken {
        discard(objects, key.object);
    }
    public.into_iter().chain(certificates).chain(others).try_for_each(|object| objects.destroy(object))
}

/// Makes room for a key: removes what an earlier try left under its id. Halves of keys that do not go are skipped by
/// every look-up, because they are not complete; a public half is not, and must not stay under the id.
pub fn clear(objects: &mut Objects<'_>, id: &KeyId, left: Group) -> Result<(), HsmError> {
    let leftovers: Vec<Object> = left.broken.iter().map(|key| key.object).chain(left.public).collect();
    if leftovers.is_empty() {
        return Ok(());
    }
    for object in leftovers {
        discard(objects, object);
    }
    objects.ask_again();
    for object in Group::now(objects, id)?.public {
        set_aside(objects, id, object, "a public key of an earlier try")?;
    }
    Ok(())
}

/// Removes a leftover as well as the token allows: what cannot be destroyed is made destroyable first.
pub fn discard(objects: &mut Objects<'_>, object: Object) {
    let session = objects.session;
    if session.destroy(object).is_err() {
        let _ = session.set(object, &[Attribute::bool(CKA_DESTROYABLE, true)]);
        let _ = session.destroy(object);
    }
    objects.gone(object);
}

/// Gives an object another id, under which it is neither used nor lost, and the inventory shows it.
pub fn set_aside(objects: &mut Objects<'_>, id: &KeyId, object: Object, what: &str) -> Result<(), HsmError> {
    let aside = KeyId::for_purpose(&format!("set-aside/{id}"));
    objects.session.set(object, &[Attribute::bytes(CKA_ID, aside.as_bytes())]).map_err(|failure| {
        let error = HsmError::from(failure);
        match error.kind {
            Kind::Lost => error,
            _ => {
                let token = &objects.token.facts.label;
                let message = format!(
                    "{what} with the id {id} is on token {token} and cannot be set aside: {}",
                    error.message
                );
                HsmError { kind: Kind::Ambiguous, message, ..error }
            }
        }
    })?;
    objects.gone(object);
    Ok(())
}
