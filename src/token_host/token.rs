//! One token: found, logged in to, and kept that way.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cryptoki_sys::*;
use parking_lot::{FairMutex, FairMutexGuard};

use super::{
    attest, capability, error,
    index::Index,
    mechanism::{self, KeyShape},
    overlooked::Pace,
    quirk,
    raw::{Failure, LoadFailure, Module, Object, Session, TokenInfo},
    tree,
};
use crate::{
    hsm::{
        probe::Limits,
        protocol::{Capabilities, HsmError, Kind, Open, TokenFacts, TokenSelector},
        recovery::Rung,
    },
    model::{KeyId, SignatureAlgorithm, secret::Pin, vendor::VendorNumbers},
};

/// How often a token is asked to show itself before it is believed that it does not, and how long after the last time: while
/// another process logs in, SoftHSM shows none for a moment.
const SHOWS: (u32, Duration) = (5, Duration::from_millis(10));

/// A key that was looked up to sign with.
#[derive(Clone, Copy, Debug)]
pub struct SignKey {
    /// Private or secret key.
    pub object: Object,
    /// What the mechanisms need to know of it.
    pub shape: KeyShape,
}

/// A token with its user logged in.
pub struct Token {
    module: Arc<Module>,
    library: String,
    selector: TokenSelector,
    slot: AtomicU64,
    pin: Pin,
    /// What it said of itself when it was opened.
    pub facts: TokenFacts,
    /// Numbers of its mechanisms.
    pub mechanisms: Vec<CK_MECHANISM_TYPE>,
    /// Those of its vendor's own, as far as it has them.
    pub vendor: VendorNumbers,
    /// Holds the login: closing the last session of a process logs it out.
    keeper: Mutex<Session>,
    /// Counts logins; handles of an earlier one are not good any more.
    epoch: AtomicU64,
    keys: RwLock<HashMap<KeyId, (u64, SignKey)>>,
    objects: FairMutex<Index>,
    refused: OnceLock<HsmError>,
    dead: AtomicBool,
    /// Held for reading by whoever is inside of the module, see [`Token::start_over`].
    pub gate: parking_lot::RwLock<()>,
    /// Keys that signed, two of them.
    canaries: Mutex<Vec<(KeyId, SignatureAlgorithm)>>,
    started_over: Mutex<Option<Instant>>,
    /// How long it took to open it.
    pub opened_in: Duration,
    /// Its module may overlook what others change, see [`super::overlooked`].
    pub overlooks: bool,
    /// Of starts that are to make up for that.
    pub pace: Mutex<Pace>,
    took: Box<Took>,
}

/// Told of a step of recovery and why it was taken.
type Took = dyn Fn(Rung, &str) + Send + Sync;

/// A signature that should work.
pub struct Canary {
    /// How.
    pub algorithm: SignatureAlgorithm,
    /// With what.
    pub key: SignKey,
}

