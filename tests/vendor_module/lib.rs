//! A PKCS#11 module for tests that answers like one for a Securosys Primus HSM, as far as its public sources say how:
//! SoftHSM, and keys of BIP-32 and SLIP-10 trees on top, and attestation by the HSM itself; and mechanisms of the standard
//! that SoftHSM does not have: Camellia, LMS and XMSS.
//!
//! `VENDOR_LIBRARY` is the path of SoftHSM, `VENDOR_STORE` that of a file for what SoftHSM has no place for. What
//! `VENDOR_REFUSES` names is refused: `session-objects`, `import`, or `rks` (the root key store is not initialised).
//! `VENDOR_PASSES_OVER=rks` makes it pass over the vendor's attribute of an attestation key, and `VENDOR_DIES=rks` makes it die
//! once when it has made one. `VENDOR_ATTEST_ROOM` is the least room, in bytes, that a document is written into. `VENDOR_SEED`, in hexadecimal,
//! takes the place of random seeds.
//!
//! It is no HSM: the private keys of its trees, and other keys' values, are in that file and beside it, in plain.
#![allow(unsafe_code, reason = "both of its sides are C interfaces")]

mod camellia;
mod curve;
mod keys;
mod lms;
mod numbers;
mod rks;
mod schnorr;
mod secret;
mod stateful;
mod store;
mod template;
mod tree;
mod wrap;
mod xmss;

use std::{path::PathBuf, ptr, sync::OnceLock};

use cryptoki_sys::*;

use store::Store;

/// SoftHSM and what is wrapped around it.
struct Module {
    real: CK_FUNCTION_LIST,
    wrapped: Box<CK_FUNCTION_LIST>,
    store: Store,
    /// Objects that end with their session are refused.
    no_session_objects: bool,
    /// Keys from elsewhere are refused.
    no_import: bool,
    /// Nobody set up the root key store.
    no_rks: bool,
    /// Attestation keys come out as ordinary ones.
    passes_over_rks: bool,
    /// The first attestation key is the end of the process.
    dies_of_rks: bool,
    /// Least room for a document.
    attest_room: CK_ULONG,
    /// What masters are made from.
    seed: Option<Vec<u8>>,
}

static MODULE: OnceLock<Module> = OnceLock::new();

impl Module {
    fn load() -> Result<Self, String> {
        let variable = |name| std::env::var_os(name).ok_or_else(|| format!("{name} is not set"));
        let path = PathBuf::from(variable("VENDOR_LIBRARY")?);
        let store = Store::new(variable("VENDOR_STORE")?.into());
        let refuses = |refused| std::env::var_os("VENDOR_REFUSES").is_some_and(|what| what == refused);
        let (no_session_objects, no_import) = (refuses("session-objects"), refuses("import"));
        let no_rks = refuses("rks");
        let is_rks = |name| std::env::var_os(name).is_some_and(|what| what == "rks");
        let (passes_over_rks, dies_of_rks) = (is_rks("VENDOR_PASSES_OVER"), is_rks("VENDOR_DIES"));
        let room = std::env::var("VENDOR_ATTEST_ROOM").unwrap_or_else(|_| "0".into());
        let attest_room = room.parse().map_err(|error| format!("VENDOR_ATTEST_ROOM: {error}"))?;
        let seed = std::env::var("VENDOR_SEED").ok();
        let seed = seed.map(hex::decode).transpose().map_err(|error| format!("VENDOR_SEED: {error}"))?;
        // SAFETY: runs the initialisers of SoftHSM, which is what was asked for.
        let library = unsafe { libloading::Library::new(&path) }.map_err(|error| error.to_string())?;
        type GetFunctionList = unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV;
        let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
        // SAFETY: the standard gives this type to this symbol; the argument points to a writable pointer.
        let code = unsafe {
            let get = library.get::<GetFunctionList>(b"C_GetFunctionList\0").map_err(|e| e.to_string())?;
            get(&raw mut list)
        };
        if code != CKR_OK || list.is_null() {
            return Err(format!("{}: C_GetFunctionList answers {code:#x}", path.display()));
        }
        // Never unloaded: its functions are called until the process ends.
        std::mem::forget(library);
        // SAFETY: not null, and the library stays.
        let real = unsafe { *list };
        let mut wrapped = Box::new(real);
        wrap::wrap(&mut wrapped);
        Ok(Self {
            real,
            wrapped,
            store,
            no_session_objects,
            no_import,
            no_rks,
            passes_over_rks,
            dies_of_rks,
            attest_room,
            seed,
        })
    }
}

/// The functions of SoftHSM, some of them wrapped.
///
/// # Safety
/// `list` points to a writable pointer, as the standard says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    let module = MODULE.get_or_init(|| Module::load().unwrap_or_else(|error| give_up(&error)));
    // SAFETY: the caller's word. Nobody writes to the list, although the type would allow it.
    unsafe { list.write(ptr::from_ref(&*module.wrapped).cast_mut()) };
    CKR_OK
}

fn module() -> &'static Module {
    MODULE.get().unwrap_or_else(|| give_up("called before its function list was read"))
}

/// For mistakes in a test: whatever the module did instead would look like an answer.
fn give_up(why: &str) -> ! {
    eprintln!("vendor module: {why}");
    std::process::exit(70)
}
