//! The vectors of Wycheproof that need no token: signatures, checked with public keys. Those that need one are in
//! `tests/token/wycheproof.rs`.
//!
//! What is valid has to be taken and what is invalid refused, also by refusing the key. What Wycheproof leaves open
//! (`acceptable`) is refused: in these sets that is a DigestInfo without its NULL (`MissingNull`), which others write by mistake.
#![allow(missing_docs, reason = "tests")]

use hsm_operator::{
    model::SignatureAlgorithm as A,
    public_key::{PublicKey, VerifyError},
};
use wycheproof::{
    EllipticCurve, HashFunction as Hash, TestResult, ecdsa, eddsa, mldsa_verify, rsa_pkcs1_verify,
    rsa_pss_verify,
};

/// What was found, of many.
#[derive(Default)]
struct Tally {
    valid: usize,
    refused: usize,
    wrong: Vec<String>,
}

impl Tally {
    /// One vector. `right` is whether it has to be taken.
    fn add(&mut self, what: &str, right: bool, answer: &Result<bool, VerifyError>) {
        match (right, answer) {
            (true, Ok(true)) => self.valid += 1,
            (false, Ok(false) | Err(_)) => self.refused += 1,
            (_, answer) => self.wrong.push(format!("{what}: {answer:?}, and {right} is right")),
        }
    }

    /// At least so many were taken and refused: a set that is not read proves nothing.
    fn is_good(&self, valid: usize, refused: usize) {
        assert!(
            self.wrong.is_empty(),
            "{} wrong:\n{}",
            self.wrong.len(),
            self.wrong[..self.wrong.len().min(40)].join("\n")
        );
        println!("{} valid ones taken, {} others refused", self.valid, self.refused);
        assert!(self.valid >= valid && self.refused >= refused, "{} and {} only", self.valid, self.refused);
    }
}

/// ECDSA of the contract by hash; `None` for hashes that the contract does not have.
const fn of_ecdsa(hash: Hash) -> Option<A> {
    Some(match hash {
        Hash::Sha1 => A::Sha1WithEcdsa,
        Hash::Sha2_224 => A::Sha224WithEcdsa,
        Hash::Sha2_256 => A::Sha256WithEcdsa,
        Hash::Sha2_384 => A::Sha384WithEcdsa,
        Hash::Sha2_512 => A::Sha512WithEcdsa,
        Hash::Sha3_224 => A::Sha3224WithEcdsa,
        Hash::Sha3_256 => A::Sha3256WithEcdsa,
        Hash::Sha3_384 => A::Sha3384WithEcdsa,
        Hash::Sha3_512 => A::Sha3512WithEcdsa,
        Hash::Sha2_512_224 | Hash::Sha2_512_256 | Hash::Shake128 | Hash::Shake256 => return None,
    })
}

/// Curves that the contract does not have.
const fn is_other(curve: EllipticCurve) -> bool {
    use EllipticCurve as C;
    matches!(curve, C::Secp160r1 | C::Secp160r2 | C::Secp160k1 | C::Secp192r1 | C::Secp192k1)
}

fn ecdsa_on(mine: impl Fn(EllipticCurve) -> bool, valid: usize, refused: usize) {
    let mut tally = Tally::default();
    for name in ecdsa::TestName::all() {
        let called = format!("{name:?}");
        // Bitcoin takes the smaller `s` only, and the contract either. Brainpool is ours to work out, and takes long: each
        // curve with one hash, and one of them in the other forms, too.
        let slow = called.contains("Brainpool") && !called.contains("256r1");
        let form = called.contains("P1363") || called.contains("Sha3_");
        if called.contains("Bitcoin") || slow && form {
            continue;
        }
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            let Some(algorithm) = of_ecdsa(group.hash).filter(|_| mine(group.key.curve)) else { continue };
            let key = PublicKey::from_spki(&group.der);
            if is_other(group.key.curve) {
                assert!(key.is_err(), "{name:?} is on a curve of the contract");
                continue;
            }
            let key = key.unwrap_or_else(|error| panic!("{name:?}: {error}"));
            for test in group.tests {
                let what = format!("{name:?} {} {} {:?}", test.tc_id, test.comment, test.flags);
                let answer = key.verify(algorithm, &test.msg, &test.sig);
                tally.add(&what, test.result == TestResult::Valid, &answer);
            }
        }
    }
    tally.is_good(valid, refused);
}

#[test]
fn ecdsa_on_the_curves_of_nist() {
    use EllipticCurve as C;
    ecdsa_on(|curve| matches!(curve, C::Secp224r1 | C::Secp256r1 | C::Secp384r1 | C::Secp521r1), 1000, 1000);
}

