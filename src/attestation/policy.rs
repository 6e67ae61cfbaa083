//! The `policy` of an attestation's document.
//!
//! Tokens are elements by their names, so a name that is none of XML is written as one: what may not be there becomes
//! `_xHHHH_` (ISO 9075-14, SQL/XML), and so does an underscore before an `x`.

use super::document::Lines;
use crate::model::KeyPolicy;

/// Writes the element. The policy must be one that asks nobody.
pub(super) fn write(xml: &mut Lines, policy: &KeyPolicy, blocked: bool) {
    xml.open(1, "policy");
    xml.open(2, "key_status");
    xml.element(3, "blocked", if blocked { "true" } else { "false" });
    xml.close(2, "key_status");
    for (_, name, rule) in policy.rules() {
        let Some(rule) = rule else { continue };
        xml.open(2, name);
        for token in &rule.tokens {
            let name = element(&token.name);
            xml.open(3, &name);
            xml.element(4, "timelock", &token.timelock.to_string());
            xml.element(4, "timeout", &token.timeout.to_string());
            xml.close(3, &name);
        }
        xml.close(2, name);
    }
    xml.close(1, "policy");
}

/// A name as the name of an element: different ones stay different.
fn element(name: &str) -> String {
    let mut element = String::with_capacity(name.len());
    for (at, character) in name.char_indices() {
        let first = at == 0;
        let plain = match character {
            'a'..='z' | 'A'..='Z' => true,
            '0'..='9' | '-' | '.' => !first,
            // Before an x it would begin an escape, or seem to.
            '_' => !name[at + 1..].starts_with('x'),
            _ => false,
        };
        if plain {
            element.push(character);
        } else {
            element.push_str(&format!("_x{:04X}_", u32::from(character)));
        }
    }
    element
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::model::policy::{Rule, Token};

    #[test]
    fn a_policy_is_written_byte_for_byte_so() {
        let token = |name: &str, timeout| Token { name: name.into(), timeout, ..Token::default() };
        let policy = KeyPolicy {
            rule_use: Some(Rule { tokens: vec![token("main", 0), token("4 Augen", 600)] }),
            rule_modify: Some(Rule::default()),
            ..KeyPolicy::default()
        };
        let mut xml = Lines::default();
        write(&mut xml, &policy, false);
        let expected = concat!(
            "\t<policy>\n",
            "\t\t<key_status>\n",
            "\t\t\t<blocked>false</blocked>\n",
            "\t\t</key_status>\n",
            "\t\t<rule_use>\n",
            "\t\t\t<main>\n",
            "\t\t\t\t<timelock>0</timelock>\n",
            "\t\t\t\t<timeout>0</timeout>\n",
            "\t\t\t</main>\n",
            "\t\t\t<_x0034__x0020_Augen>\n",
            "\t\t\t\t<timelock>0</timelock>\n",
            "\t\t\t\t<timeout>600</timeout>\n",
            "\t\t\t</_x0034__x0020_Augen>\n",
            "\t\t</rule_use>\n",
            "\t\t<rule_modify>\n",
            "\t\t</rule_modify>\n",
            "\t</policy>\n",
        );
        assert_eq!(xml.text(), expected);
    }

    #[test]
    fn names_are_names_of_xml_and_stay_different() {
        let names = [
            "a",
            "A",
            "a-1.b_",
            "-a",
            "1",
            " ",
            "a b",
            "ä",
            "😀",
            "<",
            "_",
            "_x0020_",
            "_x005F_x0020_",
            "a:b",
        ];
        let written: HashSet<_> = names.iter().map(|name| element(name)).collect();
        assert_eq!(written.len(), names.len());
        assert_eq!(
            [element("_x0020_"), element("_x"), element("a:b")],
            ["_x005F_x0020_", "_x005F_x", "a_x003A_b"]
        );
    }

    proptest! {
        #[test]
        fn any_name_is_a_name_of_xml(name in "\\PC{1,20}", odd in "[_x0-9a-f ]{1,16}") {
            for name in [name, odd] {
                let written = element(&name);
                let mut bytes = written.bytes();
                prop_assert!(bytes.next().is_some_and(|one| one.is_ascii_alphabetic() || one == b'_'));
                prop_assert!(bytes.all(|one| one.is_ascii_alphanumeric() || b"_-.".contains(&one)));
                prop_assert_eq!(back(&written), name);
            }
        }
    }

    /// What the name was.
    fn back(mut written: &str) -> String {
        let mut name = String::new();
        while let Some(character) = written.chars().next() {
            let rest = &written[character.len_utf8()..];
            if character == '_' && rest.starts_with('x') {
                let (digits, after) = rest[1..].split_once('_').unwrap();
                name.push(char::from_u32(u32::from_str_radix(digits, 16).unwrap()).unwrap());
                written = after;
            } else {
                name.push(character);
                written = rest;
            }
        }
        name
    }
}
