//! Secrets: redacted to print, zeroised on drop.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// PIN of a token user.
///
/// Its serialised form is the plain text: it is written in one place only, the frame that hands it to the
/// token-host over a socket pair, whose buffers are zeroised.
#[derive(Clone, Debug)]
pub struct Pin(SecretString);

impl Pin {
    /// Takes a PIN; one trailing line break, which editors and `echo` add, is not part of it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = text.strip_suffix('\n').unwrap_or(text);
        Self(SecretString::from(text.strip_suffix('\r').unwrap_or(text)))
    }

    /// The plain text, for the call that logs in.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl Serialize for Pin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SecretString::deserialize(deserializer).map(Self)
    }
}

/// Bytes that somebody wants to be encrypted, or that were.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    /// The bytes themselves.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Plaintext {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl std::fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plaintext({} bytes)", self.0.len())
    }
}

impl Serialize for Plaintext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.expose())
    }
}

impl<'de> Deserialize<'de> for Plaintext {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Plaintext;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Plaintext, E> {
                Ok(bytes.to_vec().into())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plaintext_is_never_printed_and_survives_a_frame() {
        let secret = Plaintext::from(b"s3cret".to_vec());
        assert_eq!(format!("{secret:?}"), "Plaintext(6 bytes)");
        let bytes = postcard::to_allocvec(&secret).unwrap();
        assert_eq!(postcard::from_bytes::<Plaintext>(&bytes).unwrap(), secret);
    }

    #[test]
    fn a_pin_is_never_printed() {
        assert!(!format!("{:?}", Pin::new("s3cret")).contains("s3cret"));
    }

    #[test]
    fn a_line_break_at_the_end_is_not_part_of_a_pin() {
        assert_eq!(Pin::new("1234\r\n").expose(), "1234");
        assert_eq!(Pin::new("12\n34").expose(), "12\n34");
    }
}
