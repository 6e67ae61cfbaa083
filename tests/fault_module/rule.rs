//! Rules: which calls go wrong, and how. One a line:
//!
//! ```text
//! C_Sign after=10 times=1 return=CKR_GENERAL_ERROR
//! ```
//!
//! A function that the module wraps, or `*` for all that the action suits; how many calls pass first; how many are hit
//! (all, where nothing is said); and an [`Action`].

use std::time::Duration;

use cryptoki_sys::*;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `return=CKR_…` or `return=0x…`: the answer, without the call. A signature that is under way ends with it, as the
    /// standard says of failures.
    Return(CK_RV),
    /// `delay=MILLISECONDS`, then the call.
    Delay(Duration),
    /// Never returns.
    Hang,
    /// A write to where no memory is.
    Segv,
    /// `segv-at=BYTES`: the same, where so many bytes are to be signed.
    SegvAt(CK_ULONG),
    /// `segv-beside-at=BYTES`: the same by a thread of the module's own, while the call waits for it.
    SegvBesideAt(CK_ULONG),
    /// `abort()`.
    Abort,
    /// `leak=BYTES`, then the call.
    Leak(usize),
    /// One bit of the answer is wrong.
    Flip,
    /// Logs out before the call.
    Logout,
    /// Closes all sessions before the call.
    CloseSessions,
    /// Says half the size when asked for it.
    SizeLie,
    /// Asks for an object that does not exist.
    Stale,
    /// `spoilt=0x…`: the answer for objects whose label begins with `spoilt`, and for no others.
    Spoilt(CK_RV),
    /// There is no token for as long as the rule is there.
    Gone,
    /// There is no room on the token.
    Full,
}

/// Functions that the module wraps: those that the token-host calls.
pub const FUNCTIONS: [&str; 31] = [
    "C_Initialize",
    "C_Finalize",
    "C_GetInfo",
    "C_GetSlotList",
    "C_GetTokenInfo",
    "C_GetMechanismList",
    "C_GetMechanismInfo",
    "C_OpenSession",
    "C_CloseSession",
    "C_GetSessionInfo",
    "C_Login",
    "C_FindObjectsInit",
    "C_FindObjects",
    "C_FindObjectsFinal",
    "C_GetAttributeValue",
    "C_SetAttributeValue",
    "C_CreateObject",
    "C_DestroyObject",
    "C_GenerateKey",
    "C_GenerateKeyPair",
    "C_SignInit",
    "C_Sign",
    "C_SignUpdate",
    "C_SignFinal",
    "C_GenerateRandom",
    "C_EncryptInit",
    "C_Encrypt",
    "C_DecryptInit",
    "C_Decrypt",
    "C_WrapKey",
    "C_UnwrapKey",
];

impl Action {
    /// Whether the action makes sense for a function.
    pub fn suits(self, function: &str) -> bool {
        let before_a_session =
            || FUNCTIONS.iter().take_while(|name| **name != "C_CloseSession").any(|name| *name == function);
        match self {
            Self::Return(_) | Self::Delay(_) | Self::Hang | Self::Segv | Self::Abort | Self::Leak(_) => true,
            Self::Flip | Self::SegvAt(_) | Self::SegvBesideAt(_) => function == "C_Sign",
            Self::Logout | Self::CloseSessions => !before_a_session(),
            Self::SizeLie => {
                matches!(function, "C_GetSlotList" | "C_GetMechanismList" | "C_GetAttributeValue" | "C_Sign")
            }
            Self::Stale => matches!(
                function,
                "C_GetAttributeValue" | "C_SetAttributeValue" | "C_DestroyObject" | "C_SignInit"
            ),
            Self::Spoilt(_) => function == "C_GetAttributeValue",
            Self::Gone => !matches!(function, "C_Initialize" | "C_Finalize" | "C_GetInfo"),
            Self::Full => matches!(function, "C_GenerateKey" | "C_GenerateKeyPair" | "C_CreateObject"),
        }
    }

