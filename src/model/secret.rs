//! Secrets: redacted to print, zeroised on drop.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

#[cfg(test)]
mod tests {
    use super::*;

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
