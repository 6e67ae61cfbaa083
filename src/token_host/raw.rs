//! The C interface: PKCS#11 calls and what little of libc the token-host needs, made safe to use.
//!
//! The only file with `unsafe`, along with its parts. It knows calls and bytes; what they mean is decided elsewhere.
#![allow(unsafe_code)]

use std::{
    cell::Cell,
    ffi::{CString, c_void},
    marker::PhantomData,
    ptr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use cryptoki_sys::*;
use zeroize::{Zeroize, Zeroizing};

use super::inside;
use crate::hsm::probe::Limits;

/// Enough for every signature but the hash-based ones: one call into the module instead of two.
const SIGNATURE_MAX: usize = 8192;
/// Enough for those, too: SLH-DSA has 49,856 bytes at most.
const LONG_SIGNATURE_MAX: usize = 64 * 1024;
/// Enough for those of HSS, which may have eight levels: 74,988 bytes.
const STATEFUL_SIGNATURE_MAX: usize = 128 * 1024;
/// First guess at an attribute's size; RSA-8192 fits.
const ATTRIBUTE_GUESS: usize = 1024;
/// No attribute is believed to be larger, whatever the size query says.
const ATTRIBUTE_MAX: usize = 1024 * 1024;

/// A call that the module refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Return value.
    pub code: CK_RV,
    /// Name of the C function.
    pub function: &'static str,
}

/// Handle of an object; good for one login only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object(CK_OBJECT_HANDLE);

impl Object {
    /// Lowest of all.
    pub const MIN: Self = Self(CK_OBJECT_HANDLE::MIN);
    /// Highest of all.
    pub const MAX: Self = Self(CK_OBJECT_HANDLE::MAX);
}

/// Calls a function of the module's list, if the module has it.
macro_rules! call {
    ($module:expr, $function:ident($($argument:expr),* $(,)?)) => {
        call!(inside::Call::begin(), $module, $function($($argument),*))
    };
    ($inside:expr, $module:expr, $function:ident($($argument:expr),* $(,)?)) => {{
        let _inside = $inside;
        let failed = |code| Failure { code, function: stringify!($function) };
        match $module.functions().$function {
            None => Err(failed(CKR_FUNCTION_NOT_SUPPORTED)),
            // SAFETY: the pointer comes from the module's own list; every argument is a value or points
            // to memory that lives until the call returns and is as long as the length beside it says.
            Some(function) => match unsafe { function($($argument),*) } {
                CKR_OK => Ok(()),
                code => Err(failed(code)),
            },
        }
    }};
}

mod agreement;
mod attest;
mod cipher;
mod tree;
mod wrap;
pub use cipher::{Cipher, CipherParameter};
pub use tree::Tree;

/// A loaded and initialised module; stays loaded until the process ends.
pub struct Module {
    functions: *const CK_FUNCTION_LIST,
    /// The vendor's own, where it has it.
    derive_key_pair: Option<tree::DeriveKeyPair>,
    /// Another one.
    attest_key: Option<attest::AttestKey>,
    /// Numbers of trees of keys, where the token has them.
    tree: OnceLock<Tree>,
    init_args: Option<CString>,
    /// How often it was initialised; sessions of an earlier time are gone.
    starts: AtomicU64,
    /// Whether objects of a token were made, changed or destroyed since then, or may have been.
    changed: AtomicBool,
}

// SAFETY: the list is constant once the module is loaded, and `C_Initialize` got `CKF_OS_LOCKING_OK`, which
// obliges the module to stand calls from several threads as long as they do not share a session.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// Why a library could not be used.
#[derive(Debug)]
pub enum LoadFailure {
    /// The dynamic linker refused it, or it has no `C_GetFunctionList`.
    Link(String),
    /// It refused to start.
    Module(Failure),
}

/// What the dynamic linker says is the cause of the error, and the only part worth reading.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

