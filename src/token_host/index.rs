//! Where on the token is what: the handle of every object under its id and its label, from one look for many questions. Public
//! keys are read along with it, so that a key is found by one question to its other half.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    time::{Duration, Instant},
};

use cryptoki_sys::*;
use parking_lot::FairMutexGuard;

use super::{
    object::number,
    public,
    raw::{self, Attribute, Failure, Object, Session},
    token::Token,
};
use crate::{
    hsm::protocol::{HsmError, Kind},
    model::{KeyId, KeyLabel},
};

/// For how long what was found is believed to be all of its name: others may add to it.
const LASTS: Duration = Duration::from_secs(30);
/// For how long an object is believed to have the name that was read: others may give it another.
const NAME_LASTS: Duration = Duration::from_secs(60);
/// And at least so many times what it took to read them all.
const NAME_WORTH: u32 = 20;

/// Reading so many objects takes more memory than keeping their names does.
const MANY: usize = 1000;

/// Objects that say that they are the token's: the only ones whose attributes may be read.
///
/// One that another process has only begun to make does not say so yet. SoftHSM 2.6 writes what an object lacks when its
/// attributes are read, into the file that the other process is writing, and the key is spoilt.
pub fn of_token(session: &Session) -> Result<Vec<Object>, Failure> {
    session.find(&[Attribute::bool(CKA_TOKEN, true)])
}

/// What to look for.
#[derive(Clone, Copy, Hash)]
pub enum Name<'a> {
    /// `CKA_ID`.
    Id(&'a [u8]),
    /// `CKA_LABEL`.
    Label(&'a [u8]),
}

impl Name<'_> {
    fn attribute(self) -> Attribute {
        match self {
            Self::Id(id) => Attribute::bytes(CKA_ID, id),
            Self::Label(label) => Attribute::bytes(CKA_LABEL, label),
        }
    }
}

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => {
                f.write_str("id ")?;
                id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Label(label) => write!(f, "label '{}'", String::from_utf8_lossy(label)),
        }
    }
}

impl<'a> From<&'a KeyId> for Name<'a> {
    fn from(id: &'a KeyId) -> Self {
        Self::Id(id.as_bytes())
    }
}

impl<'a> From<&'a KeyLabel> for Name<'a> {
    fn from(label: &'a KeyLabel) -> Self {
        Self::Label(label.as_str().as_bytes())
    }
}

/// What is known of where things are.
#[derive(Default)]
pub struct Index {
    /// The login under which it was seen; handles are good for no other.
    epoch: u64,
    /// When the last look began.
    looked: Option<Instant>,
    /// When the last look began that read every object's names.
    read: Option<Instant>,
    /// For how long those are believed.
    names_last: Duration,
    seen: HashMap<Object, Seen>,
    /// What could not be read when it was last tried, and why.
    unreadable: HashMap<Object, HsmError>,
    /// Hashes of names, so that no name is kept twice.
    places: BTreeSet<(u64, Object)>,
    hasher: RandomState,
}

/// What is known of one object.
struct Seen {
    names: Names,
    /// What it is, if it was asked.
    class: Option<CK_OBJECT_CLASS>,
    /// Of a public half: its type and SubjectPublicKeyInfo, which stay the same for as long as the object is there.
    public_key: Option<(CK_KEY_TYPE, Box<[u8]>)>,
}

impl Seen {
    /// What nobody read yet but its names.
    fn named(names: Names) -> Self {
        Self { names, class: None, public_key: None }
    }

    fn read(session: &Session, object: Object) -> Result<Self, Failure> {
        let [key_type, modulus, exponent, params, point] = public::ATTRIBUTES;
        let all = [CKA_ID, CKA_LABEL, CKA_CLASS, key_type, modulus, exponent, params, point];
        let Ok([id, label, class, public_key @ ..]) = session.attributes(object, all) else {
            return Ok(Self::named(Names::of(session.attributes(object, [CKA_ID, CKA_LABEL])?)));
        };
        let (class, key_type) = (number(&class), number(&public_key[0]));
        let public_key = (class == Some(CKO_PUBLIC_KEY)).then(|| public::of(public_key)).flatten();
        let public_key = key_type.zip(public_key.map(Into::into));
        Ok(Self { names: Names::of([id, label]), class, public_key })
    }
}

