//! Reads a document whose signature was verified.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;
use std::collections::BTreeMap;

/// Deepest nesting that is read; documents have three levels, policies seven.
const DEPTH_MAX: usize = 16;

/// What a document says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statements {
    /// Root element: `private_key` or `secret_key`; `public_key`, where the private half is elsewhere. Of a secret key that an
    /// HSM speaks of, whatever it calls one: no public source has the word.
    pub kind: String,
    /// Attributes of the root: `creation`, and `enforcement` and `issuer` where software signed.
    pub root: BTreeMap<String, String>,
    /// Label of the key.
    pub label: String,
    /// When the key was made.
    pub create_time: Timestamp,
    /// When the statement was made.
    pub attest_time: Timestamp,
    /// Name of the algorithm.
    pub algorithm: String,
    /// Identifier of the algorithm.
    pub algorithm_oid: String,
    /// Identifier of the curve.
    pub curve_oid: Option<String>,
    /// Bits of the key.
    pub key_size: Option<u32>,
    /// DER SubjectPublicKeyInfo.
    pub public_key: Option<Vec<u8>>,
    /// The key's attributes by name. What is not there was not stated.
    pub attributes: BTreeMap<String, bool>,
    /// Whether the document has a `policy`.
    pub has_policy: bool,
}

/// What the statements amount to for a reader who wants a key that never left its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Generated on the token, and neither readable nor extractable at any time.
    NeverOutside,
    /// At least one of these is denied or not stated.
    NotStated,
}

impl Statements {
    /// Whether the document says that software wrote it. One that an HSM wrote says nothing of who did.
    #[must_use]
    pub fn is_software(&self) -> bool {
        is_software(&self.root)
    }

    /// Whether the document says that the key was generated inside and could never leave.
    #[must_use]
    pub fn protection(&self) -> Protection {
        let says = |name: &str, value: bool| self.attributes.get(name) == Some(&value);
        let inside = self.root.get("creation").is_some_and(|creation| creation == "generated")
            && says("sensitive", true)
            && says("always_sensitive", true)
            && says("extractable", false)
            && says("never_extractable", true);
        if inside { Protection::NeverOutside } else { Protection::NotStated }
    }
}

/// Why a document is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not UTF-8, not well-formed, too deep.
    #[error("the document is not well-formed XML: {0}")]
    Xml(String),
    /// Something that a document must not contain.
    #[error("the document contains {0}, which is refused")]
    Forbidden(&'static str),
    /// Another root element.
    #[error("the document is not about a key, its root is '{0}'")]
    Root(String),
    /// An element that must be there once.
    #[error("the document has no '{0}'")]
    Missing(&'static str),
    /// One element twice: two readers could see different things.
    #[error("the document has more than one '{0}'")]
    Twice(String),
    /// A value that is not what its name promises.
    #[error("the value of '{0}' is not readable")]
    Value(String),
}

fn is_software(root: &BTreeMap<String, String>) -> bool {
    root.contains_key("enforcement") || root.contains_key("issuer")
}

pub(super) fn statements(xml: &[u8]) -> Result<Statements, ReadError> {
    let text = std::str::from_utf8(xml).map_err(|error| ReadError::Xml(error.to_string()))?;
    let mut tree = leaves(text)?;
    if !tree.elements.contains_key("attributes") {
        return Err(ReadError::Missing("attributes"));
    }
    let mut optional = |path: &'static str| match tree.elements.remove(path) {
        Some(None) => Err(ReadError::Value(path.into())),
        text => Ok(text.flatten()),
    };
    let curve_oid = optional("curve_oid")?;
    let key_size = optional("key_size")?.map(|text| text.parse()).transpose();
    let public_key = optional("public_key")?.map(|text| BASE64_STANDARD.decode(text)).transpose();
    let named = matches!(tree.kind.as_str(), "private_key" | "secret_key" | "public_key");
    if !named && (!matches!(public_key, Ok(None)) || is_software(&tree.root)) {
        return Err(ReadError::Root(tree.kind));
    }
    let mut required = |path: &'static str| optional(path)?.ok_or(ReadError::Missing(path));
    let time = |name: &str, text: &str| text.parse().map_err(|_| ReadError::Value(name.to_owned()));
    let label = required("label")?;
    let create_time = time("create_time", &required("create_time")?)?;
    let attest_time = time("attest_time", &required("attest_time")?)?;
    let (algorithm, algorithm_oid) = (required("algorithm")?, required("algorithm_oid")?);
    let attributes = tree.elements.iter().filter_map(|(path, text)| {
        let name = path.strip_prefix("attributes/")?;
        let text = text.as_deref().unwrap_or_default();
        let value = text.parse().map_err(|_| ReadError::Value(name.to_owned()));
        Some(value.map(|value| (name.to_owned(), value)))
    });
    Ok(Statements {
        label,
        create_time,
        attest_time,
        algorithm,
        algorithm_oid,
        curve_oid,
        key_size: key_size.map_err(|_| ReadError::Value("key_size".into()))?,
        public_key: public_key.map_err(|_| ReadError::Value("public_key".into()))?,
        attributes: attributes.collect::<Result<_, _>>()?,
        has_policy: tree.has_policy,
        kind: tree.kind,
        root: tree.root,
    })
}