impl Module {
    /// Loads the library and calls `C_Initialize`, once per process.
    pub fn load(path: &str, init_args: Option<&str>) -> Result<Self, LoadFailure> {
        // SAFETY: this runs the library's initialisers. That is what the operator asked for by naming it, and
        // the reason for this being a process of its own.
        let library = unsafe { libloading::Library::new(path) }.map_err(|e| LoadFailure::Link(reason(&e)))?;
        // Never unloaded: its threads and exit handlers may still run.
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        type GetFunctionList = unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV;
        // SAFETY: the type is the one that the standard gives to this symbol.
        let get = unsafe { library.get::<GetFunctionList>(b"C_GetFunctionList\0") }
            .map_err(|e| LoadFailure::Link(reason(&e)))?;
        let mut functions: *mut CK_FUNCTION_LIST = ptr::null_mut();
        // SAFETY: the argument points to a writable pointer.
        let code = unsafe { get(&raw mut functions) };
        let failed = |code, function| LoadFailure::Module(Failure { code, function });
        if code != CKR_OK {
            return Err(failed(code, "C_GetFunctionList"));
        }
        if functions.is_null() {
            return Err(failed(CKR_GENERAL_ERROR, "C_GetFunctionList"));
        }
        let init_args = init_args
            .map(CString::new)
            .transpose()
            .map_err(|_| LoadFailure::Link("initArgs contains a NUL character".into()))?;
        // SAFETY: a vendor that has this symbol gives it this type, by his published samples.
        let derive_key_pair =
            unsafe { library.get::<tree::DeriveKeyPair>(tree::DERIVE_KEY_PAIR) }.ok().map(|symbol| *symbol);
        // SAFETY: likewise.
        let attest_key =
            unsafe { library.get::<attest::AttestKey>(attest::ATTEST_KEY) }.ok().map(|symbol| *symbol);
        let tree = OnceLock::new();
        let (starts, changed) = (AtomicU64::new(0), AtomicBool::new(false));
        let module = Self { functions, derive_key_pair, attest_key, tree, init_args, starts, changed };
        module.initialise().map_err(LoadFailure::Module)?;
        Ok(module)
    }

    fn initialise(&self) -> Result<(), Failure> {
        let reserved = self.init_args.as_ref();
        let mut arguments = CK_C_INITIALIZE_ARGS {
            flags: CKF_OS_LOCKING_OK,
            pReserved: reserved.map_or(ptr::null_mut(), |text| text.as_ptr().cast_mut().cast()),
            ..Default::default()
        };
        match call!(self, C_Initialize((&raw mut arguments).cast())) {
            Ok(()) => self.changed.store(false, Ordering::SeqCst),
            Err(Failure { code: CKR_CRYPTOKI_ALREADY_INITIALIZED, .. }) => {}
            Err(failure) => return Err(failure),
        }
        self.starts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// `C_Finalize` and `C_Initialize`. Only while no thread is inside of the module: SoftHSM ends with a segmentation
    /// fault otherwise, and kryoptic never comes back.
    pub fn start_over(&self) -> Result<(), Failure> {
        match call!(self, C_Finalize(ptr::null_mut())) {
            Ok(()) | Err(Failure { code: CKR_CRYPTOKI_NOT_INITIALIZED, .. }) => self.initialise(),
            Err(failure) => Err(failure),
        }
    }

    /// How often it was initialised.
    pub fn starts(&self) -> u64 {
        self.starts.load(Ordering::SeqCst)
    }

    /// Whether objects of a token were made, changed or destroyed through it since it was initialised.
    pub fn changed(&self) -> bool {
        self.changed.load(Ordering::SeqCst)
    }

    fn functions(&self) -> &CK_FUNCTION_LIST {
        // SAFETY: not null (checked in `load`), owned by the library, which is never unloaded.
        unsafe { &*self.functions }
    }

    /// `CK_INFO.libraryDescription` and version.
    pub fn description(&self) -> Result<String, Failure> {
        let mut info = CK_INFO::default();
        call!(self, C_GetInfo(&raw mut info))?;
        let version = info.libraryVersion;
        Ok(format!("{} {}.{}", trimmed(&info.libraryDescription), version.major, version.minor))
    }

    /// `CK_INFO.manufacturerID`.
    pub fn manufacturer(&self) -> Result<String, Failure> {
        let mut info = CK_INFO::default();
        call!(self, C_GetInfo(&raw mut info))?;
        Ok(trimmed(&info.manufacturerID))
    }

    /// Slots with a token in them.
    pub fn slots(&self) -> Result<Vec<CK_SLOT_ID>, Failure> {
        list(|start, count| call!(self, C_GetSlotList(CK_TRUE, start, count)))
    }

    /// The token in a slot. Clock and counters are not read: some modules fill them with nonsense.
    pub fn token(&self, slot: CK_SLOT_ID) -> Result<TokenInfo, Failure> {
        let mut info = CK_TOKEN_INFO::default();
        call!(self, C_GetTokenInfo(slot, &raw mut info))?;
        Ok(TokenInfo {
            label: trimmed(&info.label),
            manufacturer: trimmed(&info.manufacturerID),
            model: trimmed(&info.model),
            serial: trimmed(&info.serialNumber),
            firmware: format!("{}.{}", info.firmwareVersion.major, info.firmwareVersion.minor),
            flags: info.flags,
        })
    }

    /// What a token has room for.
    pub fn limits(&self, slot: CK_SLOT_ID) -> Result<Limits, Failure> {
        let mut info = CK_TOKEN_INFO::default();
        call!(self, C_GetTokenInfo(slot, &raw mut info))?;
        let told = |number: CK_ULONG| (number != CK_UNAVAILABLE_INFORMATION).then_some(number);
        Ok(Limits {
            sessions: told(info.ulSessionCount),
            sessions_max: told(info.ulMaxSessionCount),
            rw_sessions_max: told(info.ulMaxRwSessionCount),
            private_memory_free: told(info.ulFreePrivateMemory),
            private_memory: told(info.ulTotalPrivateMemory),
            pin_min: told(info.ulMinPinLen),
            pin_max: told(info.ulMaxPinLen),
        })
    }

    /// Numbers of all mechanisms, known to anybody or not.
    pub fn mechanisms(&self, slot: CK_SLOT_ID) -> Result<Vec<CK_MECHANISM_TYPE>, Failure> {
        list(|start, count| call!(self, C_GetMechanismList(slot, start, count)))
    }

    /// Smallest and largest key of a mechanism, in whatever unit the module likes.
    pub fn key_sizes(&self, slot: CK_SLOT_ID, mechanism: CK_MECHANISM_TYPE) -> Result<(u64, u64), Failure> {
        let mut info = CK_MECHANISM_INFO::default();
        call!(self, C_GetMechanismInfo(slot, mechanism, &raw mut info))?;
        Ok((info.ulMinKeySize, info.ulMaxKeySize))
    }

    /// Opens a session that may write.
    pub fn open(self: &Arc<Self>, slot: CK_SLOT_ID) -> Result<Session, Failure> {
        let mut handle: CK_SESSION_HANDLE = 0;
        let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
        call!(self, C_OpenSession(slot, flags, ptr::null_mut(), None, &raw mut handle))?;
        Ok(Session { module: Arc::clone(self), handle, start: self.starts(), not_sync: PhantomData })
    }
}

/// What a token says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenInfo {
    pub label: String,
    pub manufacturer: String,
    pub model: String,
    pub serial: String,
    pub firmware: String,
    pub flags: CK_FLAGS,
}

