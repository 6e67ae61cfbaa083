//! What is found out about a token by trying it, beyond what it says of itself.

use serde::{Deserialize, Serialize};

use super::knee::Measured;
use crate::model::{CipherAlgorithm, KeyAlgorithm, SignatureAlgorithm};

/// One thing that is tried. Each is a request of its own, so that a module that does not survive one of them is known to
/// be spared that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, strum::IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub enum Probe {
    /// What can be had without a key: the list of mechanisms, room, and what is known of such tokens.
    Token,
    /// Keys on curves, and how fast one signs.
    EllipticCurves,
    /// Ed25519.
    Edwards,
    /// RSA.
    Rsa,
    /// Keys for HMAC.
    Hmac,
    /// DSA.
    Dsa,
    /// Ciphers of RSA and AES keys.
    Ciphers,
    /// Secrets that EC keys have in common with a point.
    Agreement,
    /// How many sessions are worth it. No part of [`Self::ALL`], because it loads the token, and is of use only to who
    /// wants to know.
    Sessions,
}

impl Probe {
    /// All that are always made, the harmless one first.
    pub const ALL: [Self; 8] = [
        Self::Token,
        Self::EllipticCurves,
        Self::Edwards,
        Self::Rsa,
        Self::Hmac,
        Self::Dsa,
        Self::Ciphers,
        Self::Agreement,
    ];

    /// Name of the finding that says why there is no other.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Name of the finding of [`Probe::Agreement`]; odd where the secret is not to be had.
pub const SHARED_SECRETS: &str = "sharedSecrets";
/// Name of what is known of tokens that other programs had better not list.
pub const LISTINGS: &str = "listings";

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Names of all mechanisms that the token lists, without `CKM_`; in hexadecimal where they have none.
    pub mechanisms: Vec<String>,
    /// What it has room for.
    pub limits: Option<Limits>,
    /// Curves on which it makes keys.
    pub curves: Vec<String>,
    /// Key algorithms that it lists and does not make.
    pub refuted_keys: Vec<KeyAlgorithm>,
    /// Signature algorithms that its list promises and that it refuses.
    pub refuted_signatures: Vec<SignatureAlgorithm>,
    /// Ciphers, likewise.
    pub refuted_ciphers: Vec<CipherAlgorithm>,
    /// How long one signature takes.
    pub speed: Option<Speed>,
    /// How fast it signs with how many sessions.
    pub sessions: Option<Measured>,
    /// How it differs from others.
    pub quirks: Vec<Quirk>,
}

impl Findings {
    /// Takes in what another probe found.
    pub fn absorb(&mut self, other: Self) {
        self.mechanisms.extend(other.mechanisms);
        self.curves.extend(other.curves);
        self.refuted_keys.extend(other.refuted_keys);
        self.refuted_signatures.extend(other.refuted_signatures);
        self.refuted_ciphers.extend(other.refuted_ciphers);
        self.quirks.extend(other.quirks);
        self.limits = self.limits.or(other.limits);
        self.speed = self.speed.take().or(other.speed);
        self.sessions = self.sessions.take().or(other.sessions);
    }
}

/// What a token has room for; `None` where it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Sessions of this process that are open.
    pub sessions: Option<u64>,
    /// Most sessions; 0 for no limit.
    pub sessions_max: Option<u64>,
    /// Most sessions that may write; 0 for no limit.
    pub rw_sessions_max: Option<u64>,
    /// Bytes that are free for private objects.
    pub private_memory_free: Option<u64>,
    /// All of them.
    pub private_memory: Option<u64>,
    /// Shortest PIN.
    pub pin_min: Option<u64>,
    /// Longest PIN.
    pub pin_max: Option<u64>,
}

impl Limits {
    /// How many more sessions that may write this process may open; `None` where there is no limit, or none is told.
    #[must_use]
    pub fn room(&self) -> Option<u64> {
        let limits = [self.sessions_max, self.rw_sessions_max].into_iter().flatten();
        let most = limits.filter(|most| *most > 0).min()?;
        Some(most.saturating_sub(self.sessions.unwrap_or(0)))
    }
}

/// How long a signature takes with one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speed {
    /// With which key.
    pub key: String,
    /// The median of a few.
    pub microseconds: u32,
}

/// Something in which modules differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quirk {
    /// What it is about.
    pub name: String,
    /// How it is here.
    pub value: String,
    /// Whether most are otherwise.
    pub odd: bool,
    /// What follows, in a sentence.
    pub means: String,
}

impl Quirk {
    /// As with most.
    #[must_use]
    pub fn usual(name: &str, value: impl Into<String>, means: &str) -> Self {
        Self { name: name.into(), value: value.into(), odd: false, means: means.into() }
    }

    /// As with few.
    #[must_use]
    pub fn odd(name: &str, value: impl Into<String>, means: &str) -> Self {
        Self { odd: true, ..Self::usual(name, value, means) }
    }

    /// Nobody knows.
    #[must_use]
    pub fn not_probed(name: &str, why: &str, means: &str) -> Self {
        Self::odd(name, format!("not probed: {why}"), means)
    }
}
