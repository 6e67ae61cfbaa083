//! Keys and certificates as objects on a token: templates, look-ups, and what the objects say of themselves.

use cryptoki_sys::*;

use super::{
    capability, dsa,
    index::{Name, Objects, There},
    lone,
    mechanism::KeyShape,
    parameter_set, public,
    raw::{Attribute, Failure, Mechanism, Object, Session},
    removal, secret, stateful,
    token::{Canary, SignKey, Token},
    tree,
};
use crate::{
    hsm::protocol::{Capabilities, FIND_MAX, Find, HsmError, KeyFacts, KeyTemplate, Kind, Reply},
    model::{KeyAlgorithm, KeyAttributes, KeyId, KeyLabel, RequestedAttributes, SignatureAlgorithm, curve},
};

/// `PrintableString "edwards25519"`: how PKCS#11 3.0 named the curve before it took the identifier.
pub const EDWARDS25519: &[u8] = b"\x13\x0cedwards25519";
/// The same of Ed448.
pub const EDWARDS448: &[u8] = b"\x13\x0aedwards448";

const KEY_CLASSES: [CK_OBJECT_CLASS; 2] = [CKO_PRIVATE_KEY, CKO_SECRET_KEY];

pub(super) fn flag(value: &Option<Vec<u8>>) -> Option<bool> {
    match value.as_deref() {
        Some([byte]) => Some(*byte != 0),
        _ => None,
    }
}

pub(super) fn number(value: &Option<Vec<u8>>) -> Option<CK_ULONG> {
    Some(CK_ULONG::from_ne_bytes(value.as_deref()?.try_into().ok()?))
}

/// See [`Key::complete`], of a private or secret key of which so much is known; `modulus` is the prime of a DSA key.
pub(super) fn complete(
    key_type: Option<CK_KEY_TYPE>,
    modulus: bool,
    curve: bool,
    value_len: Option<CK_ULONG>,
    local: Option<bool>,
) -> bool {
    match key_type {
        Some(CKK_RSA | CKK_DSA) => modulus,
        Some(CKK_EC | CKK_EC_EDWARDS) => curve,
        // An empty secret key may look like a full one to whoever may not read its value.
        Some(CKK_AES | CKK_CAMELLIA | CKK_GENERIC_SECRET | CKK_SHA256_HMAC) => {
            local == Some(true) || value_len.is_some_and(|bytes| bytes > 0)
        }
        Some(_) => true,
        None => false,
    }
}

/// The contract's word for a type of key.
pub(super) fn algorithm(
    key_type: Option<CK_KEY_TYPE>,
    curve: Option<&str>,
    set: Option<CK_ULONG>,
) -> Option<KeyAlgorithm> {
    match key_type? {
        CKK_RSA => Some(KeyAlgorithm::Rsa),
        CKK_DSA => Some(KeyAlgorithm::Dsa),
        CKK_EC => Some(KeyAlgorithm::Ec),
        CKK_EC_EDWARDS if matches!(curve, Some(curve::ED25519_OID | curve::ED448_OID)) => {
            Some(KeyAlgorithm::Ed)
        }
        CKK_AES => Some(KeyAlgorithm::Aes),
        CKK_CAMELLIA => Some(KeyAlgorithm::Camellia),
        CKK_DES3 => Some(KeyAlgorithm::Tdea),
        CKK_CHACHA20 => Some(KeyAlgorithm::ChaCha20),
        CKK_HSS => Some(KeyAlgorithm::Lms),
        // The contract has no other key for HMAC, and many tokens have no type of their own for it.
        CKK_GENERIC_SECRET | CKK_SHA256_HMAC => Some(KeyAlgorithm::HmacSha256),
        other => parameter_set::algorithm(other, set?),
    }
}

/// `CKA_PARAMETER_SET` of an object whose type has one: modules that know no such type do not know the attribute either.
pub(super) fn set_of(
    session: &Session,
    object: Object,
    key_type: Option<CK_KEY_TYPE>,
) -> Result<Option<CK_ULONG>, Failure> {
    if !parameter_set::has(key_type) {
        return Ok(None);
    }
    let [set] = session.attributes(object, [CKA_PARAMETER_SET])?;
    Ok(number(&set))
}

/// A private or secret key as it was read.
pub(super) struct Key {
    pub object: Object,
    class: CK_OBJECT_CLASS,
    pub key_type: Option<CK_KEY_TYPE>,
    id: Option<KeyId>,
    label: String,
    /// Of an RSA key; of a DSA key its prime.
    modulus: Option<Vec<u8>>,
    subprime: Option<Vec<u8>>,
    exponent: Option<Vec<u8>>,
    curve: Option<String>,
    set: Option<CK_ULONG>,
    value_len: Option<CK_ULONG>,
    public_key_info: Option<Vec<u8>>,
    local: Option<bool>,
    check_value: Option<Vec<u8>>,
    chain_code: Option<Vec<u8>>,
    pub attributes: KeyAttributes,
}

