//! Names of keys: always valid once constructed.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::derivation::DerivedName;

/// Longest label in bytes of UTF-8.
pub const LABEL_MAX: usize = 255;

/// Name of a key on its partition (`CKA_LABEL`, `label` and `signKeyName` of the REST API).
///
/// UTF-8, 1 to 255 bytes, without control characters and without `/`, which starts a derivation path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyLabel(String);

/// Why a text is not a [`KeyLabel`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabel {
    /// Nothing was given.
    #[error("a key name must not be empty")]
    Empty,
    /// More bytes than a token is sure to keep.
    #[error("a key name has at most {LABEL_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// Characters are refused that would end up in logs and manifests, and those that no XML can have.
    #[error("a key name must not contain control characters, U+FFFE or U+FFFF")]
    Control,
    /// A slash starts a derivation path.
    #[error("'/' in a key name starts a derivation path, so that no key can be named so")]
    Derivation,
}

/// Whether a character may be in a name: those that may not are of no use in logs and manifests, or cannot be in the XML
/// of an attestation.
pub(super) fn is_carried(one: char) -> bool {
    !one.is_control() && !matches!(one, '\u{fffe}' | '\u{ffff}')
}

impl KeyLabel {
    /// Checks and takes `text`.
    ///
    /// # Errors
    /// [`InvalidLabel`] says which rule it breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidLabel> {
        let text = text.into();
        match () {
            () if text.is_empty() => Err(InvalidLabel::Empty),
            () if text.len() > LABEL_MAX => Err(InvalidLabel::TooLong(text.len())),
            () if !text.chars().all(is_carried) => Err(InvalidLabel::Control),
            () if text.contains('/') => Err(InvalidLabel::Derivation),
            () => Ok(Self(text)),
        }
    }

    /// Checks and takes the name that a derived key is kept under, `master/path`, as well.
    ///
    /// # Errors
    /// [`InvalidLabel`] says which rule it breaks; [`InvalidLabel::Derivation`] where it is no such name either.
    pub fn stored(text: impl Into<String>) -> Result<Self, InvalidLabel> {
        let text = text.into();
        match Self::new(text.clone()) {
            Err(InvalidLabel::Derivation) if DerivedName::parse(&text).is_ok() => Ok(Self(text)),
            checked => checked,
        }
    }

    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the Kubernetes object for a key made over REST under this label.
    ///
    /// A label that is a DNS-1123 subdomain of at most 200 bytes is its own name, unless it looks like an
    /// encoded one; any other becomes `k-` and the first 40 hexadecimal digits of its SHA-256, so that two
    /// labels never meet in one name.
    #[must_use]
    pub fn object_name(&self) -> String {
        if is_dns_subdomain(&self.0) && self.0.len() <= 200 && !is_encoded(&self.0) {
            return self.0.clone();
        }
        format!("k-{}", &hex::encode(Sha256::digest(self.0.as_bytes()))[..40])
    }
}

fn is_dns_subdomain(text: &str) -> bool {
    let label = |part: &str| {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        matches!((part.bytes().next(), part.bytes().last()), (Some(first), Some(last)) if alphanumeric(first) && alphanumeric(last))
            && part.bytes().all(|byte| alphanumeric(byte) || byte == b'-')
    };
    !text.is_empty() && text.len() <= 253 && text.split('.').all(label)
}

