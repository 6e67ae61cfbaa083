//! Names of keys that are derived from another one: `master/44'/0'/0`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    KeyAlgorithm, KeyLabel, RequestedAttributes, curve,
    name::{InvalidLabel, LABEL_MAX},
};

/// A master key and the way from it to another key (BIP-32, SLIP-10).
///
/// The slash in a key's name is always the start of the way: only keys that were derived along it have one in their label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerivedName {
    /// Label of the master key.
    pub master: KeyLabel,
    /// The way from there.
    pub path: DerivationPath,
}

/// The way from a master key to another, one index for each step, at least one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DerivationPath(Vec<Step>);

/// One step of a [`DerivationPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Step {
    /// Below 2³¹.
    pub index: u32,
    /// Written with an apostrophe: the step needs the private key.
    pub hardened: bool,
}

/// The contract's word for the trees that are served. Those of BIP-32 are the same for all keys that exist.
pub const SLIP10: &str = "SLIP-10";

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
    /// Longer than any name of a key.
    #[error("the name of a derived key has at most {LABEL_MAX} bytes, this one has {0}")]
    NameTooLong(usize),
}

impl DerivedName {
    /// Reads `master/path`.
    ///
    /// # Errors
    /// [`InvalidDerivation`] says which part is not right.
    pub fn parse(text: &str) -> Result<Self, InvalidDerivation> {
        match text.split_once('/') {
            Some(_) if text.len() > LABEL_MAX => Err(InvalidDerivation::NameTooLong(text.len())),
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

    /// Its steps as BIP-32 numbers them: hardened ones from 2³¹ on.
    pub fn indexes(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().map(|step| if step.hardened { step.index | INDEX_END } else { step.index })
    }

    /// The first step that a tree of this algorithm does not have: SLIP-10 has hardened ones alone on Edwards curves.
    #[must_use]
    pub fn impossible(&self, algorithm: KeyAlgorithm) -> Option<Step> {
        let missing = |step: &&Step| algorithm == KeyAlgorithm::Ed && !step.hardened;
        self.0.iter().find(missing).copied()
    }
}

impl fmt::Display for DerivationPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.0.iter().enumerate() {
            write!(f, "{}{step}", if number == 0 { "" } else { "/" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.index, if self.hardened { "'" } else { "" })
    }
}

impl fmt::Display for DerivedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.master, self.path)
    }
}

/// Why a key cannot be the master of a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTree {
    /// Trees are of EC and ED keys.
    #[error("bip32 and slip10 are for EC and ED keys, not for {0}")]
    Algorithm(KeyAlgorithm),
    /// Ed448 and whatever else SLIP-10 does not name.
    #[error("trees of ED keys are on Ed25519, not on the curve {0}")]
    Curve(String),
    /// The tree of Cardano.
    #[error("bip32 without slip10 on an ED key is the tree of Cardano, which is not served: ask for slip10")]
    Cardano,
    /// Nothing could be derived from it.
    #[error("bip32 and slip10 need derive: true")]
    NotDerive,
}

