//! What others changed on a token without this process having seen it.
//!
//! SoftHSM 2 counts the changes of a token in a file. A process reads the objects anew where the count is another than the
//! one that it knows; but who changes the token itself adds one to whatever it finds there and knows that, so that what
//! others did since its last look is read by it no more, until they do something again. For hours a key is not there
//! then that another process made: it is waited for, missed, or said to be destroyed. A process that changes nothing, as the
//! further ones of `tokenHosts` do, sees everything.
//!
//! Starting the library over reads all there is. So on such a token, once this process has changed something, "it is not
//! there" is asked once more after a start, and then believed: until its next change it sees everything.
//!
//! The look before something is made (`Generate`, `Claim`, `Derive`, `Import`, `PutData`) is no such question. It finds nothing
//! as a rule, and the id is of an object of which another process hardly makes the key at this time; who goes on with what
//! another one began asks by `Find` first. Of a data object there may be a second one then, which `GetData` says.
//!
//! A start makes all threads wait, forgets all names, and is a login, during which SoftHSM refuses for a moment what other
//! processes change. What bounds that: each change of our own allows for one, and
//! [`Pace`] for a small part of all time, whoever asks for what and however often. Nobody is told within the pace that
//! something is not there; it is [`Kind::Busy`], to be asked again. Besides, callers of a gateway come here only by what the
//! cluster says is on the token, and a key that is not is taken from them as soon as the controller was told.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use super::token::Token;
use crate::{
    hsm::protocol::{Find, HsmError, Kind, Reply, Request},
    model::KeyAlgorithm,
};

/// So many times what a start took pass before the next.
const WORTH: u32 = 10;
/// A request waits so long for the next.
const TURN: Duration = Duration::from_secs(2);
/// So many times it is tried: while another process logs in, SoftHSM shows no token for a moment.
const TIMES: u32 = 5;
/// So long new calls are held back until those that are inside of the module have come out.
const LEAVE: Duration = Duration::from_millis(200);

/// Whether an answer says that something is not there which is asked for because it should be. Never of what is asked for
/// once at most; and a pair that has only one of its halves is not all that was made.
pub fn comes_short(request: &Request, answer: &Result<Reply, HsmError>) -> bool {
    match (request, answer) {
        (Request::SignStateful { .. }, _) => false,
        (_, Err(error)) => error.kind == Kind::KeyNotFound,
        // That proves nothing anyway.
        (Request::Find(Find::Known(_)), _) => false,
        (Request::Find(_), Ok(Reply::Keys(found))) => {
            let half = |algorithm: KeyAlgorithm| algorithm.row().asymmetric;
            found.is_empty()
                || found.iter().any(|key| key.public_key.is_none() && key.algorithm.is_some_and(half))
        }
        (Request::GetData(_), Ok(Reply::Data(found))) => found.is_none(),
        (Request::GetCertificate(_), Ok(Reply::Certificate(found))) => found.is_none(),
        _ => false,
    }
}

/// When the next start may be.
#[derive(Debug, Default)]
pub struct Pace(Option<Instant>);

impl Pace {
    /// How long that is to be waited for.
    fn wait(&self, now: Instant) -> Duration {
        self.0.map_or(Duration::ZERO, |next| next.saturating_duration_since(now))
    }

    /// Others waited for so long.
    fn took(&mut self, now: Instant, time: Duration) {
        self.0 = Some(now + time * WORTH);
    }
}

impl Token {
    /// Whether what others changed may have been overlooked by who began when the module had been started so often.
    pub fn may_have_overlooked(&self, starts: u64) -> bool {
        self.overlooks && (self.changed() || self.starts() != starts)
    }

