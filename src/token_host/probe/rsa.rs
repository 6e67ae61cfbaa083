//! RSA, and the limits of RSASSA-PSS.

use super::*;
use crate::{model::digest::Hash, token_host::raw::Pss};

const BITS: usize = 2048;

pub fn probe(token: &Token) -> Result<Findings, HsmError> {
    let mut findings = Findings::default();
    if !has(token, CKM_RSA_PKCS_KEY_PAIR_GEN) {
        return Ok(findings);
    }
    let session = token.session()?;
    let pair = match Pair::make(&session, CKM_RSA_PKCS_KEY_PAIR_GEN, &specific()) {
        Ok(pair) => pair,
        Err(failure) => {
            let error = settled(failure)?;
            findings.refuted_keys = refuted_key(token, &error, KeyAlgorithm::Rsa);
            let means = "what the token's list promises of this type is not known to be true";
            findings.quirks.push(Quirk::not_probed(Probe::Rsa.name(), word(&error), means));
            return Ok(findings);
        }
    };
    findings.refuted_signatures = refuted(token, &session, pair.private, KeyShape::Rsa(BITS / 8));
    findings.quirks.extend(refusals(&findings.refuted_signatures));
    let pkcs1 = Mechanism::plain(CKM_RSA_PKCS);
    // Only where no elliptic curve was measured is this the speed.
    findings.speed = speed(&session, &pkcs1, pair.private, &[0x5a; 32], "RSA-2048");
    if has(token, CKM_RSA_PKCS_PSS) {
        findings.quirks.extend(pss(token, pair.private)?);
    }
    Ok(findings)
}

pub fn specific() -> [Attribute; 3] {
    [
        Attribute::number(CKA_KEY_TYPE, CKK_RSA),
        Attribute::number(CKA_MODULUS_BITS, BITS as CK_ULONG),
        Attribute::bytes(CKA_PUBLIC_EXPONENT, [1, 0, 1]),
    ]
}

/// What of RSASSA-PSS there is beyond what the contract asks for.
fn pss(token: &Token, key: Object) -> Result<[Quirk; 2], HsmError> {
    let usual = mechanism::pss(Hash::Sha256)
        .ok_or_else(|| HsmError::new(Kind::Unsupported, "SHA-256 has no parameters"))?;
    let signs = |pss: Pss| {
        let signed = token.session()?.sign(&Mechanism::pss(CKM_RSA_PKCS_PSS, pss), key, &[0x5a; 32]);
        Ok::<_, HsmError>(signed.is_ok())
    };
    let means = "salt and mask are made with the hash of the message";
    let largest = (BITS / 8 - 2 - Hash::Sha256.len()) as CK_ULONG;
    let salt = match (signs(Pss { salt: 0, ..usual })?, signs(Pss { salt: largest, ..usual })?) {
        (true, true) => Quirk::usual("pssSalt", "any length", means),
        (true, false) => Quirk::odd("pssSalt", "none or the hash's length", means),
        (false, true) => Quirk::odd("pssSalt", "not without", means),
        (false, false) => Quirk::odd("pssSalt", "the hash's length only", means),
    };
    let mask = match signs(Pss { mgf: CKG_MGF1_SHA1, ..usual })? {
        true => Quirk::usual("pssMask", "any hash", means),
        false => Quirk::odd("pssMask", "the message's hash only", means),
    };
    Ok([salt, mask])
}
