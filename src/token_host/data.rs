//! Data objects: `CKO_DATA` under our application name.
//!
//! They have no `CKA_ID`. What tells them apart is the label, see [`DataName`]; that there is one object of a label only
//! is our doing, because a token accepts any number.

use std::time::Duration;

use cryptoki_sys::*;

use super::{
    index::Objects,
    object::flag,
    raw::{Attribute, Object},
};
use crate::{
    hsm::protocol::{DataFacts, HsmError, Kind},
    model::data::{DataAttributes, DataName, DataValue},
};

/// `CKA_APPLICATION` of every data object that is ours.
const APPLICATION: &str = "hsm-operator";
/// Whoever made a second object of a name, as another did, has long taken it away again after this time.
const SETTLES: Duration = Duration::from_millis(300);
/// How often a token is asked to destroy what it still shows.
const TRIES: u32 = 3;

/// Objects of a name; that there is none is proven.
fn find(objects: &Objects<'_>, name: &DataName) -> Result<Vec<Object>, HsmError> {
    let since = objects.token.epoch();
    // In this order, for the reason of `index::of_token`.
    let found = objects.session.find(&[
        Attribute::bool(CKA_TOKEN, true),
        Attribute::number(CKA_CLASS, CKO_DATA),
        Attribute::bytes(CKA_APPLICATION, APPLICATION),
        Attribute::bytes(CKA_LABEL, name.label()),
    ])?;
    if found.is_empty() {
        objects.token.prove(objects.session, since)?;
    }
    Ok(found)
}

/// Whether there is an object of a name.
pub fn is_there(objects: &Objects<'_>, name: &DataName) -> Result<bool, HsmError> {
    Ok(!find(objects, name)?.is_empty())
}

fn ambiguous(objects: &Objects<'_>, name: &DataName) -> HsmError {
    let message = format!(
        "token {} has several data objects with the name '{name}': destroy them and make it again",
        objects.token.facts.label
    );
    HsmError::new(Kind::Ambiguous, message)
}

/// See [`crate::hsm::protocol::Request::PutData`]. `again` says that it was tried before for the same request, and may have
/// been done.
pub fn put(
    objects: &mut Objects<'_>,
    name: &DataName,
    value: &DataValue,
    attributes: DataAttributes,
    again: bool,
) -> Result<Option<DataAttributes>, HsmError> {
    match find(objects, name)?.as_slice() {
        [] => {}
        [object] if again => {
            let there = read(objects, *object)?;
            let own = there.value == *value && there.attributes == attributes;
            return Ok(own.then_some(there.attributes));
        }
        _ => return Ok(None),
    }
    let made = make(objects, name, value, attributes)?;
    let all = find(objects, name)?;
    if !all.contains(&made) {
        return Err(HsmError::new(
            Kind::Crashed,
            "the token made a data object and does not show it yet; ask for it before you make it again",
        ));
    }
    if all.len() > 1 {
        // Another process found nothing either, and made one. Whoever looks after that sees both, so that at least one
        // of the two comes here: never are both told that theirs is the one, if the module shows at once what another
        // process made. Where it does not, `get` reads neither.
        return Err(take_back(objects, name, made)?);
    }
    Ok(Some(read(objects, made)?.attributes))
}

fn make(
    objects: &Objects<'_>,
    name: &DataName,
    value: &DataValue,
    attributes: DataAttributes,
) -> Result<Object, HsmError> {
    let DataAttributes { private, modifiable, destroyable } = attributes;
    let mut template = vec![
        Attribute::number(CKA_CLASS, CKO_DATA),
        Attribute::bool(CKA_TOKEN, true),
        Attribute::bool(CKA_PRIVATE, private),
        Attribute::bool(CKA_MODIFIABLE, modifiable),
        Attribute::bytes(CKA_APPLICATION, APPLICATION),
        Attribute::bytes(CKA_LABEL, name.label()),
        Attribute::bytes(CKA_VALUE, value.expose()),
        Attribute::bool(CKA_DESTROYABLE, destroyable),
    ];
    match objects.session.create(&template) {
        // Older modules do not know the last one, and destroy what they are told to.
        Err(failure) if failure.code == CKR_ATTRIBUTE_TYPE_INVALID && destroyable => {
            template.pop();
            Ok(objects.session.create(&template)?)
        }
        outcome => Ok(outcome?),
    }
}

/// Removes what was made beside another one.
fn take_back(objects: &mut Objects<'_>, name: &DataName, made: Object) -> Result<HsmError, HsmError> {
    let session = objects.session;
    for _ in 0..TRIES {
        if objects.destroy(made).is_err() {
            let _ = session.set(made, &[Attribute::bool(CKA_DESTROYABLE, true)]);
            let _ = objects.destroy(made);
        }
        // CKR_OK alone is no proof, see `removal`.
        if !find(objects, name)?.contains(&made) {
            let message =
                format!("two requests made the data object '{name}' at the same time; this one was undone");
            return Ok(HsmError::new(Kind::Busy, message));
        }
    }
    Ok(ambiguous(objects, name))
}

fn read(objects: &Objects<'_>, object: Object) -> Result<DataFacts, HsmError> {
    let [value, private, modifiable, destroyable] =
        objects.session.attributes(object, [CKA_VALUE, CKA_PRIVATE, CKA_MODIFIABLE, CKA_DESTROYABLE])?;
    let value = DataValue::new(value.unwrap_or_default()).map_err(|error| {
        let message =
            format!("token {} has a data object that is none of ours: {error}", objects.token.facts.label);
        HsmError::new(Kind::Ambiguous, message)
    })?;
    let attributes = DataAttributes {
        private: flag(&private).unwrap_or(false),
        modifiable: flag(&modifiable).unwrap_or(true),
        destroyable: flag(&destroyable).unwrap_or(true),
    };
    Ok(DataFacts { value, attributes })
}

/// See [`crate::hsm::protocol::Request::GetData`].
pub fn get(objects: &mut Objects<'_>, name: &DataName) -> Result<Option<DataFacts>, HsmError> {
    let mut found = find(objects, name)?;
    if found.len() > 1 {
        std::thread::sleep(SETTLES);
        found = find(objects, name)?;
    }
    match found.as_slice() {
        [] => Ok(None),
        [object] => read(objects, *object).map(Some),
        _ => Err(ambiguous(objects, name)),
    }
}

/// See [`crate::hsm::protocol::Request::DestroyData`]. All of them go, if there are several. The second time, `again`, the first
/// may have done it.
pub fn destroy(objects: &mut Objects<'_>, name: &DataName, again: bool) -> Result<bool, HsmError> {
    let mut left = find(objects, name)?;
    let there = again || !left.is_empty();
    for _ in 0..TRIES {
        for object in &left {
            let [destroyable] = objects.session.attributes(*object, [CKA_DESTROYABLE])?;
            if flag(&destroyable) == Some(false) {
                let message = format!("the data object '{name}' is not destroyable");
                return Err(HsmError::new(Kind::Forbidden, message));
            }
        }
        for object in left {
            objects.destroy(object)?;
        }
        // CKR_OK alone is no proof, see `removal`.
        left = find(objects, name)?;
        if left.is_empty() {
            return Ok(there);
        }
    }
    let message = format!(
        "token {} says that it destroyed the data object '{name}' and still shows it",
        objects.token.facts.label
    );
    Err(HsmError::new(Kind::Device, message))
}