/// The names of one object; empty where it has none.
#[derive(PartialEq, Eq)]
struct Names {
    id: Box<[u8]>,
    label: Box<[u8]>,
}

impl Names {
    fn of([id, label]: [Option<Vec<u8>>; 2]) -> Self {
        Self { id: id.unwrap_or_default().into(), label: label.unwrap_or_default().into() }
    }

    /// Somebody may be writing an object of which a name is missing.
    fn complete(&self) -> bool {
        !self.id.is_empty() && !self.label.is_empty()
    }

    fn include(&self, name: Name<'_>) -> bool {
        match name {
            Name::Id(id) => *self.id == *id,
            Name::Label(label) => *self.label == *label,
        }
    }

    fn each(&self) -> [Name<'_>; 2] {
        [Name::Id(&self.id), Name::Label(&self.label)]
    }
}

impl Index {
    /// Objects of a name.
    fn get(&self, name: Name<'_>) -> Vec<Object> {
        let hash = self.hasher.hash_one(name);
        let is_so = |object: &Object| self.seen.get(object).is_some_and(|seen| seen.names.include(name));
        let near = self.places.range((hash, Object::MIN)..=(hash, Object::MAX));
        near.map(|(_, object)| *object).filter(is_so).collect()
    }

    fn put(&mut self, object: Object, seen: Seen) {
        self.remove(object);
        for name in seen.names.each() {
            self.places.insert((self.hasher.hash_one(name), object));
        }
        self.seen.insert(object, seen);
    }

    fn remove(&mut self, object: Object) {
        if let Some(seen) = self.seen.remove(&object) {
            for name in seen.names.each() {
                self.places.remove(&(self.hasher.hash_one(name), object));
            }
        }
    }

    fn clear(&mut self) {
        (self.looked, self.read) = (None, None);
        self.seen.clear();
        self.unreadable.clear();
        self.places.clear();
    }

    /// Lists the token's objects, and reads the names of those that are new. That it lists all is proven.
    ///
    /// A look costs a token more, the more it holds; of SoftHSM, some 17 us for each object.
    fn look(&mut self, token: &Token, session: &Session) -> Result<(), HsmError> {
        let (began, epoch) = (Instant::now(), token.epoch());
        let mut before = HashMap::new();
        if self.epoch != epoch || self.read.is_none_or(|read| read.elapsed() > self.names_last) {
            before = std::mem::take(&mut self.seen);
            self.clear();
            self.epoch = epoch;
        }
        let found = of_token(session)?;
        let present: HashSet<Object> = found.iter().copied().collect();
        let gone: Vec<Object> =
            self.seen.keys().filter(|object| !present.contains(object)).copied().collect();
        for object in gone {
            self.remove(object);
        }
        let (mut unread, mut new, mut asked) = (HashMap::new(), Vec::new(), 0);
        for object in found {
            if self.seen.get(&object).is_some_and(|seen| seen.names.complete()) {
                continue;
            }
            asked += 1;
            match Seen::read(session, object) {
                Ok(seen) => {
                    let was = self.seen.get(&object).or_else(|| before.get(&object));
                    if was.is_none_or(|was| was.names.id != seen.names.id) {
                        new.extend(KeyId::from_bytes(&*seen.names.id));
                    }
                    self.put(object, seen);
                }
                Err(failure) => match unreadable(failure)? {
                    Some(error) => drop(unread.insert(object, error)),
                    None => self.remove(object),
                },
            }
        }
        // A logged-out session finds the public objects only.
        token.prove(session, epoch)?;
        // Whoever signs with a key of such an id looks again, and refuses where it is one of two now.
        token.forget_all(&new);
        (self.looked, self.unreadable) = (Some(began), unread);
        let whole = self.read.is_none();
        if whole {
            self.read = Some(began);
            self.names_last = NAME_LASTS.max(began.elapsed() * NAME_WORTH);
        }
        if whole && asked > MANY {
            drop((before, present, new));
            raw::give_back_memory();
        }
        Ok(())
    }
}

