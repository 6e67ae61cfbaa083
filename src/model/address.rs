//! Formats of addresses that a key may have, in the contract's words (section 2.9).

use super::vocabulary_enum as vocabulary;

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
