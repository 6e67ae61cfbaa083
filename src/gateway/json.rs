//! JSON that means one thing to everybody who reads it.
//!
//! A member that is there twice is read as the first by some programs and as the last by others, so that whoever checks a
//! request would see another one than whoever carries it out. Such a body is refused, and with it what only looks like
//! JSON where nobody happens to look: texts that are not UTF-8, and nesting without end, also in members that are ignored.

use std::{borrow::Cow, collections::HashSet, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer,
    },
};
use zeroize::Zeroize;

use super::error::{ApiError, Code};

/// How deep arrays and objects may be nested. No body of the contract needs more than eight.
pub const DEPTH_MAX: usize = 32;
/// Characters of a member's name that a message repeats.
const NAME_SHOWN: usize = 64;

/// Reads a JSON body that holds a secret, and overwrites it.
///
/// # Errors
/// As [`parse`].
pub fn parse_secret<T: DeserializeOwned>(body: Bytes) -> Result<T, ApiError> {
    let read = parse(&body);
    // Nobody else has it, unless the connection does.
    if let Ok(mut bytes) = body.try_into_mut() {
        bytes.as_mut().zeroize();
    }
    read
}

/// Reads a JSON body.
///
/// # Errors
/// 621 where it is no JSON, or JSON of which nobody can tell what it says; 600 where a member is missing or has a value
/// that is not allowed.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let message = format!("Invalid request. The body is not UTF-8 at byte {}", error.valid_up_to());
        ApiError::new(Code::Json, message)
    })?;
    one_meaning(text)?;
    serde_json::from_str(text).map_err(|_| wrong_value::<T>(text))
}

/// For `#[serde(deserialize_with)]`: an object of the body, and nothing else. Without it an array is taken for an object
/// whose members come in the order in which they happen to be declared here.
///
/// # Errors
/// Where it is something else.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Object<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_map(Object(std::marker::PhantomData))
}

/// The same, of a member that may be missing or null; `#[serde(default)]` has to stand beside it.
///
/// # Errors
/// Where it is something else.
pub fn object_or_none<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(bound = "T: Deserialize<'de>")]
    struct Object<T>(#[serde(deserialize_with = "object")] T);
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|Object(inner)| inner))
}

fn one_meaning(text: &str) -> Result<(), ApiError> {
    let mut flaw = None;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = Look { depth: 0, flaw: &mut flaw }.deserialize(&mut deserializer);
    match read.and_then(|first| deserializer.end().map(|()| first)) {
        Ok('{') => Ok(()),
        Ok(_) => Err(ApiError::new(Code::Validation, "the body must be a JSON object")),
        Err(error) => {
            let why = flaw.unwrap_or_else(|| error.to_string());
            Err(ApiError::new(Code::Json, format!("Invalid request. Cannot parse json string: {why}")))
        }
    }
}

/// Goes through a value without keeping any of it, and tells an object, `{`, from anything else.
struct Look<'a> {
    depth: usize,
    flaw: &'a mut Option<String>,
}

impl Look<'_> {
    /// The same for what is inside.
    fn inside<E: Error>(&mut self) -> Result<Look<'_>, E> {
        if self.depth == DEPTH_MAX {
            return Err(self.refuse(format!("it is nested more than {DEPTH_MAX} deep")));
        }
        Ok(Look { depth: self.depth + 1, flaw: self.flaw })
    }

    fn refuse<E: Error>(&mut self, why: String) -> E {
        *self.flaw = Some(why);
        E::custom("refused")
    }
}

impl<'de> DeserializeSeed<'de> for Look<'_> {
    type Value = char;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<char, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Look<'_> {
    type Value = char;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<char, E> {
        Ok(' ')
    }

    fn visit_bool<E>(self, _: bool) -> Result<char, E> {
        Ok(' ')
    }

    fn visit_i64<E>(self, _: i64) -> Result<char, E> {
        Ok(' ')
    }

    fn visit_u64<E>(self, _: u64) -> Result<char, E> {
        Ok(' ')
    }

    fn visit_f64<E>(self, _: f64) -> Result<char, E> {
        Ok(' ')
    }

    fn visit_str<E>(self, _: &str) -> Result<char, E> {
        Ok(' ')
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut sequence: A) -> Result<char, A::Error> {
        while sequence.next_element_seed(self.inside()?)?.is_some() {}
        Ok('[')
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<char, A::Error> {
        let mut names = HashSet::new();
        while let Some(Name(name)) = map.next_key()? {
            if names.contains(&name) {
                let name: String = name.chars().take(NAME_SHOWN).collect();
                return Err(self.refuse(format!("the member {name:?} is there twice")));
            }
            names.insert(name);
            map.next_value_seed(self.inside()?)?;
        }
        Ok('{')
    }
}