impl Token {
    /// Loads the module, finds the token and logs in. The PIN is tried once. `took` is told of every step of recovery.
    pub fn open(open: Open, took: impl Fn(Rung, &str) + Send + Sync + 'static) -> Result<Self, HsmError> {
        let begun = Instant::now();
        let module =
            Module::load(&open.library, open.init_args.as_deref()).map_err(|failure| match failure {
                LoadFailure::Link(why) => HsmError::new(
                    Kind::LibraryNotLoaded,
                    format!("cannot load the PKCS#11 library {}: {why}", open.library),
                ),
                LoadFailure::Module(failure) => {
                    error::loaded_from(&open.library);
                    let error = HsmError::from(failure);
                    HsmError {
                        kind: Kind::LibraryNotLoaded,
                        message: format!(
                            "the PKCS#11 library {} does not start: {}",
                            open.library, error.message
                        ),
                        ..error
                    }
                }
            })?;
        let module = Arc::new(module);
        error::made_by(&module.manufacturer().unwrap_or_default());
        let (slot, info) = select(&module, &open.token, &open.library)?;
        error::made_by(&info.manufacturer);
        let mechanisms = module.mechanisms(slot)?;
        if let Some(number) = open.vendor.schnorr {
            mechanism::schnorr_is(number);
        }
        let derived = tree::find_out(&module, &open.vendor, &mechanisms);
        let attests = attest::offered(&module, slot, &info, &open.vendor.rks);
        let facts = TokenFacts {
            capabilities: Capabilities { derived, attests, ..capability::of(&module, slot, &mechanisms) },
            library: module.description().unwrap_or_default(),
            slot,
            label: info.label,
            manufacturer: info.manufacturer,
            model: info.model,
            serial: info.serial,
            firmware: info.firmware,
        };
        let overlooks = quirk::overlooks(&facts);
        let keeper = module.open(slot)?;
        let mut token = Self {
            module,
            library: open.library,
            selector: open.token,
            slot: AtomicU64::new(slot),
            pin: open.pin,
            facts,
            mechanisms,
            vendor: *open.vendor,
            keeper: Mutex::new(keeper),
            epoch: AtomicU64::new(0),
            keys: RwLock::default(),
            objects: FairMutex::default(),
            refused: OnceLock::new(),
            dead: AtomicBool::new(false),
            gate: parking_lot::RwLock::default(),
            canaries: Mutex::default(),
            started_over: Mutex::default(),
            opened_in: Duration::ZERO,
            overlooks,
            pace: Mutex::default(),
            took: Box::new(took),
        };
        token.ensure_login(None)?;
        token.opened_in = begun.elapsed();
        Ok(token)
    }

    /// Starts the module over and logs in; the token has to be the one that it was. Only for who has the gate alone.
    pub fn reopen(&self) -> Result<(), HsmError> {
        self.module.start_over()?;
        let (slot, info) = select(&self.module, &self.selector, &self.library)?;
        if info.serial != self.facts.serial {
            let message = format!("in place of token {} there is another one", self.facts.label);
            return Err(HsmError::new(Kind::TokenNotFound, message));
        }
        self.slot.store(slot, Ordering::SeqCst);
        self.ensure_login(None)
    }

    /// How often the module was started.
    pub fn starts(&self) -> u64 {
        self.module.starts()
    }

    /// Whether objects of the token were changed through the module since it was started.
    pub fn changed(&self) -> bool {
        self.module.changed()
    }