impl Key {
    pub fn read(session: &Session, object: Object) -> Result<Self, HsmError> {
        // All at once: a token with many objects looks for this one at each question.
        let [
            class,
            key_type,
            id,
            label,
            modulus,
            exponent,
            params,
            value_len,
            info,
            local,
            check,
            flags @ ..,
        ] = session.attributes(
            object,
            [
                CKA_CLASS,
                CKA_KEY_TYPE,
                CKA_ID,
                CKA_LABEL,
                CKA_MODULUS,
                CKA_PUBLIC_EXPONENT,
                CKA_EC_PARAMS,
                CKA_VALUE_LEN,
                CKA_PUBLIC_KEY_INFO,
                CKA_LOCAL,
                CKA_CHECK_VALUE,
                CKA_DECRYPT,
                CKA_SIGN,
                CKA_UNWRAP,
                CKA_DERIVE,
                CKA_SENSITIVE,
                CKA_ALWAYS_SENSITIVE,
                CKA_EXTRACTABLE,
                CKA_NEVER_EXTRACTABLE,
                CKA_MODIFIABLE,
                CKA_COPYABLE,
                CKA_DESTROYABLE,
            ],
        )?;
        let [decrypt, sign, unwrap, derive, flags @ ..] = flags.each_ref().map(flag);
        let [sensitive, always_sensitive, extractable, never_extractable, modifiable, copyable, destroyable] =
            flags;
        let filled = |value: Option<Vec<u8>>| value.filter(|value| !value.is_empty());
        let [prime, subprime] = dsa::size(session, object, number(&key_type))?;
        let chain_code = match number(&key_type) {
            Some(CKK_EC | CKK_EC_EDWARDS) => session.chain_code(object)?,
            _ => None,
        };
        Ok(Self {
            object,
            class: number(&class).unwrap_or(CKO_PRIVATE_KEY),
            key_type: number(&key_type),
            id: id.and_then(|id| KeyId::from_bytes(id).ok()),
            label: label.map(|label| String::from_utf8_lossy(&label).into_owned()).unwrap_or_default(),
            modulus: filled(modulus).or(filled(prime)),
            subprime: filled(subprime),
            exponent: filled(exponent),
            curve: filled(params).and_then(|params| public::curve_oid(&params)),
            set: set_of(session, object, number(&key_type))?,
            value_len: number(&value_len),
            public_key_info: filled(info),
            local: flag(&local),
            check_value: filled(check),
            chain_code,
            attributes: KeyAttributes {
                decrypt,
                sign,
                eka_sign: None,
                unwrap,
                derive,
                sensitive,
                always_sensitive,
                extractable,
                never_extractable,
                modifiable,
                copyable,
                destroyable,
            },
        })
    }

    /// Whether the key is all there. A process killed while a token made a key may leave an object that has
    /// the attributes of the template and none of the key's own.
    fn complete(&self) -> bool {
        let (modulus, curve) = (self.modulus.is_some(), self.curve.is_some());
        complete(self.key_type, modulus, curve, self.value_len, self.local)
    }

    /// Whether a secret key shows no sign that a token finished making it: those marks are written together with
    /// its value. An imported key may look the same.
    fn doubtful(&self) -> bool {
        self.class == CKO_SECRET_KEY && self.local == Some(false) && self.check_value.is_none()
    }

    fn algorithm(&self) -> Option<KeyAlgorithm> {
        algorithm(self.key_type, self.curve.as_deref(), self.set)
    }

    fn shape(&self) -> KeyShape {
        let known = self.curve.as_deref().and_then(curve::by_oid);
        match (self.algorithm(), known) {
            (Some(KeyAlgorithm::Rsa), _) => KeyShape::Rsa(modulus_len(self.modulus.as_deref())),
            (Some(KeyAlgorithm::Dsa), _) => KeyShape::Dsa(modulus_len(self.subprime.as_deref())),
            (Some(KeyAlgorithm::Ec), Some(curve)) => KeyShape::Ec(curve.order_bits),
            (Some(KeyAlgorithm::Ed), Some(curve)) if curve.oid == curve::ED448_OID => KeyShape::Ed448,
            (Some(KeyAlgorithm::Ed), _) => KeyShape::Ed,
            (Some(algorithm), _) if algorithm.is_stateful() || parameter_set::of(algorithm).is_some() => {
                KeyShape::Set(algorithm)
            }
            _ => KeyShape::Other(self.key_type.unwrap_or(CK_KEY_TYPE::MAX)),
        }
    }

