//! Numbers of mechanisms, key types and attributes that are a vendor's own.
//!
//! PKCS#11 leaves the numbers from 0x80000000 on to vendors, and the vendor's header is not public. The defaults are those
//! that others read there and published for Securosys Primus (<https://github.com/gmikeska/emvault-securosys>, and those of
//! attestation <https://github.com/otpki/pkcs11>); where nobody did, there is none. A number counts only where the token's
//! list of mechanisms has it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Numbers of key derivation along a path and of what else the vendor has of his own, where they are not the usual ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VendorMechanisms {
    /// Mechanism that derives a key pair along a path. Default: 0x80000E01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slip10_derive: Option<VendorNumber>,
    /// Mechanism that makes the master key of a tree on a Weierstrass curve. Default: 0x80000E02.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slip10_ec_generate: Option<VendorNumber>,
    /// Key type (CKA_KEY_TYPE) of such keys. Default: 0x80000014.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slip10_ec_key_type: Option<VendorNumber>,
    /// Mechanism that makes the master key of a tree on Ed25519. No default: the number is not public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slip10_ed_generate: Option<VendorNumber>,
    /// Key type (CKA_KEY_TYPE) of such keys. No default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slip10_ed_key_type: Option<VendorNumber>,
    /// Attribute with the chain code of a key of a tree. Default: 0x80001100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slip10_chain_code: Option<VendorNumber>,
    /// Mechanism that signs 32 bytes as BIP-340 says, without parameters. No default: the number is not public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schnorr_bip340: Option<VendorNumber>,
    /// Mechanism that makes the RSA key that the HSM attests others with. Default: 0x80002200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rks_rsa_generate: Option<VendorNumber>,
    /// Attribute of an HSM's attestation key that says so. Default: 0x80000021.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rks_attestation_sign: Option<VendorNumber>,
    /// Attribute with an attestation key's certificates. Default: 0x80000022.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rks_certificate_chain: Option<VendorNumber>,
}

/// A number of a vendor's, in hexadecimal: `0x80000E01`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct VendorNumber(
    #[schemars(length(equal = 10), regex(pattern = "^0x[89A-Fa-f][0-9A-Fa-f]{7}$"))] String,
);

impl VendorNumber {
    /// The number; `None` where it is not written as it should be, or one of the standard's own.
    #[must_use]
    pub fn get(&self) -> Option<u64> {
        let digits = self.0.strip_prefix("0x").filter(|digits| digits.len() == 8)?;
        let all = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u64::from_str_radix(digits, 16).ok().filter(|number| all && *number >= 0x8000_0000)
    }
}

/// [`VendorMechanisms`] with the defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VendorNumbers {
    /// Mechanism that derives.
    pub derive: u64,
    /// How masters on Weierstrass curves are made.
    pub ec: TreeNumbers,
    /// The same on Ed25519, where it is known.
    pub ed: Option<TreeNumbers>,
    /// Attribute with the chain code.
    pub chain_code: u64,
    /// Mechanism that signs as BIP-340 says, where it is known.
    pub schnorr: Option<u64>,
    /// How the HSM itself attests keys.
    pub rks: RksNumbers,
}

/// Numbers of the key that an HSM attests others with: one of its root key store (RKS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RksNumbers {
    /// Mechanism that makes it.
    pub generate: u64,
    /// Attribute that says that it is one.
    pub attestation_sign: u64,
    /// Attribute with its certificates.
    pub certificate_chain: u64,
}

/// How masters of one kind of trees are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TreeNumbers {
    /// Mechanism.
    pub generate: u64,
    /// Key type.
    pub key_type: u64,
}

impl Default for VendorNumbers {
    fn default() -> Self {
        VendorMechanisms::default().numbers()
    }
}

impl VendorMechanisms {
    /// The numbers, with the defaults filled in.
    #[must_use]
    pub fn numbers(&self) -> VendorNumbers {
        let given = |number: &Option<VendorNumber>| number.as_ref().and_then(VendorNumber::get);
        VendorNumbers {
            derive: given(&self.slip10_derive).unwrap_or(0x8000_0e01),
            ec: TreeNumbers {
                generate: given(&self.slip10_ec_generate).unwrap_or(0x8000_0e02),
                key_type: given(&self.slip10_ec_key_type).unwrap_or(0x8000_0014),
            },
            ed: given(&self.slip10_ed_generate)
                .zip(given(&self.slip10_ed_key_type))
                .map(|(generate, key_type)| TreeNumbers { generate, key_type }),
            chain_code: given(&self.slip10_chain_code).unwrap_or(0x8000_1100),
            schnorr: given(&self.schnorr_bip340),
            rks: RksNumbers {
                generate: given(&self.rks_rsa_generate).unwrap_or(0x8000_2200),
                attestation_sign: given(&self.rks_attestation_sign).unwrap_or(0x8000_0021),
                certificate_chain: given(&self.rks_certificate_chain).unwrap_or(0x8000_0022),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(json: &str) -> VendorNumbers {
        serde_json::from_str::<VendorMechanisms>(json).unwrap().numbers()
    }

    #[test]
    fn a_number_that_is_given_takes_the_place_of_the_usual_one() {
        let usual = VendorNumbers::default();
        assert_eq!((usual.derive, usual.ec.generate, usual.ed), (0x8000_0e01, 0x8000_0e02, None));
        let own = numbers(
            r#"{"slip10Derive":"0x8000ABCD","slip10EdGenerate":"0x80000EF1","slip10EdKeyType":"0x80000EF2"}"#,
        );
        assert_eq!(own.derive, 0x8000_abcd);
        assert_eq!(own.ed, Some(TreeNumbers { generate: 0x8000_0ef1, key_type: 0x8000_0ef2 }));
        assert_eq!((own.ec, own.chain_code, own.rks), (usual.ec, usual.chain_code, usual.rks));
        let own = numbers(r#"{"rksRsaGenerate":"0x80002299","rksCertificateChain":"0x80000099"}"#);
        assert_eq!(own.rks.attestation_sign, usual.rks.attestation_sign);
        assert_eq!((own.rks.generate, own.rks.certificate_chain), (0x8000_2299, 0x8000_0099));
    }

    #[test]
    fn a_number_of_the_standards_or_none_at_all_is_not_taken() {
        for text in ["0x00001041", "80000E01", "0x80000E0", "0x080000E01", "0x+8000001", "", "0x8000000g"] {
            assert_eq!(VendorNumber(text.into()).get(), None, "{text}");
        }
        // Half of a pair is none.
        assert_eq!(numbers(r#"{"slip10EdGenerate":"0x80000EF1"}"#).ed, None);
    }
}