    /// The module is started over because something is wrong.
    pub fn starts_over(&self) {
        *self.started_over.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// When that was last.
    pub fn started_over(&self) -> Option<Instant> {
        *self.started_over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step of recovery was taken.
    pub fn took(&self, rung: Rung, cause: &str) {
        (self.took)(rung, cause);
    }

    fn slot(&self) -> CK_SLOT_ID {
        self.slot.load(Ordering::SeqCst)
    }

    /// A signature that worked, of another key than `not`.
    pub fn canary(&self, not: Option<&KeyId>) -> Option<Canary> {
        let canaries = self.canaries.lock().unwrap_or_else(PoisonError::into_inner);
        canaries
            .iter()
            .filter(|(id, _)| Some(id) != not)
            .find_map(|(id, algorithm)| self.cached(id).map(|key| Canary { algorithm: *algorithm, key }))
    }

    /// A key that had to be looked for signed.
    pub fn sings(&self, key: &KeyId, algorithm: SignatureAlgorithm) {
        let mut canaries = self.canaries.lock().unwrap_or_else(PoisonError::into_inner);
        canaries.retain(|(id, _)| id != key);
        canaries.insert(0, (key.clone(), algorithm));
        canaries.truncate(2);
    }

    /// Asks the token for what it is.
    pub fn shows_itself(&self) -> Result<(), HsmError> {
        Ok(self.module.token(self.slot()).map(drop)?)
    }

    /// The same, patiently.
    fn shown(&self) -> Result<TokenInfo, Failure> {
        let (times, pause) = SHOWS;
        for _ in 1..times {
            if let Ok(info) = self.module.token(self.slot()) {
                return Ok(info);
            }
            std::thread::sleep(pause);
        }
        self.module.token(self.slot())
    }

    /// A session of its own for the calling thread.
    pub fn session(&self) -> Result<Session, HsmError> {
        Ok(self.module.open(self.slot())?)
    }

    /// What the token has room for at the moment.
    pub fn limits(&self) -> Result<Limits, HsmError> {
        Ok(self.module.limits(self.slot())?)
    }

    /// Logs in where the login is gone; again, where there is a `cause` to tell of. A refused PIN is remembered and never tried again.
    pub fn ensure_login(&self, cause: Option<&str>) -> Result<(), HsmError> {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = self.refused() {
            return Err(error);
        }
        // After a new start, the number of the keeper's session means nothing.
        let logged_in = if keeper.is_of_now() { keeper.logged_in().ok() } else { None };
        match logged_in {
            Some(true) => return Ok(()),
            Some(false) => {}
            None => {
                *keeper = self.session()?;
                if keeper.logged_in() == Ok(true) {
                    return Ok(());
                }
            }
        }
        if let Err(error) = self.log_in(&keeper) {
            match error.kind {
                Kind::PinRejected | Kind::PinLocked => drop(self.refused.set(error.clone())),
                // Tried once in a process: some modules have strange words for a wrong PIN.
                _ => self.give_up(),
            }
            return Err(error);
        }
        self.epoch.fetch_add(1, Ordering::SeqCst);
        if let Some(cause) = cause {
            self.took(Rung::Login, cause);
        }
        Ok(())
    }

    /// Tries the PIN, unless the token says that a wrong one would be the last.
    fn log_in(&self, session: &Session) -> Result<(), HsmError> {
        let flags = self.shown()?.flags;
        if flags & CKF_USER_PIN_LOCKED != 0 {
            let locked = Failure { code: CKR_PIN_LOCKED, function: "C_GetTokenInfo" };
            return Err(named(&self.facts.label, locked.into()));
        }
        if flags & CKF_USER_PIN_FINAL_TRY != 0 {
            let message = "one wrong PIN more would lock it, so that none is tried; log in once with the right PIN and the vendor's tools, which gives the tries back";
            return Err(named(&self.facts.label, HsmError::new(Kind::PinFinalTry, message)));
        }
        match session.login(self.pin.expose()) {
            Ok(()) | Err(Failure { code: CKR_USER_ALREADY_LOGGED_IN, .. }) => Ok(()),
            Err(failure) => {
                let mut error = named(&self.facts.label, failure.into());
                let after = self.module.token(self.slot()).map_or(flags, |info| info.flags);
                // Whatever code a module has for a wrong PIN, its counter tells.
                if after & !flags & TRIES_FLAGS != 0 && error.kind != Kind::PinLocked {
                    error.kind = Kind::PinRejected;
                }
                if error.kind == Kind::PinRejected {
                    error.message = format!("{}; {}", error.message, tries_left(after));
                }
                Err(error)
            }
        }
    }

    /// Believes that something is not there only if the token's user was logged in from `since` on, the epoch in which
    /// the search began, and the token itself answers: a logged-out session finds nothing private, and so does one whose
    /// token lost its storage.
    pub fn prove(&self, session: &Session, since: u64) -> Result<(), HsmError> {
        let logged_in = session.logged_in()?;
        // Whoever logs in holds the keeper until the epoch counts it.
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if !logged_in || self.epoch() != since {
            return Err(Failure { code: CKR_USER_NOT_LOGGED_IN, function: "C_FindObjects" }.into());
        }
        drop(keeper);
        Ok(self.shown().map(drop)?)
    }

    /// The error of a refused PIN, after which there is nothing to be done here any more.
    pub fn refused(&self) -> Option<HsmError> {
        self.refused.get().cloned()
    }

    /// Says that only a new process can help.
    pub fn give_up(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// Whether only a new process can help.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Whoever goes through objects or changes any holds this meanwhile. Signing with a handle does without.
    ///
    /// A module may call itself safe for threads and not be so with objects: SoftHSM 2.6 reads a file anew when it
    /// seems to have changed, and a thread that does so while another makes that object throws away attributes that
    /// are not written yet. The key comes out without its label, its public half or its value.
    pub fn objects(&self) -> FairMutexGuard<'_, Index> {
        self.objects.lock()
    }

    /// The same, if it is to be had within a time.
    pub fn objects_within(&self, time: Duration) -> Option<FairMutexGuard<'_, Index>> {
        self.objects.try_lock_for(time)
    }

    /// The number of the present login; to be read before an object is looked up.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// A key that was looked up under the present login.
    pub fn cached(&self, id: &KeyId) -> Option<SignKey> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(id).filter(|(epoch, _)| *epoch == self.epoch()).map(|(_, key)| *key)
    }

