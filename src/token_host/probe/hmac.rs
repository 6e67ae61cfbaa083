//! How short a key for HMAC may be.

use super::*;

const LENGTHS: [u8; 4] = [1, 16, 20, 32];

pub fn probe(token: &Token) -> Result<Findings, HsmError> {
    let mut findings = Findings::default();
    if !has(token, CKM_SHA256_HMAC) {
        return Ok(findings);
    }
    findings.quirks.push(shortest(token)?);
    Ok(findings)
}

fn shortest(token: &Token) -> Result<Quirk, HsmError> {
    let (name, means) = ("hmacKey", "keys for HMAC-SHA-256 have 32 bytes");
    let session = token.session()?;
    for length in LENGTHS {
        let key = [
            Attribute::number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            Attribute::bool(CKA_SIGN, true),
            Attribute::bytes(CKA_VALUE, vec![0x5a; length.into()]),
        ];
        let key: Vec<_> = common(CKO_SECRET_KEY).into_iter().chain(key).collect();
        let key = match session.create(&key) {
            Ok(key) => key,
            Err(failure) => return Ok(Quirk::not_probed(name, word(&failure.into()), means)),
        };
        if token.session()?.sign(&Mechanism::plain(CKM_SHA256_HMAC), key, b"probe").is_ok() {
            return Ok(match length {
                1 => Quirk::usual(name, "any length", means),
                length => Quirk::odd(name, format!("at least {length} bytes"), means),
            });
        }
    }
    Ok(Quirk::odd(name, "refused", means))
}
