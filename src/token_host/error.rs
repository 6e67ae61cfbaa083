//! Return values of PKCS#11 in words: one table.

use cryptoki_sys::*;

use super::raw::Failure;
use crate::hsm::protocol::{HsmError, Kind};

struct Row {
    code: CK_RV,
    name: &'static str,
    kind: Kind,
    text: &'static str,
}

macro_rules! rows {
    ($($code:ident $kind:ident $text:literal,)+) => {
        &[$(Row { code: $code, name: stringify!($code), kind: Kind::$kind, text: $text },)+]
    };
}

#[rustfmt::skip]
static ROWS: &[Row] = rows! {
    CKR_CANCEL Device "the call was cancelled inside the module; try again",
    CKR_HOST_MEMORY Device "the module ran out of memory; raise the memory limit",
    CKR_SLOT_ID_INVALID TokenNotFound "there is no such slot; select the token by label",
    CKR_GENERAL_ERROR Device "the module failed and does not say why; its own log may",
    CKR_FUNCTION_FAILED Device "the module could not do it; its own log may say why",
    CKR_ARGUMENTS_BAD Invalid "the module does not accept the arguments; it may need initArgs or another key",
    CKR_NO_EVENT Device "nothing happened at the slots",
    CKR_NEED_TO_CREATE_THREADS Unsupported "the module may not create threads; configure it so that it needs none",
    CKR_CANT_LOCK Unsupported "the module cannot be used from several threads; use a library that can",
    CKR_ATTRIBUTE_READ_ONLY Forbidden "an attribute of the object cannot be changed",
    CKR_ATTRIBUTE_SENSITIVE Forbidden "the value never leaves the token in plain",
    CKR_ATTRIBUTE_TYPE_INVALID Unsupported "the token does not know one of the attributes",
    CKR_ATTRIBUTE_VALUE_INVALID Unsupported "the token does not accept the value of an attribute; ask for other attributes or sizes",
    CKR_ACTION_PROHIBITED Forbidden "the token's policy or an attribute of the object forbids it",
    CKR_DATA_INVALID Invalid "the data does not suit the mechanism",
    CKR_DATA_LEN_RANGE Invalid "the data is too long or too short for the key and mechanism",
    CKR_DEVICE_ERROR Device "the device reports a fault; look at the device",
    CKR_DEVICE_MEMORY Full "no room on the token; destroy keys or enlarge the partition",
    CKR_DEVICE_REMOVED Lost "the token was removed or is out of reach",
    CKR_ENCRYPTED_DATA_INVALID Invalid "the encrypted data is not intact",
    CKR_ENCRYPTED_DATA_LEN_RANGE Invalid "the encrypted data has a wrong length",
    CKR_AEAD_DECRYPT_FAILED Invalid "the encrypted data is not intact",
    CKR_FUNCTION_CANCELED Device "the call was cancelled inside the module; try again",
    CKR_FUNCTION_NOT_PARALLEL Device "no such function runs",
    CKR_FUNCTION_NOT_SUPPORTED Unsupported "the module does not have this function",
    CKR_KEY_HANDLE_INVALID Lost "the key's handle is no longer good",
    CKR_KEY_SIZE_RANGE Unsupported "the token does not accept keys of this size; ask for another keySize",
    CKR_KEY_TYPE_INCONSISTENT Invalid "the key is of another type than the mechanism needs",
    CKR_KEY_NOT_NEEDED Invalid "a key was given that is not needed",
    CKR_KEY_CHANGED Device "the key changed meanwhile",
    CKR_KEY_NEEDED Invalid "a key is needed and was not given",
    CKR_KEY_INDIGESTIBLE Forbidden "the key's value cannot be digested",
    CKR_KEY_FUNCTION_NOT_PERMITTED Forbidden "an attribute of the key forbids this use; make a key with the attribute set",
    CKR_KEY_NOT_WRAPPABLE Forbidden "the key cannot be wrapped",
    CKR_KEY_UNEXTRACTABLE Forbidden "the key is not extractable",
    CKR_MECHANISM_INVALID Unsupported "the token does not have the mechanism, or not for this key",
    CKR_MECHANISM_PARAM_INVALID Unsupported "the token does not accept the mechanism's parameters",
    CKR_OBJECT_HANDLE_INVALID Lost "the object's handle is no longer good",
    CKR_OPERATION_ACTIVE Lost "the session is stuck in another operation",
    CKR_OPERATION_NOT_INITIALIZED Lost "the session lost its operation",
    CKR_PIN_INCORRECT PinRejected "the token refused the PIN; put the right one into the Secret",
    CKR_PIN_INVALID PinRejected "the PIN contains characters that the token does not take; put the right one into the Secret",
    CKR_PIN_LEN_RANGE PinRejected "the PIN is too short or too long for the token; put the right one into the Secret",
    CKR_PIN_EXPIRED PinRejected "the PIN has expired; set a new one on the token and put it into the Secret",
    CKR_PIN_LOCKED PinLocked "the PIN is locked; unlock it with the security officer's PIN",
    CKR_SESSION_CLOSED Lost "the session was closed",
    CKR_SESSION_COUNT Full "the token allows no further session; lower the number of sessions",
    CKR_SESSION_HANDLE_INVALID Lost "the session is gone",
    CKR_SESSION_PARALLEL_NOT_SUPPORTED Device "the module asks for serial sessions and got one",
    CKR_SESSION_READ_ONLY Forbidden "the session may only read",
    CKR_SESSION_EXISTS Device "a session is open already",
    CKR_SESSION_READ_ONLY_EXISTS Device "a session that may only read is open",
    CKR_SESSION_READ_WRITE_SO_EXISTS Device "the security officer is logged in; log the officer out",
    CKR_SIGNATURE_INVALID Invalid "the signature is not valid",
    CKR_SIGNATURE_LEN_RANGE Invalid "the signature has a wrong length",
    CKR_TEMPLATE_INCOMPLETE Unsupported "the token needs more attributes for such an object",
    CKR_TEMPLATE_INCONSISTENT Unsupported "the token does not accept these attributes together; ask for fewer",
    CKR_TOKEN_NOT_PRESENT Lost "there is no token in the slot at the moment",
    CKR_TOKEN_NOT_RECOGNIZED TokenNotFound "the module does not recognise the token in the slot",
    CKR_TOKEN_WRITE_PROTECTED Forbidden "the token cannot be written to",
    CKR_UNWRAPPING_KEY_HANDLE_INVALID Lost "the unwrapping key's handle is no longer good",
    CKR_UNWRAPPING_KEY_SIZE_RANGE Unsupported "the token does not unwrap with keys of this size",
    CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT Invalid "the unwrapping key is of another type than the mechanism needs",
    CKR_USER_ALREADY_LOGGED_IN Device "the user is logged in already",
    CKR_USER_NOT_LOGGED_IN Lost "the login is gone",
    CKR_USER_PIN_NOT_INITIALIZED TokenNotInitialized "the token's user has no PIN yet; set one with the security officer's PIN",
    CKR_USER_TYPE_INVALID Unsupported "the token has no such user",
    CKR_USER_ANOTHER_ALREADY_LOGGED_IN Device "another user is logged in; log that user out",
    CKR_USER_TOO_MANY_TYPES Device "too many users are logged in",
    CKR_WRAPPED_KEY_INVALID Invalid "the wrapped key is not intact",
    CKR_WRAPPED_KEY_LEN_RANGE Invalid "the wrapped key has a wrong length",
    CKR_WRAPPING_KEY_HANDLE_INVALID Lost "the wrapping key's handle is no longer good",
    CKR_WRAPPING_KEY_SIZE_RANGE Unsupported "the token does not wrap with keys of this size",
    CKR_WRAPPING_KEY_TYPE_INCONSISTENT Invalid "the wrapping key is of another type than the mechanism needs",
    CKR_RANDOM_SEED_NOT_SUPPORTED Unsupported "the token's random numbers take no seed",
    CKR_RANDOM_NO_RNG Unsupported "the token has no random numbers",
    CKR_DOMAIN_PARAMS_INVALID Unsupported "the token does not have this curve",
    CKR_CURVE_NOT_SUPPORTED Unsupported "the token does not have this curve",
    CKR_BUFFER_TOO_SMALL Device "the answer is larger than expected",
    CKR_SAVED_STATE_INVALID Device "the saved state is not good",
    CKR_INFORMATION_SENSITIVE Forbidden "the information is sensitive",
    CKR_STATE_UNSAVEABLE Device "the state cannot be saved",
    CKR_CRYPTOKI_NOT_INITIALIZED Lost "the module was shut down",
    CKR_CRYPTOKI_ALREADY_INITIALIZED Device "the module is running already",
    CKR_MUTEX_BAD Device "the module's locks are damaged",
    CKR_MUTEX_NOT_LOCKED Device "the module's locks are damaged",
    CKR_NEW_PIN_MODE PinRejected "the token wants a new PIN to be set",
    CKR_NEXT_OTP PinRejected "the token wants the next one-time password",
    CKR_EXCEEDED_MAX_ITERATIONS Device "no parameters were found in the allowed number of tries; try again",
    CKR_FIPS_SELF_TEST_FAILED Device "the module's self-test failed; it does nothing any more",
    CKR_LIBRARY_LOAD_FAILED LibraryNotLoaded "the module needs another library that cannot be loaded",
    CKR_PIN_TOO_WEAK PinRejected "the PIN is too weak for the token",
    CKR_PUBLIC_KEY_INVALID Invalid "the public key is not valid",
    CKR_FUNCTION_REJECTED Forbidden "the token, or who watches over it, rejected the request",
    CKR_TOKEN_RESOURCE_EXCEEDED Full "the token has no resources left; destroy keys or lower the number of sessions",
    CKR_OPERATION_CANCEL_FAILED Device "an operation could not be cancelled",
    CKR_KEY_EXHAUSTED Forbidden "the key has made all the signatures it can; make a new one",
    CKR_PENDING Device "the token has not finished yet",
    CKR_SESSION_ASYNC_NOT_SUPPORTED Unsupported "the session cannot work asynchronously",
    CKR_SEED_RANDOM_REQUIRED Device "the token's random numbers need a seed first",
    CKR_OPERATION_NOT_VALIDATED Forbidden "the token's certification does not cover the operation",
    CKR_TOKEN_NOT_INITIALIZED TokenNotInitialized "the token is not initialised; initialise it",
    CKR_PARAMETER_SET_NOT_SUPPORTED Unsupported "the token does not have this parameter set",
};

