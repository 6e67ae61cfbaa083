//! Masters and their children: made here, kept by SoftHSM as imported keys.

use cryptoki_sys::*;

use super::{
    curve::Curve,
    module,
    numbers::*,
    store::{Kept, Origin},
    template::{self, Row},
    tree::Node,
    wrap::real,
};

/// Most steps of a path: BIP-32 counts them in one byte.
const DEPTH_MAX: usize = 255;
/// Bytes of a seed.
const SEED: std::ops::RangeInclusive<usize> = 16..=64;

/// A path as the vendor's derivation takes it.
#[repr(C)]
pub struct PathParameters {
    indexes: *const CK_ULONG,
    count: CK_ULONG,
}

/// Where the handles of a new pair go, and in which session it is made.
pub struct Place {
    pub session: CK_SESSION_HANDLE,
    pub public: *mut CK_OBJECT_HANDLE,
    pub private: *mut CK_OBJECT_HANDLE,
}

/// Makes the master of a tree.
///
/// # Safety
/// As the standard says of the arguments of `C_GenerateKeyPair`.
pub unsafe fn master(
    place: &Place,
    mechanism: &CK_MECHANISM,
    public: Vec<Row>,
    private: Vec<Row>,
) -> Result<(), CK_RV> {
    let curve = template::find(&public, CKA_EC_PARAMS).ok_or(CKR_TEMPLATE_INCOMPLETE)?;
    let edwards = mechanism.mechanism == CKM_EC_EDWARDS_SLIP10_KEY_PAIR_GEN;
    let curve =
        Curve::of(curve).filter(|curve| (*curve == Curve::Ed25519) == edwards).ok_or(UNKNOWN_CURVE)?;
    let key_type = if edwards { CKK_EC_EDWARDS_SLIP10 } else { CKK_EC_SLIP10 };
    for rows in [&public, &private] {
        if template::find(rows, CKA_KEY_TYPE).is_some_and(|given| given != key_type.to_ne_bytes()) {
            return Err(CKR_TEMPLATE_INCONSISTENT);
        }
    }
    let length = usize::try_from(mechanism.ulParameterLen).unwrap_or(usize::MAX);
    let (seed, origin) = if mechanism.pParameter.is_null() || length == 0 {
        let mut seed = vec![0; 64];
        checked(real!(C_GenerateRandom(place.session, seed.as_mut_ptr(), seed.len() as CK_ULONG)))?;
        (module().seed.clone().unwrap_or(seed), Origin::Generated)
    } else if module().no_import {
        return Err(NO_IMPORT);
    } else if SEED.contains(&length) {
        // SAFETY: the caller's word.
        let seed = unsafe { std::slice::from_raw_parts(mechanism.pParameter.cast::<u8>(), length) };
        (seed.to_vec(), Origin::Seed)
    } else {
        return Err(CKR_MECHANISM_PARAM_INVALID);
    };
    keep(place, &Kept { node: Node::master(curve, &seed), origin }, public, private)
}

/// Derives a pair along a path.
///
/// # Safety
/// As the standard says of the arguments of `C_DeriveKey`.
pub unsafe fn child(
    place: &Place,
    mechanism: &CK_MECHANISM,
    base: CK_OBJECT_HANDLE,
    public: Vec<Row>,
    private: Vec<Row>,
) -> Result<(), CK_RV> {
    if mechanism.mechanism != CKM_SLIP10_CHILD_DERIVE {
        return Err(CKR_MECHANISM_INVALID);
    }
    if mechanism.pParameter.is_null()
        || usize::try_from(mechanism.ulParameterLen) != Ok(size_of::<PathParameters>())
    {
        return Err(CKR_MECHANISM_PARAM_INVALID);
    }
    // SAFETY: the caller's word, and it is as long as it has to be.
    let path = unsafe { mechanism.pParameter.cast::<PathParameters>().read_unaligned() };
    let count = usize::try_from(path.count).unwrap_or(usize::MAX);
    if path.indexes.is_null() || count == 0 || count > DEPTH_MAX {
        return Err(CKR_MECHANISM_PARAM_INVALID);
    }
    // SAFETY: the caller's word.
    let path = unsafe { std::slice::from_raw_parts(path.indexes, count) };
    let path: Vec<u32> = path
        .iter()
        .map(|index| u32::try_from(*index))
        .collect::<Result<_, _>>()
        .map_err(|_| CKR_MECHANISM_PARAM_INVALID)?;
    let parent = kept(place.session, base)?.ok_or(CKR_KEY_TYPE_INCONSISTENT)?;
    if attribute(place.session, base, CKA_DERIVE)? != [CK_TRUE] {
        return Err(CKR_KEY_FUNCTION_NOT_PERMITTED);
    }
    if template::is_true(&private, CKA_EXTRACTABLE)
        && attribute(place.session, base, CKA_EXTRACTABLE)? != [CK_TRUE]
    {
        return Err(CKR_TEMPLATE_INCONSISTENT);
    }
    let node = parent.node.at(&path).ok_or(CKR_MECHANISM_PARAM_INVALID)?;
    keep(place, &Kept { node, origin: Origin::Derived }, public, private)
}