fn is_encoded(text: &str) -> bool {
    text.strip_prefix("k-")
        .is_some_and(|rest| rest.len() == 40 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl TryFrom<String> for KeyLabel {
    type Error = InvalidLabel;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::stored(text)
    }
}

impl From<KeyLabel> for String {
    fn from(label: KeyLabel) -> Self {
        label.0
    }
}

impl fmt::Display for KeyLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Identifier of a key pair on its token (`CKA_ID`), shared by both halves. Written in lower-case hex.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(Vec<u8>);

/// A text that is not the hexadecimal form of a key identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key id is 1 to 255 bytes in hexadecimal")]
pub struct InvalidKeyId;

impl KeyId {
    /// The identifier of the key made for a Kubernetes object: fixed before the key exists, so that a key
    /// whose making was interrupted is found again.
    ///
    /// 16 bytes of the object's UID, then 16 bytes of the SHA-256 of `namespace/name`: the second half lets
    /// a recovery that lost the cluster's data tell which object a key on the token was made for.
    #[must_use]
    pub fn for_object(uid: uuid::Uuid, namespace: &str, name: &str) -> Self {
        let mut id = uid.as_bytes().to_vec();
        id.extend_from_slice(&Self::name_half_of(namespace, name));
        Self(id)
    }

    /// The second half of the identifier of every key that is made for an object of this name.
    #[must_use]
    pub fn name_half_of(namespace: &str, name: &str) -> [u8; 16] {
        let digest = Sha256::digest(format!("{namespace}/{name}"));
        std::array::from_fn(|at| digest[at])
    }

    /// The second half, where there are two: it tells for the object of which name the key was made, if it was made for
    /// an object at all.
    #[must_use]
    pub fn name_half(&self) -> Option<[u8; 16]> {
        self.0.strip_prefix(self.0.get(..16)?)?.try_into().ok()
    }

    /// Whether the key was made for an object of this name, which may have been another object than today's.
    #[must_use]
    pub fn is_made_for(&self, namespace: &str, name: &str) -> bool {
        self.name_half() == Some(Self::name_half_of(namespace, name))
    }

    /// The identifier of a key of the operator itself, the same for everyone who looks.
    #[must_use]
    pub fn for_purpose(purpose: &str) -> Self {
        Self(Sha256::digest(format!("hsm-operator.io/{purpose}")).to_vec())
    }

    /// Takes what the token reports.
    ///
    /// # Errors
    /// [`InvalidKeyId`] for none or more than 255 bytes.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self, InvalidKeyId> {
        let bytes = bytes.into();
        if bytes.is_empty() || bytes.len() > 255 { Err(InvalidKeyId) } else { Ok(Self(bytes)) }
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<String> for KeyId {
    type Error = InvalidKeyId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::from_bytes(hex::decode(text).map_err(|_| InvalidKeyId)?)
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        hex::encode(id.0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_that_would_be_trouble_are_refused() {
        assert_eq!(KeyLabel::new(""), Err(InvalidLabel::Empty));
        assert_eq!(KeyLabel::new("a/0'"), Err(InvalidLabel::Derivation));
        assert_eq!(KeyLabel::new("a\n"), Err(InvalidLabel::Control));
        assert_eq!(KeyLabel::new("ä".repeat(128)), Err(InvalidLabel::TooLong(256)));
        assert!(KeyLabel::new("Signing Key @ Zürich").is_ok());
    }

    #[test]
    fn the_name_of_a_derived_key_is_a_label_of_stored_keys_only() {
        assert_eq!(KeyLabel::stored("a/0'/1").map(String::from), Ok("a/0'/1".into()));
        assert_eq!(KeyLabel::stored("a").map(String::from), Ok("a".into()));
        for text in ["a/", "/0", "a/b", "a//0", "a/0/", "a/-1"] {
            assert_eq!(KeyLabel::stored(text), Err(InvalidLabel::Derivation), "{text}");
        }
        let name = KeyLabel::stored("a/0").unwrap().object_name();
        assert!(is_dns_subdomain(&name) && is_encoded(&name), "{name}");
    }

    #[test]
    fn object_names_are_valid_and_never_meet() {
        let name = |label: &str| KeyLabel::new(label).unwrap().object_name();
        assert_eq!(name("release.key-1"), "release.key-1");
        let encoded = name("Release Key");
        assert!(is_dns_subdomain(&encoded));
        assert_ne!(name("release key"), encoded);
        assert_ne!(
            name(&encoded),
            encoded,
            "a label that looks like an encoded name must not take its place"
        );
    }

    #[test]
    fn the_longest_labels_have_names() {
        for label in ["a".repeat(200), "a".repeat(201), "a".repeat(255), "é".repeat(127), "😀".repeat(63)]
        {
            let name = KeyLabel::new(label.clone()).unwrap().object_name();
            assert!(is_dns_subdomain(&name) && name.len() <= 200, "{label} {name}");
        }
    }

    /// Labels near to each other and near to what names look like: in case, blanks, dots, and as encoded ones.
    fn labels() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-cA-C.@ é-]{1,4}",
            "k-[0-9a-f]{40}",
            "[kK]-[0-9a-fA-F]{39,41}",
            "[a-z0-9.-]{195,205}",
            "[^/\\p{Cc}]{1,60}",
            any::<u8>().prop_map(|seed| KeyLabel(format!("Label {seed}")).object_name()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn two_labels_never_have_one_name(one in labels(), other in labels()) {
            let name = |label: &str| KeyLabel::new(label).map(|label| label.object_name());
            let (Ok(a), Ok(b)) = (name(&one), name(&other)) else { return Ok(()) };
            prop_assert_eq!(one == other, a == b, "{} {}", one, other);
            prop_assert!(is_dns_subdomain(&a) && a.len() <= 200, "{}", a);
        }

        #[test]
        fn any_text_without_slashes_and_control_characters_is_a_label(
            // And without the two that XML does not carry.
            text in "[^/\\p{Cc}\u{fffe}\u{ffff}]{1,63}",
        ) {
            prop_assert_eq!(KeyLabel::new(text.clone()).map(String::from), Ok(text));
        }
    }

    #[test]
    fn a_key_id_carries_uid_and_name() {
        let uid = uuid::Uuid::from_u128(7);
        let id = KeyId::for_object(uid, "ns", "a");
        assert_eq!(id.as_bytes().len(), 32);
        assert_eq!(&id.as_bytes()[..16], uid.as_bytes());
        assert_ne!(id, KeyId::for_object(uid, "ns", "b"));
        assert!(id.is_made_for("ns", "a") && !id.is_made_for("ns", "b"));
        assert!(!KeyId::from_bytes(id.as_bytes()[16..].to_vec()).unwrap().is_made_for("ns", "a"));
        assert_eq!(KeyId::try_from(id.to_string()), Ok(id));
    }
}