    /// Has everything on the token read anew, unless that was just done. `seen` is the start under which something was not
    /// there.
    ///
    /// It is no step of recovery: nothing is wrong with the token.
    ///
    /// # Errors
    /// `Busy` where that cannot be at the moment; a PIN that was refused.
    pub fn read_anew(&self, seen: u64) -> Result<(), HsmError> {
        let pace = || self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if self.starts() != seen {
            return Ok(());
        }
        let wait = pace().wait(Instant::now());
        if wait > TURN {
            return Err(not_now("it was just done for others"));
        }
        std::thread::sleep(wait);
        let begun = Instant::now();
        let alone = self.gate.try_write_for(LEAVE);
        if self.starts() != seen {
            return Ok(());
        }
        let outcome = match (alone, self.refused()) {
            (_, Some(refused)) => Err(refused),
            (Some(_alone), None) if !self.is_dead() => self
                .reopen_in_time(TIMES)
                .map_err(|error| self.refused().unwrap_or_else(|| not_now(&error.message))),
            _ => Err(not_now("the module is at work for others")),
        };
        let took = begun.elapsed();
        pace().took(Instant::now(), took);
        tracing::debug!(
            ?took,
            done = outcome.is_ok(),
            "the library is started over to see what others changed"
        );
        outcome
    }
}

fn not_now(why: &str) -> HsmError {
    let message =
        format!("what others changed on the token cannot be looked at in this moment; ask again ({why})");
    HsmError::new(Kind::Busy, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hsm::protocol::KeyFacts,
        model::{KeyAttributes, KeyId, KeyLabel, SignatureAlgorithm},
    };

    fn id() -> KeyId {
        KeyId::for_purpose("test")
    }

    fn found(algorithm: KeyAlgorithm, public_key: Option<&'static [u8]>) -> Result<Reply, HsmError> {
        Ok(Reply::Keys(vec![KeyFacts {
            id: Some(id()),
            label: String::new(),
            algorithm: Some(algorithm),
            key_size: None,
            curve_oid: None,
            public_key: public_key.map(Into::into),
            attributes: KeyAttributes::default(),
            local: None,
            chain_code: None,
            twins: 1,
        }]))
    }

    #[test]
    fn what_should_be_there_and_is_not_comes_short() {
        let find = Request::Find(Find::Id(id()));
        let nothing = Ok(Reply::Keys(vec![]));
        let missing = Err(HsmError::new(Kind::KeyNotFound, "no key"));
        let short = [
            (find.clone(), nothing.clone()),
            (Request::Find(Find::Public(id())), nothing.clone()),
            (find.clone(), found(KeyAlgorithm::Ec, None)),
            (Request::GetCertificate(id()), Ok(Reply::Certificate(None))),
            (Request::Export(id()), missing.clone()),
        ];
        for (request, answer) in &short {
            assert!(comes_short(request, answer), "{request:?} {answer:?}");
        }
        let label = KeyLabel::new("k").unwrap();
        let once = Request::SignStateful {
            key: id(),
            algorithm: SignatureAlgorithm::EdDsa,
            payload: b"x".as_slice().into(),
        };
        let enough = [
            (find.clone(), found(KeyAlgorithm::Ec, Some(b"spki"))),
            (find.clone(), found(KeyAlgorithm::Aes, None)),
            (find, Err(HsmError::new(Kind::Ambiguous, "two"))),
            (Request::Find(Find::Known(label)), nothing),
            (Request::GetCertificate(id()), Ok(Reply::Certificate(Some(b"der".as_slice().into())))),
            // It may have been signed with.
            (once, missing),
        ];
        for (request, answer) in &enough {
            assert!(!comes_short(request, answer), "{request:?} {answer:?}");
        }
    }

    #[test]
    fn however_often_it_is_asked_for_it_takes_a_small_part_of_all_time() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let (begun, mut spent) = (now, Duration::ZERO);
        assert_eq!(pace.wait(now), Duration::ZERO);
        for millis in [5, 300, 1, 40].into_iter().cycle().take(100) {
            let time = Duration::from_millis(millis);
            now += time;
            spent += time;
            pace.took(now, time);
            assert!(pace.wait(now + time) > Duration::ZERO);
            now += pace.wait(now);
        }
        assert!(spent * WORTH <= now - begun);
    }
}
