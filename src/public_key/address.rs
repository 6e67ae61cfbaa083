//! Addresses of cryptocurrencies: 20 bytes that follow from a public key, without prefix and checksum.

use digest::Digest;
use ripemd::Ripemd160;
use sha2::Sha256;
use sha3::Keccak256;

use super::{Kind, PublicKey};
pub use crate::model::address::NoAddress;
use crate::model::{address::AddressFormat, curve::Curve};

impl PublicKey {
    /// The key's address, as `addressTruncated` of the contract has it.
    ///
    /// BTC: HASH160 of the compressed point, as pay-to-witness-public-key-hash has it (BIP-141). XRP: the same, and of Ed25519
    /// keys HASH160 of the key behind `ED` (XRP ledger's address encoding). ETH: the last 20 bytes of the Keccak-256 of both
    /// coordinates (Ethereum's yellow paper, appendix F).
    ///
    /// # Errors
    /// [`NoAddress`], where there is none.
    pub fn address(&self, format: AddressFormat) -> Result<[u8; 20], NoAddress> {
        let refuse = |wanted| NoAddress::Key { format, wanted, key: self.algorithm() };
        match format {
            AddressFormat::Xlm | AddressFormat::Iota => Err(NoAddress::Unsupported(format)),
            AddressFormat::Btc => self.compressed().map(|key| hash160(&key)).ok_or(refuse("secp256k1")),
            AddressFormat::Xrp => match self.kind {
                Kind::Ed25519 => Ok(hash160(&[&[0xed], self.bytes.as_slice()].concat())),
                _ => self.compressed().map(|key| hash160(&key)).ok_or(refuse("secp256k1 or Ed25519")),
            },
            AddressFormat::Eth => {
                let point = self.secp256k1().ok_or(refuse("secp256k1"))?;
                let hash = Keccak256::digest(&point[1..]);
                Ok(hash[12..].try_into().expect("32 bytes without twelve"))
            }
        }
    }

    /// The uncompressed point of a key on secp256k1.
    fn secp256k1(&self) -> Option<&[u8]> {
        let on_it = |curve: Curve| curve.name == "secp256k1";
        match &self.kind {
            Kind::Ec { curve, .. } if on_it(curve) => Some(&self.bytes),
            _ => None,
        }
    }

    fn compressed(&self) -> Option<Vec<u8>> {
        let point = self.secp256k1()?;
        Some([&[2 + (point[64] & 1)], &point[1..33]].concat())
    }
}

/// `RIPEMD-160(SHA-256(…))`.
fn hash160(bytes: &[u8]) -> [u8; 20] {
    Ripemd160::digest(Sha256::digest(bytes)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use AddressFormat::{Btc, Eth, Iota, Xlm, Xrp};

    /// A key on secp256k1, by its coordinates.
    fn secp256k1(xy: &str) -> PublicKey {
        let head = "3056301006072a8648ce3d020106052b8104000a03420004";
        PublicKey::from_spki(&hex::decode([head, xy].concat()).unwrap()).unwrap()
    }

    fn ed25519(key: &str) -> PublicKey {
        PublicKey::from_spki(&hex::decode(["302a300506032b6570032100", key].concat()).unwrap()).unwrap()
    }

    fn hex_of(key: &PublicKey, format: AddressFormat) -> String {
        hex::encode(key.address(format).unwrap())
    }

    /// The generator: the public key of the private key 1.
    const ONE: &str = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8";

    #[test]
    fn addresses_are_those_of_the_public_examples() {
        let one = secp256k1(ONE);
        // Examples of BIP-173.
        assert_eq!(hex_of(&one, Btc), "751e76e8199196d454941c45d1b3a323f1433bd6");
        assert_eq!(hex_of(&one, Eth), "7e5f4552091a69125d5dfcb7b8c2659029395bdf");
        // The sender of the example of EIP-155, whose private key is 0x4646…46.
        let sender = secp256k1(
            "4bc2a31265153f07e70e0bab08724e6b85e217f8cd628ceb62974247bb493382ce28cab79ad7119ee1ad3ebcdb98a16805211530ecc6cfefa1b88e6dff99232a",
        );
        assert_eq!(hex_of(&sender, Eth), "9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f");
        // The first account of the XRP ledger, rHb9CJAWyB4rj91VRWn96DkukG4bwdtyTh.
        let genesis = secp256k1(
            "30e7fc9d56bb25d6893ba3f317ae5bcf33b3291bd63db32654a313222f7fd0208017ce2771475420b0809b1f200afa64adb75f9a6c743d3e2ed344e7ec9d1223",
        );
        assert_eq!(hex_of(&genesis, Xrp), "b5f762798a53d543a014caf8b297cff8f2f937e8");
        // The example of its documentation of addresses, rDTXLQ7ZKZVKz33zJbHjgVShjsBnqMBhmN.
        let ed = ed25519("9434799226374926eda3b54b1b461b4abf7237962eae18528fea67595397fa32");
        assert_eq!(hex_of(&ed, Xrp), "88a5a57c829f40f25ea83385bbde6c3d8b4ca082");
    }

    #[test]
    fn what_has_no_address_says_why() {
        let ed = ed25519("9434799226374926eda3b54b1b461b4abf7237962eae18528fea67595397fa32");
        for format in [Btc, Eth] {
            assert!(matches!(ed.address(format), Err(NoAddress::Key { wanted: "secp256k1", .. })));
        }
        for format in [Xlm, Iota] {
            assert_eq!(ed.address(format), Err(NoAddress::Unsupported(format)));
        }
        assert_eq!(NoAddress::Unsupported(Xlm).to_string(), "Cryptocurrency 'XLM' is not supported");
        // P-256's own generator.
        let p256 = "3059301306072a8648ce3d020106082a8648ce3d030107034200046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
        let p256 = PublicKey::from_spki(&hex::decode(p256).unwrap()).unwrap();
        for format in [Btc, Eth, Xrp] {
            assert!(matches!(p256.address(format), Err(NoAddress::Key { .. })), "{format}");
        }
    }
}
