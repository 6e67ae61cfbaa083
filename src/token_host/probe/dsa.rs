//! Whether DSA is there where a token's list has it.

use super::*;

/// A group that everybody may use: the first of RFC 5114.
const PRIME: &str = "b10b8f96a080e01dde92de5eae5d54ec52c99fbcfb06a3c69a6a9dca52d23b616073e28675a23d189838ef1e2ee652c013ecb4aea906112324975c3cd49b83bfaccbdd7d90c4bd7098488e9c219a73724effd6fae5644738faa31a4ff55bccc0a151af5f0dc8b4bd45bf37df365c1a65e68cfda76d4da708df1fb2bc2e4a4371";
const SUBPRIME: &str = "f518aa8781a8df278aba4e7d64b7cb9d49462353";
const BASE: &str = "a4d1cbd5c3fd34126765a442efb99905f8104dd258ac507fd6406cff14266d31266fea1e5c41564b777e690f5504f213160217b4b01b886a5e91547f9e2749f4d7fbd7d3b9a92ee1909d0d2263f80a76a6a24c087a091f531dbf0a0169b6a28ad662a4d18e73afa32d779d5918d08bc8858f4dcef97c2a24855e6eeb22b3b2e5";

pub fn probe(token: &Token) -> Result<Findings, HsmError> {
    let mut findings = Findings::default();
    if !has(token, CKM_DSA_KEY_PAIR_GEN) {
        return Ok(findings);
    }
    let bytes = |kind, text: &str| Attribute::bytes(kind, hex::decode(text).expect("hexadecimal"));
    let specific = [
        Attribute::number(CKA_KEY_TYPE, CKK_DSA),
        bytes(CKA_PRIME, PRIME),
        bytes(CKA_SUBPRIME, SUBPRIME),
        bytes(CKA_BASE, BASE),
    ];
    let (name, means) = (Probe::Dsa.name(), "keys of this type are not made");
    let session = token.session()?;
    match Pair::make(&session, CKM_DSA_KEY_PAIR_GEN, &specific) {
        Ok(pair) => {
            findings.refuted_signatures = refuted(token, &session, pair.private, KeyShape::Dsa(20));
            findings.quirks.extend(refusals(&findings.refuted_signatures));
            findings.quirks.push(Quirk::usual(name, "works", "each key is made in a group of its own"));
        }
        Err(failure) => {
            let error = settled(failure)?;
            findings.refuted_keys = refuted_key(token, &error, KeyAlgorithm::Dsa);
            findings.quirks.push(Quirk::odd(name, format!("listed and refused ({})", word(&error)), means));
        }
    }
    Ok(findings)
}