    /// SubjectPublicKeyInfo, from wherever the token has it: the public half first, because a private half may
    /// have an empty one or none. Of several halves that differ it is the one of which the private half tells.
    fn public_key(&self, session: &Session, halves: &[Object]) -> Result<Option<Vec<u8>>, HsmError> {
        if self.class != CKO_PRIVATE_KEY {
            return Ok(None);
        }
        let mut known = Vec::new();
        for object in halves {
            known.extend(public_half(session, *object, self.key_type)?);
        }
        known.sort_unstable();
        known.dedup();
        match known.len() {
            0 => Ok(self.own_public_key()),
            1 => Ok(known.pop()),
            different => match self.own_public_key().filter(|own| known.contains(own)) {
                Some(own) => Ok(Some(own)),
                None => Err(HsmError::new(
                    Kind::Ambiguous,
                    format!(
                        "there are {different} different public keys with the id of {:?}, and the token does not tell \
                         which is its own: destroy the others",
                        self.label
                    ),
                )),
            },
        }
    }

    /// What the private half itself says of the public key.
    fn own_public_key(&self) -> Option<Vec<u8>> {
        match (&self.public_key_info, &self.modulus, &self.exponent) {
            (Some(info), ..) => Some(info.clone()),
            (None, Some(modulus), Some(exponent)) => Some(public::rsa(modulus, exponent)),
            _ => None,
        }
    }

    /// What is reported of a key, given the public halves under its id and the number of keys there.
    pub fn facts(self, session: &Session, halves: &[Object], twins: usize) -> Result<KeyFacts, HsmError> {
        let public_key = match self.public_key(session, halves) {
            // Two keys are refused for that alone, whichever half belongs to which.
            Err(error) if twins > 1 && error.kind == Kind::Ambiguous => None,
            known => known?,
        };
        Ok(self.told(public_key, twins))
    }

    fn told(self, public_key: Option<Vec<u8>>, twins: usize) -> KeyFacts {
        let algorithm = self.algorithm();
        let key_size = match self.key_type {
            Some(CKK_RSA | CKK_DSA) => u32::try_from(modulus_len(self.modulus.as_deref()) * 8).ok(),
            Some(CKK_CHACHA20) => Some(256),
            Some(CKK_AES | CKK_CAMELLIA) => self.value_len.and_then(|bytes| u32::try_from(bytes * 8).ok()),
            _ => None,
        };
        KeyFacts {
            algorithm,
            key_size,
            public_key: public_key.map(Into::into),
            id: self.id,
            label: self.label,
            curve_oid: self.curve,
            attributes: self.attributes,
            local: self.local,
            chain_code: self.chain_code.map(Into::into),
            twins: u32::try_from(twins).unwrap_or(u32::MAX),
        }
    }
}

pub(super) fn modulus_len(modulus: Option<&[u8]>) -> usize {
    let modulus = modulus.unwrap_or_default();
    modulus.len() - modulus.iter().take_while(|byte| **byte == 0).count()
}

pub(super) fn public_half(
    session: &Session,
    object: Object,
    wanted: Option<CK_KEY_TYPE>,
) -> Result<Option<Vec<u8>>, HsmError> {
    let read = session.attributes(object, public::ATTRIBUTES)?;
    let key_type = number(&read[0]);
    if key_type != wanted {
        return Ok(None);
    }
    let set = set_of(session, object, key_type)?;
    if set.is_some() || key_type == Some(CKK_HSS) {
        let Some(algorithm) = algorithm(key_type, None, set) else { return Ok(None) };
        let [value] = session.attributes(object, [CKA_VALUE])?;
        return Ok(value
            .filter(|value| !value.is_empty())
            .and_then(|value| public::plain(algorithm, &value)));
    }
    if key_type == Some(CKK_DSA) {
        return Ok(dsa::public(session, object)?.map(|numbers| public::dsa(&numbers)));
    }
    Ok(public::of(read))
}

/// What is on the token under an id or a label.
#[derive(Default)]
pub(super) struct Group {
    /// Complete private and secret keys.
    pub whole: Vec<Key>,
    /// Private and secret keys that are not complete.
    pub broken: Vec<Key>,
    /// Public halves.
    pub public: Vec<Object>,
    /// Certificates.
    pub certificates: Vec<Object>,
    /// Anything else.
    pub others: Vec<Object>,
}

