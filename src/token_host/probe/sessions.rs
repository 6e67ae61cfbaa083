//! How many sessions are worth it: signs with more and more of them, until that brings nothing.
//!
//! It loads the token, so it is short: some 0.2 s for each number of sessions, more where signing is slow. Objects are held
//! only while the keys come and go; others sign, look and make keys meanwhile.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::{
    hsm::knee::{self, End, Level, MOST, Measured},
    model::curve::CURVES,
    token_host::{public, raw},
};

/// With each number of sessions and each key for at least so long, and until there are some signatures for each session;
const SHORTEST: Duration = Duration::from_millis(100);
const SOME: usize = 2;
/// but at most so long, and a signature of each session.
const LONGEST: Duration = Duration::from_millis(500);
/// After so long, no more sessions are tried.
const BUDGET: Duration = Duration::from_secs(6);

/// Keys, until the session goes in which they were made.
struct Keys {
    _session: Session,
    all: Vec<Key>,
}

struct Key {
    name: &'static str,
    mechanism: Mechanism,
    object: Object,
}

/// What is signed: a digest, as far as the token can tell.
const DATA: [u8; 32] = [0x5a; 32];

pub fn probe(token: &Token) -> Result<Findings, HsmError> {
    let keys = {
        let _alone = token.objects();
        Keys::make(token)?
    };
    let measured = climb(token, &keys);
    let _alone = token.objects();
    drop(keys);
    Ok(Findings { sessions: Some(measured?), ..Findings::default() })
}

impl Keys {
    /// Of each usual kind that the token offers and signs with, one.
    fn make(token: &Token) -> Result<Self, HsmError> {
        let session = token.session()?;
        let p256 = CURVES.iter().find(|row| row.name == "P-256").and_then(|row| public::oid(row.oid));
        let p256 = p256.map(|params| curves::specific(&params).to_vec()).unwrap_or_default();
        let kinds = [
            ("P-256", CKM_EC_KEY_PAIR_GEN, p256, CKM_ECDSA),
            ("RSA-2048", CKM_RSA_PKCS_KEY_PAIR_GEN, rsa::specific().to_vec(), CKM_RSA_PKCS),
        ];
        let (mut all, mut why) = (Vec::new(), None);
        for (name, generate, specific, mechanism) in kinds {
            if !has(token, generate) || !has(token, mechanism) {
                continue;
            }
            let mechanism = Mechanism::plain(mechanism);
            let signs = Pair::make(&session, generate, &specific).and_then(|pair| {
                // The first signature may have to wake something up.
                session.sign(&mechanism, pair.private, &DATA)?;
                Ok(pair.private)
            });
            match signs {
                Ok(object) => all.push(Key { name, mechanism, object }),
                Err(failure) => why = Some(settled(failure)?),
            }
        }
        if all.is_empty() {
            let none = || HsmError::new(Kind::Unsupported, "it offers neither P-256 nor RSA-2048");
            return Err(why.unwrap_or_else(none));
        }
        Ok(Self { _session: session, all })
    }
}

fn climb(token: &Token, keys: &Keys) -> Result<Measured, HsmError> {
    // The session of the keys stands for the one that changes the token, so that with as many as are chosen there is room
    // for all of them.
    let room = token.limits()?.room().and_then(|room| u16::try_from(room).ok()).unwrap_or(MOST);
    let most = room.min(MOST);
    if most == 0 {
        return Err(HsmError::new(Kind::Full, "the token says that it has room for no further session"));
    }
    let (begun, mut sessions, mut levels) = (Instant::now(), Vec::new(), Vec::<Level>::new());
    loop {
        let count = levels.last().map_or(1, |last| (2 * last.sessions).min(most));
        let level = widen(token, &mut sessions, count).and_then(|()| level(&mut sessions, keys));
        match level {
            Ok(speeds) => levels.push(Level { sessions: count, speeds }),
            // A token in trouble says nothing of how many sessions it has.
            Err(error) if levels.is_empty() || matches!(error.kind, Kind::Lost | Kind::Device) => {
                return Err(error);
            }
            Err(error) => return Ok(Measured { levels, end: End::Refused(word(&error).to_owned()) }),
        }
        let end = if knee::is_flat(&levels) {
            End::Flat
        } else if count == most {
            End::Most
        } else if begun.elapsed() > BUDGET {
            End::Slow
        } else {
            continue;
        };
        return Ok(Measured { levels, end });
    }
}

/// Opens sessions until there are so many.
fn widen(token: &Token, sessions: &mut Vec<Session>, count: u16) -> Result<(), HsmError> {
    while sessions.len() < usize::from(count) {
        sessions.push(token.session()?);
    }
    Ok(())
}

/// Signs with each key from all sessions at the same time.
fn level(sessions: &mut [Session], keys: &Keys) -> Result<Vec<(String, u32)>, HsmError> {
    let speed = |key: &Key| Ok((key.name.to_owned(), rate(sessions, key)?));
    keys.all.iter().map(speed).collect()
}

/// Signatures in a second: of each thread by its own time, because they do not end together.
fn rate(sessions: &mut [Session], key: &Key) -> Result<u32, HsmError> {
    let (enough, made) = (SOME * sessions.len().max(8), AtomicU32::new(0));
    let (begun, request) = (Instant::now(), raw::work());
    let sign = |session: &Session| {
        raw::working_on(request);
        let mut own = 0_u32;
        loop {
            session.sign(&key.mechanism, key.object, &DATA)?;
            own += 1;
            let all = made.fetch_add(1, Ordering::Relaxed) + 1;
            let time = begun.elapsed();
            if time >= LONGEST || time >= SHORTEST && all as usize >= enough {
                return Ok::<_, Failure>(f64::from(own) / time.as_secs_f64());
            }
        }
    };
    let total = std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(sessions.len());
        for session in sessions {
            let started = std::thread::Builder::new().spawn_scoped(scope, move || sign(session));
            threads
                .push(started.map_err(|e| HsmError::new(Kind::Busy, format!("cannot start threads: {e}")))?);
        }
        let ended = threads.into_iter().map(|thread| thread.join().expect("whoever panics ends the process"));
        Ok::<_, HsmError>(ended.sum::<Result<f64, Failure>>()?)
    })?;
    Ok(total.round() as u32)
}
