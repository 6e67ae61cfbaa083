//! Enums whose spelling is a contract: one list of names serves Rust, JSON, the CRD schema and errors.

/// Defines an enum from `Variant = "wire name"` pairs.
///
/// Gives `ALL`, `name()`, `Display`, `FromStr` (with an error that names the allowed values), serde and
/// a JSON schema of type string with an `enum`.
macro_rules! vocabulary {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $wire:literal $(| $also:literal)*,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* #[doc = concat!("`", $wire, "`")] $variant,)+ }

        impl $name {
            /// Every value, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name used in JSON and manifests.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $wire,)+ }
            }

            /// Other names that are read for it, and never written.
            const fn others(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($also),*],)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::model::vocabulary::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let is = |value: &Self| value.name() == text || value.others().contains(&text);
                Self::ALL.iter().copied().find(is).ok_or_else(|| {
                    $crate::model::vocabulary::UnknownName {
                        given: text.chars().take(64).collect(),
                        allowed: Self::ALL.iter().map(|value| value.name()).collect(),
                    }
                })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let names: Vec<&str> = Self::ALL.iter().map(|value| value.name()).collect();
                schemars::json_schema!({ "type": "string", "enum": names })
            }
        }
    };
}
pub(crate) use vocabulary;

/// A name that is not in the vocabulary.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is not one of {}", .allowed.join(", "))]
pub struct UnknownName {
    /// What was given, cut to 64 characters.
    pub given: String,
    /// What would be accepted.
    pub allowed: Vec<&'static str>,
}

#[cfg(test)]
mod tests {
    vocabulary! {
        /// Test words.
        Word { One = "ONE", Two = "two-2", }
    }

    #[test]
    fn names_round_trip_through_json_and_text() {
        for word in Word::ALL {
            assert_eq!(word.name().parse::<Word>().as_ref(), Ok(word));
            let json = serde_json::to_string(word).unwrap();
            assert_eq!(serde_json::from_str::<Word>(&json).unwrap(), *word);
        }
    }

    #[test]
    fn an_unknown_name_lists_what_is_allowed() {
        assert_eq!("x".parse::<Word>().unwrap_err().to_string(), "'x' is not one of ONE, two-2");
    }
}