/// A list that a module writes to where it is told, with its length. How long it will be is asked first and not
/// believed: it may grow between the two calls, and some modules answer wrongly.
fn list(
    write: impl Fn(*mut CK_ULONG, *mut CK_ULONG) -> Result<(), Failure>,
) -> Result<Vec<CK_ULONG>, Failure> {
    const MAX: usize = 64 * 1024;
    let mut count: CK_ULONG = 0;
    write(ptr::null_mut(), &raw mut count)?;
    let mut room = usize::try_from(count).unwrap_or(0).min(MAX) + 64;
    loop {
        let mut list = vec![0; room];
        count = room as CK_ULONG;
        match write(list.as_mut_ptr(), &raw mut count) {
            Ok(()) => {
                list.truncate(usize::try_from(count).unwrap_or(0));
                return Ok(list);
            }
            Err(Failure { code: CKR_BUFFER_TOO_SMALL, .. }) if room < MAX => room *= 2,
            Err(failure) => return Err(failure),
        }
    }
}

/// Fixed-width text of PKCS#11: padded with blanks, by some modules with NULs.
pub fn trimmed(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim_matches(['\0', ' ']).to_owned()
}

/// One attribute of a template.
#[derive(Clone)]
pub struct Attribute {
    /// `CKA_…`.
    pub kind: CK_ATTRIBUTE_TYPE,
    /// Its bytes, which may be a key's.
    pub value: Zeroizing<Vec<u8>>,
}

impl Attribute {
    /// Plain bytes.
    pub fn bytes(kind: CK_ATTRIBUTE_TYPE, value: impl Into<Vec<u8>>) -> Self {
        Self { kind, value: Zeroizing::new(value.into()) }
    }

    /// `CK_BBOOL`.
    pub fn bool(kind: CK_ATTRIBUTE_TYPE, value: bool) -> Self {
        Self::bytes(kind, [u8::from(value)])
    }

