//! Whether one of several tokens with the same keys may sign: a record of what was seen of it. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::protocol::HsmError;

/// It goes out after so many failures in a row.
const FAILURES: u32 = 2;
/// Once out, it comes back after so many good canaries in a row,
const PROOFS: u32 = 2;
/// each so long after the one before.
const APART: Duration = Duration::from_secs(1);

/// Why a token does not sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was not proven yet that it has the same keys.
    Unproven,
    /// Its token-host is being started.
    Starting,
    /// Its token-host could not open it.
    Down(HsmError),
    /// Its last calls failed, for the reason of the last.
    Failing(HsmError),
    /// It does not make the canary signature: it has not the same keys.
    OtherKeys(HsmError),
    /// It answered with a signature that is none.
    WrongSignature,
}

/// How willingly it is given work; the first of these before the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Standing {
    /// As willingly as any.
    In,
    /// It keeps somebody waiting, or is under suspicion.
    Slow,
    /// It is out, and if nobody else is left, it may try.
    Out,
    /// It is not known to have the same keys, and may not try.
    Barred,
}

/// What was seen of one token.
#[derive(Clone, Debug)]
pub struct Health {
    /// `None` while it signs.
    cause: Option<Cause>,
    failures: u32,
    slow: bool,
    /// A signature of it was wrong, and no canary has told yet whether that was the token's fault or the key's.
    doubted: bool,
    /// It had the same keys when it was last asked.
    proven: bool,
    /// Good canaries since it failed last, and when the last of them was.
    proofs: Option<(u32, Instant)>,
    /// How many of them it takes.
    needed: u32,
}

impl Health {
    /// Of the token that says what the keys are.
    pub const fn trusted() -> Self {
        Self {
            cause: None,
            failures: 0,
            slow: false,
            doubted: false,
            proven: true,
            proofs: None,
            needed: PROOFS,
        }
    }

    /// Of a token that has to show that it has them. Once is enough: it has nothing to make up for.
    pub fn unproven() -> Self {
        Self { cause: Some(Cause::Unproven), proven: false, needed: 1, ..Self::trusted() }
    }

