//! The wrapped functions.
#![allow(non_snake_case, reason = "the names are the standard's")]

use std::{
    ffi::c_void,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use cryptoki_sys::*;

use super::{MODULE, Module, give_up, rule::Action};

/// A handle that no token gives to an object.
const NO_OBJECT: CK_OBJECT_HANDLE = 0x7fff_fff1;
/// Room for any signature.
const SIGNATURE_MAX: usize = 64 * 1024;

/// Held for reading by whoever is inside the real module, and alone by who takes a login or sessions away from all.
///
/// A device that drops them does so between two calls. SoftHSM's own functions do not: `C_CloseAllSessions` forgets the
/// handles first, then deletes sessions that other threads sign in, and logs out last, so that a session opened meanwhile
/// looks logged in and dangles. Signatures then end in a segmentation fault, at times while another thread's `C_Login`
/// writes the token's file anew, and the token is gone for good.
static INSIDE: RwLock<()> = RwLock::new(());

fn module() -> &'static Module {
    MODULE.get().unwrap_or_else(|| give_up("called before its function list was read"))
}

/// What to do to this call.
fn decide(function: &str) -> Option<Action> {
    module().control.decide(function).unwrap_or_else(|error| give_up(&error))
}

/// What happens before or instead of a call; `Some` is the answer.
fn strike(action: Option<Action>, session: Option<CK_SESSION_HANDLE>) -> Option<CK_RV> {
    match action? {
        Action::Return(code) => return Some(code),
        Action::Gone => return Some(CKR_DEVICE_REMOVED),
        Action::Full => return Some(CKR_DEVICE_MEMORY),
        Action::Delay(time) => std::thread::sleep(time),
        Action::Hang => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        Action::Segv => crash(),
        Action::Abort => std::process::abort(),
        // Written to, or the system would not give the memory at all.
        Action::Leak(bytes) => std::mem::forget(std::hint::black_box(vec![1_u8; bytes])),
        Action::Logout => session.into_iter().for_each(log_out),
        Action::CloseSessions => session.into_iter().for_each(close_all),
        Action::Flip
        | Action::SizeLie
        | Action::Stale
        | Action::SegvAt(_)
        | Action::SegvBesideAt(_)
        | Action::Spoilt(_) => {}
    }
    None
}

fn crash() {
    // SAFETY: none. A real bad write, because the standard library survives a signal that is merely sent.
    unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
}

fn log_out(session: CK_SESSION_HANDLE) {
    let _alone = INSIDE.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(log_out) = module().real.C_Logout {
        // SAFETY: takes a number.
        unsafe { log_out(session) };
    }
}

fn close_all(session: CK_SESSION_HANDLE) {
    let _alone = INSIDE.write().unwrap_or_else(PoisonError::into_inner);
    let mut info = CK_SESSION_INFO::default();
    if let (Some(look), Some(close)) = (module().real.C_GetSessionInfo, module().real.C_CloseAllSessions) {
        // SAFETY: `info` lives until the call returns; the other takes a number.
        unsafe {
            if look(session, &raw mut info) == CKR_OK {
                close(info.slotID);
            }
        }
    }
}

