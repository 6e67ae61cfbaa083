//! Distinguished names from the attributes of the contract.

use const_oid::db::{rfc3280, rfc4519};
use der::{
    Decode, Encode,
    asn1::{Any, Ia5StringRef, ObjectIdentifier, PrintableStringRef, Utf8StringRef},
};
use x509_cert::{
    attr::AttributeTypeAndValue,
    name::{Name, RelativeDistinguishedName},
};

use super::Error;
use crate::model::certificate::Subject;

/// X.520 (10/2012), 6.4.6.
const ORGANIZATION_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.97");
/// RFC 3739, 3.1.2.
const PSEUDONYM: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.65");

/// How the value of an attribute is written (RFC 5280, appendix A).
#[derive(Clone, Copy)]
enum Text {
    /// PrintableString of two letters.
    Country,
    /// IA5String.
    Email,
    /// UTF8String of at most so many characters.
    Utf8(usize),
}

/// Writes a name in the contract's order: C, ST, L, O, organizationIdentifier, OU, CN, then what describes a person.
///
/// # Errors
/// When there is no common name, or a value has no place in a name.
pub fn name(subject: &Subject) -> Result<Name, Error> {
    use rfc4519 as oid;
    let rows = [
        ("country", &subject.country, oid::COUNTRY_NAME, Text::Country),
        ("stateOrProvinceName", &subject.state_or_province_name, oid::ST, Text::Utf8(128)),
        ("locality", &subject.locality, oid::LOCALITY_NAME, Text::Utf8(128)),
        ("organizationName", &subject.organization_name, oid::ORGANIZATION_NAME, Text::Utf8(64)),
        (
            "organizationIdentifier",
            &subject.organization_identifier,
            ORGANIZATION_IDENTIFIER,
            Text::Utf8(256),
        ),
        (
            "organizationUnitName",
            &subject.organization_unit_name,
            oid::ORGANIZATIONAL_UNIT_NAME,
            Text::Utf8(64),
        ),
        ("commonName", &subject.common_name, oid::COMMON_NAME, Text::Utf8(64)),
        ("email", &subject.email, rfc3280::EMAIL_ADDRESS, Text::Email),
        ("title", &subject.title, oid::TITLE, Text::Utf8(64)),
        ("surname", &subject.surname, oid::SN, Text::Utf8(128)),
        ("givenName", &subject.given_name, oid::GIVEN_NAME, Text::Utf8(128)),
        ("initials", &subject.initials, oid::INITIALS, Text::Utf8(128)),
        ("pseudonym", &subject.pseudonym, PSEUDONYM, Text::Utf8(128)),
        ("generationQualifier", &subject.generation_qualifier, oid::GENERATION_QUALIFIER, Text::Utf8(128)),
    ];
    let given = |value: &Option<String>| value.as_ref().is_some_and(|text| !text.trim().is_empty());
    if !given(&subject.common_name) {
        return Err(Error::Subject("commonName is missing".into()));
    }
    let parts = rows.into_iter().filter(|(_, value, ..)| given(value));
    let parts: Vec<_> = parts
        .map(|(field, value, oid, text)| part(field, value.as_deref().unwrap_or_default(), oid, text))
        .collect::<Result<_, _>>()?;
    // `Name` cannot be built from its parts, but read.
    Ok(Name::from_der(&parts.to_der()?)?)
}

fn part(
    field: &str,
    value: &str,
    oid: ObjectIdentifier,
    text: Text,
) -> Result<RelativeDistinguishedName, Error> {
    let refuse = |why: String| Err(Error::Subject(format!("{field} {why}")));
    // A name that ends early for one reader and goes on for another is two names.
    if value.chars().any(char::is_control) {
        return refuse("has control characters".into());
    }
    let value = match text {
        Text::Country => {
            if value.len() != 2 || !value.bytes().all(|byte| byte.is_ascii_alphabetic()) {
                return refuse("must be two letters".into());
            }
            Any::encode_from(&PrintableStringRef::new(value)?)?
        }
        Text::Email => {
            if !value.is_ascii() || value.len() > 255 {
                return refuse("must be at most 255 ASCII characters".into());
            }
            Any::encode_from(&Ia5StringRef::new(value)?)?
        }
        Text::Utf8(max) => {
            let length = value.chars().count();
            if length > max {
                return refuse(format!("has {length} characters, at most {max} are allowed"));
            }
            Any::encode_from(&Utf8StringRef::new(value)?)?
        }
    };
    Ok(RelativeDistinguishedName::try_from(vec![AttributeTypeAndValue { oid, value }])?)
}

#[cfg(test)]
mod tests {
    use der::{Tag, Tagged};

    use super::*;

    fn common(name: &str) -> Subject {
        Subject { common_name: Some(name.into()), ..Subject::default() }
    }

    #[test]
    fn a_name_has_the_order_and_the_string_types_of_the_standard() {
        let some = |text: &str| Some(text.to_owned());
        let all = Subject {
            common_name: some("Zoë"),
            country: some("CH"),
            state_or_province_name: some("ZH"),
            locality: some("Zürich"),
            organization_name: some("Example"),
            organization_identifier: some("VATCH-1"),
            organization_unit_name: some("Unit"),
            email: some("a@example.org"),
            title: some("Dr"),
            surname: some("S"),
            given_name: some("G"),
            initials: some("I"),
            pseudonym: some("P"),
            generation_qualifier: some("Jr."),
        };
        let name = name(&all).unwrap();
        let written: Vec<_> = name.iter().map(|one| (one.oid.to_string(), one.value.tag())).collect();
        let utf8 = |oid: &str| (oid.to_owned(), Tag::Utf8String);
        let wanted = [
            ("2.5.4.6".to_owned(), Tag::PrintableString),
            utf8("2.5.4.8"),
            utf8("2.5.4.7"),
            utf8("2.5.4.10"),
            utf8("2.5.4.97"),
            utf8("2.5.4.11"),
            utf8("2.5.4.3"),
            ("1.2.840.113549.1.9.1".to_owned(), Tag::Ia5String),
            utf8("2.5.4.12"),
            utf8("2.5.4.4"),
            utf8("2.5.4.42"),
            utf8("2.5.4.43"),
            utf8("2.5.4.65"),
            utf8("2.5.4.44"),
        ];
        assert_eq!(written, wanted);
    }

    #[test]
    fn what_has_no_place_in_a_name_is_refused_by_the_name_of_the_field() {
        let country = |text: &str| Subject { country: Some(text.into()), ..common("x") };
        let email = |text: &str| Subject { email: Some(text.into()), ..common("x") };
        for (subject, word) in [
            (Subject::default(), "commonName"),
            (common(""), "commonName"),
            (common("  "), "commonName"),
            (common(&"é".repeat(65)), "65"),
            (common("a\0b"), "control"),
            (common("a\nb"), "control"),
            (country("CHE"), "country"),
            (country("C1"), "country"),
            (country("Ü"), "country"),
            (email("zoë@example.org"), "email"),
        ] {
            let said = name(&subject).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
        assert_eq!(name(&common(&"é".repeat(64))).unwrap().len(), 1);
        assert_eq!(name(&country("")).unwrap().len(), 1, "an empty value is as absent");
    }
}