impl Group {
    /// All of it, also what others made or left under the name since the last look; proven.
    pub fn now<'a>(objects: &mut Objects<'_>, name: impl Into<Name<'a>>) -> Result<Self, HsmError> {
        objects.named(name.into(), Self::read, |_| false)
    }

    /// All of it, with a key at least; that there is none is proven.
    pub fn find<'a>(objects: &mut Objects<'_>, name: impl Into<Name<'a>>) -> Result<Self, HsmError> {
        objects.named(name.into(), Self::read, |group| !group.whole.is_empty())
    }

    /// All of it, with a public key at least; that there is none is proven.
    pub fn lone<'a>(objects: &mut Objects<'_>, name: impl Into<Name<'a>>) -> Result<Self, HsmError> {
        objects.named(name.into(), Self::read, |group| !group.public.is_empty())
    }

    /// Whether there is a key with all that it consists of.
    pub fn has_key(&self) -> bool {
        self.whole.iter().any(|key| key.class == CKO_SECRET_KEY || !self.public.is_empty())
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        let Self { whole, broken, public, certificates, others } = self;
        whole.is_empty() && broken.is_empty() && [public, certificates, others].into_iter().all(Vec::is_empty)
    }

    fn read(session: &Session, there: &[There]) -> Result<Self, HsmError> {
        let mut group = Self::default();
        for There { object, class } in there {
            match class {
                Some(class) if KEY_CLASSES.contains(class) => {
                    let key = Key::read(session, *object)?;
                    if key.complete() { &mut group.whole } else { &mut group.broken }.push(key);
                }
                Some(CKO_PUBLIC_KEY) => group.public.push(*object),
                Some(CKO_CERTIFICATE) => group.certificates.push(*object),
                _ => group.others.push(*object),
            }
        }
        Ok(group)
    }
}

/// What is told of a key that was seen whole: only the half that can change is asked. `None` where it is not what was seen,
/// for whatever reason; the longer way finds out.
fn as_seen(objects: &Objects<'_>, name: Name<'_>) -> Option<KeyFacts> {
    let pair = objects.pair(name)?;
    let key = Key::read(objects.session, pair.object).ok()?;
    let same = key.id.as_ref()?.as_bytes() == pair.id && key.label.as_bytes() == pair.label;
    let whole = match pair.public_key {
        Some((key_type, public_key)) => {
            key.key_type == Some(key_type) && key.own_public_key().is_none_or(|own| own == public_key)
        }
        None => key.class == CKO_SECRET_KEY,
    };
    let public_key = pair.public_key.map(|(_, public_key)| public_key.to_vec());
    (same && whole && key.complete()).then(|| key.told(public_key, 1))
}

/// See [`crate::hsm::protocol::Request::Find`].
pub fn find_keys(objects: &mut Objects<'_>, what: &Find) -> Result<Vec<KeyFacts>, HsmError> {
    let name = match what {
        Find::Public(_) => None,
        Find::Id(id) => Some(id.into()),
        Find::Label(label) | Find::Known(label) => Some(label.into()),
    };
    if let Some(key) = name.and_then(|name| as_seen(objects, name)) {
        return Ok(vec![key]);
    }
    match what {
        Find::Public(id) => lone::find(objects, id),
        Find::Id(id) => {
            let Group { whole, public, .. } = Group::find(objects, id)?;
            let twins = whole.len();
            if twins > 1 {
                objects.token.forget(id);
            }
            let facts = |key: Key| key.facts(objects.session, &public, twins);
            whole.into_iter().take(FIND_MAX).map(facts).collect()
        }
        Find::Label(label) | Find::Known(label) => {
            let proven = matches!(what, Find::Label(_));
            let mut named =
                objects.named(label.into(), Group::read, |group| !proven || !group.whole.is_empty())?;
            if let [key] = named.whole.as_slice()
                && let Some(id) = &key.id
                && objects.are_of_the_same(label.into(), id.into())
            {
                let key = named.whole.remove(0);
                return Ok(vec![key.facts(objects.session, &named.public, 1)?]);
            }
            let named = named.whole.into_iter().take(FIND_MAX);
            // The halves of a key share its id, and need not share its label.
            let facts = named.map(|key| match &key.id {
                Some(id) => {
                    let Group { whole, public, .. } = Group::find(objects, id)?;
                    key.facts(objects.session, &public, whole.len())
                }
                None => key.facts(objects.session, &[], 1),
            });
            facts.collect()
        }
    }
}

/// The one key to sign with under an id.
pub fn sign_key(objects: &mut Objects<'_>, id: &KeyId) -> Result<SignKey, HsmError> {
    let mut found = Group::find(objects, id)?.whole;
    let token = &objects.token.facts.label;
    match (found.pop(), found.len()) {
        (None, _) => Err(HsmError::new(Kind::KeyNotFound, format!("token {token} has no key {id}"))),
        (Some(key), 0) => Ok(SignKey { object: key.object, shape: key.shape() }),
        (Some(_), others) => Err(HsmError::new(
            Kind::Ambiguous,
            format!("token {token} has {} keys with the id {id}; none of them is used", others + 1),
        )),
    }
}

/// What is known of a pair whose handles are at hand.
pub fn facts_of_pair(session: &Session, private: Object, public: Object) -> Result<KeyFacts, HsmError> {
    Key::read(session, private)?.facts(session, &[public], 1)
}

/// What mechanisms need to know of a key.
pub fn shape(session: &Session, key: Object) -> Result<KeyShape, HsmError> {
    Ok(Key::read(session, key)?.shape())
}

/// See [`crate::hsm::protocol::Request::Generate`].
pub fn generate(objects: &mut Objects<'_>, template: &KeyTemplate) -> Result<KeyFacts, HsmError> {
    let (token, session) = (objects.token, objects.session);
    make_once(objects, template, || make(token, session, template))
}

