//! Attributes of keys: what is asked for when one is made, and what the token reports of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a key shall be able to do and how it shall be protected, as `attributes` of `POST /v1/key`.
///
/// What is left out takes the contract's default; every value ends up explicitly in the key's template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestedAttributes {
    /// The private or secret key decrypts. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decrypt: Option<bool>,
    /// The private key signs. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign: Option<bool>,
    /// The key unwraps other keys. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unwrap: Option<bool>,
    /// The public or secret key encrypts. Default: as `decrypt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<bool>,
    /// The public or secret key verifies. Default: as `sign`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
    /// The public or secret key wraps other keys. Default: as `unwrap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrap: Option<bool>,
    /// Other keys can be derived from the key. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub derive: Option<bool>,
    /// The key is the master of a BIP-32 tree. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bip32: Option<bool>,
    /// The key is the master of a SLIP-10 tree. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slip10: Option<bool>,
    /// The key may leave the token under another key. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extractable: Option<bool>,
    /// Attributes may be hardened later. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modifiable: Option<bool>,
    /// The key can be destroyed on the token. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destroyable: Option<bool>,
    /// The key's value cannot be read in plain. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensitive: Option<bool>,
    /// The key may be copied. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copyable: Option<bool>,
}

impl RequestedAttributes {
    /// The value of each attribute with the defaults filled in.
    #[must_use]
    pub fn resolved(&self) -> ResolvedAttributes {
        let decrypt = self.decrypt.unwrap_or(false);
        let sign = self.sign.unwrap_or(false);
        let unwrap = self.unwrap.unwrap_or(false);
        ResolvedAttributes {
            decrypt,
            sign,
            unwrap,
            encrypt: self.encrypt.unwrap_or(decrypt),
            verify: self.verify.unwrap_or(sign),
            wrap: self.wrap.unwrap_or(unwrap),
            derive: self.derive.unwrap_or(false),
            // Of trees on Edwards curves that are Cardano's there is no token; whoever asks for one was told.
            tree: self.slip10.unwrap_or(false) || self.bip32.unwrap_or(false),
            extractable: self.extractable.unwrap_or(false),
            modifiable: self.modifiable.unwrap_or(true),
            destroyable: self.destroyable.unwrap_or(false),
            sensitive: self.sensitive.unwrap_or(true),
            copyable: self.copyable.unwrap_or(false),
        }
    }
}

impl RequestedAttributes {
    /// What of a key that is derived from one with `master`'s attributes would protect it less: with one such key whose
    /// step was not hardened, and the chain code, the master itself can be worked out.
    #[must_use]
    pub fn weaker_than(&self, master: &Self) -> Option<&'static str> {
        let (own, master) = (self.resolved(), master.resolved());
        if own.extractable && !master.extractable {
            return Some("extractable: its master does not leave the token");
        }
        if !own.sensitive && master.sensitive {
            return Some("not sensitive: its master is");
        }
        (own.modifiable && !master.modifiable).then_some("modifiable: its master is not")
    }
}

impl RequestedAttributes {
    /// What of it a key with a state cannot be (see [`super::KeyAlgorithm::is_stateful`]): there must be no way to a copy
    /// of it, as PKCS #11 3.2 has it, too.
    #[must_use]
    pub fn unfit_for_state(&self) -> Option<&'static str> {
        let own = self.resolved();
        way_to_a_copy(own.extractable, own.copyable, own.sensitive)
    }

    /// The same with nothing in it that a key with a state cannot be.
    #[must_use]
    pub fn without_copies(self) -> Self {
        Self {
            extractable: self.extractable.map(|_| false),
            copyable: self.copyable.map(|_| false),
            sensitive: self.sensitive.map(|_| true),
            ..self
        }
    }
}

impl KeyAttributes {
    /// The same of a key that is there, as far as its token tells.
    #[must_use]
    pub fn unfit_for_state(&self) -> Option<&'static str> {
        way_to_a_copy(
            self.extractable == Some(true),
            self.copyable == Some(true),
            self.sensitive != Some(false),
        )
    }
}