    /// `CK_ULONG`.
    pub fn number(kind: CK_ATTRIBUTE_TYPE, value: CK_ULONG) -> Self {
        Self::bytes(kind, value.to_ne_bytes())
    }
}

/// A template as the C interface takes it; points into `attributes`.
fn template(attributes: &[Attribute]) -> Vec<CK_ATTRIBUTE> {
    let one = |attribute: &Attribute| CK_ATTRIBUTE {
        type_: attribute.kind,
        pValue: attribute.value.as_ptr().cast_mut().cast(),
        ulValueLen: attribute.value.len() as CK_ULONG,
    };
    attributes.iter().map(one).collect()
}

/// What to do, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mechanism {
    /// `CKM_…`.
    pub kind: CK_MECHANISM_TYPE,
    /// Its parameters, where it has any.
    pub parameter: Option<Parameter>,
}

/// Parameters of a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// Of RSASSA-PSS.
    Pss(Pss),
    /// Of EdDSA: the context of Ed25519ctx or Ed448.
    Context(&'static [u8]),
}

/// Parameters of RSASSA-PSS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pss {
    /// `CKM_…` of the hash.
    pub hash: CK_MECHANISM_TYPE,
    /// `CKG_MGF1_…` of the hash.
    pub mgf: CK_RSA_PKCS_MGF_TYPE,
    /// Bytes of salt.
    pub salt: CK_ULONG,
}

impl Mechanism {
    /// A mechanism without parameters.
    pub const fn plain(kind: CK_MECHANISM_TYPE) -> Self {
        Self { kind, parameter: None }
    }

    /// RSASSA-PSS, bare or hashed.
    pub const fn pss(kind: CK_MECHANISM_TYPE, pss: Pss) -> Self {
        Self { kind, parameter: Some(Parameter::Pss(pss)) }
    }

    /// EdDSA with a context, which may be empty.
    pub const fn with_context(kind: CK_MECHANISM_TYPE, context: &'static [u8]) -> Self {
        Self { kind, parameter: Some(Parameter::Context(context)) }
    }

    fn with<T>(&self, use_it: impl FnOnce(*mut CK_MECHANISM) -> T) -> T {
        fn mechanism<P>(kind: CK_MECHANISM_TYPE, parameter: &mut P) -> CK_MECHANISM {
            CK_MECHANISM {
                mechanism: kind,
                pParameter: ptr::from_mut(parameter).cast::<c_void>(),
                ulParameterLen: size_of::<P>() as CK_ULONG,
            }
        }
        match self.parameter {
            None => use_it(&mut CK_MECHANISM {
                mechanism: self.kind,
                pParameter: ptr::null_mut(),
                ulParameterLen: 0,
            }),
            Some(Parameter::Pss(Pss { hash, mgf, salt })) => {
                let mut parameter = CK_RSA_PKCS_PSS_PARAMS { hashAlg: hash, mgf, sLen: salt };
                use_it(&mut mechanism(self.kind, &mut parameter))
            }
            Some(Parameter::Context(context)) => {
                let mut parameter = CK_EDDSA_PARAMS {
                    phFlag: CK_FALSE,
                    ulContextDataLen: context.len() as CK_ULONG,
                    pContextData: context.as_ptr().cast_mut(),
                };
                use_it(&mut mechanism(self.kind, &mut parameter))
            }
        }
    }
}

/// A session: one thread's at a time, closed on drop.
pub struct Session {
    module: Arc<Module>,
    handle: CK_SESSION_HANDLE,
    /// The start of the module that it belongs to.
    start: u64,
    /// A session used by two threads at once ends some modules with a segmentation fault.
    not_sync: PhantomData<Cell<()>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // By now the number may be that of another session.
        if self.is_of_now() {
            let _ = call!(self.module, C_CloseSession(self.handle));
        }
    }
}

impl Session {
    /// Whether the module was not started over since it was opened.
    pub fn is_of_now(&self) -> bool {
        self.start == self.module.starts()
    }

    /// Logs the token's user in, for all sessions of this process.
    pub fn login(&self, pin: &str) -> Result<(), Failure> {
        let (start, length) = (pin.as_ptr().cast_mut(), pin.len() as CK_ULONG);
        call!(self.module, C_Login(self.handle, CKU_USER, start, length))
    }

    /// Whether the token's user is logged in, as the token sees it.
    pub fn logged_in(&self) -> Result<bool, Failure> {
        let mut info = CK_SESSION_INFO::default();
        call!(self.module, C_GetSessionInfo(self.handle, &raw mut info))?;
        Ok(matches!(info.state, CKS_RO_USER_FUNCTIONS | CKS_RW_USER_FUNCTIONS))
    }