/// The name of a member, borrowed where it has no escapes.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a member")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Names the member whose value is not allowed. It is read once more for that: what is right does not pay for it.
fn wrong_value<T: DeserializeOwned>(text: &str) -> ApiError {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let message = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => "the body is not what this endpoint takes".to_owned(),
        Err(error) => {
            let (path, what) = (error.path().to_string(), without_value(&error.inner().to_string()));
            if path == "." { what } else { format!("{path}: {what}") }
        }
    };
    ApiError::new(Code::Validation, message)
}

/// A message without the value that it complains of, which may be a password that went to the wrong place.
fn without_value(message: &str) -> String {
    let kinds =
        [("invalid type: ", "a value of another type"), ("invalid value: ", "a value that is not allowed")];
    for (start, instead) in kinds {
        if message.starts_with(start)
            && let Some(at) = message.rfind(", expected ")
        {
            return format!("{instead}{}", &message[at..]);
        }
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Outer {
        #[serde(deserialize_with = "object")]
        inner: Inner,
        #[serde(default, deserialize_with = "object_or_none")]
        other: Option<Inner>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Inner {
        name: String,
    }

    fn refused(text: &[u8]) -> (Code, String) {
        let ApiError { code, message, .. } = parse::<Outer>(text).unwrap_err();
        (code, message)
    }

    #[test]
    fn a_body_that_says_one_thing_is_read() {
        let inner = |name: &str| Inner { name: name.into() };
        let read = parse::<Outer>(br#"{"inner":{"name":"a","more":[{"x":1},{"x":2}]},"other":null}"#);
        assert_eq!(read, Ok(Outer { inner: inner("a"), other: None }));
        let read = parse::<Outer>(br#"{"other":{"name":"b"},"inner":{"name":"a"}}"#);
        assert_eq!(read, Ok(Outer { inner: inner("a"), other: Some(inner("b")) }));
    }

    #[test]
    fn a_member_that_is_there_twice_is_refused_wherever_it_is_and_however_it_is_written() {
        for text in [
            r#"{"inner":{"name":"a"},"inner":{"name":"b"}}"#,
            r#"{"inner":{"name":"a","name":"a"}}"#,
            r#"{"inner":{"name":"a","\u006eame":"b"}}"#,
            r#"{"inner":{"name":"a"},"ignored":[{"name":1,"name":2}]}"#,
        ] {
            let (code, message) = refused(text.as_bytes());
            assert!(code == Code::Json && message.contains("is there twice"), "{text}: {message}");
        }
    }

    #[test]
    fn what_is_ignored_must_be_json_too() {
        let deep = |depth: usize| {
            format!(r#"{{"inner":{{"name":"a"}},"x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
        };
        assert!(parse::<Outer>(deep(DEPTH_MAX - 1).as_bytes()).is_ok());
        for text in [
            deep(DEPTH_MAX).into_bytes(),
            deep(100_000).into_bytes(),
            b"{\"inner\":{\"name\":\"a\"},\"x\":\"\xff\"}".to_vec(),
            br#"{"inner":{"name":"a"},"x":"\ud800"}"#.to_vec(),
            br#"{"inner":{"name":"a"},"x":1e999}"#.to_vec(),
            br#"{"inner":{"name":"a"}}x"#.to_vec(),
        ] {
            assert_eq!(refused(&text).0, Code::Json, "{}", String::from_utf8_lossy(&text[..40]));
        }
    }

    #[test]
    fn a_wrong_value_is_named_by_its_place_and_not_repeated() {
        let (code, message) = refused(br#"{"inner":{"name":{"secret":1}}}"#);
        assert_eq!(code, Code::Validation);
        assert!(message.starts_with("inner.name: a value of another type, expected a string"), "{message}");
        let (_, message) = refused(br#"{"inner":"secret, expected nothing"}"#);
        assert!(message.starts_with("inner: a value of another type, expected an object"), "{message}");
    }

    #[test]
    fn an_array_is_no_object() {
        for text in [r#"{"inner":["a"]}"#, r#"{"inner":{"name":"a"},"other":["b"]}"#, r#"[{"name":"a"}]"#] {
            assert_eq!(refused(text.as_bytes()).0, Code::Validation, "{text}");
        }
    }
}