/// The document by path below the root. Policies are passed over: nothing is said of them here.
#[derive(Default)]
struct Tree {
    kind: String,
    root: BTreeMap<String, String>,
    /// The text of an element, `None` where it has elements inside.
    elements: BTreeMap<String, Option<String>>,
    has_policy: bool,
}

fn leaves(text: &str) -> Result<Tree, ReadError> {
    let malformed = |error: &dyn std::fmt::Display| ReadError::Xml(error.to_string());
    let mut reader = Reader::from_str(text);
    let mut tree = Tree::default();
    // Names from the root's child down, and the text since the last tag.
    let mut path: Vec<String> = Vec::new();
    let mut content = String::new();
    // The last tag closed an element, so the one that closes next has elements inside.
    let mut has_children = false;
    let mut open = false;
    let mixed = || ReadError::Xml("text beside elements".into());
    loop {
        match reader.read_event().map_err(|error| malformed(&error))? {
            Event::Start(start) if tree.kind.is_empty() => {
                tree.kind = name_of(&start);
                tree.root = root_attributes(&start)?;
                open = true;
            }
            Event::Start(start) if open && path.len() < DEPTH_MAX => {
                if !content.trim().is_empty() {
                    return Err(mixed());
                }
                path.push(name_of(&start));
                content.clear();
                has_children = false;
                tree.has_policy |= path == ["policy"];
            }
            Event::Start(_) | Event::Empty(_) => {
                return Err(ReadError::Xml("an empty, misplaced or too deep element".into()));
            }
            Event::End(_) if path.is_empty() => open = false,
            Event::End(_) => {
                let (joined, is_policy) = (path.join("/"), path[0] == "policy" && path.len() > 1);
                let text = std::mem::take(&mut content);
                if has_children && !text.trim().is_empty() {
                    return Err(mixed());
                }
                let text = (!has_children).then_some(text);
                if !is_policy && tree.elements.insert(joined.clone(), text).is_some() {
                    return Err(ReadError::Twice(joined));
                }
                path.pop();
                has_children = true;
            }
            Event::Text(text) if path.is_empty() && !text.xml10_content().trim().is_empty() => {
                return Err(mixed());
            }
            Event::Text(text) => content.push_str(&text.xml10_content()),
            Event::GeneralRef(_) if path.is_empty() => return Err(mixed()),
            Event::GeneralRef(reference) => {
                let name = reference.xml10_content();
                let character = match reference.resolve_char_ref().map_err(|error| malformed(&error))? {
                    Some(character) => character.to_string(),
                    None => quick_xml::escape::resolve_xml_entity(&name)
                        .ok_or(ReadError::Forbidden("an entity of its own"))?
                        .to_owned(),
                };
                content.push_str(&character);
            }
            Event::Decl(_) if tree.kind.is_empty() => {}
            Event::Decl(_) => return Err(ReadError::Forbidden("a second declaration")),
            Event::DocType(_) => return Err(ReadError::Forbidden("a DOCTYPE")),
            Event::CData(_) => return Err(ReadError::Forbidden("a CDATA section")),
            Event::Comment(_) => return Err(ReadError::Forbidden("a comment")),
            Event::PI(_) => return Err(ReadError::Forbidden("a processing instruction")),
            Event::Eof if tree.kind.is_empty() || open => {
                return Err(ReadError::Xml("it ends too early".into()));
            }
            Event::Eof => return Ok(tree),
        }
    }
}

fn name_of(start: &BytesStart<'_>) -> String {
    start.name().as_ref().to_owned()
}