    /// Every object that has these attributes.
    pub fn find(&self, attributes: &[Attribute]) -> Result<Vec<Object>, Failure> {
        let mut template = template(attributes);
        let (start, length) = (template.as_mut_ptr(), template.len() as CK_ULONG);
        call!(self.module, C_FindObjectsInit(self.handle, start, length))?;
        let mut found = Vec::new();
        let outcome = loop {
            let mut batch: [CK_OBJECT_HANDLE; 64] = [0; 64];
            let mut count: CK_ULONG = 0;
            let room = batch.len() as CK_ULONG;
            if let Err(failure) =
                call!(self.module, C_FindObjects(self.handle, batch.as_mut_ptr(), room, &raw mut count))
            {
                break Err(failure);
            }
            if count == 0 {
                break Ok(());
            }
            found
                .extend(batch.iter().take(usize::try_from(count).unwrap_or(0)).map(|handle| Object(*handle)));
        };
        // Also after a failure: a search left open blocks the session.
        let closed = call!(self.module, C_FindObjectsFinal(self.handle));
        outcome?;
        closed?;
        Ok(found)
    }

    /// Attributes of an object, each `None` where the token has none or keeps it to itself.
    pub fn attributes<const N: usize>(
        &self,
        object: Object,
        kinds: [CK_ATTRIBUTE_TYPE; N],
    ) -> Result<[Option<Vec<u8>>; N], Failure> {
        let mut guess = [[0; ATTRIBUTE_GUESS]; N];
        let mut buffers = guess.each_mut().map(|buffer| &mut buffer[..]);
        let (lengths, code) = self.read(object, &kinds, &mut buffers)?;
        if code != CKR_BUFFER_TOO_SMALL {
            return Ok(self.values(kinds, buffers, lengths));
        }
        // Ask for sizes, then allow for more: some modules answer the question wrongly.
        let (sizes, _) = self.read(object, &kinds, &mut std::array::from_fn(|_| &mut [][..]))?;
        let mut longer = sizes.map(|size| vec![0; size.unwrap_or(0).max(ATTRIBUTE_GUESS) + 64]);
        loop {
            let mut buffers = longer.each_mut().map(Vec::as_mut_slice);
            let (lengths, code) = self.read(object, &kinds, &mut buffers)?;
            if code != CKR_BUFFER_TOO_SMALL {
                return Ok(self.values(kinds, buffers, lengths));
            }
            let longest = buffers.iter().map(|buffer| buffer.len()).max().unwrap_or(0);
            if longest >= ATTRIBUTE_MAX {
                return Err(Failure { code, function: "C_GetAttributeValue" });
            }
            longer.fill_with(|| vec![0; 2 * longest]);
        }
    }

    /// Copies of that length: some values are kept for every object of a token, and a guess that was cut off would leave a
    /// hole behind each that fits nothing. The values may be secret, and what held them is overwritten.
    fn values<const N: usize>(
        &self,
        kinds: [CK_ATTRIBUTE_TYPE; N],
        buffers: [&mut [u8]; N],
        lengths: [Option<usize>; N],
    ) -> [Option<Vec<u8>>; N] {
        let mut values = [const { None }; N];
        for (((value, buffer), length), kind) in values.iter_mut().zip(buffers).zip(lengths).zip(kinds) {
            *value = length.map(|length| {
                let exact = buffer[..length].to_vec();
                buffer[..length].zeroize();
                if kind == CKA_KEY_TYPE { self.plain(exact) } else { exact }
            });
        }
        values
    }

    fn read<const N: usize>(
        &self,
        object: Object,
        kinds: &[CK_ATTRIBUTE_TYPE; N],
        buffers: &mut [&mut [u8]; N],
    ) -> Result<([Option<usize>; N], CK_RV), Failure> {
        let mut template: [CK_ATTRIBUTE; N] = std::array::from_fn(|at| CK_ATTRIBUTE {
            type_: kinds[at],
            pValue: if buffers[at].is_empty() { ptr::null_mut() } else { buffers[at].as_mut_ptr().cast() },
            ulValueLen: buffers[at].len() as CK_ULONG,
        });
        let (start, count) = (template.as_mut_ptr(), N as CK_ULONG);
        let code = match call!(self.module, C_GetAttributeValue(self.handle, object.0, start, count)) {
            Ok(()) => CKR_OK,
            Err(Failure {
                code: code @ (CKR_ATTRIBUTE_SENSITIVE | CKR_ATTRIBUTE_TYPE_INVALID | CKR_BUFFER_TOO_SMALL),
                ..
            }) => code,
            Err(failure) => return Err(failure),
        };
        let length = |at: usize| {
            let length = usize::try_from(template[at].ulValueLen).ok()?;
            let limit = if buffers[at].is_empty() { ATTRIBUTE_MAX } else { buffers[at].len() };
            (length <= limit).then_some(length)
        };
        Ok((std::array::from_fn(length), code))
    }