/// The same of a pair that is made in another way, of which `how` is given what is not particular to the algorithm.
pub fn make_with(
    objects: &mut Objects<'_>,
    template: &KeyTemplate,
    how: impl Fn(&[Attribute], &[Attribute]) -> Result<(Object, Object), HsmError>,
) -> Result<KeyFacts, HsmError> {
    make_once(objects, template, || pair_by(template, how))
}

/// Makes such a pair, whatever is there.
pub(super) fn pair_by(
    template: &KeyTemplate,
    how: impl Fn(&[Attribute], &[Attribute]) -> Result<(Object, Object), HsmError>,
) -> Result<Made, HsmError> {
    let mut last = None;
    for life in [Life::Token, Life::OlderToken] {
        let Halves { own, public } = Halves::of(template, life);
        let public = public.expect("only pairs are derived");
        match how(&public, &own) {
            Ok((public, private)) => return Ok(Made { private, public: Some(public) }),
            Err(error) if error.code == Some(CKR_ATTRIBUTE_TYPE_INVALID) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.expect("it was tried"))
}

fn make_once(
    objects: &mut Objects<'_>,
    template: &KeyTemplate,
    make: impl FnOnce() -> Result<Made, HsmError>,
) -> Result<KeyFacts, HsmError> {
    let session = objects.session;
    // Also where there is one: others may have made a second one since the last look.
    let mut before = Group::now(objects, &template.id)?;
    if let [key] = before.whole.as_slice()
        && key.doubtful()
    {
        // Not ours to destroy.
        removal::set_aside(objects, &template.id, key.object, "a secret key that may be empty")?;
        before.whole.clear();
    }
    if !before.whole.is_empty() {
        return one_of(before, session, None);
    }
    // Whatever is there under this id was left by a process that was killed while it made the same key.
    removal::clear(objects, &template.id, before)?;
    let made = make()?;
    for object in [Some(made.private), made.public].into_iter().flatten() {
        objects.made(object, &template.id, template.label.as_str());
    }
    one_of(Group::find(objects, &template.id)?, session, Some(made.private))
}

/// See [`crate::hsm::protocol::Request::Claim`].
pub fn claim(objects: &mut Objects<'_>, template: &KeyTemplate) -> Result<Reply, HsmError> {
    let found = find_keys(objects, &Find::Label(template.label.clone()))?;
    // Its own key, made by whoever was interrupted before it told of it.
    let own = |facts: &KeyFacts| facts.id.as_ref() == Some(&template.id);
    if found.is_empty() || found.iter().any(own) {
        Ok(Reply::Key(Box::new(generate(objects, template)?)))
    } else {
        Ok(Reply::Keys(found))
    }
}

/// Reports a key of a group, this one or any, and how many there are.
pub(super) fn one_of(
    mut all: Group,
    session: &Session,
    object: Option<Object>,
) -> Result<KeyFacts, HsmError> {
    let at = all.whole.iter().position(|key| object.is_none_or(|object| key.object == object)).unwrap_or(0);
    let twins = all.whole.len();
    if twins == 0 {
        // Some tokens show an object late. Nobody must take that for a reason to make another.
        return Err(HsmError::new(
            Kind::Crashed,
            "the token made a key and does not show it yet; it is looked for at the next try",
        ));
    }
    all.whole.swap_remove(at).facts(session, &all.public, twins)
}

/// A key that was made.
pub(super) struct Made {
    /// The private or secret key.
    pub private: Object,
    /// The other half of a pair.
    pub public: Option<Object>,
}

fn make(token: &Token, session: &Session, template: &KeyTemplate) -> Result<Made, HsmError> {
    let bits = match template.algorithm {
        KeyAlgorithm::Ec => template.curve_oid.as_deref().and_then(curve::by_oid).map(|row| row.order_bits),
        _ => template.key_size,
    };
    let what = describe(template);
    let unsupported = |why: &str| {
        format!(
            "token {} does not make keys of type {what}{why}; it offers {}",
            token.facts.label,
            token.facts.capabilities.summary()
        )
    };
    let tree =
        if template.attributes.tree { Some(tree::generator(token, template.algorithm)?) } else { None };
    let plain = capability::generator(template.algorithm)
        .filter(|_| token.facts.capabilities.generates(template.algorithm, bits));
    let mechanism = tree
        .map(|tree| tree.generate)
        .or(plain)
        .ok_or_else(|| HsmError::new(Kind::Unsupported, unsupported("")))?;
    let mut last = None;
    for mut specific in specifics(session, template)? {
        if let Some(tree) = tree {
            specific.retain(|attribute| attribute.kind != CKA_KEY_TYPE);
            specific.push(Attribute::number(CKA_KEY_TYPE, tree.key_type));
        }
        for life in [Life::Token, Life::OlderToken] {
            match attempt(session, mechanism, template, &specific, life) {
                Ok(made) => return Ok(made),
                Err(error) => {
                    let older = life == Life::Token && error.code == Some(CKR_ATTRIBUTE_TYPE_INVALID);
                    last = Some(error);
                    if !older {
                        break;
                    }
                }
            }
        }
        let other_way =
            |error| curve_refused(template.algorithm, error) || secret::refused(template.algorithm, error);
        if !last.as_ref().is_some_and(other_way) {
            break;
        }
    }
    let error = last.expect("there is at least one way to write a template");
    let refused = error.kind == Kind::Unsupported
        || (curve_refused(template.algorithm, &error) && lacks_curve(token, template)?);
    if refused {
        let message = unsupported(&format!(" ({})", error.message));
        return Err(HsmError { kind: Kind::Unsupported, message, ..error });
    }
    Err(error)
}

/// Curves of which a token with elliptic curves has at least two.
const USUAL_CURVES: [&str; 4] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35", "1.3.132.0.10"];

/// Whether the token makes keys on another curve and then not on this one, where it need not keep them: codes that say
/// that it does not have a curve are used for a full disk and for any other trouble, too.
fn lacks_curve(token: &Token, template: &KeyTemplate) -> Result<bool, HsmError> {
    // Its end is the end of what is made here.
    let Ok(session) = token.session() else { return Ok(false) };
    // Nobody shall take a key that is made here for the one that is wanted.
    let wanted = KeyTemplate {
        id: KeyId::for_purpose("probe"),
        label: KeyLabel::new("hsm-operator probe").expect("a label"),
        ..template.clone()
    };
    let makes = |template: &KeyTemplate| {
        let Some(mechanism) = capability::generator(template.algorithm) else { return Ok(false) };
        let made = |specific: Vec<Attribute>| {
            attempt(&session, mechanism, template, &specific, Life::Session).is_ok()
        };
        Ok::<_, HsmError>(specifics(&session, template)?.into_iter().any(made))
    };
    for curve in USUAL_CURVES.iter().filter(|curve| wanted.curve_oid.as_deref() != Some(**curve)) {
        let (algorithm, curve_oid) = (KeyAlgorithm::Ec, Some((*curve).into()));
        if makes(&KeyTemplate { algorithm, key_size: None, curve_oid, ..wanted.clone() })? {
            return Ok(!makes(&wanted)?);
        }
    }
    Ok(false)
}

/// A key that goes with its session, to sign with, where the token makes a usual kind of them.
pub fn passing_key(token: &Token, session: &Session) -> Result<Option<Canary>, HsmError> {
    let attributes = RequestedAttributes { sign: Some(true), ..Default::default() }.resolved();
    let passing = |algorithm, key_size, curve: Option<&str>| KeyTemplate {
        id: KeyId::for_purpose("probe"),
        label: KeyLabel::new("hsm-operator probe").expect("a label"),
        algorithm,
        key_size,
        curve_oid: curve.map(Into::into),
        attributes,
    };
    let usual = [
        (passing(KeyAlgorithm::Ec, None, Some(USUAL_CURVES[0])), SignatureAlgorithm::Sha256WithEcdsa),
        (passing(KeyAlgorithm::Rsa, Some(2048), None), SignatureAlgorithm::Sha256WithRsa),
    ];
    let Capabilities { signature_algorithms, .. } = &token.facts.capabilities;
    let offered = usual.into_iter().find_map(|(template, algorithm)| {
        let mechanism = capability::generator(template.algorithm)?;
        let offered = token.facts.capabilities.generates(template.algorithm, template.key_size)
            && signature_algorithms.contains(&algorithm);
        offered.then_some((mechanism, template, algorithm))
    });
    let Some((mechanism, template, algorithm)) = offered else { return Ok(None) };
    let specific = specifics(session, &template)?.remove(0);
    let made = attempt(session, mechanism, &template, &specific, Life::Session)?;
    let shape = Key::read(session, made.private)?.shape();
    Ok(Some(Canary { algorithm, key: SignKey { object: made.private, shape } }))
}

/// Tokens say in many ways that they do not have a curve.
pub fn curve_refused(algorithm: KeyAlgorithm, error: &HsmError) -> bool {
    matches!(algorithm, KeyAlgorithm::Ec | KeyAlgorithm::Ed)
        && matches!(
            error.code,
            Some(
                CKR_CURVE_NOT_SUPPORTED
                    | CKR_DOMAIN_PARAMS_INVALID
                    | CKR_ATTRIBUTE_VALUE_INVALID
                    | CKR_ARGUMENTS_BAD
                    | CKR_FUNCTION_FAILED
                    | CKR_GENERAL_ERROR
            )
        )
}

fn describe(template: &KeyTemplate) -> String {
    match (template.key_size, template.curve_oid.as_deref()) {
        (Some(bits), _) => format!("{} {bits}", template.algorithm),
        (None, Some(oid)) => {
            let name = curve::by_oid(oid).map_or("unknown", |row| row.name);
            format!("{} {name} ({oid})", template.algorithm)
        }
        (None, None) => template.algorithm.to_string(),
    }
}

/// What is particular to the algorithm, in the order of trying.
pub(super) fn specifics(session: &Session, template: &KeyTemplate) -> Result<Vec<Vec<Attribute>>, HsmError> {
    let invalid = |message: String| HsmError::new(Kind::Invalid, message);
    template
        .algorithm
        .check(template.key_size, template.curve_oid.as_deref())
        .map_err(|e| invalid(e.to_string()))?;
    let size = CK_ULONG::from(template.key_size.unwrap_or_default());
    Ok(match template.algorithm {
        KeyAlgorithm::Rsa => vec![vec![
            Attribute::number(CKA_KEY_TYPE, CKK_RSA),
            Attribute::number(CKA_MODULUS_BITS, size),
            Attribute::bytes(CKA_PUBLIC_EXPONENT, [1, 0, 1]),
        ]],
        KeyAlgorithm::Dsa => vec![dsa::group(session, size)?],
        KeyAlgorithm::Ec => {
            let row = template
                .curve_oid
                .as_deref()
                .and_then(curve::by_oid)
                .ok_or_else(|| invalid("EC needs a curveOid".into()))?;
            let params = public::oid(row.oid).ok_or_else(|| invalid(format!("bad curve {}", row.oid)))?;
            vec![vec![Attribute::number(CKA_KEY_TYPE, CKK_EC), Attribute::bytes(CKA_EC_PARAMS, params)]]
        }
        KeyAlgorithm::Ed => {
            let oid = template.curve_oid.as_deref().unwrap_or(curve::ED25519_OID);
            let params = public::oid(oid).expect("the table's identifiers are well-formed");
            let name = if oid == curve::ED448_OID { EDWARDS448 } else { EDWARDS25519 };
            let way = |params: Vec<u8>| {
                vec![Attribute::number(CKA_KEY_TYPE, CKK_EC_EDWARDS), Attribute::bytes(CKA_EC_PARAMS, params)]
            };
            vec![way(params), way(name.to_vec())]
        }
        KeyAlgorithm::Aes => {
            vec![vec![Attribute::number(CKA_KEY_TYPE, CKK_AES), Attribute::number(CKA_VALUE_LEN, size / 8)]]
        }
        KeyAlgorithm::Camellia | KeyAlgorithm::ChaCha20 | KeyAlgorithm::Tdea | KeyAlgorithm::HmacSha256 => {
            secret::specifics(template.algorithm, size)
        }
        KeyAlgorithm::Lms => vec![stateful::hss()],
        other => match parameter_set::of(other) {
            Some(row) => vec![vec![
                Attribute::number(CKA_KEY_TYPE, row.key_type),
                Attribute::number(CKA_PARAMETER_SET, row.set),
            ]],
            None => {
                return Err(HsmError::new(
                    Kind::Unsupported,
                    format!("keys of type {other} are not made yet"),
                ));
            }
        },
    })
}

/// What a new key is made for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// To stay.
    Token,
    /// To stay, on a module that knows neither `CKA_COPYABLE` nor `CKA_DESTROYABLE`.
    OlderToken,
    /// To see whether it can be made.
    Session,
}

