//! What is kept of a password: a hash that takes memory and time to try passwords against.

use argon2::{
    ARGON2ID_IDENT, Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version,
};

use crate::model::Password;

/// KiB of memory that a hash takes, passes over it, and lanes: what OWASP recommends for Argon2id.
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// The most of each that a hash may ask for which is read: it could be made by a later version, and must not take this
/// process's memory.
const MEMORY_MAX: u32 = 64 * 1024;
const PASSES_MAX: u32 = 8;
const LANES_MAX: u32 = 4;
/// Bytes of a hash at least.
const LENGTH_MIN: usize = 16;

/// A hash of a password.
#[derive(Clone)]
pub struct Hash(PasswordHash);

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hash(…)")
    }
}

impl Hash {
    /// Makes the hash of a password. Takes tens of milliseconds and 19 MiB.
    #[must_use]
    pub fn of(password: &Password) -> Self {
        let params = Params::new(MEMORY, PASSES, LANES, None).expect("these are within Argon2's bounds");
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let salt: [u8; 16] = rand::random();
        let hash = argon2.hash_password_with_salt(password.expose(), &salt);
        Self(hash.expect("password and salt are within Argon2's bounds"))
    }

    /// Reads a PHC string (`$argon2id$v=19$m=…,t=…,p=…$salt$hash`); `None` where it is none, or asks for too much.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hash = PasswordHash::new(text).ok()?;
        let params = Params::try_from(&hash).ok()?;
        let fits = hash.algorithm == ARGON2ID_IDENT
            && hash.version == Some(Version::V0x13.into())
            && params.m_cost() <= MEMORY_MAX
            && params.t_cost() <= PASSES_MAX
            && params.p_cost() <= LANES_MAX
            && hash.salt.is_some()
            && hash.hash.as_ref().is_some_and(|output| output.len() >= LENGTH_MIN);
        fits.then_some(Self(hash))
    }

    /// The PHC string.
    #[must_use]
    pub fn phc(&self) -> String {
        self.0.to_string()
    }

    /// Whether a password is the one. Takes as long as [`Self::of`], and compares in constant time.
    #[must_use]
    pub fn is_of(&self, password: &Password) -> bool {
        Argon2::default().verify_password(password.expose(), &self.0).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    #[test]
    fn a_hash_is_of_one_password_and_survives_being_written() {
        let hash = Hash::of(&password("s3cret"));
        let text = hash.phc();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        let read = Hash::parse(&text).unwrap();
        assert!(read.is_of(&password("s3cret")));
        for other in ["", "S3cret", "s3cret ", "s3cre"] {
            assert!(!read.is_of(&password(other)), "{other}");
        }
        assert_ne!(Hash::of(&password("s3cret")).phc(), text, "each has a salt of its own");
        assert_eq!(format!("{hash:?}"), "Hash(…)");
    }

    /// Made by the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1`, from its
    /// own test vectors.
    #[test]
    fn a_hash_of_the_reference_implementation_is_understood() {
        let text = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let hash = Hash::parse(text).unwrap();
        assert!(hash.is_of(&password("password")) && !hash.is_of(&password("differentpassword")));
    }

    #[test]
    fn what_is_no_hash_of_ours_is_not_read() {
        let good = Hash::of(&password("x")).phc();
        for text in [
            String::new(),
            "none".into(),
            "x".into(),
            good.replace("argon2id", "argon2i"),
            good.replace("argon2id", "argon2d"),
            good.replace("v=19", "v=16"),
            good.replace("m=19456", "m=4194304"),
            good.replace("t=2", "t=1000"),
            good.rsplit_once('$').unwrap().0.to_owned(),
            format!("{good}\n"),
            good.replace("$v=19", ""),
        ] {
            assert!(Hash::parse(&text).is_none(), "{text}");
        }
    }
}
