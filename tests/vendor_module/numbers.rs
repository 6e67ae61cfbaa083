//! Numbers of the vendor's own.

use cryptoki_sys::{CK_ATTRIBUTE_TYPE, CK_KEY_TYPE, CK_MECHANISM_TYPE, CK_RV};

// Public: what somebody read in the vendor's header and wrote down.

/// Derives a key pair along a whole path.
pub const CKM_SLIP10_CHILD_DERIVE: CK_MECHANISM_TYPE = 0x8000_0e01;
/// Makes the master of a tree on a Weierstrass curve.
pub const CKM_EC_SLIP10_KEY_PAIR_GEN: CK_MECHANISM_TYPE = 0x8000_0e02;
/// Its type.
pub const CKK_EC_SLIP10: CK_KEY_TYPE = 0x8000_0014;
/// The chain code of a key of a tree.
pub const CKA_SLIP10_CHAIN_CODE: CK_ATTRIBUTE_TYPE = 0x8000_1100;
/// Makes the RSA key that the HSM attests others with.
pub const CKM_RKS_RSA_PKCS_KEY_PAIR_GEN: CK_MECHANISM_TYPE = 0x8000_2200;
/// Says that a key is one of these.
pub const CKA_RKS_ATTESTATION_SIGN: CK_ATTRIBUTE_TYPE = 0x8000_0021;
/// Its certificates, in PEM.
pub const CKA_RKS_CERTIFICATE_CHAIN: CK_ATTRIBUTE_TYPE = 0x8000_0022;
/// The HSM does not have the curve.
pub const UNKNOWN_CURVE: CK_RV = 0x8000_0058;
/// The partition takes no keys from elsewhere.
pub const NO_IMPORT: CK_RV = 0x8000_002a;
/// The partition does not allow session objects.
pub const NO_SESSION_OBJECTS: CK_RV = 0x8000_005f;

// Made up for tests: the vendor has such numbers and nobody published them.

/// Makes the master of a tree on Ed25519.
pub const CKM_EC_EDWARDS_SLIP10_KEY_PAIR_GEN: CK_MECHANISM_TYPE = 0x8000_0ef1;
/// Its type.
pub const CKK_EC_EDWARDS_SLIP10: CK_KEY_TYPE = 0x8000_0ef2;
/// Signs as BIP-340 says.
pub const CKM_SCHNORR_BIP340: CK_MECHANISM_TYPE = 0x8000_0ef3;
