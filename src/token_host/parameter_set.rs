//! Key types of PKCS#11 3.2 that are told apart by a number, `CKA_PARAMETER_SET`: ML-DSA, ML-KEM, SLH-DSA and XMSS.

use cryptoki_sys::*;

use crate::model::KeyAlgorithm;

/// One algorithm of the contract as PKCS#11 has it.
pub struct Row {
    pub algorithm: KeyAlgorithm,
    /// `CKA_KEY_TYPE`.
    pub key_type: CK_KEY_TYPE,
    /// `CKA_PARAMETER_SET`.
    pub set: CK_ULONG,
    /// What makes pairs of it.
    pub generate: CK_MECHANISM_TYPE,
}

#[rustfmt::skip]
pub static ROWS: &[Row] = {
    use KeyAlgorithm as K;
    const fn ml_dsa(algorithm: KeyAlgorithm, set: CK_ULONG) -> Row {
        Row { algorithm, key_type: CKK_ML_DSA, set, generate: CKM_ML_DSA_KEY_PAIR_GEN }
    }
    const fn ml_kem(algorithm: KeyAlgorithm, set: CK_ULONG) -> Row {
        Row { algorithm, key_type: CKK_ML_KEM, set, generate: CKM_ML_KEM_KEY_PAIR_GEN }
    }
    const fn slh_dsa(algorithm: KeyAlgorithm, set: CK_ULONG) -> Row {
        Row { algorithm, key_type: CKK_SLH_DSA, set, generate: CKM_SLH_DSA_KEY_PAIR_GEN }
    }
    // Numbers of NIST SP 800-208: PKCS#11 has no names for them.
    const fn xmss(algorithm: KeyAlgorithm, set: CK_ULONG) -> Row {
        Row { algorithm, key_type: CKK_XMSS, set, generate: CKM_XMSS_KEY_PAIR_GEN }
    }
    &[
        xmss(K::XmssSha2, 0x01),
        xmss(K::XmssShake, 0x10),
        ml_dsa(K::MlDsa44, CKP_ML_DSA_44),
        ml_dsa(K::MlDsa65, CKP_ML_DSA_65),
        ml_dsa(K::MlDsa87, CKP_ML_DSA_87),
        ml_kem(K::MlKem512, CKP_ML_KEM_512),
        ml_kem(K::MlKem768, CKP_ML_KEM_768),
        ml_kem(K::MlKem1024, CKP_ML_KEM_1024),
        slh_dsa(K::SlhDsaSha2128s, CKP_SLH_DSA_SHA2_128S),
        slh_dsa(K::SlhDsaSha2128f, CKP_SLH_DSA_SHA2_128F),
        slh_dsa(K::SlhDsaSha2192s, CKP_SLH_DSA_SHA2_192S),
        slh_dsa(K::SlhDsaSha2192f, CKP_SLH_DSA_SHA2_192F),
        slh_dsa(K::SlhDsaSha2256s, CKP_SLH_DSA_SHA2_256S),
        slh_dsa(K::SlhDsaSha2256f, CKP_SLH_DSA_SHA2_256F),
        slh_dsa(K::SlhDsaShake128s, CKP_SLH_DSA_SHAKE_128S),
        slh_dsa(K::SlhDsaShake128f, CKP_SLH_DSA_SHAKE_128F),
        slh_dsa(K::SlhDsaShake192s, CKP_SLH_DSA_SHAKE_192S),
        slh_dsa(K::SlhDsaShake192f, CKP_SLH_DSA_SHAKE_192F),
        slh_dsa(K::SlhDsaShake256s, CKP_SLH_DSA_SHAKE_256S),
        slh_dsa(K::SlhDsaShake256f, CKP_SLH_DSA_SHAKE_256F),
    ]
};

/// The row of an algorithm, if its keys have a parameter set.
pub fn of(algorithm: KeyAlgorithm) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.algorithm == algorithm)
}

/// Whether keys of this type have a parameter set.
pub fn has(key_type: Option<CK_KEY_TYPE>) -> bool {
    ROWS.iter().any(|row| Some(row.key_type) == key_type)
}

/// The algorithm of a key that says so much of itself.
pub fn algorithm(key_type: CK_KEY_TYPE, set: CK_ULONG) -> Option<KeyAlgorithm> {
    ROWS.iter().find(|row| (row.key_type, row.set) == (key_type, set)).map(|row| row.algorithm)
}
