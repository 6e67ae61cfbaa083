//! Keys that come to the token from elsewhere, in plain or encrypted by one of its keys.
//!
//! Of a pair the public half is made first: the private one, which makes it a key, is made last and at one stroke. What a
//! death in between leaves is a public half under the key's id, which every look-up passes over and the next try removes.

use std::time::{Duration, Instant};

use cryptoki_sys::*;
use x509_cert::der::{
    Decode, Encode, Sequence,
    asn1::{OctetString, UintRef},
};

use super::{
    dsa,
    index::Objects,
    lone,
    object::{self, EDWARDS448, EDWARDS25519, Group, Halves, Key, Life, Made},
    public,
    raw::{Attribute, Mechanism, Object, Session},
    removal, seed, tree, wrapping,
};
use crate::{
    hsm::{
        import::{Import, Origin, SIGNED, Untold, Wrapped},
        protocol::{Find, HsmError, KeyFacts, KeyTemplate, Kind, Reply},
    },
    model::{
        KeyAlgorithm,
        algorithm::Parameter,
        curve::{self, ED448_OID},
        material::Material,
    },
};

/// What has waited longer is not begun: by then, the same may be asked of another process.
const BEGUN_WITHIN: Duration = Duration::from_secs(30);
/// What is said of a wrapped key that does not come out. Not a word more, for the reason of `cipher::NOT_DECRYPTED`.
const NOT_UNWRAPPED: &str = "the wrapped key cannot be unwrapped";

/// See [`crate::hsm::protocol::Request::Import`]. `tried` says that the same request tried to make the key before, and may
/// have done it.
pub fn import(
    objects: &mut Objects<'_>,
    job: &Import,
    asked: Instant,
    tried: &mut bool,
) -> Result<Reply, HsmError> {
    let template = &job.template;
    if !*tried && asked.elapsed() > BEGUN_WITHIN {
        let message = "the import waited too long for its turn, and was not begun";
        return Err(HsmError::new(Kind::Busy, message));
    }
    let labelled = object::find_keys(objects, &Find::Label(template.label.clone()))?;
    if !labelled.is_empty() && !labelled.iter().any(|facts| facts.id.as_ref() == Some(&template.id)) {
        return Ok(Reply::Keys(labelled));
    }
    let before = Group::now(objects, &template.id)?;
    if !before.whole.is_empty() {
        let facts = object::one_of(before, objects.session, None)?;
        let same = match (&facts.public_key, &job.public_key, &job.origin) {
            (Some(there), Some(brought), _) => there == brought,
            (Some(there), None, Origin::Seed(seed)) => {
                seed::is_of(objects, template, seed, there)?.unwrap_or(*tried)
            }
            // A secret key does not tell whether it is the same.
            _ => *tried,
        };
        return Ok(if same { Reply::Key(Box::new(facts)) } else { Reply::Keys(vec![facts]) });
    }
    if matches!(job.origin, Origin::Public) {
        return lone::import(objects, job, before, tried);
    }
    // Whatever is there under this id was left by a process that was killed while it brought the same key.
    removal::clear(objects, &template.id, before)?;
    *tried = true;
    let spki = job.public_key.as_deref();
    let made = match &job.origin {
        Origin::Plain(material) => plain(objects, template, spki, material)?,
        Origin::Wrapped(wrapped) => unwrap(objects, template, spki, wrapped)?,
        Origin::Seed(seed) => Arrived::Made(seed::master(objects, template, seed)?),
        Origin::Derived { master, path } => Arrived::Made(tree::made(objects, template, master, path)?),
        Origin::Public => unreachable!("it was brought above"),
    };
    let made = match made {
        Arrived::Made(made) => made,
        Arrived::Untold(untold) => return Ok(Reply::Untold(untold)),
    };
    for object in [Some(made.private), made.public].into_iter().flatten() {
        objects.made(object, &template.id, template.label.as_str());
    }
    objects.ask_again();
    let there = Group::now(objects, &template.id)?;
    let labelled = object::find_keys(objects, &Find::Label(template.label.clone()))?;
    let others = labelled.iter().any(|facts| facts.id.as_ref() != Some(&template.id));
    if others || there.whole.len() > 1 {
        // Another process did the same. Whoever looks after that sees both, and at least one of the two takes its own away.
        for object in [Some(made.private), made.public].into_iter().flatten() {
            removal::discard(objects, object);
        }
        *tried = false;
        if others {
            return Ok(Reply::Keys(labelled));
        }
        let message = "two requests brought the key at the same time; this one was undone";
        return Err(HsmError::new(Kind::Busy, message));
    }
    let facts =
        object::one_of(there, objects.session, Some(made.private)).map_err(|error| match error.kind {
            Kind::Lost | Kind::Device => error,
            // It is there: nobody must take it for one that is not.
            _ => HsmError { kind: Kind::Crashed, ..error },
        })?;
    Ok(Reply::Key(Box::new(facts)))
}

