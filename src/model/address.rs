//! Formats of addresses that a key may have, in the contract's words (section 2.9).

use super::{KeyAlgorithm, curve, vocabulary_enum as vocabulary};

vocabulary! {
    /// A cryptocurrency whose addresses follow from a public key.
    AddressFormat {
        /// Bitcoin.
        Btc = "BTC",
        /// Ethereum.
        Eth = "ETH",
        /// Stellar.
        Xlm = "XLM",
        /// The XRP ledger.
        Xrp = "XRP",
        /// IOTA.
        Iota = "IOTA",
    }
}

/// Why a key has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// What the contract's 20 bytes would be is not public: Stellar's and IOTA's own addresses have 32.
    #[error("Cryptocurrency '{0}' is not supported")]
    Unsupported(AddressFormat),
    /// Keys of this kind have none of that format.
    #[error("{format} addresses are of keys on {wanted}, not of this {key} key")]
    Key {
        /// Format asked for.
        format: AddressFormat,
        /// Curves that have them.
        wanted: &'static str,
        /// Algorithm of the key.
        key: KeyAlgorithm,
    },
}

/// The curve of Bitcoin and Ethereum.
const SECP256K1: &str = "1.3.132.0.10";

impl AddressFormat {
    /// Whether a key of this algorithm has such an address, before there is one. A curve that is not known yet may be
    /// the right one.
    ///
    /// # Errors
    /// [`NoAddress`], where it has none.
    pub fn check(self, key: KeyAlgorithm, curve_oid: Option<&str>) -> Result<(), NoAddress> {
        let wanted = match self {
            Self::Xlm | Self::Iota => return Err(NoAddress::Unsupported(self)),
            Self::Btc | Self::Eth => "secp256k1",
            Self::Xrp => "secp256k1 or Ed25519",
        };
        let on = |oid| curve_oid.is_none_or(|given| given == oid);
        let fits = match key {
            KeyAlgorithm::Ec => on(SECP256K1),
            KeyAlgorithm::Ed => self == Self::Xrp && on(curve::ED25519_OID),
            _ => false,
        };
        if fits { Ok(()) } else { Err(NoAddress::Key { format: self, wanted, key }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_keys_have_addresses() {
        use AddressFormat::{Btc, Eth, Iota, Xlm, Xrp};
        let (ec, ed) = (KeyAlgorithm::Ec, KeyAlgorithm::Ed);
        for format in [Btc, Eth, Xrp] {
            for curve in [None, Some(SECP256K1)] {
                assert_eq!(format.check(ec, curve), Ok(()), "{format} {curve:?}");
            }
            for (algorithm, curve) in [
                (ec, Some("1.2.840.10045.3.1.7")),
                (ed, Some(curve::ED448_OID)),
                (KeyAlgorithm::Rsa, None),
                (KeyAlgorithm::Aes, None),
            ] {
                let refused = format.check(algorithm, curve);
                assert!(matches!(refused, Err(NoAddress::Key { .. })), "{format} {algorithm}");
            }
        }
        for curve in [None, Some(curve::ED25519_OID)] {
            assert_eq!(Xrp.check(ed, curve), Ok(()));
            assert!(Btc.check(ed, curve).is_err() && Eth.check(ed, curve).is_err());
        }
        for format in [Xlm, Iota] {
            assert_eq!(format.check(ec, Some(SECP256K1)), Err(NoAddress::Unsupported(format)));
        }
    }
}