    fn parse(word: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("not a number: {text}"));
        Ok(match word.split_once('=') {
            Some(("return", text)) => Self::Return(code(text)?),
            Some(("delay", text)) => Self::Delay(Duration::from_millis(number(text)?)),
            Some(("spoilt", text)) => Self::Spoilt(code(text)?),
            Some(("segv-at", text)) => Self::SegvAt(number(text)?),
            Some(("segv-beside-at", text)) => Self::SegvBesideAt(number(text)?),
            Some(("leak", text)) => {
                Self::Leak(usize::try_from(number(text)?).map_err(|error| error.to_string())?)
            }
            Some(_) => return Err(format!("no such action: {word}")),
            None => match word {
                "hang" => Self::Hang,
                "segv" => Self::Segv,
                "abort" => Self::Abort,
                "flip" => Self::Flip,
                "logout" => Self::Logout,
                "close-sessions" => Self::CloseSessions,
                "size-lie" => Self::SizeLie,
                "stale" => Self::Stale,
                "gone" => Self::Gone,
                "full" => Self::Full,
                _ => return Err(format!("no such action: {word}")),
            },
        })
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Number of its line, from one: the name of its counters.
    pub number: usize,
    function: String,
    /// Calls that pass first.
    pub after: u64,
    /// Calls that are hit; `None` for all.
    pub times: Option<u64>,
    /// What goes wrong with them.
    pub action: Action,
}

impl Rule {
    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(number: usize, line: &str) -> Result<Self, String> {
        let wrong = |why: String| format!("rule {number} ({line}): {why}");
        let mut words: Vec<_> = line.split_whitespace().collect();
        let action = words.pop().ok_or_else(|| wrong("empty".into()))?;
        let action = Action::parse(action).map_err(wrong)?;
        let (function, limits) = words.split_first().ok_or_else(|| wrong("no function".into()))?;
        let suits = |name: &str| FUNCTIONS.contains(&name) && action.suits(name);
        if *function != "*" && !suits(function) {
            return Err(wrong(format!("nothing that can be done to {function}")));
        }
        let mut rule = Self { number, function: (*function).to_owned(), after: 0, times: None, action };
        for limit in limits {
            let (name, count) = limit.split_once('=').unwrap_or((limit, ""));
            let count = count.parse().map_err(|_| wrong(format!("not a number: {limit}")))?;
            match name {
                "after" => rule.after = count,
                "times" => rule.times = Some(count),
                _ => return Err(wrong(format!("no such limit: {name}"))),
            }
        }
        Ok(rule)
    }

    /// Every rule of a file; empty lines count as lines.
    ///
    /// # Errors
    /// What is wrong with the first bad one.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, String> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines.map(|(at, line)| Self::parse(at + 1, line)).collect()
    }

    /// Whether calls of a function are a matter for this rule.
    pub fn covers(&self, function: &str) -> bool {
        (self.function == "*" || self.function == function) && self.action.suits(function)
    }
}

macro_rules! codes {
    ($($name:ident)+) => {
        &[$((stringify!($name), $name)),+]
    };
}

/// Those that rules call by name; others are given in hexadecimal.
#[rustfmt::skip]
static CODES: &[(&str, CK_RV)] = codes! {
    CKR_HOST_MEMORY CKR_GENERAL_ERROR CKR_FUNCTION_FAILED CKR_ARGUMENTS_BAD CKR_BUFFER_TOO_SMALL
    CKR_DEVICE_ERROR CKR_DEVICE_MEMORY CKR_DEVICE_REMOVED CKR_TOKEN_NOT_PRESENT CKR_CRYPTOKI_NOT_INITIALIZED
    CKR_SESSION_HANDLE_INVALID CKR_SESSION_CLOSED CKR_SESSION_COUNT CKR_OPERATION_ACTIVE
    CKR_OPERATION_NOT_INITIALIZED CKR_KEY_HANDLE_INVALID CKR_OBJECT_HANDLE_INVALID CKR_USER_NOT_LOGGED_IN
    CKR_PIN_INCORRECT CKR_PIN_LOCKED
};

fn code(text: &str) -> Result<CK_RV, String> {
    if let Some(digits) = text.strip_prefix("0x") {
        return CK_RV::from_str_radix(digits, 16).map_err(|_| format!("not a number: {text}"));
    }
    let known = CODES.iter().find(|(name, _)| *name == text);
    known.map(|(_, code)| *code).ok_or_else(|| format!("no such return value: {text}"))
}
