//! The steps by which a token comes back into use, from the cheapest to the dearest.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A step. One is taken when the one before did not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Rung {
    /// A new session for the thread whose call failed.
    Session,
    /// A new login; every handle is looked up anew.
    Login,
    /// A signature that worked before, to see whether the token is at fault or the request.
    Canary,
    /// `C_Finalize` and `C_Initialize`, with no thread inside the module.
    Initialise,
    /// A new process.
    Process,
}

impl Rung {
    /// The step in words, after "brought back by".
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Session => "a new session",
            Self::Login => "a new login",
            Self::Canary => "nothing but a second look",
            Self::Initialise => "starting the library over",
            Self::Process => "a new token-host",
        }
    }
}

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Which.
    pub rung: Rung,
    /// What had happened, in words.
    pub cause: String,
    /// When.
    pub at: Timestamp,
}

/// Told of every step that is taken.
pub type OnRecovery = Arc<dyn Fn(Rung) + Send + Sync>;

/// Steps of one kind are logged so often at most: a lasting trouble takes one for every request.
const LOG: Duration = Duration::from_secs(1);

/// The steps that were taken for one token.
#[derive(Default)]
pub struct Recoveries {
    last: Mutex<Option<Recovery>>,
    logged: Mutex<Option<(Rung, Instant)>>,
    told: Option<OnRecovery>,
}

impl Recoveries {
    /// None yet.
    #[must_use]
    pub fn new(told: Option<OnRecovery>) -> Self {
        Self { told, ..Self::default() }
    }

    /// A step was taken.
    pub fn took(&self, rung: Rung, cause: &str) {
        let again = {
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            let again = logged.is_some_and(|(last, at)| last == rung && at.elapsed() < LOG);
            if !again {
                *logged = Some((rung, Instant::now()));
            }
            again
        };
        let name: &str = rung.into();
        if again {
            tracing::debug!(rung = name, cause, "a step of recovery");
        } else {
            tracing::warn!(rung = name, cause, "a step of recovery");
        }
        let recovery = Recovery { rung, cause: cause.to_owned(), at: Timestamp::now() };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(recovery);
        if let Some(told) = &self.told {
            told(rung);
        }
    }

    /// The last one.
    #[must_use]
    pub fn last(&self) -> Option<Recovery> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