#[test]
fn ecdsa_on_the_curves_of_koblitz_and_those_that_are_not_of_the_contract() {
    use EllipticCurve as C;
    ecdsa_on(|curve| matches!(curve, C::Secp256k1 | C::Secp224k1) || is_other(curve), 400, 400);
}

#[test]
fn ecdsa_on_brainpool() {
    use EllipticCurve as C;
    let brainpool = |curve| {
        matches!(
            curve,
            C::Brainpool224r1 | C::Brainpool256r1 | C::Brainpool320r1 | C::Brainpool384r1 | C::Brainpool512r1
        )
    };
    ecdsa_on(brainpool, 1000, 1000);
}

#[test]
fn eddsa() {
    let mut tally = Tally::default();
    for name in eddsa::TestName::all() {
        for group in eddsa::TestSet::load(name).unwrap().test_groups {
            let key = PublicKey::from_spki(&group.der).unwrap_or_else(|error| panic!("{name:?}: {error}"));
            for test in group.tests {
                let what = format!("{name:?} {} {} {:?}", test.tc_id, test.comment, test.flags);
                let answer = key.verify(A::EdDsa, &test.msg, &test.sig);
                tally.add(&what, test.result == TestResult::Valid, &answer);
            }
        }
    }
    tally.is_good(100, 100);
}

#[test]
fn rsa_with_the_padding_of_pkcs_1() {
    let mut tally = Tally::default();
    for name in rsa_pkcs1_verify::TestName::all() {
        for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
            let algorithm = match group.hash {
                Hash::Sha1 => A::Sha1WithRsa,
                Hash::Sha2_224 => A::Sha224WithRsa,
                Hash::Sha2_256 => A::Sha256WithRsa,
                Hash::Sha2_384 => A::Sha384WithRsa,
                Hash::Sha2_512 => A::Sha512WithRsa,
                _ => continue,
            };
            let key = PublicKey::from_spki(&group.der);
            for test in group.tests {
                let what = format!("{name:?} {} {} {:?}", test.tc_id, test.comment, test.flags);
                let answer = match &key {
                    Ok(key) => key.verify(algorithm, &test.msg, &test.sig),
                    Err(error) => panic!("{what}: {error}"),
                };
                tally.add(&what, test.result == TestResult::Valid, &answer);
            }
        }
    }
    tally.is_good(90, 3000);
}

#[test]
fn rsa_pss() {
    let mut tally = Tally::default();
    for name in rsa_pss_verify::TestName::all() {
        for group in rsa_pss_verify::TestSet::load(name).unwrap().test_groups {
            let (algorithm, length) = match group.hash {
                Hash::Sha1 => (A::Sha1WithRsaPss, 20),
                Hash::Sha2_224 => (A::Sha224WithRsaPss, 28),
                Hash::Sha2_256 => (A::Sha256WithRsaPss, 32),
                Hash::Sha2_384 => (A::Sha384WithRsaPss, 48),
                Hash::Sha2_512 => (A::Sha512WithRsaPss, 64),
                _ => continue,
            };
            // A key that says of itself which parameters it takes is another kind of key, which is not read.
            let Ok(key) = PublicKey::from_spki(&group.der) else {
                assert!(format!("{name:?}").contains("Params") || group.key_size < 2048, "{name:?}");
                continue;
            };
            // The contract's PSS: the same hash for the mask, and a salt as long as it.
            let ours = group.mgf_hash == Some(group.hash) && group.salt_size == length;
            for test in group.tests {
                let what = format!("{name:?} {} {} {:?}", test.tc_id, test.comment, test.flags);
                let answer = key.verify(algorithm, &test.msg, &test.sig);
                // Made with another salt than the set has: the contract's.
                let changed = group.mgf_hash == Some(group.hash)
                    && test.comment == format!("s_len changed to {length}");
                tally.add(&what, ours && test.result == TestResult::Valid || changed, &answer);
            }
        }
    }
    tally.is_good(200, 400);
}

#[test]
fn ml_dsa() {
    let mut tally = Tally::default();
    for name in mldsa_verify::TestName::all() {
        for group in mldsa_verify::TestSet::load(name).unwrap().test_groups {
            let key = PublicKey::from_spki(&group.der);
            for test in group.tests {
                let what = format!("{name:?} {} {} {:?}", test.tc_id, test.comment, test.flags);
                // The contract has no context to verify with: what was signed with one is a signature of something else.
                let plain = test.ctx.as_ref().is_none_or(|context| context.is_empty());
                let answer = match &key {
                    Ok(key) => key.verify(A::MlDsa, &test.msg, &test.sig),
                    Err(_) => Ok(false),
                };
                tally.add(&what, plain && test.result == TestResult::Valid, &answer);
            }
        }
    }
    tally.is_good(100, 100);
}
