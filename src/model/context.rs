//! The context of an ML-DSA or SLH-DSA signature, and how it is written in JSON.

use base64::{Engine, engine::general_purpose::STANDARD};

/// Most bytes of a context (FIPS 204 and FIPS 205: its length is one byte of what is signed).
pub const CONTEXT_MAX: usize = 255;

/// Why a context cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidContext {
    /// Not strict base64: standard alphabet, padded, no line breaks.
    #[error("The 'context' is not valid 'base64' encoded.")]
    Base64,
    /// More than [`CONTEXT_MAX`] bytes.
    #[error("the context has {0} bytes, and a signature has one of at most {CONTEXT_MAX}")]
    TooLong(usize),
}

/// Decodes the text of a context. None is the same as an empty one, as the standards have it.
///
/// # Errors
/// [`InvalidContext`] says what is wrong with the text.
pub fn decode(text: Option<&str>) -> Result<Vec<u8>, InvalidContext> {
    let bytes = STANDARD.decode(text.unwrap_or_default()).map_err(|_| InvalidContext::Base64)?;
    if bytes.len() > CONTEXT_MAX { Err(InvalidContext::TooLong(bytes.len())) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_has_at_most_255_bytes_of_strict_base64() {
        assert_eq!(decode(None), Ok(vec![]));
        assert_eq!(decode(Some("")), Ok(vec![]));
        assert_eq!(decode(Some(&STANDARD.encode([7; 255]))), Ok(vec![7; 255]));
        assert_eq!(decode(Some(&STANDARD.encode([7; 256]))), Err(InvalidContext::TooLong(256)));
        for text in ["%", "YQ", "YQ==\n", "Y Q="] {
            assert_eq!(decode(Some(text)), Err(InvalidContext::Base64), "{text:?}");
        }
    }
}
