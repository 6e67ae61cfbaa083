//! Passwords of keys, as clients send them.
//!
//! The contract has arrays of one-character texts. Published clients send those, or a plain text, or an array with an entry
//! for each *byte* of the UTF-8, as the character of that number: `["Ã", "©"]` for `é`. All of them name one password.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, SeqAccess, Visitor},
};
use zeroize::Zeroizing;

/// Bytes of a password at most, in UTF-8.
pub const PASSWORD_MAX: usize = 1024;
/// Bytes that are read at most. An entry for each byte doubles those that are not ASCII, and may have been made twice.
const READ_MAX: usize = 4 * PASSWORD_MAX;
/// Room for one character more, so that what was read is never moved and left behind.
const ROOM: usize = READ_MAX + 4;

/// A password: overwritten when it is dropped, and never printed. It may be empty, which is the same as none.
#[derive(Clone, Default)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Takes a text in any of the forms that clients send; `None` where it is too long.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut own = String::with_capacity(text.len());
        own.push_str(text);
        Self::of(Zeroizing::new(own))
    }

    /// The bytes, for whoever compares them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The password, unless there is none: missing, null and empty are the same.
    #[must_use]
    pub fn given(password: Option<&Self>) -> Option<&Self> {
        password.filter(|password| !password.is_empty())
    }

    fn of(text: Zeroizing<String>) -> Option<Self> {
        let bytes = canonical(text);
        (bytes.len() <= PASSWORD_MAX).then_some(Self(bytes))
    }
}

/// The UTF-8 of a text. One whose characters are themselves the bytes of UTF-8 stands for what these spell, for as long as
/// that goes on: so a text and each form in which it is sent have one result.
fn canonical(mut text: Zeroizing<String>) -> Zeroizing<Vec<u8>> {
    while !text.is_ascii() {
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
        let all_bytes = text.chars().all(|one| u8::try_from(one).map(|byte| bytes.push(byte)).is_ok());
        // Each time there are fewer characters.
        match std::str::from_utf8(&bytes) {
            Ok(spelled) if all_bytes => text = Zeroizing::new(spelled.to_owned()),
            _ => break,
        }
    }
    Zeroizing::new(std::mem::take(&mut *text).into_bytes())
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Password;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or an array of texts of one character each")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Password, E> {
                if text.len() > READ_MAX {
                    return Err(too_long());
                }
                Password::new(text).ok_or_else(too_long)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Password, A::Error> {
                let mut text = Zeroizing::new(String::with_capacity(ROOM));
                while entries.next_element_seed(Entry(&mut text))?.is_some() {
                    if text.len() > READ_MAX {
                        return Err(too_long());
                    }
                }
                Password::of(text).ok_or_else(too_long)
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// Of the bodies that carry one; whoever asks for a password may leave it out or send null, too.
impl JsonSchema for Password {
    fn schema_name() -> Cow<'static, str> {
        "Password".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": format!("A text, or its characters; at most {PASSWORD_MAX} bytes. Empty is as absent."),
            "anyOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string", "minLength": 1, "maxLength": 1 } },
            ],
        })
    }
}

fn too_long<E: Error>() -> E {
    E::custom(format_args!("a password has at most {PASSWORD_MAX} bytes"))
}

/// One entry of an array, which goes to the end of the text.
struct Entry<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Entry<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text of one character")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(one), None) => {
                self.0.push(one);
                Ok(())
            }
            _ => Err(E::custom("an entry of a password has exactly one character")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<Vec<u8>, String> {
        let text = value.to_string();
        let read = serde_json::from_str::<Option<Password>>(&text).map_err(|error| error.to_string())?;
        Ok(read.unwrap_or_default().expose().to_vec())
    }

    fn characters(text: &str) -> Value {
        text.chars().map(String::from).collect()
    }

    /// As the client in Go sends it: an entry for each byte.
    fn split_bytes(text: &str) -> Value {
        text.bytes().map(|byte| char::from(byte).to_string()).collect()
    }

    #[test]
    fn each_form_that_clients_send_is_the_same_password() {
        for value in [json!("aé€"), json!(["a", "é", "€"]), json!(["a", "Ã", "©", "â", "\u{82}", "¬"])]
        {
            assert_eq!(read(value.clone()).unwrap(), "aé€".as_bytes(), "{value}");
        }
        // Bytes that are no UTF-8 are characters.
        assert_eq!(read(json!(["é"])).unwrap(), "é".as_bytes());
        assert_eq!(read(json!(["ÿ", "þ"])).unwrap(), "ÿþ".as_bytes());
        for value in [Value::Null, json!(""), json!([])] {
            assert_eq!(read(value).unwrap(), b"");
        }
    }

    #[test]
    fn what_is_no_password_is_refused_and_not_repeated() {
        for value in [json!(7), json!(true), json!({}), json!([1]), json!(["a", null]), json!([["a"]])] {
            assert!(read(value.clone()).unwrap_err().contains("expected a text"), "{value}");
        }
        for value in [json!(["secret"]), json!(["a", ""]), json!(["é́"])] {
            let error = read(value).unwrap_err();
            assert!(error.starts_with("an entry of a password has exactly one character"), "{error}");
        }
    }

    #[test]
    fn a_password_has_a_thousand_bytes_at_most_however_they_are_sent() {
        let most = "é".repeat(PASSWORD_MAX / 2);
        for value in [json!(most), characters(&most), split_bytes(&most)] {
            assert_eq!(read(value).unwrap().len(), PASSWORD_MAX);
        }
        let more = format!("{most}a");
        let endless = "a".repeat(100_000);
        for value in
            [json!(more), characters(&more), split_bytes(&more), json!(endless), characters(&endless)]
        {
            assert!(read(value).unwrap_err().starts_with("a password has at most 1024 bytes"));
        }
    }

    #[test]
    fn a_password_is_never_printed() {
        assert_eq!(format!("{:?}", Some(Password::new("s3cret"))), "Some(Some(Password(…)))");
    }

    proptest! {
        /// Whatever the password is, also one that looks as if it were bytes itself.
        #[test]
        fn all_forms_of_any_text_are_one_password(text in "\\PC{0,40}", odd in "[a-cÀ-ÿ\u{80}-\u{bf}]{0,24}") {
            for text in [text, odd] {
                let plain = read(json!(text)).unwrap();
                prop_assert_eq!(&read(characters(&text)).unwrap(), &plain);
                prop_assert_eq!(&read(split_bytes(&text)).unwrap(), &plain);
                // And what comes of it names itself.
                let again = String::from_utf8(plain.clone()).unwrap();
                prop_assert_eq!(&read(json!(again)).unwrap(), &plain);
            }
        }

        /// Two texts of which neither looks like bytes are two passwords.
        #[test]
        fn different_texts_are_different_passwords(one in "[a-z€-₿]{0,12}", other in "[a-z€-₿]{0,12}") {
            prop_assert_eq!(one == other, read(json!(one)).unwrap() == read(json!(other)).unwrap());
        }
    }
}
