//! What is to be signed, and how it is written in JSON.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::vocabulary::vocabulary;

/// Most bytes of a payload that are taken; larger data is hashed by the caller.
pub const PAYLOAD_MAX: usize = 64 * 1024;

vocabulary! {
    /// How `payload` is written, and what it is said to be.
    #[derive(Default)]
    PayloadType {
        #[default]
        Unspecified = "UNSPECIFIED",
        Iso20022 = "ISO_20022",
        Pdf = "PDF",
        Btc = "BTC",
        Eth = "ETH",
        /// The payload text is hexadecimal; every other type means base64.
        Hex = "HEX",
    }
}

/// Why a payload text cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPayload {
    /// Not strict base64: standard alphabet, padded, no line breaks.
    #[error("The 'payload' is not valid 'base64' encoded.")]
    Base64,
    /// Hexadecimal text of an odd length.
    #[error("Invalid hex payload: length must be even")]
    HexLength,
    /// Hexadecimal text with other characters, or none at all.
    #[error("Invalid hex payload: contains non-hexadecimal characters")]
    HexDigits,
    /// More than [`PAYLOAD_MAX`] bytes.
    #[error(
        "the payload has {0} bytes and at most {PAYLOAD_MAX} are taken: hash it yourself and sign the digest with a NONE… algorithm"
    )]
    TooLarge(usize),
}

impl PayloadType {
    /// Decodes a payload text of this type.
    ///
    /// # Errors
    /// [`InvalidPayload`] says what is wrong with the text.
    pub fn decode(self, text: &str) -> Result<Vec<u8>, InvalidPayload> {
        let bytes = match self {
            Self::Hex if !text.len().is_multiple_of(2) => return Err(InvalidPayload::HexLength),
            Self::Hex if text.is_empty() => return Err(InvalidPayload::HexDigits),
            Self::Hex => hex::decode(text).map_err(|_| InvalidPayload::HexDigits)?,
            _ => STANDARD.decode(text).map_err(|_| InvalidPayload::Base64)?,
        };
        if bytes.len() > PAYLOAD_MAX { Err(InvalidPayload::TooLarge(bytes.len())) } else { Ok(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_that_is_also_base64_is_read_as_hex() {
        assert_eq!(PayloadType::Hex.decode("deadbeef").unwrap(), [0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(PayloadType::Unspecified.decode("deadbeef").unwrap().len(), 6);
    }

    #[test]
    fn sloppy_encodings_are_refused() {
        assert_eq!(PayloadType::Hex.decode("abc"), Err(InvalidPayload::HexLength));
        assert_eq!(PayloadType::Hex.decode("zz"), Err(InvalidPayload::HexDigits));
        assert_eq!(PayloadType::Unspecified.decode("UGF5\nbG9h"), Err(InvalidPayload::Base64));
        assert_eq!(PayloadType::Unspecified.decode("UGF5bG9hZA"), Err(InvalidPayload::Base64));
        assert_eq!(
            PayloadType::Unspecified.decode(&STANDARD.encode(vec![0; PAYLOAD_MAX + 1])),
            Err(InvalidPayload::TooLarge(PAYLOAD_MAX + 1))
        );
    }
}