/// The real module's function of this name, with these arguments.
macro_rules! real {
    ($function:ident($($argument:expr),* $(,)?)) => {
        match module().real.$function {
            Some(function) => {
                let _inside = INSIDE.read().unwrap_or_else(PoisonError::into_inner);
                // SAFETY: what our caller says of the arguments is passed on.
                unsafe { function($($argument),*) }
            }
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    };
}

/// Functions that take no special care. `of` names the argument that is a session, `with` the one that is an object.
macro_rules! plain {
    ($($function:ident($($argument:ident: $type:ty),*) $(of $session:ident)? $(with $object:ident)?;)+) => {
        $(unsafe extern "C" fn $function($($argument: $type),*) -> CK_RV {
            let action = decide(stringify!($function));
            #[allow(unused_mut, unused_assignments, reason = "not every function has a session")]
            let mut owner = None;
            $(owner = Some($session);)?
            if let Some(code) = strike(action, owner) {
                return code;
            }
            $(let $object = if action == Some(Action::Stale) { NO_OBJECT } else { $object };)?
            real!($function($($argument),*))
        })+

        /// Puts the wrapped functions in place of the real ones.
        pub fn wrap(list: &mut CK_FUNCTION_LIST) {
            $(list.$function = Some($function);)+
            list.C_GetSlotList = Some(C_GetSlotList);
            list.C_GetMechanismList = Some(C_GetMechanismList);
            list.C_GetAttributeValue = Some(C_GetAttributeValue);
            list.C_Sign = Some(C_Sign);
            list.C_Encrypt = Some(C_Encrypt);
            list.C_Decrypt = Some(C_Decrypt);
        }
    };
}

plain! {
    C_Initialize(arguments: *mut c_void);
    C_Finalize(reserved: *mut c_void);
    C_GetInfo(info: *mut CK_INFO);
    C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO);
    C_GetMechanismInfo(slot: CK_SLOT_ID, mechanism: CK_MECHANISM_TYPE, info: *mut CK_MECHANISM_INFO);
    C_OpenSession(
        slot: CK_SLOT_ID,
        flags: CK_FLAGS,
        application: *mut c_void,
        notify: CK_NOTIFY,
        session: *mut CK_SESSION_HANDLE
    );
    C_CloseSession(session: CK_SESSION_HANDLE) of session;
    C_GetSessionInfo(session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO) of session;
    C_Login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: *mut CK_UTF8CHAR, length: CK_ULONG) of session;
    C_FindObjectsInit(session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG) of session;
    C_FindObjects(
        session: CK_SESSION_HANDLE,
        objects: *mut CK_OBJECT_HANDLE,
        room: CK_ULONG,
        count: *mut CK_ULONG
    ) of session;
    C_FindObjectsFinal(session: CK_SESSION_HANDLE) of session;
    C_SetAttributeValue(
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG
    ) of session with object;
    C_CreateObject(
        session: CK_SESSION_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        object: *mut CK_OBJECT_HANDLE
    ) of session;
    C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) of session with object;
    C_GenerateKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE
    ) of session;
    C_GenerateKeyPair(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        public_template: *mut CK_ATTRIBUTE,
        public_count: CK_ULONG,
        private_template: *mut CK_ATTRIBUTE,
        private_count: CK_ULONG,
        public: *mut CK_OBJECT_HANDLE,
        private: *mut CK_OBJECT_HANDLE
    ) of session;
    C_SignInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) of session with key;
    C_SignUpdate(session: CK_SESSION_HANDLE, part: *mut CK_BYTE, length: CK_ULONG) of session;
    C_SignFinal(session: CK_SESSION_HANDLE, signature: *mut CK_BYTE, length: *mut CK_ULONG) of session;
    C_GenerateRandom(session: CK_SESSION_HANDLE, bytes: *mut CK_BYTE, length: CK_ULONG) of session;
    C_EncryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) of session;
    C_DecryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) of session;
    C_WrapKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        by: CK_OBJECT_HANDLE,
        key: CK_OBJECT_HANDLE,
        wrapped: *mut CK_BYTE,
        length: *mut CK_ULONG
    ) of session;
    C_UnwrapKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        by: CK_OBJECT_HANDLE,
        wrapped: *mut CK_BYTE,
        length: CK_ULONG,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE
    ) of session;
}

/// Halves the answer to a question for a size.
///
/// # Safety
/// `size` is writable.
unsafe fn lie(action: Option<Action>, asked: bool, code: CK_RV, size: *mut CK_ULONG) {
    if asked && code == CKR_OK && action == Some(Action::SizeLie) {
        // SAFETY: the caller's word.
        unsafe { *size /= 2 };
    }
}

unsafe extern "C" fn C_GetSlotList(present: CK_BBOOL, slots: *mut CK_SLOT_ID, count: *mut CK_ULONG) -> CK_RV {
    let action = decide("C_GetSlotList");
    if action == Some(Action::Gone) {
        // SAFETY: the standard obliges the caller to have it point somewhere.
        unsafe { count.write(0) };
        return CKR_OK;
    }
    if let Some(code) = strike(action, None) {
        return code;
    }
    let code = real!(C_GetSlotList(present, slots, count));
    // SAFETY: as above.
    unsafe { lie(action, slots.is_null(), code, count) };
    code
}

unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    let action = decide("C_GetMechanismList");
    if let Some(code) = strike(action, None) {
        return code;
    }
    let code = real!(C_GetMechanismList(slot, list, count));
    // SAFETY: the standard obliges the caller to have it point somewhere.
    unsafe { lie(action, list.is_null(), code, count) };
    code
}

/// Whether an object's label begins with `spoilt`.
fn is_spoilt(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> bool {
    let mut label = [0_u8; 256];
    let mut row = CK_ATTRIBUTE {
        type_: CKA_LABEL,
        pValue: label.as_mut_ptr().cast(),
        ulValueLen: label.len() as CK_ULONG,
    };
    real!(C_GetAttributeValue(session, object, &raw mut row, 1)) == CKR_OK && label.starts_with(b"spoilt")
}

unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let action = decide("C_GetAttributeValue");
    if let Some(code) = strike(action, Some(session)) {
        return code;
    }
    if let Some(Action::Spoilt(code)) = action
        && is_spoilt(session, object)
    {
        return code;
    }
    let object = if action == Some(Action::Stale) { NO_OBJECT } else { object };
    let code = real!(C_GetAttributeValue(session, object, template, count));
    if !template.is_null() {
        // SAFETY: the caller's template has that many rows.
        let rows = unsafe { std::slice::from_raw_parts_mut(template, usize::try_from(count).unwrap_or(0)) };
        for row in rows {
            let asked = row.pValue.is_null() && row.ulValueLen != CK_UNAVAILABLE_INFORMATION;
            // SAFETY: the row is writable, like the others.
            unsafe { lie(action, asked, code, &raw mut row.ulValueLen) };
        }
    }
    code
}

unsafe extern "C" fn C_Sign(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    data_length: CK_ULONG,
    signature: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    let action = decide("C_Sign");
    if let Some(code) = strike(action, Some(session)) {
        if code != CKR_BUFFER_TOO_SMALL {
            let mut nowhere = vec![0; SIGNATURE_MAX];
            let mut room = nowhere.len() as CK_ULONG;
            let _ = real!(C_Sign(session, data, data_length, nowhere.as_mut_ptr(), &raw mut room));
        }
        return code;
    }
    if action == Some(Action::SegvAt(data_length)) {
        crash();
    }
    if action == Some(Action::SegvBesideAt(data_length)) {
        let _ = std::thread::spawn(crash).join();
    }
    let code = real!(C_Sign(session, data, data_length, signature, length));
    // SAFETY: the standard obliges the caller to have it point somewhere.
    unsafe { lie(action, signature.is_null(), code, length) };
    if action == Some(Action::Flip) && code == CKR_OK && !signature.is_null() {
        // SAFETY: after a success, so many bytes of the buffer are written.
        let written =
            unsafe { std::slice::from_raw_parts_mut(signature, usize::try_from(*length).unwrap_or(0)) };
        if let Some(last) = written.last_mut() {
            *last ^= 1;
        }
    }
    code
}

/// Functions that end an operation and write what comes of it.
macro_rules! ending {
    ($($function:ident)+) => {
        $(unsafe extern "C" fn $function(
            session: CK_SESSION_HANDLE,
            data: *mut CK_BYTE,
            data_length: CK_ULONG,
            out: *mut CK_BYTE,
            length: *mut CK_ULONG,
        ) -> CK_RV {
            if let Some(code) = strike(decide(stringify!($function)), Some(session)) {
                // The operation is over, as with a module that fails by itself.
                let mut nowhere = vec![0; usize::try_from(data_length).unwrap_or(0) + SIGNATURE_MAX];
                let mut room = nowhere.len() as CK_ULONG;
                let _ = real!($function(session, data, data_length, nowhere.as_mut_ptr(), &raw mut room));
                return code;
            }
            real!($function(session, data, data_length, out, length))
        })+
    };
}

ending! { C_Encrypt C_Decrypt }