fn root_attributes(start: &BytesStart<'_>) -> Result<BTreeMap<String, String>, ReadError> {
    let mut attributes = BTreeMap::new();
    // The reader itself refuses a name that comes twice.
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| ReadError::Xml(error.to_string()))?;
        let name = attribute.key.as_ref().to_owned();
        let value = attribute.normalized_value(XmlVersion::Explicit1_0);
        let value = value.map_err(|_| ReadError::Value(name.clone()))?.into_owned();
        attributes.insert(name, value);
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<private_key creation=\"generated\">\n\t<label>Anna&apos;s &#65;</label>\n\t<create_time>2026-01-01T00:00:00Z</create_time>\n\t<attest_time>2026-01-01T00:00:05Z</attest_time>\n\t<algorithm>RSA</algorithm>\n\t<algorithm_oid>1.2.840.113549.1.1.1</algorithm_oid>\n\t<key_size>3072</key_size>\n\t<attributes>\n\t\t<extractable>false</extractable>\n\t\t<unheard_of>true</unheard_of>\n\t</attributes>\n\t<policy>\n\t\t<token name=\"a\">\n\t\t\t<timeout>0</timeout>\n\t\t</token>\n\t\t<token name=\"b\">\n\t\t\t<timeout>0</timeout>\n\t\t</token>\n\t</policy>\n</private_key>\n\n";

    fn read(xml: &str) -> Result<Statements, ReadError> {
        statements(xml.as_bytes())
    }

    #[test]
    fn a_document_of_another_maker_is_read_too() {
        let statements = read(GOOD).unwrap();
        assert_eq!(statements.label, "Anna's A");
        assert_eq!(statements.key_size, Some(3072));
        assert_eq!(statements.attributes.len(), 2);
        assert!(statements.has_policy);
        assert_eq!(statements.protection(), Protection::NotStated);
    }

    #[test]
    fn only_an_hsm_has_another_word_for_a_key_and_only_for_one_without_public_half() {
        let other = GOOD.replace("private_key", "other_key");
        assert_eq!(read(&other).unwrap().kind, "other_key");
        let refused = ReadError::Root("other_key".into());
        let public = other.replace("<attributes>", "<public_key>AAAA</public_key><attributes>");
        assert_eq!(read(&public).unwrap_err(), refused);
        for claim in ["enforcement=\"software\"", "issuer=\"hsm-operator\""] {
            let software = other.replace("<other_key ", &format!("<other_key {claim} "));
            assert_eq!(read(&software).unwrap_err(), refused);
        }
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_refused() {
        let changed = |from: &str, to: &str| {
            assert!(GOOD.contains(from), "{from}");
            read(&GOOD.replacen(from, to, 1)).unwrap_err()
        };
        let doctype = changed("<private_key", "<!DOCTYPE private_key [<!ENTITY x \"y\">]>\n<private_key");
        assert_eq!(doctype, ReadError::Forbidden("a DOCTYPE"));
        assert_eq!(changed("&apos;", "&x;"), ReadError::Forbidden("an entity of its own"));
        assert_eq!(changed("<label>", "<!-- --><label>"), ReadError::Forbidden("a comment"));
        assert_eq!(changed("RSA", "<![CDATA[RSA]]>"), ReadError::Forbidden("a CDATA section"));
        assert_eq!(changed("<label>", "<?x y?><label>"), ReadError::Forbidden("a processing instruction"));
        assert_eq!(changed("<label>", "<label>a</label><label>"), ReadError::Twice("label".into()));
        assert_eq!(changed(">3072<", ">many<"), ReadError::Value("key_size".into()));
        assert_eq!(changed(">false<", ">no<"), ReadError::Value("extractable".into()));
        assert_eq!(changed("<algorithm>RSA</algorithm>", ""), ReadError::Missing("algorithm"));
        assert_eq!(changed("RSA", "<x>RSA</x>"), ReadError::Value("algorithm".into()));
        let renamed = GOOD.replace("attributes>", "attribute>");
        assert_eq!(read(&renamed).unwrap_err(), ReadError::Missing("attributes"));
        for (from, to) in [
            ("\n</private_key>", ""),
            ("</private_key>\n\n", "</private_key><private_key></private_key>"),
            ("creation=\"generated\"", "creation=\"generated\" creation=\"imported\""),
            ("</label>", "</lable>"),
            ("<label>", "text<label>"),
            ("<label>", "&#65;<label>"),
            ("<label>", "<label>text<x></x>"),
            ("</label>", "<x></x>text</label>"),
            ("<policy>", "<empty/><policy>"),
        ] {
            assert!(matches!(changed(from, to), ReadError::Xml(_)), "{to}");
        }
        assert!(matches!(read(&"<private_key>".repeat(100)), Err(ReadError::Xml(_))));
        assert!(matches!(statements(b"<private_key>\xff"), Err(ReadError::Xml(_))));
    }
}