    /// Remembers a key that was looked up under the login `epoch`.
    pub fn remember(&self, id: KeyId, epoch: u64, key: SignKey) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(id, (epoch, key));
    }

    /// Forgets keys whose ids others may have, too, since they were looked up.
    pub fn forget_all(&self, ids: &[KeyId]) {
        if ids.is_empty() {
            return;
        }
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            keys.remove(id);
        }
    }

    /// Forgets a key whose handle is not good any more.
    pub fn forget(&self, id: &KeyId) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// Flags that a wrong PIN sets.
const TRIES_FLAGS: CK_FLAGS = CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_LOCKED;

/// What a token says of the tries that are left; PKCS#11 has no number for it.
const fn tries_left(flags: CK_FLAGS) -> &'static str {
    if flags & CKF_USER_PIN_LOCKED != 0 {
        "the token has locked the PIN"
    } else if flags & CKF_USER_PIN_FINAL_TRY != 0 {
        "the token says that one try is left"
    } else if flags & CKF_USER_PIN_COUNT_LOW != 0 {
        "the token says that a wrong PIN was tried since the last login, and that more than one try is left"
    } else {
        "the token does not say how many tries are left"
    }
}

fn named(label: &str, error: HsmError) -> HsmError {
    HsmError { message: format!("token {label}: {}", error.message), ..error }
}

fn select(
    module: &Module,
    selector: &TokenSelector,
    library: &str,
) -> Result<(CK_SLOT_ID, TokenInfo), HsmError> {
    // One broken reader must not hide the others, but what is looked for may be in it.
    let (mut tokens, mut unread) = (Vec::new(), None);
    for slot in module.slots()? {
        match module.token(slot) {
            Ok(info) if info.flags & CKF_TOKEN_INITIALIZED != 0 => tokens.push((slot, info)),
            Ok(_) => {}
            Err(failure) => unread = Some(failure),
        }
    }
    let matches = |(slot, info): &&(CK_SLOT_ID, TokenInfo)| match selector {
        TokenSelector::Label(label) => info.label == *label,
        TokenSelector::Serial(serial) => info.serial == *serial,
        TokenSelector::Slot(number) => slot == number,
    };
    let wanted = match selector {
        TokenSelector::Label(label) => format!("label {label}"),
        TokenSelector::Serial(serial) => format!("serial number {serial}"),
        TokenSelector::Slot(slot) => format!("slot {slot}"),
    };
    let found: Vec<_> = tokens.iter().filter(matches).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] if unread.is_some() => Err(unread.expect("just seen").into()),
        [] => {
            let offered: Vec<_> = tokens.iter().map(|(_, info)| info.label.as_str()).collect();
            let offered = if offered.is_empty() { "none at all".to_owned() } else { offered.join(", ") };
            let message = format!("{library} has no initialised token with {wanted}; it has {offered}");
            Err(HsmError::new(Kind::TokenNotFound, message))
        }
        several => {
            let message =
                format!("{library} has {} tokens with {wanted}; select by serial number", several.len());
            Err(HsmError::new(Kind::Ambiguous, message))
        }
    }
}