/// What came of a try.
enum Arrived {
    Made(Made),
    /// Nothing is made before the public half is known.
    Untold(Untold),
}

/// What is particular to the two halves of a key.
struct Way {
    own: Vec<Attribute>,
    public: Option<Vec<Attribute>>,
}

fn plain(
    objects: &mut Objects<'_>,
    template: &KeyTemplate,
    spki: Option<&[u8]>,
    material: &Material,
) -> Result<Arrived, HsmError> {
    if let (Material::Scalar(scalar), KeyAlgorithm::Ec, None) = (material, template.algorithm, spki) {
        let oid = template.curve_oid.as_deref().and_then(|oid| Some((oid, public::oid(oid)?)));
        let (oid, params) = oid.ok_or_else(|| invalid("the key's curve is not told"))?;
        let mut passing = passing(template);
        passing.extend([
            Attribute::number(CKA_KEY_TYPE, CKK_EC),
            Attribute::bytes(CKA_EC_PARAMS, params),
            Attribute::bytes(CKA_VALUE, scalar.expose()),
        ]);
        let key = objects.session.create(&passing).map_err(|failure| {
            let error = HsmError::from(failure);
            if not_taken(&error) { refused(objects, template, error) } else { error }
        })?;
        let signatures = signatures(objects.session, key);
        let _ = objects.session.end(key);
        return Ok(Arrived::Untold(Untold { curve_oid: oid.to_owned(), signatures: signatures? }));
    }
    let mut last = None;
    for way in ways(template, spki, material)? {
        match both(objects, template, &way, |objects, own| Ok(objects.session.create(own)?)) {
            Ok(made) => return Ok(Arrived::Made(made)),
            Err(error) if not_taken(&error) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refused(objects, template, last.expect("there is at least one way to write a template")))
}

pub(super) fn refused(objects: &Objects<'_>, template: &KeyTemplate, error: HsmError) -> HsmError {
    let message = format!(
        "token {} does not take {} keys from elsewhere ({})",
        objects.token.facts.label, template.algorithm, error.message
    );
    HsmError { kind: Kind::Unsupported, message, ..error }
}

/// The template of a key that ends with the session, which signs, whatever it is for afterwards.
fn passing(template: &KeyTemplate) -> Vec<Attribute> {
    let mut template = template.clone();
    template.attributes.sign |= template.algorithm == KeyAlgorithm::Ec;
    Halves::of(&template, Life::Session).own
}

fn signatures(session: &Session, key: Object) -> Result<Vec<bytes::Bytes>, HsmError> {
    let sign = |text: &[u8; 20]| Ok(session.sign(&Mechanism::plain(CKM_ECDSA), key, text)?.into());
    SIGNED.into_iter().map(sign).collect()
}

/// Makes the public half and then, by `make`, the other. If that fails the first goes.
fn both(
    objects: &mut Objects<'_>,
    template: &KeyTemplate,
    way: &Way,
    make: impl Fn(&mut Objects<'_>, &[Attribute]) -> Result<Object, HsmError>,
) -> Result<Made, HsmError> {
    let mut outcome = one_life(objects, template, way, Life::Token, &make);
    // A module that knows neither `CKA_COPYABLE` nor `CKA_DESTROYABLE`.
    if outcome.as_ref().is_err_and(|error| error.code == Some(CKR_ATTRIBUTE_TYPE_INVALID)) {
        outcome = one_life(objects, template, way, Life::OlderToken, &make);
    }
    outcome
}

fn one_life(
    objects: &mut Objects<'_>,
    template: &KeyTemplate,
    way: &Way,
    life: Life,
    make: &impl Fn(&mut Objects<'_>, &[Attribute]) -> Result<Object, HsmError>,
) -> Result<Made, HsmError> {
    let Halves { mut own, public } = Halves::of(template, life);
    own.extend_from_slice(&way.own);
    let public = match (public, &way.public) {
        (Some(mut half), Some(specific)) => {
            half.extend_from_slice(specific);
            Some(objects.session.create(&half)?)
        }
        _ => None,
    };
    match make(objects, &own) {
        Ok(private) => Ok(Made { private, public }),
        Err(error) => {
            // Where that fails, too, the next try finds it.
            if let Some(public) = public {
                removal::discard(objects, public);
            }
            Err(error)
        }
    }
}

/// Codes by which tokens say that they do not take an object that is written so.
pub(super) fn not_taken(error: &HsmError) -> bool {
    matches!(
        error.code,
        Some(
            CKR_ATTRIBUTE_TYPE_INVALID
                | CKR_ATTRIBUTE_VALUE_INVALID
                | CKR_ATTRIBUTE_READ_ONLY
                | CKR_TEMPLATE_INCOMPLETE
                | CKR_TEMPLATE_INCONSISTENT
                | CKR_DOMAIN_PARAMS_INVALID
                | CKR_CURVE_NOT_SUPPORTED
                | CKR_KEY_SIZE_RANGE
                | CKR_KEY_TYPE_INCONSISTENT
                | CKR_MECHANISM_INVALID
                | CKR_FUNCTION_NOT_SUPPORTED
                | CKR_ACTION_PROHIBITED
                | CKR_ARGUMENTS_BAD
        )
    )
}

fn invalid(what: &str) -> HsmError {
    HsmError::new(Kind::Invalid, what)
}

/// Ways to write a key, in the order of trying.
fn ways(template: &KeyTemplate, spki: Option<&[u8]>, material: &Material) -> Result<Vec<Way>, HsmError> {
    let kind = |key_type| Attribute::number(CKA_KEY_TYPE, key_type);
    match (material, template.algorithm) {
        (Material::Secret(bytes), algorithm) if !algorithm.row().asymmetric => {
            let types: &[CK_KEY_TYPE] = match algorithm {
                KeyAlgorithm::Aes => &[CKK_AES],
                KeyAlgorithm::Camellia => &[CKK_CAMELLIA],
                KeyAlgorithm::ChaCha20 => &[CKK_CHACHA20],
                KeyAlgorithm::Tdea => &[CKK_DES3],
                // The type that says what the key is for, where the token has it.
                _ => &[CKK_SHA256_HMAC, CKK_GENERIC_SECRET],
            };
            let way = |key_type: &CK_KEY_TYPE| Way {
                own: vec![kind(*key_type), Attribute::bytes(CKA_VALUE, bytes.expose())],
                public: None,
            };
            Ok(types.iter().map(way).collect())
        }
        (Material::Rsa(numbers), KeyAlgorithm::Rsa) => {
            let secret =
                |kind, value: &crate::model::secret::Plaintext| Attribute::bytes(kind, value.expose());
            let public = vec![
                kind(CKK_RSA),
                Attribute::bytes(CKA_MODULUS, &numbers.modulus[..]),
                Attribute::bytes(CKA_PUBLIC_EXPONENT, &numbers.public_exponent[..]),
            ];
            let mut own = public.clone();
            own.extend([
                secret(CKA_PRIVATE_EXPONENT, &numbers.private_exponent),
                secret(CKA_PRIME_1, &numbers.prime1),
                secret(CKA_PRIME_2, &numbers.prime2),
                secret(CKA_EXPONENT_1, &numbers.exponent1),
                secret(CKA_EXPONENT_2, &numbers.exponent2),
                secret(CKA_COEFFICIENT, &numbers.coefficient),
            ]);
            Ok(vec![Way { own, public: Some(public) }])
        }
        (Material::Exponent(number), KeyAlgorithm::Dsa) => {
            let spki = spki.ok_or_else(|| invalid("the key's public half is not told"))?;
            let (group, value) = dsa::half(spki)?;
            let with = |own| group.iter().cloned().chain([own]).collect();
            let own = with(Attribute::bytes(CKA_VALUE, number.expose()));
            Ok(vec![Way { own, public: Some(with(value)) }])
        }
        (Material::Scalar(scalar), KeyAlgorithm::Ec | KeyAlgorithm::Ed) => {
            let oid = template.curve_oid.as_deref().ok_or_else(|| invalid("the key's curve is not told"))?;
            let spki = spki.ok_or_else(|| invalid("the key's public half is not told"))?;
            let way = |(params, point): (Vec<u8>, Vec<u8>)| {
                let key_type = if template.algorithm == KeyAlgorithm::Ed { CKK_EC_EDWARDS } else { CKK_EC };
                let common = [kind(key_type), Attribute::bytes(CKA_EC_PARAMS, params)];
                let point = Attribute::bytes(CKA_EC_POINT, point);
                Way {
                    own: common
                        .iter()
                        .cloned()
                        .chain([Attribute::bytes(CKA_VALUE, scalar.expose())])
                        .collect(),
                    public: Some(common.into_iter().chain([point]).collect()),
                }
            };
            Ok(points(oid, spki)?.into_iter().map(way).collect())
        }
        _ => Err(invalid("the key is not of the algorithm that it is said to be")),
    }
}

/// A curve and a point on it, as `CKA_EC_PARAMS` and `CKA_EC_POINT`.
type Written = (Vec<u8>, Vec<u8>);

/// How a curve and a point on it are written, in the order of trying.
fn points(oid: &str, spki: &[u8]) -> Result<Vec<Written>, HsmError> {
    let bad = || invalid("the key's public half makes no sense");
    let point = spki::SubjectPublicKeyInfoRef::try_from(spki).map_err(|_| bad())?;
    let point = point.subject_public_key.as_bytes().ok_or_else(bad)?;
    let wrapped = OctetString::new(point).and_then(|point| point.to_der()).map_err(|_| bad())?;
    let params = public::oid(oid).ok_or_else(bad)?;
    Ok(match curve::by_oid(oid) {
        Some(row) if row.weierstrass.is_none() => {
            let name = if row.oid == ED448_OID { EDWARDS448 } else { EDWARDS25519 };
            // The name of the curve is how PKCS #11 3.0 had it, and the bare point some modules' own way.
            vec![(params.clone(), wrapped.clone()), (name.to_vec(), wrapped), (params, point.to_vec())]
        }
        _ => vec![(params, wrapped)],
    })
}

/// A wrapped key is unwrapped twice: once as a key that ends with the session, to see what it is, and then to stay.
fn unwrap(
    objects: &mut Objects<'_>,
    template: &KeyTemplate,
    spki: Option<&[u8]>,
    wrapped: &Wrapped,
) -> Result<Arrived, HsmError> {
    let Wrapped { by, method, data } = wrapped;
    let (by, _) = wrapping::key(objects, by)?;
    let session = objects.session;
    wrapping::may(session, by, CKA_UNWRAP, "the key does not unwrap others: its attribute unwrap is false")?;
    let with = wrapping::mechanism(objects.token, session, *method)?;
    let key_type = match template.algorithm {
        KeyAlgorithm::Aes => CKK_AES,
        KeyAlgorithm::Rsa => CKK_RSA,
        KeyAlgorithm::Ec => CKK_EC,
        KeyAlgorithm::Ed => CKK_EC_EDWARDS,
        KeyAlgorithm::Dsa if objects.token.mechanisms.contains(&CKM_DSA) => CKK_DSA,
        KeyAlgorithm::Dsa => {
            let message = format!("token {} has no DSA keys", objects.token.facts.label);
            return Err(HsmError::new(Kind::Unsupported, message));
        }
        other => {
            let message = format!("{method} is not served: {other} keys are not brought onto tokens");
            return Err(HsmError::new(Kind::Unsupported, message));
        }
    };
    let kind = Attribute::number(CKA_KEY_TYPE, key_type);
    let mut passing = passing(template);
    passing.push(kind.clone());
    let object = session.unwrap(&with, by, data, &passing).map_err(|failure| {
        let error = HsmError::from(failure);
        // Of a key that is not intact, some modules have nothing to say but that something went wrong.
        let well = || session.logged_in() == Ok(true) && objects.token.shows_itself().is_ok();
        let of_the_key = match error.kind {
            Kind::Invalid => true,
            Kind::Device => well(),
            Kind::Unsupported => failure.code != CKR_MECHANISM_INVALID,
            _ => false,
        };
        if of_the_key { HsmError { code: error.code, ..invalid(NOT_UNWRAPPED) } } else { error }
    })?;
    let looked = look(session, object, template, spki);
    let _ = session.end(object);
    let public = match looked? {
        Look::Secret => None,
        Look::Pair(spki, facts) => Some(half_of(template, &spki, facts.curve_oid.as_deref())?),
        Look::Untold(untold) => return Ok(Arrived::Untold(untold)),
    };
    let way = Way { own: vec![kind], public };
    let made =
        both(objects, template, &way, |objects, own| Ok(objects.session.unwrap(&with, by, data, own)?));
    made.map(Arrived::Made)
}

/// What an unwrapped key turned out to be.
enum Look {
    Secret,
    /// With its public half.
    Pair(Vec<u8>, Box<KeyFacts>),
    Untold(Untold),
}

fn look(
    session: &Session,
    object: Object,
    template: &KeyTemplate,
    spki: Option<&[u8]>,
) -> Result<Look, HsmError> {
    let seen = Key::read(session, object)?.facts(session, &[], 1)?;
    let algorithm = template.algorithm;
    if algorithm == KeyAlgorithm::Aes && seen.key_size.is_none_or(|bits| bits == 0) {
        // It would look like one that is empty, which a process leaves that is killed while it makes a key.
        let message = "the token does not tell how long a secret key is that it unwraps";
        return Err(HsmError::new(Kind::Unsupported, message));
    }
    let sound = match algorithm.row().parameter {
        // As the padding of the method: the length tells something of what is inside.
        Parameter::Size(_) | Parameter::SizeRange { .. } => algorithm.check(seen.key_size, None).is_ok(),
        _ => seen.curve_oid.as_deref().and_then(curve::by_oid).is_some(),
    };
    if seen.algorithm != Some(algorithm) || !sound {
        return Err(invalid(NOT_UNWRAPPED));
    }
    if !algorithm.row().asymmetric {
        return Ok(Look::Secret);
    }
    match (&seen.public_key, spki, &seen.curve_oid) {
        (Some(told), given, _) if given.is_none_or(|given| given == told) => {
            Ok(Look::Pair(told.to_vec(), Box::new(seen)))
        }
        (None, Some(given), _) => Ok(Look::Pair(given.to_vec(), Box::new(seen))),
        (None, None, Some(curve)) if algorithm == KeyAlgorithm::Ec => {
            Ok(Look::Untold(Untold { curve_oid: curve.clone(), signatures: signatures(session, object)? }))
        }
        (Some(_), ..) => Err(invalid("the public half that was worked out is not the key's")),
        (None, ..) => {
            let message = format!(
                "the token does not tell the public half of {algorithm} keys that it unwraps, so that nobody could \
                 check its signatures"
            );
            Err(HsmError::new(Kind::Unsupported, message))
        }
    }
}

/// Ways to write the public half of a key, in the order of trying.
pub(super) fn halves_of(template: &KeyTemplate, spki: &[u8]) -> Result<Vec<Vec<Attribute>>, HsmError> {
    let curve = template.curve_oid.as_deref();
    let key_type = match template.algorithm {
        KeyAlgorithm::Rsa => return Ok(vec![half_of(template, spki, None)?]),
        KeyAlgorithm::Ec => CKK_EC,
        KeyAlgorithm::Ed => CKK_EC_EDWARDS,
        other => {
            let message = format!("public keys of type {other} are not kept on tokens alone");
            return Err(HsmError::new(Kind::Unsupported, message));
        }
    };
    let curve = curve.ok_or_else(|| invalid("the key's curve is not told"))?;
    let way = |(params, point): Written| {
        vec![
            Attribute::number(CKA_KEY_TYPE, key_type),
            Attribute::bytes(CKA_EC_PARAMS, params),
            Attribute::bytes(CKA_EC_POINT, point),
        ]
    };
    Ok(points(curve, spki)?.into_iter().map(way).collect())
}

/// PKCS #1 `RSAPublicKey`.
#[derive(Sequence)]
struct RsaPublic<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

/// What the token is told of the public half of a key that it unwraps.
fn half_of(template: &KeyTemplate, spki: &[u8], curve: Option<&str>) -> Result<Vec<Attribute>, HsmError> {
    let bad = || invalid("the key's public half makes no sense");
    if template.algorithm == KeyAlgorithm::Rsa {
        let info = spki::SubjectPublicKeyInfoRef::try_from(spki).map_err(|_| bad())?;
        let bytes = info.subject_public_key.as_bytes().ok_or_else(bad)?;
        let key = RsaPublic::from_der(bytes).map_err(|_| bad())?;
        return Ok(vec![
            Attribute::number(CKA_KEY_TYPE, CKK_RSA),
            Attribute::bytes(CKA_MODULUS, key.modulus.as_bytes()),
            Attribute::bytes(CKA_PUBLIC_EXPONENT, key.exponent.as_bytes()),
        ]);
    }
    if template.algorithm == KeyAlgorithm::Dsa {
        let (mut half, value) = dsa::half(spki)?;
        half.push(value);
        return Ok(half);
    }
    let (params, point) = points(curve.ok_or_else(bad)?, spki)?.swap_remove(0);
    let key_type = if template.algorithm == KeyAlgorithm::Ed { CKK_EC_EDWARDS } else { CKK_EC };
    Ok(vec![
        Attribute::number(CKA_KEY_TYPE, key_type),
        Attribute::bytes(CKA_EC_PARAMS, params),
        Attribute::bytes(CKA_EC_POINT, point),
    ])
}
