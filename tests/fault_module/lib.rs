//! A PKCS#11 module for tests: it passes every call to a real one, and has calls go wrong as a file says.
//!
//! `FAULT_LIBRARY` is the path of the real module, `FAULT_CONTROL` that of the file with the rules (`rule.rs`), which is
//! read anew when it changes.
#![allow(unsafe_code, reason = "both of its sides are C interfaces")]

mod control;
mod rule;
mod wrap;

use std::{path::PathBuf, ptr, sync::OnceLock};

use control::Control;
use cryptoki_sys::*;

/// The real module and what is wrapped around it.
struct Module {
    real: CK_FUNCTION_LIST,
    wrapped: Box<CK_FUNCTION_LIST>,
    control: Control,
}

static MODULE: OnceLock<Module> = OnceLock::new();

impl Module {
    fn load() -> Result<Self, String> {
        let variable = |name| std::env::var_os(name).ok_or_else(|| format!("{name} is not set"));
        let path = PathBuf::from(variable("FAULT_LIBRARY")?);
        let control = Control::new(variable("FAULT_CONTROL")?.into());
        // SAFETY: runs the initialisers of the module under test, which is what was asked for.
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
        Ok(Self { real, wrapped, control })
    }
}

/// The functions of the real module, some of them wrapped.
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

/// For mistakes in a test: whatever the module did instead would look like the fault that was asked for.
fn give_up(why: &str) -> ! {
    eprintln!("fault module: {why}");
    std::process::exit(70)
}
