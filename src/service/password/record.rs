//! The Secret that says what a key's password is.
//!
//! It is made before the HsmKey that names it, and says itself which one that is: nobody opens a key with another key's
//! password by naming another Secret.

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{ResourceExt, core::ObjectMeta};

use super::Hash;
use crate::api::password::{SECRET_LABEL, SECRET_TYPE};

/// Member with the key: `namespace/name` of its HsmKey.
const KEY: &str = "key";
/// Member with the hash, or [`NONE`].
const PASSWORD: &str = "password";
/// What stands in the place of a hash where the password was taken away.
const NONE: &str = "none";

/// What such a Secret says.
#[derive(Clone, Debug)]
pub struct Record {
    /// `namespace/name` of the HsmKey.
    pub key: String,
    /// The password's hash; `None` where the password was taken away.
    pub hash: Option<Hash>,
    /// Version of the Secret.
    pub version: String,
    /// UID of the Secret.
    pub uid: String,
}

/// Why a Secret says nothing of a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Somebody else's.
    #[error("is not of the type {SECRET_TYPE}")]
    Type,
    /// It was damaged, or is of a later version.
    #[error("has no '{0}' that is understood")]
    Member(&'static str),
}

impl Record {
    /// Reads a Secret.
    ///
    /// # Errors
    /// Where nobody can tell what it says. The key is not used then.
    pub fn of(secret: &Secret) -> Result<Self, Unreadable> {
        if !is_record(secret) {
            return Err(Unreadable::Type);
        }
        let text = |member: &'static str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(member));
            let text = bytes.and_then(|ByteString(bytes)| std::str::from_utf8(bytes).ok());
            text.filter(|text| !text.is_empty()).ok_or(Unreadable::Member(member))
        };
        let key = text(KEY)?.to_owned();
        let hash = match text(PASSWORD)? {
            NONE => None,
            text => Some(Hash::parse(text).ok_or(Unreadable::Member(PASSWORD))?),
        };
        let (version, uid) =
            (secret.resource_version().unwrap_or_default(), secret.uid().unwrap_or_default());
        Ok(Self { key, hash, version, uid })
    }

    /// Whether it is about a key.
    #[must_use]
    pub fn is_about(&self, namespace: &str, name: &str) -> bool {
        self.key == about(namespace, name)
    }
}

/// Whether a Secret is meant to be such a record, readable or not.
#[must_use]
pub fn is_record(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(SECRET_TYPE)
}

fn about(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// The Secret of a new password, for the HsmKey of that namespace and name.
#[must_use]
pub fn secret(secret_name: &str, namespace: &str, name: &str, hash: &Hash) -> Secret {
    let data = [(KEY, about(namespace, name)), (PASSWORD, hash.phc())];
    Secret {
        metadata: ObjectMeta {
            name: Some(secret_name.to_owned()),
            labels: Some([(SECRET_LABEL.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.into()),
        data: Some(data.map(|(member, text)| (member.to_owned(), ByteString(text.into_bytes()))).into()),
        ..Secret::default()
    }
}

/// What changes of a Secret when its key gets another password, or none.
#[must_use]
pub fn changed(hash: Option<&Hash>) -> serde_json::Value {
    let text = hash.map_or_else(|| NONE.to_owned(), Hash::phc);
    serde_json::json!({ "data": { PASSWORD: ByteString(text.into_bytes()) } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Password;

    fn one() -> Secret {
        let hash = Hash::of(&Password::new("s3cret").unwrap());
        let mut secret = secret("hsm-key-password-0", "shop", "k", &hash);
        secret.metadata.resource_version = Some("7".into());
        secret
    }

    #[test]
    fn a_record_is_of_one_key_and_survives_being_written() {
        let read = Record::of(&one()).unwrap();
        assert!(read.is_about("shop", "k") && read.version == "7");
        for (namespace, name) in [("shop", "k2"), ("shop2", "k"), ("", "shop/k"), ("sho", "p/k")] {
            assert!(!read.is_about(namespace, name), "{namespace} {name}");
        }
        assert!(read.hash.unwrap().is_of(&Password::new("s3cret").unwrap()));
    }

    #[test]
    fn a_password_that_was_taken_away_is_not_the_same_as_none_that_is_understood() {
        let with = |text: &[u8]| {
            let mut secret = one();
            secret.data.as_mut().unwrap().insert(PASSWORD.into(), ByteString(text.to_vec()));
            Record::of(&secret)
        };
        assert!(with(b"none").unwrap().hash.is_none());
        for text in [b"".as_slice(), b"None", b"none\n", b"s3cret", b"\xff"] {
            assert_eq!(with(text).unwrap_err(), Unreadable::Member(PASSWORD));
        }
        let mut secret = one();
        secret.data.as_mut().unwrap().remove(KEY);
        assert_eq!(Record::of(&secret).unwrap_err(), Unreadable::Member(KEY));
        secret.type_ = Some("Opaque".into());
        assert_eq!(Record::of(&secret).unwrap_err(), Unreadable::Type);
    }

    #[test]
    fn a_record_does_not_show_its_hash() {
        assert!(!format!("{:?}", Record::of(&one()).unwrap()).contains("argon2"));
    }
}