    /// Why it does not sign; `None` while it does.
    pub const fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }

    /// How willingly it is given work.
    pub const fn standing(&self) -> Standing {
        match &self.cause {
            _ if !self.proven => Standing::Barred,
            None if self.slow || self.doubted => Standing::Slow,
            None => Standing::In,
            Some(_) => Standing::Out,
        }
    }

    /// Whether anything at all is held against it.
    pub const fn spotless(&self) -> bool {
        self.cause.is_none() && self.failures == 0 && !self.slow && !self.doubted
    }

    /// It answered a call. Once it is out, only canaries count in its favour: they are checked.
    pub const fn answered(&mut self) {
        self.slow = false;
        if self.cause.is_none() {
            self.failures = 0;
        }
    }

    /// It made the canary signature.
    pub fn proved(&mut self, now: Instant) {
        (self.slow, self.doubted, self.failures) = (false, false, 0);
        if self.cause.is_none() {
            return;
        }
        let proofs = match self.proofs {
            None => 1,
            Some((proofs, last)) if now >= last + APART => proofs + 1,
            Some(_) => return,
        };
        self.proofs = Some((proofs, now));
        if proofs >= self.needed {
            *self = Self::trusted();
        }
    }

    /// It did not do what it should have done.
    pub fn failed(&mut self, error: &HsmError) {
        self.failures = self.failures.saturating_add(1);
        self.proofs = None;
        let named = matches!(&self.cause, Some(Cause::OtherKeys(_) | Cause::WrongSignature));
        // What is said of it stays the same as long as it fails in the same way.
        let same = matches!(&self.cause, Some(Cause::Failing(before)) if before.kind == error.kind);
        if (self.failures >= FAILURES || self.doubted) && !named && !same {
            self.cause = Some(Cause::Failing(error.clone()));
        }
    }

    /// It keeps somebody waiting. That is no failure yet.
    pub const fn slow(&mut self) {
        self.slow = true;
    }

    /// A signature of it was wrong. It may be that key alone: a canary tells, and until then others go first.
    pub const fn doubted(&mut self) {
        self.doubted = true;
    }

    /// Its token-host is not ready.
    pub fn down(&mut self, cause: Cause) {
        self.proofs = None;
        if !(self.cause == Some(Cause::Unproven) && cause == Cause::Starting) {
            self.cause = Some(cause);
        }
    }

    /// It is seen that it has not the same keys, or does not sign what it is given.
    pub fn wrong(&mut self, cause: Cause) {
        (self.proofs, self.proven, self.needed) = (None, false, PROOFS);
        self.cause = Some(cause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::protocol::Kind;

    fn error() -> HsmError {
        HsmError::new(Kind::Device, "no")
    }

    #[test]
    fn one_failure_is_forgiven_and_two_in_a_row_are_not() {
        let mut health = Health::trusted();
        health.failed(&error());
        health.answered();
        health.failed(&error());
        assert_eq!(health.standing(), Standing::In);
        health.failed(&error());
        assert_eq!((health.standing(), health.cause()), (Standing::Out, Some(&Cause::Failing(error()))));
    }

    #[test]
    fn who_was_out_comes_back_after_two_good_canaries_a_second_apart() {
        let begun = Instant::now();
        let mut health = Health::trusted();
        health.down(Cause::Down(error()));
        health.answered();
        health.proved(begun);
        health.proved(begun + APART / 2);
        assert_eq!(health.standing(), Standing::Out, "too soon");
        health.proved(begun + APART);
        assert_eq!(health.standing(), Standing::In);
    }

    #[test]
    fn a_failure_between_two_canaries_begins_the_count_anew() {
        let begun = Instant::now();
        let mut health = Health::trusted();
        health.wrong(Cause::WrongSignature);
        assert_eq!(health.standing(), Standing::Barred);
        health.proved(begun);
        health.failed(&error());
        health.proved(begun + APART);
        assert_eq!(health.standing(), Standing::Barred);
        health.proved(begun + 2 * APART);
        assert_eq!(health.standing(), Standing::In);
    }

    #[test]
    fn who_never_made_a_canary_does_nothing_whatever_happens() {
        let mut health = Health::unproven();
        for _ in 0..3 {
            health.answered();
            health.failed(&error());
            health.down(Cause::Starting);
            health.down(Cause::Down(error()));
            assert_eq!(health.standing(), Standing::Barred);
        }
        health.proved(Instant::now());
        assert_eq!(health.standing(), Standing::In, "one is enough for whoever comes for the first time");
    }

    #[test]
    fn who_has_other_keys_is_barred_until_it_is_shown_twice_that_it_has_not() {
        let begun = Instant::now();
        let mut health = Health::trusted();
        health.wrong(Cause::OtherKeys(error()));
        health.failed(&error());
        health.failed(&error());
        assert_eq!(health.cause(), Some(&Cause::OtherKeys(error())), "the worse of two causes is told");
        health.proved(begun);
        assert_eq!(health.standing(), Standing::Barred);
        health.proved(begun + APART);
        assert_eq!(health.standing(), Standing::In);
    }

    #[test]
    fn who_was_wrong_once_is_out_as_soon_as_its_canary_fails_and_only_a_good_one_clears_it() {
        let begun = Instant::now();
        let mut health = Health::trusted();
        health.doubted();
        health.answered();
        assert_eq!((health.standing(), health.spotless(), health.cause()), (Standing::Slow, false, None));
        health.proved(begun);
        assert_eq!((health.standing(), health.spotless()), (Standing::In, true), "it was the key");
        health.doubted();
        health.failed(&error());
        assert_eq!(health.cause(), Some(&Cause::Failing(error())));
    }

    #[test]
    fn who_is_slow_is_so_until_the_next_answer() {
        let mut health = Health::trusted();
        health.slow();
        assert_eq!(health.standing(), Standing::Slow);
        health.answered();
        assert_eq!(health.standing(), Standing::In);
    }
}
