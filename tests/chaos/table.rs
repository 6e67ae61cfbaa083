//! The faults that are played, and what callers may notice of each. Data.

/// How long a fault is there.
#[derive(Clone, Copy)]
pub enum Lasts {
    /// Each rule comes true once.
    Once,
    /// Each rule comes true three times, with calls in between that pass: more than one process is hit, and none
    /// that repeats a call is hit again by the same fault.
    Spread,
    /// For so many milliseconds, every call.
    Millis(u64),
}
use Lasts::{Millis, Once, Spread};

/// What callers of the gateways may notice. Objects of the Kubernetes API wait instead: a key is Ready and a request is
/// signed in the end, unless the token signs wrongly again and again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Nothing but the time that it takes.
    NoticeNothing,
    /// Errors while the fault lasts and until it is repaired: there is no other way to a signature.
    GetErrorsMeanwhile,
}
use Callers::{GetErrorsMeanwhile, NoticeNothing};

/// A fault.
pub struct Fault {
    pub name: &'static str,
    /// Of the fault module, without the limits that follow from `lasts`.
    pub rules: &'static [&'static str],
    pub lasts: Lasts,
    pub callers: Callers,
    /// Whether it is played by `make test`, too.
    pub short: bool,
}

const fn one(name: &'static str, rules: &'static [&'static str]) -> Fault {
    Fault { name, rules, lasts: Once, callers: NoticeNothing, short: false }
}

const fn some(name: &'static str, rules: &'static [&'static str]) -> Fault {
    Fault { lasts: Spread, ..one(name, rules) }
}

/// One that lasts, for less time than callers wait.
const fn borne(name: &'static str, time: u64, rules: &'static [&'static str]) -> Fault {
    Fault { lasts: Millis(time), ..one(name, rules) }
}

/// One that lasts and gives callers no chance: their own call is what the process dies of, or the answer is wrong each
/// time.
const fn fatal(name: &'static str, time: u64, rules: &'static [&'static str]) -> Fault {
    Fault { callers: GetErrorsMeanwhile, ..borne(name, time, rules) }
}

const fn short(fault: Fault) -> Fault {
    Fault { short: true, ..fault }
}

/// Every fault, in the order in which they are played.
pub const FAULTS: &[Fault] = &[
    // A signature that is answered with an error now and then.
    short(some("sign-general-error", &["C_Sign return=CKR_GENERAL_ERROR"])),
    some("sign-function-failed", &["C_Sign return=CKR_FUNCTION_FAILED"]),
    some("sign-device-error", &["C_Sign return=CKR_DEVICE_ERROR"]),
    some("sign-device-memory", &["C_Sign return=CKR_DEVICE_MEMORY"]),
    some("sign-host-memory", &["C_Sign return=CKR_HOST_MEMORY"]),
    some("sign-device-removed", &["C_Sign return=CKR_DEVICE_REMOVED"]),
    some("sign-token-not-present", &["C_Sign return=CKR_TOKEN_NOT_PRESENT"]),
    some("sign-session-handle-invalid", &["C_Sign return=CKR_SESSION_HANDLE_INVALID"]),
    some("sign-session-closed", &["C_Sign return=CKR_SESSION_CLOSED"]),
    some("sign-operation-not-initialized", &["C_Sign return=CKR_OPERATION_NOT_INITIALIZED"]),
    some("sign-buffer-too-small", &["C_Sign return=CKR_BUFFER_TOO_SMALL"]),
    some("sign-user-not-logged-in", &["C_Sign return=CKR_USER_NOT_LOGGED_IN"]),
    some("sign-vendor-defined", &["C_Sign return=0x80000123"]),
    some("signinit-general-error", &["C_SignInit return=CKR_GENERAL_ERROR"]),
    some("signinit-operation-active", &["C_SignInit return=CKR_OPERATION_ACTIVE"]),
    some("signinit-key-handle-invalid", &["C_SignInit return=CKR_KEY_HANDLE_INVALID"]),
    some("signinit-object-handle-invalid", &["C_SignInit return=CKR_OBJECT_HANDLE_INVALID"]),
    some("signinit-user-not-logged-in", &["C_SignInit return=CKR_USER_NOT_LOGGED_IN"]),
    some("signinit-not-initialized", &["C_SignInit return=CKR_CRYPTOKI_NOT_INITIALIZED"]),
    some("signinit-device-memory", &["C_SignInit return=CKR_DEVICE_MEMORY"]),
    // What is lost.
    some("lost-login", &["C_SignInit logout"]),
    some("lost-sessions", &["C_SignInit close-sessions"]),
    short(some("stale-handles", &["C_SignInit stale"])),
    // The process dies.
    short(some("sign-segv", &["C_Sign segv"])),
    some("sign-abort", &["C_Sign abort"]),
    some("signinit-segv", &["C_SignInit segv"]),
    // And again, before it is ready; or what repairs it goes wrong.
    one("segv-initialize-abort", &["C_Sign segv", "C_Initialize abort"]),
    one("segv-login-segv", &["C_Sign segv", "C_Login segv"]),
    one("segv-login-device-error", &["C_Sign segv", "C_Login return=CKR_DEVICE_ERROR"]),
    one("segv-opensession-general-error", &["C_Sign segv", "C_OpenSession return=CKR_GENERAL_ERROR"]),
    one("segv-find-general-error", &["C_Sign segv", "C_FindObjectsInit return=CKR_GENERAL_ERROR"]),
    one("lost-login-login-general-error", &["C_SignInit logout", "C_Login return=CKR_GENERAL_ERROR"]),
    one(
        "lost-sessions-session-count",
        &["C_SignInit close-sessions", "C_OpenSession return=CKR_SESSION_COUNT"],
    ),
    one("stale-find-segv", &["C_SignInit stale", "C_FindObjects segv"]),
    one("segv-initialize-hang", &["C_Sign segv", "C_Initialize hang"]),
    one("segv-login-hang", &["C_Sign segv", "C_Login hang"]),
    one("lost-login-login-hang", &["C_SignInit logout", "C_Login hang"]),
    // While a key is made; those who sign have nothing to do with it.
    one("generate-general-error", &["C_GenerateKeyPair return=CKR_GENERAL_ERROR"]),
    one("generate-device-error", &["C_GenerateKeyPair return=CKR_DEVICE_ERROR"]),
    one("generate-session-handle-invalid", &["C_GenerateKeyPair return=CKR_SESSION_HANDLE_INVALID"]),
    one("generate-lost-login", &["C_GenerateKeyPair logout"]),
    one("generate-lost-sessions", &["C_GenerateKeyPair close-sessions"]),
    short(one("generate-segv", &["C_GenerateKeyPair segv"])),
    one("generate-abort", &["C_GenerateKeyPair abort"]),
    one("generated-segv", &["C_GetAttributeValue segv"]),
    one("find-general-error", &["C_FindObjectsInit return=CKR_GENERAL_ERROR"]),
    one("find-device-error", &["C_FindObjects return=CKR_DEVICE_ERROR"]),
    one("find-segv", &["C_FindObjects segv"]),
    one("findfinal-general-error", &["C_FindObjectsFinal return=CKR_GENERAL_ERROR"]),
    one("find-lost-login", &["C_FindObjectsInit logout"]),
    borne("full", 1500, &["* full"]),
    // What is slow, leaks or lies.
    borne("delay", 1500, &["C_Sign delay=5"]),
    borne("leak", 1000, &["* leak=4096"]),
    borne("size-lies", 1500, &["* size-lie"]),
    // It lasts, for less than callers wait.
    borne("lasting-sign-general-error", 1500, &["C_Sign return=CKR_GENERAL_ERROR"]),
    borne("lasting-signinit-device-error", 1500, &["C_SignInit return=CKR_DEVICE_ERROR"]),
    borne("lasting-login-refused", 1500, &["C_SignInit logout", "C_Login return=CKR_DEVICE_ERROR"]),
    borne("lasting-lost-login", 1500, &["C_SignInit logout"]),
    borne("lasting-lost-sessions", 1500, &["C_SignInit close-sessions"]),
    borne("lasting-stale-handles", 1500, &["C_SignInit stale"]),
    fatal("lasting-segv", 1500, &["C_Sign segv"]),
    short(borne("token-gone", 2000, &["* gone"])),
    short(fatal("wrong-signatures", 1500, &["C_Sign flip"])),
    some("wrong-signature", &["C_Sign flip"]),
    // The module is started over, and that goes wrong.
    borne(
        "start-over-finalize-error",
        1500,
        &["C_Sign return=CKR_GENERAL_ERROR", "C_Finalize return=CKR_GENERAL_ERROR"],
    ),
    borne("start-over-finalize-segv", 1500, &["C_Sign return=CKR_GENERAL_ERROR", "C_Finalize segv"]),
    borne("start-over-finalize-hang", 1500, &["C_Sign return=CKR_GENERAL_ERROR", "C_Finalize hang"]),
    // One call that never returns, and all of them.
    one("hang-once", &["C_Sign hang"]),
    borne("hang", 2000, &["C_Sign hang"]),
];

impl Fault {
    /// Its rules for the fault module.
    pub fn lines(&self) -> Vec<String> {
        let gaps: &[&str] = match self.lasts {
            Once => &["times=1 "],
            Spread => &["times=1 ", "after=300 times=1 ", "after=600 times=1 "],
            Millis(_) => &[""],
        };
        let line = |rule: &&str| {
            let (function, action) = rule.split_once(' ').expect("a function and what goes wrong");
            gaps.iter().map(move |gap| format!("{function} {gap}{action}")).collect::<Vec<_>>()
        };
        self.rules.iter().flat_map(line).collect()
    }
}
