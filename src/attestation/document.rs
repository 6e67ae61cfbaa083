//! The XML document that is signed.
//!
//! Its bytes are the message: UTF-8, LF, one tab per level, one element per line, two LF at the end.

use super::ISSUER;
use crate::model::algorithm::Parameter;
use crate::model::{KeyAlgorithm, KeyAttributes, KeyPolicy, policy::PolicyError};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use std::fmt::Write;

/// What is attested of a key.
#[derive(Clone, Debug)]
pub struct AttestedKey<'a> {
    /// The key's label on the token.
    pub label: &'a str,
    /// When the key was made, by the operator's own record: PKCS #11 does not tell.
    pub create_time: Timestamp,
    /// When the token was asked, by the operator's clock.
    pub attest_time: Timestamp,
    /// Algorithm of the key; says also whether it has two halves.
    pub algorithm: KeyAlgorithm,
    /// Curve of an EC key.
    pub curve_oid: Option<&'a str>,
    /// Bits of the key, for algorithms that have more than one size.
    pub key_size: Option<u32>,
    /// DER SubjectPublicKeyInfo of a key with two halves.
    pub public_key: Option<&'a [u8]>,
    /// The attributes of the private or secret key, as the token reported them.
    pub attributes: &'a KeyAttributes,
    /// Chain code of a key of a tree, and which kind of tree: the contract's word.
    pub derivation: Option<(&'a str, &'a [u8])>,
    /// The key's address: the contract's word for its format, and the address in hexadecimal.
    pub address: Option<(&'a str, &'a str)>,
    /// Its private half is elsewhere.
    pub public_only: bool,
    /// `CKA_LOCAL`. Only a clear yes is written as `generated`.
    pub local: Option<bool>,
    /// The key's policy, which asks nobody, and whether the key is blocked.
    pub policy: Option<(&'a KeyPolicy, bool)>,
}

/// Why no document can be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Characters that XML does not have, or that would not come back unchanged.
    #[error("the label of the key contains characters that an XML document cannot carry")]
    Label,
    /// A key with two halves, but no public one given.
    #[error("a key of algorithm {0} cannot be attested without its public key")]
    PublicKeyMissing(KeyAlgorithm),
    /// An EC key without its curve.
    #[error("an EC key cannot be attested without its curve")]
    CurveMissing,
    /// A policy that cannot be told yet.
    #[error("the policy of the key cannot be attested: {0}")]
    Policy(#[from] PolicyError),
}