/// Templates of a key, without what is particular to its algorithm.
pub(super) struct Halves {
    /// Of the private or secret key.
    pub own: Vec<Attribute>,
    /// Of the other half of a pair.
    pub public: Option<Vec<Attribute>>,
}

impl Halves {
    pub fn of(template: &KeyTemplate, life: Life) -> Self {
        let wanted = &template.attributes;
        let common = |class, private| {
            vec![
                Attribute::number(CKA_CLASS, class),
                Attribute::bool(CKA_TOKEN, life != Life::Session),
                Attribute::bool(CKA_PRIVATE, private),
                Attribute::bytes(CKA_ID, template.id.as_bytes()),
                Attribute::bytes(CKA_LABEL, template.label.as_str()),
                Attribute::bool(CKA_DERIVE, wanted.derive),
                Attribute::bool(CKA_MODIFIABLE, wanted.modifiable),
            ]
        };
        let newer = |list: &mut Vec<Attribute>, destroyable| {
            if life == Life::Token {
                list.push(Attribute::bool(CKA_COPYABLE, wanted.copyable));
                list.push(Attribute::bool(CKA_DESTROYABLE, destroyable));
            }
        };
        let guard = |list: &mut Vec<Attribute>| {
            list.extend([
                Attribute::bool(CKA_SIGN, wanted.sign),
                Attribute::bool(CKA_DECRYPT, wanted.decrypt),
                Attribute::bool(CKA_UNWRAP, wanted.unwrap),
                Attribute::bool(CKA_SENSITIVE, wanted.sensitive),
                Attribute::bool(CKA_EXTRACTABLE, wanted.extractable),
            ]);
        };
        let open = |list: &mut Vec<Attribute>| {
            list.extend([
                Attribute::bool(CKA_VERIFY, wanted.verify),
                Attribute::bool(CKA_ENCRYPT, wanted.encrypt),
                Attribute::bool(CKA_WRAP, wanted.wrap),
            ]);
        };
        if !template.algorithm.row().asymmetric {
            let mut own = common(CKO_SECRET_KEY, true);
            guard(&mut own);
            open(&mut own);
            newer(&mut own, wanted.destroyable);
            return Self { own, public: None };
        }
        // The public half can be made again from the private one, so that it may always be destroyed: otherwise
        // the leftovers of a crash could not be removed.
        let mut public = common(CKO_PUBLIC_KEY, false);
        open(&mut public);
        newer(&mut public, true);
        let mut own = common(CKO_PRIVATE_KEY, true);
        guard(&mut own);
        newer(&mut own, wanted.destroyable);
        Self { own, public: Some(public) }
    }
}

