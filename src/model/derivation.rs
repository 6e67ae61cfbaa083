//! Names of keys that are derived from another one: `master/44'/0'/0`.

use super::{KeyLabel, name::InvalidLabel};

/// A master key and the way from it to another key (BIP-32, SLIP-10).
///
/// The slash in a key's name is always the start of the way: no key on the token has one in its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerivedName {
    /// Label of the master key.
    pub master: KeyLabel,
    /// The way from there.
    pub path: DerivationPath,
}

/// The way from a master key to another, one index for each step, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerivationPath(Vec<Step>);

/// One step of a [`DerivationPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Below 2³¹.
    pub index: u32,
    /// Written with an apostrophe: the step needs the private key.
    pub hardened: bool,
}

/// Indices of steps are below this; the upper half of 32 bits is for the hardened ones.
const INDEX_END: u32 = 1 << 31;
/// Most steps. BIP-32 counts the depth in one byte.
const STEPS_MAX: usize = 255;

/// Why a text is not the name of a derived key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDerivation {
    /// One of its two parts is empty.
    #[error("BIP32 key name '{0}' does not contain master key name and path")]
    Incomplete(String),
    /// The part before the slash is no label.
    #[error("the master key's name is none: {0}")]
    Master(#[from] InvalidLabel),
    /// A step is not a number below 2³¹, with or without an apostrophe.
    #[error(
        "'{0}' is no step of a derivation path: a number below 2147483648, with ' behind it if it is hardened"
    )]
    Step(String),
    /// More steps than can be counted.
    #[error("a derivation path has at most {STEPS_MAX} steps, this one has {0}")]
    TooLong(usize),
}

impl DerivedName {
    /// Reads `master/path`.
    ///
    /// # Errors
    /// [`InvalidDerivation`] says which part is not right.
    pub fn parse(text: &str) -> Result<Self, InvalidDerivation> {
        match text.split_once('/') {
            Some((master, path)) if !master.is_empty() && !path.is_empty() => {
                Ok(Self { master: KeyLabel::new(master)?, path: DerivationPath::parse(path)? })
            }
            _ => Err(InvalidDerivation::Incomplete(text.to_owned())),
        }
    }
}

impl DerivationPath {
    /// Reads `44'/0'/0`, without a slash in front.
    ///
    /// # Errors
    /// [`InvalidDerivation`] names the step that is none.
    pub fn parse(text: &str) -> Result<Self, InvalidDerivation> {
        let steps = text.split('/').map(Step::parse).collect::<Result<Vec<_>, _>>()?;
        if steps.len() > STEPS_MAX { Err(InvalidDerivation::TooLong(steps.len())) } else { Ok(Self(steps)) }
    }

    /// Its steps, from the master key on.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl Step {
    fn parse(text: &str) -> Result<Self, InvalidDerivation> {
        let (digits, hardened) = text.strip_suffix('\'').map_or((text, false), |digits| (digits, true));
        let index = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
        match index.filter(|index| *index < INDEX_END) {
            Some(index) => Ok(Self { index, hardened }),
            None => Err(InvalidDerivation::Step(text.chars().take(32).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_up_to_the_first_slash() {
        let name = DerivedName::parse("My master@1/44'/0/2147483647'").unwrap();
        assert_eq!(name.master.as_str(), "My master@1");
        let step = |index, hardened| Step { index, hardened };
        assert_eq!(name.path.steps(), [step(44, true), step(0, false), step(2_147_483_647, true)]);
    }

    #[test]
    fn half_a_name_is_refused() {
        for text in ["", "/", "master", "master/", "/0"] {
            assert_eq!(DerivedName::parse(text), Err(InvalidDerivation::Incomplete(text.into())));
        }
    }

    #[test]
    fn what_is_no_step_is_refused() {
        let long = ["0"; 256].join("/");
        for path in
            ["-1", "+1", "a", "1''", "'", "1h", "1//2", "1/", " 1", "2147483648", "0x1", "99999999999"]
        {
            let parsed = DerivedName::parse(&format!("m/{path}"));
            assert!(matches!(parsed, Err(InvalidDerivation::Step(_))), "{path}: {parsed:?}");
        }
        assert_eq!(DerivationPath::parse(&long), Err(InvalidDerivation::TooLong(256)));
        assert!(matches!(DerivedName::parse("a\nb/1"), Err(InvalidDerivation::Master(_))));
    }
}