impl AttestedKey<'_> {
    /// Writes the document.
    ///
    /// The root is `private_key`, for a secret key `secret_key`, for a public key alone `public_key`. Its attributes say where the key came
    /// from (`creation`), that the statement is made by software (`enforcement`) and by whom (`issuer`).
    /// An attribute of the key that the token did not report is left out rather than guessed.
    ///
    /// # Errors
    /// When the key cannot be described truthfully.
    pub fn to_xml(&self) -> Result<String, DocumentError> {
        let row = self.algorithm.row();
        if row.asymmetric && self.public_key.is_none() {
            return Err(DocumentError::PublicKeyMissing(self.algorithm));
        }
        if self.algorithm == KeyAlgorithm::Ec && self.curve_oid.is_none() {
            return Err(DocumentError::CurveMissing);
        }
        let root = match (row.asymmetric, self.public_only) {
            (true, false) => "private_key",
            (true, true) => "public_key",
            (false, _) => "secret_key",
        };
        let creation = if self.local == Some(true) { "generated" } else { "imported" };
        let mut xml = Lines::default();
        xml.line(r#"<?xml version="1.0" encoding="UTF-8"?>"#);
        xml.line(&format!(r#"<{root} creation="{creation}" enforcement="software" issuer="{ISSUER}">"#));
        xml.element(1, "label", &escape(self.label).ok_or(DocumentError::Label)?);
        xml.element(1, "create_time", &time(self.create_time));
        xml.element(1, "attest_time", &time(self.attest_time));
        xml.element(1, "algorithm", row.echo);
        xml.element(1, "algorithm_oid", self.algorithm.oid(self.curve_oid));
        if let (KeyAlgorithm::Ec, Some(oid)) = (self.algorithm, self.curve_oid) {
            xml.element(1, "curve_oid", &escape(oid).ok_or(DocumentError::CurveMissing)?);
        }
        // Only where the size is not given by the algorithm or the curve.
        let has_sizes = matches!(row.parameter, Parameter::Size(_) | Parameter::SizeRange { .. });
        if let (true, Some(bits)) = (has_sizes, self.key_size) {
            xml.element(1, "key_size", &bits.to_string());
        }
        if let Some(spki) = self.public_key {
            xml.element(1, "public_key", &BASE64_STANDARD.encode(spki));
        }
        if let Some((kind, value)) = self.derivation {
            let (kind, value) = (escape(kind).ok_or(DocumentError::Label)?, hex::encode_upper(value));
            xml.line(&format!("\t<derivation_value type=\"{kind}\">{value}</derivation_value>"));
        }
        if let Some((format, value)) = self.address {
            let (format, value) = (escape(format), escape(value));
            let (format, value) = format.zip(value).ok_or(DocumentError::Label)?;
            xml.line(&format!("\t<address_truncated format=\"{format}\">{value}</address_truncated>"));
        }
        xml.line("\t<attributes>");
        for (name, value) in flags(self.attributes) {
            if let Some(value) = value {
                xml.element(2, name, if value { "true" } else { "false" });
            }
        }
        xml.line("\t</attributes>");
        if let Some((policy, blocked)) = self.policy {
            policy.check()?;
            super::policy::write(&mut xml, policy, blocked);
        }
        xml.line(&format!("</{root}>"));
        xml.line("");
        Ok(xml.0)
    }
}

/// Names and values in the order of the document.
fn flags(attributes: &KeyAttributes) -> [(&'static str, Option<bool>); 12] {
    [
        ("decrypt", attributes.decrypt),
        ("sign", attributes.sign),
        ("eka_sign", attributes.eka_sign),
        ("unwrap", attributes.unwrap),
        ("derive", attributes.derive),
        ("sensitive", attributes.sensitive),
        ("always_sensitive", attributes.always_sensitive),
        ("extractable", attributes.extractable),
        ("never_extractable", attributes.never_extractable),
        ("modifiable", attributes.modifiable),
        ("copyable", attributes.copyable),
        ("destroyable", attributes.destroyable),
    ]
}

/// A time as documents and REST answers write it: UTC, whole seconds, `Z`.
#[must_use]
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[derive(Default)]
pub(super) struct Lines(String);

impl Lines {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    pub(super) fn open(&mut self, depth: usize, name: &str) {
        self.line(&format!("{}<{name}>", "\t".repeat(depth)));
    }

    pub(super) fn close(&mut self, depth: usize, name: &str) {
        self.line(&format!("{}</{name}>", "\t".repeat(depth)));
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// `text` must be escaped already.
    pub(super) fn element(&mut self, depth: usize, name: &str, text: &str) {
        let tabs = "\t".repeat(depth);
        writeln!(self.0, "{tabs}<{name}>{text}</{name}>").expect("a String takes any text");
    }
}

/// Text with the five predefined entities; `None` for what XML 1.0 cannot carry unchanged.
fn escape(text: &str) -> Option<String> {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => return None,
            control if control.is_control() => return None,
            other => escaped.push(other),
        }
    }
    Some(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn key(attributes: &KeyAttributes) -> AttestedKey<'_> {
        AttestedKey {
            label: "Anna's <key> & \"more\"",
            create_time: at("2026-01-01T00:00:00.9Z"),
            attest_time: at("2026-01-01T01:00:05+01:00"),
            algorithm: KeyAlgorithm::Ec,
            curve_oid: Some("1.3.132.0.10"),
            key_size: None,
            public_key: Some(&[0x30, 0, 0xff, 0xfe]),
            attributes,
            derivation: None,
            address: None,
            public_only: false,
            local: Some(true),
            policy: None,
        }
    }

    fn hardened() -> KeyAttributes {
        KeyAttributes {
            decrypt: Some(false),
            sign: Some(true),
            eka_sign: None,
            unwrap: Some(false),
            derive: Some(false),
            sensitive: Some(true),
            always_sensitive: Some(true),
            extractable: Some(false),
            never_extractable: Some(true),
            modifiable: Some(true),
            copyable: None,
            destroyable: Some(false),
        }
    }

    #[test]
    fn an_ec_key_is_written_byte_for_byte_so() {
        let expected = concat!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
            "<private_key creation=\"generated\" enforcement=\"software\" issuer=\"hsm-operator\">\n",
            "\t<label>Anna&apos;s &lt;key&gt; &amp; &quot;more&quot;</label>\n",
            "\t<create_time>2026-01-01T00:00:00Z</create_time>\n",
            "\t<attest_time>2026-01-01T00:00:05Z</attest_time>\n",
            "\t<algorithm>EC</algorithm>\n",
            "\t<algorithm_oid>1.2.840.10045.2.1</algorithm_oid>\n",
            "\t<curve_oid>1.3.132.0.10</curve_oid>\n",
            "\t<public_key>MAD//g==</public_key>\n",
            "\t<attributes>\n",
            "\t\t<decrypt>false</decrypt>\n",
            "\t\t<sign>true</sign>\n",
            "\t\t<unwrap>false</unwrap>\n",
            "\t\t<derive>false</derive>\n",
            "\t\t<sensitive>true</sensitive>\n",
            "\t\t<always_sensitive>true</always_sensitive>\n",
            "\t\t<extractable>false</extractable>\n",
            "\t\t<never_extractable>true</never_extractable>\n",
            "\t\t<modifiable>true</modifiable>\n",
            "\t\t<destroyable>false</destroyable>\n",
            "\t</attributes>\n",
            "</private_key>\n",
            "\n",
        );
        assert_eq!(key(&hardened()).to_xml().unwrap(), expected);
    }

    #[test]
    fn a_secret_key_has_a_root_and_a_size_but_no_public_key() {
        let attributes = KeyAttributes::default();
        let aes = AttestedKey {
            algorithm: KeyAlgorithm::Aes,
            curve_oid: None,
            key_size: Some(256),
            public_key: None,
            ..key(&attributes)
        };
        let xml = aes.to_xml().unwrap();
        assert!(xml.contains("<secret_key creation=") && xml.ends_with("</secret_key>\n\n"), "{xml}");
        assert!(xml.contains("\t<key_size>256</key_size>\n\t<attributes>\n\t</attributes>\n"), "{xml}");
    }

    #[test]
    fn a_policy_stands_behind_the_attributes_and_one_that_asks_somebody_is_not_told() {
        let attributes = hardened();
        let mut policy = KeyPolicy::default();
        let xml = AttestedKey { policy: Some((&policy, false)), ..key(&attributes) }.to_xml().unwrap();
        let end = "\t</attributes>\n\t<policy>\n\t\t<key_status>\n\t\t\t<blocked>false</blocked>\n\t\t</key_status>\n\t</policy>\n</private_key>\n\n";
        assert!(xml.ends_with(end), "{xml}");
        assert!(super::super::read::statements(xml.as_bytes()).unwrap().has_policy);
        policy.key_status.blocked = true;
        let refused = AttestedKey { policy: Some((&policy, true)), ..key(&attributes) }.to_xml();
        assert_eq!(refused, Err(DocumentError::Policy(PolicyError::Blocked)));
    }

    #[test]
    fn a_key_of_a_tree_has_its_chain_code() {
        let attributes = hardened();
        let xml = AttestedKey { derivation: Some(("SLIP-10", &[0xab; 32])), ..key(&attributes) }.to_xml();
        let expected = format!(
            "</public_key>\n\t<derivation_value type=\"SLIP-10\">{}</derivation_value>\n\t<attributes>\n",
            "AB".repeat(32)
        );
        assert!(xml.unwrap().contains(&expected));
    }

    #[test]
    fn only_a_clear_yes_of_the_token_makes_a_key_generated() {
        let attributes = hardened();
        for local in [None, Some(false)] {
            let xml = AttestedKey { local, ..key(&attributes) }.to_xml().unwrap();
            assert!(xml.contains(" creation=\"imported\" "), "{local:?}");
        }
    }

    #[test]
    fn what_cannot_be_told_truthfully_is_not_told() {
        let attributes = hardened();
        for label in ["a\nb", "a\u{0}", "a\u{ffff}", "tab\t"] {
            assert_eq!(AttestedKey { label, ..key(&attributes) }.to_xml(), Err(DocumentError::Label));
        }
        let half = AttestedKey { public_key: None, ..key(&attributes) };
        assert_eq!(half.to_xml(), Err(DocumentError::PublicKeyMissing(KeyAlgorithm::Ec)));
        let curve = AttestedKey { curve_oid: None, ..key(&attributes) };
        assert_eq!(curve.to_xml(), Err(DocumentError::CurveMissing));
    }
}