/// Gives a key to SoftHSM.
fn keep(
    Place { session, public: public_handle, private: private_handle }: &Place,
    kept: &Kept,
    mut public: Vec<Row>,
    mut private: Vec<Row>,
) -> Result<(), CK_RV> {
    if module().no_session_objects && !template::is_true(&private, CKA_TOKEN) {
        return Err(NO_SESSION_OBJECTS);
    }
    let Kept { node, .. } = kept;
    let subject = module().store.keep(kept).map_err(|_| CKR_DEVICE_ERROR)?;
    let key_type = if node.curve == Curve::Ed25519 { CKK_EC_EDWARDS } else { CKK_EC };
    for (rows, class) in [(&mut public, CKO_PUBLIC_KEY), (&mut private, CKO_PRIVATE_KEY)] {
        template::set_number(rows, CKA_CLASS, class);
        template::set_number(rows, CKA_KEY_TYPE, key_type);
        template::set(rows, CKA_EC_PARAMS, node.curve.params());
        template::set(rows, CKA_SUBJECT, &subject);
    }
    let point = node.curve.public(&node.private);
    let length = u8::try_from(point.len()).expect("at most 65 bytes");
    template::set(&mut public, CKA_EC_POINT, &[&[4, length][..], &point].concat());
    template::set(&mut private, CKA_VALUE, &node.private);
    let create = |rows: &[Row]| -> Result<CK_OBJECT_HANDLE, CK_RV> {
        let (mut written, mut handle) = (template::write(rows), 0);
        let count = written.len() as CK_ULONG;
        checked(real!(C_CreateObject(*session, written.as_mut_ptr(), count, &raw mut handle)))?;
        Ok(handle)
    };
    let made = create(&public)?;
    let private = create(&private).inspect_err(|_| {
        let _ = real!(C_DestroyObject(*session, made));
    })?;
    // SAFETY: the standard obliges the caller to have them point somewhere.
    unsafe {
        public_handle.write(made);
        private_handle.write(private);
    }
    Ok(())
}

/// What the module knows of an object; nothing where it is none of its keys.
pub fn kept(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> Result<Option<Kept>, CK_RV> {
    match attribute(session, object, CKA_SUBJECT) {
        Ok(subject) => Ok(module().store.find(&subject)),
        Err(CKR_ATTRIBUTE_TYPE_INVALID | CKR_ATTRIBUTE_SENSITIVE) => Ok(None),
        Err(code) => Err(code),
    }
}

/// An attribute of SoftHSM's; up to 256 bytes.
pub fn attribute(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    kind: CK_ATTRIBUTE_TYPE,
) -> Result<Vec<u8>, CK_RV> {
    let mut value = vec![0_u8; 256];
    let mut row =
        CK_ATTRIBUTE { type_: kind, pValue: value.as_mut_ptr().cast(), ulValueLen: value.len() as CK_ULONG };
    checked(real!(C_GetAttributeValue(session, object, &raw mut row, 1)))?;
    value.truncate(usize::try_from(row.ulValueLen).unwrap_or(0));
    Ok(value)
}

/// A return value as a result.
pub const fn checked(code: CK_RV) -> Result<(), CK_RV> {
    match code {
        CKR_OK => Ok(()),
        code => Err(code),
    }
}
