//! Data objects: small values that a namespace keeps on a token beside its keys.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

/// Most bytes of a value.
pub const VALUE_MAX: usize = 64 * 1024;
/// Longest name in bytes of UTF-8.
pub const NAME_MAX: usize = 255;
/// Longest name of a namespace.
const NAMESPACE_MAX: usize = 63;

/// Which data object: a name among those of one namespace.
///
/// On the token it is the label `namespace/name`. No namespace has a slash in its name, so that two of them never meet,
/// and no key has one in its label, so that none of them looks like a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DataName {
    namespace: String,
    name: String,
}

/// Why there is no data object of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDataName {
    /// Nothing was given.
    #[error("the name of a data object must not be empty")]
    Empty,
    /// More bytes than a token is sure to keep.
    #[error("the name of a data object has at most {NAME_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// Control characters are refused: they would end up in logs.
    #[error("the name of a data object must not contain control characters")]
    Control,
    /// Not the name of a namespace.
    #[error("'{0}' is no namespace")]
    Namespace(String),
}

impl DataName {
    /// Checks and takes a name in a namespace. The name may have any character but control characters, also slashes.
    ///
    /// # Errors
    /// [`InvalidDataName`] says which rule it breaks.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidDataName> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        match () {
            () if namespace.is_empty()
                || namespace.len() > NAMESPACE_MAX
                || !namespace.bytes().all(plain) =>
            {
                Err(InvalidDataName::Namespace(namespace.to_owned()))
            }
            () if name.is_empty() => Err(InvalidDataName::Empty),
            () if name.len() > NAME_MAX => Err(InvalidDataName::TooLong(name.len())),
            () if name.chars().any(char::is_control) => Err(InvalidDataName::Control),
            () => Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() }),
        }
    }

    /// The name among those of its namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `CKA_LABEL`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for DataName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The value of a data object: 1 to [`VALUE_MAX`] bytes. Never printed, zeroised on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct DataValue(Zeroizing<Vec<u8>>);

/// A value of no bytes or of too many.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value of a data object has 1 to {VALUE_MAX} bytes, this one has {0}")]
pub struct InvalidValue(pub usize);

impl DataValue {
    /// Checks and takes a value.
    ///
    /// # Errors
    /// [`InvalidValue`] for one of a wrong length.
    pub fn new(bytes: Vec<u8>) -> Result<Self, InvalidValue> {
        let bytes = Zeroizing::new(bytes);
        if (1..=VALUE_MAX).contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(InvalidValue(bytes.len())) }
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for DataValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataValue({} bytes)", self.0.len())
    }
}

impl Serialize for DataValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for DataValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = DataValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a data object")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<DataValue, E> {
                DataValue::new(bytes.to_vec()).map_err(E::custom)
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// How a data object is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DataAttributes {
    /// `CKA_PRIVATE`: shown to who is logged in only.
    pub private: bool,
    /// `CKA_MODIFIABLE`: may be changed on the token.
    pub modifiable: bool,
    /// `CKA_DESTROYABLE`: may be destroyed.
    pub destroyable: bool,
}

impl Default for DataAttributes {
    /// Private, and otherwise what PKCS#11 takes for granted.
    fn default() -> Self {
        Self { private: true, modifiable: true, destroyable: true }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_would_be_trouble_are_refused() {
        assert_eq!(DataName::new("shop", ""), Err(InvalidDataName::Empty));
        assert_eq!(DataName::new("shop", "a\0"), Err(InvalidDataName::Control));
        assert_eq!(DataName::new("shop", &"ä".repeat(128)), Err(InvalidDataName::TooLong(256)));
        for namespace in ["", "a/b", "A", &"a".repeat(64)] {
            assert!(matches!(DataName::new(namespace, "a"), Err(InvalidDataName::Namespace(_))));
        }
    }

    #[test]
    fn a_value_has_a_byte_at_least_and_is_never_printed() {
        assert_eq!(DataValue::new(vec![]), Err(InvalidValue(0)));
        assert_eq!(DataValue::new(vec![0; VALUE_MAX + 1]), Err(InvalidValue(VALUE_MAX + 1)));
        let value = DataValue::new(b"s3cret".to_vec()).unwrap();
        assert_eq!(format!("{value:?}"), "DataValue(6 bytes)");
    }

    proptest! {
        /// Two data objects of different namespaces, or of different names, never have one label.
        #[test]
        fn labels_never_meet(a in "[a-z0-9]{1,3}", b in "[a-z0-9]{1,3}", x in "[a/ é]{1,4}", y in "[a/ é]{1,4}") {
            let (one, other) = (DataName::new(&a, &x).unwrap(), DataName::new(&b, &y).unwrap());
            prop_assert_eq!(one == other, one.label() == other.label());
            prop_assert!(crate::model::KeyLabel::new(one.label()).is_err());
        }
    }
}