fn attempt(
    session: &Session,
    mechanism: CK_MECHANISM_TYPE,
    template: &KeyTemplate,
    specific: &[Attribute],
    life: Life,
) -> Result<Made, HsmError> {
    let mechanism = Mechanism::plain(mechanism);
    let Halves { mut own, public } = Halves::of(template, life);
    let Some(mut public) = public else {
        own.extend_from_slice(specific);
        return Ok(Made { private: session.generate_key(&mechanism, &own)?, public: None });
    };
    // Parameters stand in the template of the public half, but for those of HSS.
    let (told, other) = match template.algorithm {
        KeyAlgorithm::Lms => (&mut own, &mut public),
        _ => (&mut public, &mut own),
    };
    told.extend_from_slice(specific);
    other.extend(specific.iter().find(|attribute| attribute.kind == CKA_KEY_TYPE).cloned());
    let (public, private) = session.generate_pair(&mechanism, &public, &own)?;
    Ok(Made { private, public: Some(public) })
}

/// Certificates under an id.
fn certificates(objects: &mut Objects<'_>, id: &KeyId) -> Result<Vec<Object>, HsmError> {
    Ok(objects.named(id.into(), Group::read, |group| !group.certificates.is_empty())?.certificates)
}

/// See [`crate::hsm::protocol::Request::PutCertificate`].
pub fn put_certificate(
    objects: &mut Objects<'_>,
    id: &KeyId,
    label: &str,
    der: &[u8],
) -> Result<(), HsmError> {
    use x509_cert::der::{Decode, Encode};
    let session = objects.session;
    let invalid = |e: x509_cert::der::Error| HsmError::new(Kind::Invalid, format!("not a certificate: {e}"));
    let certificate = x509_cert::Certificate::from_der(der).map_err(invalid)?;
    let body = certificate.tbs_certificate();
    let label = KeyLabel::new(label).map_err(|e| HsmError::new(Kind::Invalid, e.to_string()))?;
    let earlier = certificates(objects, id)?;
    let mut kept = None;
    for object in &earlier {
        let [value, name] = session.attributes(*object, [CKA_VALUE, CKA_LABEL])?;
        if value.as_deref() == Some(der) && name.as_deref() == Some(label.as_str().as_bytes()) {
            kept = Some(*object);
        }
    }
    if kept.is_none() {
        let made = session.create(&[
            Attribute::number(CKA_CLASS, CKO_CERTIFICATE),
            Attribute::number(CKA_CERTIFICATE_TYPE, CKC_X_509),
            Attribute::bool(CKA_TOKEN, true),
            Attribute::bool(CKA_PRIVATE, false),
            Attribute::bytes(CKA_ID, id.as_bytes()),
            Attribute::bytes(CKA_LABEL, label.as_str()),
            Attribute::bytes(CKA_SUBJECT, body.subject().to_der().map_err(invalid)?),
            Attribute::bytes(CKA_ISSUER, body.issuer().to_der().map_err(invalid)?),
            Attribute::bytes(CKA_SERIAL_NUMBER, body.serial_number().to_der().map_err(invalid)?),
            Attribute::bytes(CKA_VALUE, der),
        ])?;
        objects.made(made, id, label.as_str());
    }
    earlier.into_iter().filter(|object| Some(*object) != kept).try_for_each(|object| objects.destroy(object))
}

/// See [`crate::hsm::protocol::Request::GetCertificate`].
pub fn get_certificate(objects: &mut Objects<'_>, id: &KeyId) -> Result<Option<Vec<u8>>, HsmError> {
    // Two of them are there only between the two steps of a replacement.
    for object in certificates(objects, id)?.into_iter().rev() {
        let [value] = objects.session.attributes(object, [CKA_VALUE])?;
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}