impl From<Failure> for HsmError {
    fn from(failure: Failure) -> Self {
        let (name, kind, text) = match ROWS.iter().find(|row| row.code == failure.code) {
            Some(row) => (row.name.to_owned(), row.kind, row.text),
            None => {
                let text = "a return value of the vendor's own; see the vendor's manual";
                (format!("{:#010x}", failure.code), Kind::Device, text)
            }
        };
        let message = format!("{name}: {text} ({})", failure.function);
        Self { kind, code: Some(failure.code), message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_pin_says_what_to_do() {
        let error = HsmError::from(Failure { code: CKR_PIN_INCORRECT, function: "C_Login" });
        assert_eq!(error.kind, Kind::PinRejected);
        assert_eq!(
            error.message,
            "CKR_PIN_INCORRECT: the token refused the PIN; put the right one into the Secret (C_Login)"
        );
    }

    #[test]
    fn no_code_has_two_meanings_and_an_unknown_one_keeps_its_number() {
        for row in ROWS {
            assert_eq!(ROWS.iter().filter(|other| other.code == row.code).count(), 1, "{}", row.name);
        }
        let error = HsmError::from(Failure { code: 0x8000_1234, function: "C_Sign" });
        assert_eq!((error.kind, error.code), (Kind::Device, Some(0x8000_1234)));
        assert!(error.message.starts_with("0x80001234"), "{}", error.message);
    }
}