/// What a failure to read an object says of that object alone: one such object must not hide the others, whatever code
/// a module has for it. `None` where it was deleted meanwhile; what that code means on a session that was lost is for
/// [`Token::prove`] to find out.
pub fn unreadable(failure: Failure) -> Result<Option<HsmError>, HsmError> {
    let error = HsmError::from(failure);
    match error.kind {
        Kind::Lost if failure.code == CKR_OBJECT_HANDLE_INVALID => Ok(None),
        Kind::Lost => Err(error),
        _ => Ok(Some(error)),
    }
}

/// An object that has the name that was asked for.
pub struct There {
    /// Its handle.
    pub object: Object,
    /// What it is, if it says so.
    pub class: Option<CK_OBJECT_CLASS>,
}

/// A key that was seen whole.
pub struct Pair<'a> {
    /// The private half, or a secret key.
    pub object: Object,
    /// Its `CKA_ID`, and that of the public half.
    pub id: &'a [u8],
    /// Its `CKA_LABEL`.
    pub label: &'a [u8],
    /// Type and SubjectPublicKeyInfo of the public half, if there is one.
    pub public_key: Option<(CK_KEY_TYPE, &'a [u8])>,
}

/// All objects of a token, for one thread and one request.
pub struct Objects<'a> {
    /// The token.
    pub token: &'a Token,
    /// The thread's session.
    pub session: &'a Session,
    index: FairMutexGuard<'a, Index>,
    /// When the request came. What a later look does not show was not there when it was asked for.
    asked: Instant,
}

impl<'a> Objects<'a> {
    /// Waits for all others who have to do with objects, see [`Token::objects`].
    pub fn of(token: &'a Token, session: &'a Session, asked: Instant) -> Self {
        Self { token, session, index: token.objects(), asked }
    }

    /// Whether what was found is believed to be all of its name.
    fn is_fresh(&self) -> bool {
        self.index.epoch == self.token.epoch()
            && self.index.looked.is_some_and(|looked| looked.elapsed() < LASTS)
    }