    /// Notes that objects of the token change, before they do; nobody starts the module over meanwhile. Objects that end
    /// with their session are none of it.
    fn changes(&self, templates: &[&[Attribute]]) {
        let stays =
            |attribute: &Attribute| attribute.kind == CKA_TOKEN && *attribute.value == [u8::from(true)];
        if templates.iter().any(|template| template.iter().any(stays)) {
            self.module.changed.store(true, Ordering::SeqCst);
        }
    }

    /// Makes a secret key.
    pub fn generate_key(&self, mechanism: &Mechanism, key: &[Attribute]) -> Result<Object, Failure> {
        self.changes(&[key]);
        let mut key = template(key);
        let mut handle: CK_OBJECT_HANDLE = 0;
        let length = key.len() as CK_ULONG;
        let kind = mechanism.kind;
        mechanism.with(|mechanism| {
            call!(
                inside::Call::to_make_a_key(kind),
                self.module,
                C_GenerateKey(self.handle, mechanism, key.as_mut_ptr(), length, &raw mut handle)
            )
        })?;
        Ok(Object(handle))
    }

    /// Makes a key pair; the result is its public and its private half.
    pub fn generate_pair(
        &self,
        mechanism: &Mechanism,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(Object, Object), Failure> {
        self.changes(&[public, private]);
        let (mut public, mut private) = (template(public), template(private));
        let (mut public_handle, mut private_handle): (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE) = (0, 0);
        let (publics, privates) = (public.len() as CK_ULONG, private.len() as CK_ULONG);
        let kind = mechanism.kind;
        mechanism.with(|mechanism| {
            call!(
                inside::Call::to_make_a_key(kind),
                self.module,
                C_GenerateKeyPair(
                    self.handle,
                    mechanism,
                    public.as_mut_ptr(),
                    publics,
                    private.as_mut_ptr(),
                    privates,
                    &raw mut public_handle,
                    &raw mut private_handle,
                )
            )
        })?;
        Ok((Object(public_handle), Object(private_handle)))
    }

    /// Signs in one go.
    pub fn sign(&self, mechanism: &Mechanism, key: Object, data: &[u8]) -> Result<Vec<u8>, Failure> {
        mechanism.with(|mechanism| call!(self.module, C_SignInit(self.handle, mechanism, key.0)))?;
        self.sign_begun(mechanism.kind, data)
    }

    /// Signs by ML-DSA or SLH-DSA in a context (PKCS #11 3.2, 6.67.5 and 6.68.5), with fresh randomness where the module has
    /// it, as without parameters.
    pub fn sign_in_context(
        &self,
        kind: CK_MECHANISM_TYPE,
        context: &[u8],
        key: Object,
        data: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let mut parameter = CK_SIGN_ADDITIONAL_CONTEXT {
            hedgeVariant: CKH_HEDGE_PREFERRED,
            pContext: context.as_ptr().cast_mut(),
            ulContextLen: context.len() as CK_ULONG,
        };
        let mut mechanism = CK_MECHANISM {
            mechanism: kind,
            pParameter: (&raw mut parameter).cast::<c_void>(),
            ulParameterLen: size_of::<CK_SIGN_ADDITIONAL_CONTEXT>() as CK_ULONG,
        };
        call!(self.module, C_SignInit(self.handle, &raw mut mechanism, key.0))?;
        self.sign_begun(kind, data)
    }

    /// Begins a signature of [`Self::sign_once`].
    pub fn begin_to_sign(&self, mechanism: &Mechanism, key: Object) -> Result<(), Failure> {
        mechanism.with(|mechanism| call!(self.module, C_SignInit(self.handle, mechanism, key.0)))
    }

    /// Makes a signature that was begun by one call, which has room for any: some modules may have spent a part of the key
    /// by the time they find that there is not enough.
    pub fn sign_once(&self, kind: CK_MECHANISM_TYPE, data: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut signature = vec![0_u8; STATEFUL_SIGNATURE_MAX];
        let mut length = signature.len() as CK_ULONG;
        let (data, data_length) = (data.as_ptr().cast_mut(), data.len() as CK_ULONG);
        call!(
            inside::Call::to_sign(kind),
            self.module,
            C_Sign(self.handle, data, data_length, signature.as_mut_ptr(), &raw mut length)
        )?;
        signature.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(signature)
    }

    /// Makes the signature that was begun.
    fn sign_begun(&self, kind: CK_MECHANISM_TYPE, data: &[u8]) -> Result<Vec<u8>, Failure> {
        let (data, data_length) = (data.as_ptr().cast_mut(), data.len() as CK_ULONG);
        let into = |signature: &mut [u8]| {
            let mut length = signature.len() as CK_ULONG;
            call!(
                inside::Call::to_sign(kind),
                self.module,
                C_Sign(self.handle, data, data_length, signature.as_mut_ptr(), &raw mut length)
            )?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            signature
                .get(..length)
                .map(<[u8]>::to_vec)
                .ok_or(Failure { code: CKR_GENERAL_ERROR, function: "C_Sign" })
        };
        match into(&mut [0; SIGNATURE_MAX]) {
            // The operation goes on until there is room enough.
            Err(failure) if failure.code == CKR_BUFFER_TOO_SMALL => into(&mut vec![0; LONG_SIGNATURE_MAX]),
            signed => signed,
        }
    }

    /// Signs, and asks first how long the signature will be. Returns what was said, too.
    pub fn sign_asking(
        &self,
        mechanism: &Mechanism,
        key: Object,
        data: &[u8],
    ) -> Result<(usize, Vec<u8>), Failure> {
        mechanism.with(|mechanism| call!(self.module, C_SignInit(self.handle, mechanism, key.0)))?;
        let (data, data_length) = (data.as_ptr().cast_mut(), data.len() as CK_ULONG);
        let mut said: CK_ULONG = 0;
        call!(self.module, C_Sign(self.handle, data, data_length, ptr::null_mut(), &raw mut said))?;
        let mut signature = vec![0_u8; SIGNATURE_MAX];
        let mut length = signature.len() as CK_ULONG;
        call!(self.module, C_Sign(self.handle, data, data_length, signature.as_mut_ptr(), &raw mut length))?;
        signature.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok((usize::try_from(said).unwrap_or(usize::MAX), signature))
    }

    /// Signs a message that is given in parts. A failure may leave the session of no more use.
    pub fn sign_parts(
        &self,
        mechanism: &Mechanism,
        key: Object,
        parts: &[&[u8]],
    ) -> Result<Vec<u8>, Failure> {
        mechanism.with(|mechanism| call!(self.module, C_SignInit(self.handle, mechanism, key.0)))?;
        for part in parts {
            let (part, length) = (part.as_ptr().cast_mut(), part.len() as CK_ULONG);
            call!(self.module, C_SignUpdate(self.handle, part, length))?;
        }
        let mut signature = vec![0_u8; SIGNATURE_MAX];
        let mut length = signature.len() as CK_ULONG;
        call!(self.module, C_SignFinal(self.handle, signature.as_mut_ptr(), &raw mut length))?;
        signature.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(signature)
    }

    /// How long an attribute is, as the module says when it is asked for that alone.
    pub fn attribute_size(&self, object: Object, kind: CK_ATTRIBUTE_TYPE) -> Result<Option<usize>, Failure> {
        let (sizes, _) = self.read(object, &[kind], &mut [&mut []])?;
        Ok(sizes[0])
    }

    /// Removes an object from the token.
    pub fn destroy(&self, object: Object) -> Result<(), Failure> {
        self.module.changed.store(true, Ordering::SeqCst);
        self.end(object)
    }

    /// Removes an object that would end with the session.
    pub fn end(&self, object: Object) -> Result<(), Failure> {
        call!(self.module, C_DestroyObject(self.handle, object.0))
    }

    /// Puts an object on the token.
    pub fn create(&self, attributes: &[Attribute]) -> Result<Object, Failure> {
        self.changes(&[attributes]);
        let mut template = template(attributes);
        let mut handle: CK_OBJECT_HANDLE = 0;
        let length = template.len() as CK_ULONG;
        call!(self.module, C_CreateObject(self.handle, template.as_mut_ptr(), length, &raw mut handle))?;
        Ok(Object(handle))
    }

    /// Changes attributes of an object.
    pub fn set(&self, object: Object, attributes: &[Attribute]) -> Result<(), Failure> {
        self.module.changed.store(true, Ordering::SeqCst);
        let mut template = template(attributes);
        let length = template.len() as CK_ULONG;
        call!(self.module, C_SetAttributeValue(self.handle, object.0, template.as_mut_ptr(), length))
    }

    /// Random bytes.
    pub fn random(&self, count: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![0; count];
        call!(self.module, C_GenerateRandom(self.handle, bytes.as_mut_ptr(), count as CK_ULONG))?;
        Ok(bytes)
    }
}

thread_local! {
    /// Id of the request that the thread works on; 0 for none.
    static WORKING_ON: Cell<u64> = const { Cell::new(0) };
}

/// The request that the calling thread works on; 0 for none.
pub fn work() -> u64 {
    WORKING_ON.get()
}

/// Where the last words go, and the frame that they are, up to the id.
static LAST_WORDS: OnceLock<(std::os::fd::RawFd, [u8; 22])> = OnceLock::new();

/// What a thread works on that starts the module over: no request has this id, and none is to blame for a crash.
pub const NO_REQUEST: u64 = u64::MAX;

/// Notes which request the calling thread works on, for [`on_crash_tell`]; 0 for none. Returns the one before.
pub fn working_on(id: u64) -> u64 {
    WORKING_ON.replace(id)
}

/// Has a crash written to `socket` before it ends the process: `frame`, whose last eight bytes become the id of the
/// request that the crashing thread was working on. A thread of the module's own says nothing.
///
/// # Panics
/// When it was called before, or the frame has another length.
pub fn on_crash_tell(socket: &std::os::unix::net::UnixStream, frame: &[u8]) {
    use std::os::fd::AsRawFd;
    let frame = frame.try_into().expect("a frame of this length");
    LAST_WORDS.set((socket.as_raw_fd(), frame)).expect("called once");
    // SAFETY: the structure is plain data, and all zero is no flags and an empty mask. The handler does nothing but what
    // signal-safety(7) allows. Threads of the standard library have a stack for it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = last_words as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_ONSTACK;
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
    }
}

