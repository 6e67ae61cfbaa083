//! What is kept of a Secret that may hold PINs.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::ResourceExt;
use zeroize::Zeroizing;

use crate::model::secret::Pin;

/// The texts of a Secret, any of which may be the PIN that somebody refers to, and its version. The Secret itself is
/// overwritten.
pub struct Pins {
    version: String,
    texts: BTreeMap<String, Pin>,
}

impl Pins {
    /// Takes what is needed out of a Secret.
    #[must_use]
    pub fn of(mut secret: Secret) -> Self {
        let texts =
            secret.data.take().unwrap_or_default().into_iter().filter_map(|(key, ByteString(bytes))| {
                let bytes = Zeroizing::new(bytes);
                let pin = Pin::new(std::str::from_utf8(&bytes).ok()?);
                (!pin.expose().is_empty()).then_some((key, pin))
            });
        Self { texts: texts.collect(), version: secret.resource_version().unwrap_or_default() }
    }

    /// The version of the Secret.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The text under a key, if there is any.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Pin> {
        self.texts.get(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_a_text_that_is_not_empty() {
        let mut secret = Secret::default();
        secret.metadata.resource_version = Some("7".into());
        let data = [("pin", b"1234\n".as_slice()), ("none", b"\n"), ("der", &[0xff, 0x00])];
        secret.data = Some(data.map(|(key, value)| (key.to_owned(), ByteString(value.to_vec()))).into());
        let pins = Pins::of(secret);
        assert_eq!(pins.version(), "7");
        let texts = ["pin", "none", "der", "other"].map(|key| pins.get(key).map(Pin::expose));
        assert_eq!(texts, [Some("1234"), None, None, None]);
    }
}