/// How somebody can have a copy of a key.
const fn way_to_a_copy(extractable: bool, copyable: bool, sensitive: bool) -> Option<&'static str> {
    match () {
        () if extractable => Some("extractable"),
        () if copyable => Some("copyable"),
        () if !sensitive => Some("not sensitive"),
        () => None,
    }
}

/// [`RequestedAttributes`] with every default filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    missing_docs,
    reason = "one flag per attribute, named as in RequestedAttributes"
)]
pub struct ResolvedAttributes {
    pub decrypt: bool,
    pub sign: bool,
    pub unwrap: bool,
    pub encrypt: bool,
    pub verify: bool,
    pub wrap: bool,
    pub derive: bool,
    pub tree: bool,
    pub extractable: bool,
    pub modifiable: bool,
    pub destroyable: bool,
    pub sensitive: bool,
    pub copyable: bool,
}

/// Attributes of a key as its token reports them; `null` where it reports none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyAttributes {
    /// The key decrypts.
    pub decrypt: Option<bool>,
    /// The key signs.
    pub sign: Option<bool>,
    /// Always null; the contract has the member.
    pub eka_sign: Option<bool>,
    /// The key unwraps other keys.
    pub unwrap: Option<bool>,
    /// Other keys can be derived from the key.
    pub derive: Option<bool>,
    /// The key's value cannot be read in plain.
    pub sensitive: Option<bool>,
    /// It never could.
    pub always_sensitive: Option<bool>,
    /// The key may leave the token under another key.
    pub extractable: Option<bool>,
    /// It never could.
    pub never_extractable: Option<bool>,
    /// Attributes can still be changed.
    pub modifiable: Option<bool>,
    /// The key may be copied.
    pub copyable: Option<bool>,
    /// The key can be destroyed.
    pub destroyable: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_takes_the_safe_default() {
        let resolved = RequestedAttributes { sign: Some(true), ..Default::default() }.resolved();
        assert!(resolved.sign && resolved.verify && resolved.sensitive && resolved.modifiable);
        assert!(!resolved.extractable && !resolved.destroyable && !resolved.decrypt && !resolved.copyable);
    }

    #[test]
    fn a_derived_key_is_as_protected_as_its_master() {
        let of = |json: &str| serde_json::from_str::<RequestedAttributes>(json).unwrap();
        let master = of(r#"{"sign":true,"modifiable":false}"#);
        assert_eq!(of(r#"{"modifiable":false}"#).weaker_than(&master), None);
        for (own, says) in [
            (r#"{"modifiable":false,"extractable":true}"#, "extractable"),
            (r#"{"modifiable":false,"sensitive":false}"#, "not sensitive"),
            ("{}", "modifiable"),
        ] {
            assert!(of(own).weaker_than(&master).unwrap().starts_with(says), "{own}");
        }
        assert_eq!(of(r#"{"extractable":true}"#).weaker_than(&of(r#"{"extractable":true}"#)), None);
    }

    #[test]
    fn there_is_no_way_to_a_copy_of_a_key_with_a_state() {
        let unfit = |json: &str| serde_json::from_str::<RequestedAttributes>(json).unwrap().unfit_for_state();
        assert_eq!(unfit(r#"{"sign":true,"destroyable":true}"#), None);
        assert_eq!(unfit(r#"{"extractable":true}"#), Some("extractable"));
        assert_eq!(unfit(r#"{"copyable":true}"#), Some("copyable"));
        assert_eq!(unfit(r#"{"sensitive":false}"#), Some("not sensitive"));
        let all = r#"{"sign":true,"extractable":true,"copyable":true,"sensitive":false}"#;
        let all = serde_json::from_str::<RequestedAttributes>(all).unwrap().without_copies();
        assert_eq!((all.sign, all.unfit_for_state()), (Some(true), None));
    }

    #[test]
    fn unknown_attributes_and_nulls_are_ignored() {
        let json = r#"{"sign":true,"decrypt":null,"neverExtractable":true}"#;
        let parsed: RequestedAttributes = serde_json::from_str(json).unwrap();
        assert_eq!(parsed, RequestedAttributes { sign: Some(true), ..Default::default() });
    }
}
