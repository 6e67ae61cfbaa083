//! What a signature of BIP-340 may be made with besides key and payload, and how it is written in JSON.

use base64::{Engine, engine::general_purpose::STANDARD};

/// Bytes of the auxiliary random data, of a tweak and of a Merkle root (BIP-340 and BIP-341).
pub const PARAMETER: usize = 32;

/// The members as a request has them, base64.
#[derive(Clone, Copy, Debug, Default)]
pub struct Texts<'a> {
    /// `auxiliaryRandomData`: goes into the nonce.
    pub auxiliary: Option<&'a str>,
    /// `taprootTweakData`: what the key is tweaked by.
    pub tweak: Option<&'a str>,
    /// `merkleRootData`: of the scripts that the tweak is made of, together with the key. Empty where there are none.
    pub root: Option<&'a str>,
}

/// Why a signature is not made with them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not strict base64: standard alphabet, padded, no line breaks.
    #[error("The '{0}' is not valid 'base64' encoded.")]
    Base64(&'static str),
    /// Not [`PARAMETER`] bytes.
    #[error("{member} has {PARAMETER} bytes, and this one has {length}")]
    Length {
        /// Which one.
        member: &'static str,
        /// How many it has.
        length: usize,
    },
    /// The one is a tweak, and the other what a tweak is made of.
    #[error("taprootTweakData and merkleRootData exclude each other: both say by what the key is tweaked")]
    Both,
    /// The key is in the token, and so is the tweak to be made.
    #[error(
        "{0} is not served: a key is tweaked inside of its token or nowhere, and how a token's mechanism takes the tweak is not public"
    )]
    Tweak(&'static str),
    /// The token makes the nonce.
    #[error(
        "auxiliaryRandomData is not served: the nonce is made by the token, and how its mechanism takes them is not public"
    )]
    Auxiliary,
}

/// Whether a signature can be made with what a request has. Without it, it would be one of another key, or with another nonce
/// than was asked for.
///
/// # Errors
/// [`Refused`]: what is wrong with a member, or else that it is not served.
pub fn check(texts: Texts<'_>) -> Result<(), Refused> {
    let auxiliary = sized("auxiliaryRandomData", texts.auxiliary, false)?;
    let tweak = sized("taprootTweakData", texts.tweak, false)?;
    let root = sized("merkleRootData", texts.root, true)?;
    match (auxiliary, tweak, root) {
        (_, Some(_), Some(_)) => Err(Refused::Both),
        (_, Some(member), None) | (_, None, Some(member)) => Err(Refused::Tweak(member)),
        (Some(_), None, None) => Err(Refused::Auxiliary),
        (None, None, None) => Ok(()),
    }
}

/// The name of a member that is there and of the right length.
fn sized(
    member: &'static str,
    text: Option<&str>,
    may_be_empty: bool,
) -> Result<Option<&'static str>, Refused> {
    let Some(text) = text else { return Ok(None) };
    match STANDARD.decode(text).map_err(|_| Refused::Base64(member))?.len() {
        PARAMETER => Ok(Some(member)),
        0 if may_be_empty => Ok(Some(member)),
        length => Err(Refused::Length { member, length }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_member_is_said_before_that_it_is_not_served() {
        let (right, short) = (STANDARD.encode([7; 32]), STANDARD.encode([7; 31]));
        let (right, short) = (Some(right.as_str()), Some(short.as_str()));
        assert_eq!(check(Texts::default()), Ok(()));
        type Set = fn(Option<&str>) -> Texts<'_>;
        let members: [(&str, Set); 3] = [
            ("auxiliaryRandomData", |auxiliary| Texts { auxiliary, ..Texts::default() }),
            ("taprootTweakData", |tweak| Texts { tweak, ..Texts::default() }),
            ("merkleRootData", |root| Texts { root, ..Texts::default() }),
        ];
        for (member, set) in members {
            assert_eq!(check(set(Some("YQ"))), Err(Refused::Base64(member)));
            assert_eq!(check(set(Some("YQ==\n"))), Err(Refused::Base64(member)));
            assert_eq!(check(set(short)), Err(Refused::Length { member, length: 31 }));
            let served = check(set(right)).unwrap_err();
            let expected =
                if member == "auxiliaryRandomData" { Refused::Auxiliary } else { Refused::Tweak(member) };
            assert_eq!(served, expected);
            // A tree of no scripts has an empty root.
            let empty = check(set(Some(""))).unwrap_err();
            let length = Refused::Length { member, length: 0 };
            assert_eq!(empty, if member == "merkleRootData" { expected } else { length });
        }
        let both = Texts { tweak: right, root: right, ..Texts::default() };
        assert_eq!(check(both), Err(Refused::Both));
        assert_eq!(
            check(Texts { root: short, ..both }),
            Err(Refused::Length { member: "merkleRootData", length: 31 })
        );
    }
}