extern "C" fn last_words(signal: libc::c_int) {
    say_last_words();
    // Once more, and without us: the process ends as it would have. A signal that somebody sent does not come again by
    // itself.
    // SAFETY: takes numbers.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Tells the parent which request the calling thread is working on, see [`on_crash_tell`]. Does nothing but what
/// signal-safety(7) allows.
pub fn say_last_words() {
    let id = WORKING_ON.get();
    if id != 0
        && let Some((socket, mut frame)) = LAST_WORDS.get().copied()
    {
        let at = frame.len() - 8;
        frame[at..].copy_from_slice(&id.to_le_bytes());
        // SAFETY: the descriptor stays open as long as the process, and the buffer is as long as is said.
        unsafe {
            libc::send(socket, frame.as_ptr().cast(), frame.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        };
    }
}

/// Has the allocator give back to the system what it keeps of memory that is free.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Ends the process without exit handlers: a module's own would run beside threads that still use it.
pub fn exit(code: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// The sockets to the parent, which came as standard input and output. They get numbers that no library takes for a
/// terminal and that are closed on exec; standard input then reads nothing, and what a library prints goes nowhere.
pub fn take_sockets() -> std::io::Result<[std::os::unix::net::UnixStream; 2]> {
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};
    let main: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned()?;
    let sign: OwnedFd = std::io::stdout().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    for standard in [0, 1] {
        // SAFETY: both are open descriptors; nobody else holds an owner of a standard one.
        if unsafe { libc::dup2(null.as_raw_fd(), standard) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok([main.into(), sign.into()])
}

/// Reads what has arrived, and fails with `WouldBlock` when nothing has.
pub fn read_at_once(stream: &std::os::unix::net::UnixStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open and the buffer as long as is said.
    let length = unsafe {
        libc::recv(stream.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
    };
    usize::try_from(length).map_err(|_| std::io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_of_any_kind_is_not_part_of_a_text() {
        assert_eq!(trimmed(b"my token   \0\0"), "my token");
        assert_eq!(trimmed(b"\0\0\0"), "");
        assert_eq!(trimmed(b"\xff ok"), "\u{fffd} ok");
    }

    #[test]
    fn a_missing_library_says_what_the_linker_said() {
        let Err(LoadFailure::Link(text)) = Module::load("/nowhere/lib.so", None) else { panic!("it loaded") };
        assert!(text.contains("/nowhere/lib.so"), "{text}");
    }
}