    /// The one key of a name, if that is all that was seen of it, and of its id, but for what is no key.
    pub fn pair(&self, name: Name<'_>) -> Option<Pair<'_>> {
        let index = &*self.index;
        let there = self.is_fresh().then(|| index.get(name))?;
        let (mut key, mut half) = (None, None);
        for object in &there {
            let seen = index.seen.get(object)?;
            match (seen.class?, &seen.public_key) {
                (CKO_PRIVATE_KEY | CKO_SECRET_KEY, _) if key.is_none() => key = Some((*object, &seen.names)),
                (CKO_PUBLIC_KEY, Some(public_key)) if half.is_none() => {
                    half = Some((public_key.0, &*public_key.1));
                }
                (CKO_CERTIFICATE, _) => {}
                _ => return None,
            }
        }
        let (object, names) = key?;
        let all = index.get(Name::Id(&names.id)) == there;
        all.then_some(Pair { object, id: &names.id, label: &names.label, public_key: half })
    }

    /// Reads the objects of a name with `read`. What is not `enough` is looked for once more, unless the last look was
    /// after the question; then it is all there is, proven.
    pub fn named<T>(
        &mut self,
        name: Name<'_>,
        read: impl Fn(&Session, &[There]) -> Result<T, HsmError>,
        enough: impl Fn(&T) -> bool,
    ) -> Result<T, HsmError> {
        if !self.is_fresh() {
            self.index.look(self.token, self.session)?;
        }
        loop {
            let last = self.index.looked.is_some_and(|looked| looked >= self.asked);
            match self.there(name).and_then(|there| read(self.session, &there)) {
                Ok(found) if enough(&found) => return Ok(found),
                Ok(found) if last => {
                    // What a lost login hides looks like something that is not all there.
                    self.token.prove(self.session, self.index.epoch)?;
                    self.nothing_unreadable(name)?;
                    return Ok(found);
                }
                Err(error) if last => return Err(error),
                // A handle may have gone since.
                Ok(_) | Err(_) => self.index.look(self.token, self.session)?,
            }
        }
    }

    /// Proves that nothing of the name is among what cannot be read. Its names are not known here, and the token
    /// itself knows them: it is asked for that name alone.
    fn nothing_unreadable(&self, name: Name<'_>) -> Result<(), HsmError> {
        if self.index.unreadable.is_empty() {
            return Ok(());
        }
        // In this order, for the reason of `of_token`.
        let found = self.session.find(&[Attribute::bool(CKA_TOKEN, true), name.attribute()])?;
        let Some(error) = found.iter().find_map(|object| self.index.unreadable.get(object)) else {
            return Ok(());
        };
        let message = format!(
            "token {} has an object with the {name} that cannot be read: {}",
            self.token.facts.label, error.message
        );
        Err(HsmError { kind: Kind::Device, code: error.code, message })
    }

    /// Whether two names are those of the same objects, as far as is known. Where these were just read by one of the names,
    /// they have the other one as well.
    pub fn are_of_the_same(&self, one: Name<'_>, other: Name<'_>) -> bool {
        self.index.get(one) == self.index.get(other)
    }

    /// Objects that have the name by their own word, now. What is known of their other name is true then, too.
    fn there(&mut self, name: Name<'_>) -> Result<Vec<There>, HsmError> {
        let mut there = Vec::new();
        for object in self.index.get(name) {
            let read = match self.session.attributes(object, [CKA_CLASS, CKA_ID, CKA_LABEL]) {
                Ok([class, id, label]) => Some((number(&class), Names::of([id, label]))),
                Err(Failure { code: CKR_OBJECT_HANDLE_INVALID, .. }) => None,
                Err(failure) => return Err(failure.into()),
            };
            let Some((class, names)) = read.filter(|(_, names)| names.include(name)) else {
                self.index.remove(object);
                continue;
            };
            let was = self.index.seen.get(&object).map(|seen| &seen.names);
            if was != Some(&names) {
                // Its other name is another one since.
                if was.is_none_or(|was| was.id != names.id)
                    && let Ok(id) = KeyId::from_bytes(&*names.id)
                {
                    // Whoever signs with a key of that id looks again, and refuses where it is one of two now.
                    self.token.forget_all(&[id]);
                }
                self.index.put(object, Seen::named(names));
            }
            there.push(There { object, class });
        }
        Ok(there)
    }

    /// An object was made.
    pub fn made(&mut self, object: Object, id: &KeyId, label: &str) {
        let names = Names { id: id.as_bytes().into(), label: label.as_bytes().into() };
        self.index.put(object, Seen::named(names));
    }

    /// Destroys an object, by the token's word.
    pub fn destroy(&mut self, object: Object) -> Result<(), HsmError> {
        self.session.destroy(object)?;
        self.gone(object);
        Ok(())
    }

    /// What was seen before now is no longer enough.
    pub fn ask_again(&mut self) {
        self.asked = Instant::now();
    }

    /// There is more than the last look showed under these ids, or may be.
    pub fn more_than_known(&mut self, ids: &[KeyId]) {
        if !ids.is_empty() {
            self.index.looked = None;
            self.token.forget_all(ids);
        }
    }

    /// An object is not there any more, or has other names.
    pub fn gone(&mut self, object: Object) {
        self.index.remove(object);
    }
}