/// Whether a key is to be the master of a tree (section 2.8 of the contract).
///
/// # Errors
/// [`NoTree`], where it is to be one and cannot.
pub fn is_master(
    attributes: &RequestedAttributes,
    algorithm: KeyAlgorithm,
    curve_oid: Option<&str>,
) -> Result<bool, NoTree> {
    let slip10 = attributes.slip10 == Some(true);
    if !slip10 && attributes.bip32 != Some(true) {
        return Ok(false);
    }
    match algorithm {
        KeyAlgorithm::Ec => {}
        KeyAlgorithm::Ed => match curve_oid {
            None | Some(curve::ED25519_OID) if slip10 => {}
            None | Some(curve::ED25519_OID) => return Err(NoTree::Cardano),
            Some(other) => return Err(NoTree::Curve(other.to_owned())),
        },
        other => return Err(NoTree::Algorithm(other)),
    }
    if attributes.derive == Some(true) { Ok(true) } else { Err(NoTree::NotDerive) }
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,300}") {
            let _ = (DerivedName::parse(&text), DerivationPath::parse(&text));
        }

        #[test]
        fn what_is_read_is_written_as_it_was(
            // And without the two that XML does not carry.
            master in "[^/\\p{Cc}\u{fffe}\u{ffff}]{1,20}",
            steps in prop::collection::vec((0..INDEX_END, any::<bool>()), 1..18),
        ) {
            let steps: Vec<_> = steps.into_iter().map(|(index, hardened)| Step { index, hardened }).collect();
            let path = DerivationPath(steps);
            prop_assert_eq!(DerivationPath::parse(&path.to_string()), Ok(path.clone()));
            let numbers: Vec<u32> = path.indexes().collect();
            for (step, number) in path.steps().iter().zip(numbers) {
                prop_assert_eq!((number & !INDEX_END, number >= INDEX_END), (step.index, step.hardened));
            }
            let name = format!("{master}/{path}");
            prop_assume!(name.len() <= LABEL_MAX);
            let read = DerivedName::parse(&name).unwrap();
            prop_assert_eq!(read.to_string(), name);
            prop_assert_eq!(read.path, path);
        }

        /// Digits and what is put between and around them: texts that are nearly paths.
        #[test]
        fn what_is_nearly_a_path_is_one_or_is_refused(text in "[0-9'/ +-]{1,24}") {
            let by_hand = text.split('/').all(|step| {
                let digits = step.strip_suffix('\'').unwrap_or(step);
                !digits.is_empty()
                    && digits.bytes().all(|byte| byte.is_ascii_digit())
                    && digits.trim_start_matches('0').len() <= 10
                    && digits.parse::<u64>().is_ok_and(|index| index < u64::from(INDEX_END))
            });
            prop_assert_eq!(DerivationPath::parse(&text).is_ok(), by_hand, "{}", text);
        }
    }

    #[test]
    fn which_keys_are_masters() {
        let ask = |derive, bip32, slip10| RequestedAttributes {
            derive: Some(derive),
            bip32: Some(bip32),
            slip10: Some(slip10),
            ..Default::default()
        };
        let (ec, ed) = (KeyAlgorithm::Ec, KeyAlgorithm::Ed);
        assert_eq!(is_master(&ask(true, false, false), ec, None), Ok(false));
        for (bip32, slip10) in [(false, true), (true, false), (true, true)] {
            assert_eq!(is_master(&ask(true, bip32, slip10), ec, None), Ok(true));
            assert_eq!(is_master(&ask(false, bip32, slip10), ec, None), Err(NoTree::NotDerive));
            let rsa = KeyAlgorithm::Rsa;
            assert_eq!(is_master(&ask(true, bip32, slip10), rsa, None), Err(NoTree::Algorithm(rsa)));
        }
        assert_eq!(is_master(&ask(true, false, true), ed, Some(curve::ED25519_OID)), Ok(true));
        assert_eq!(is_master(&ask(true, true, false), ed, None), Err(NoTree::Cardano));
        let ed448 = is_master(&ask(true, true, true), ed, Some(curve::ED448_OID));
        assert_eq!(ed448, Err(NoTree::Curve(curve::ED448_OID.into())));
    }

    #[test]
    fn ed_keys_have_hardened_steps_alone() {
        let path = DerivationPath::parse("44'/0/1'").unwrap();
        assert_eq!(path.impossible(KeyAlgorithm::Ed).map(|step| step.to_string()), Some("0".into()));
        assert_eq!(path.impossible(KeyAlgorithm::Ec), None);
        assert_eq!(DerivationPath::parse("44'/1'").unwrap().impossible(KeyAlgorithm::Ed), None);
    }

    #[test]
    fn a_name_is_no_longer_than_a_label() {
        let name = |length: usize| format!("{}/{}", "m".repeat(length - 2), 0);
        assert!(DerivedName::parse(&name(255)).is_ok());
        assert_eq!(DerivedName::parse(&name(256)), Err(InvalidDerivation::NameTooLong(256)));
    }

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
