//! Hashes passwords, a few at a time, and remembers which were right.

use std::{
    hash::{Hash as StdHash, Hasher},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::{hmac, rand::SystemRandom};
use moka::future::Cache;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::{Hash, Record};
use crate::{model::Password, service::shares::Shares};

/// Hashes that are made at the same time: each takes a core and 19 MiB.
const AT_ONCE: usize = 2;
/// Those that are made or wait for it. The last one waits for a second or so.
const WAITING: usize = 64;
/// How many of them are one namespace's, so that its wrong passwords leave room for others.
const WAITING_OF_ONE: usize = 16;
/// Right passwords that are remembered.
const REMEMBERED: u64 = 10_000;
/// How long one that nobody uses is.
const UNUSED: Duration = Duration::from_secs(3600);

/// Too many passwords are being hashed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are being checked; try again")]
pub struct Full;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Wrong,
    Full,
}

/// Checks passwords.
///
/// A right one is remembered as its HMAC under a key that this process made for itself, along with the version of the Secret that
/// it was right for: another password is another version, and what was remembered of the old one is never asked for again.
/// Wrong ones are not remembered.
pub struct Checker {
    key: hmac::Key,
    right: Cache<Mac, ()>,
    turns: Arc<Semaphore>,
    places: Arc<Shares>,
}

impl Default for Checker {
    fn default() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Self {
            key: key.expect("the system has random numbers"),
            right: Cache::builder().max_capacity(REMEMBERED).time_to_idle(UNUSED).build(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            places: Shares::new(WAITING, WAITING_OF_ONE),
        }
    }
}

impl Checker {
    /// Whether a password is the one of a record; `whose` is the namespace that pays for finding out. Of several that ask the
    /// same at the same time, one finds out.
    ///
    /// # Errors
    /// When too many are being checked.
    pub async fn is_right(
        &self,
        record: &Record,
        hash: &Hash,
        password: &Password,
        whose: &str,
    ) -> Result<bool, Full> {
        let mac = self.mac(record, password);
        let find_out = async {
            let (hash, password) = (hash.clone(), password.clone());
            match self.run(whose, move || hash.is_of(&password)).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(Refused::Wrong),
                Err(Full) => Err(Refused::Full),
            }
        };
        match self.right.try_get_with(mac, find_out).await.map_err(|refused| *refused) {
            Ok(()) => Ok(true),
            Err(Refused::Wrong) => Ok(false),
            Err(Refused::Full) => Err(Full),
        }
    }

    /// Makes the hash of a new password.
    ///
    /// # Errors
    /// When too many are being made.
    pub async fn hash(&self, password: &Password, whose: &str) -> Result<Hash, Full> {
        let password = password.clone();
        self.run(whose, move || Hash::of(&password)).await
    }

    /// Runs something that takes a core, apart from the threads that answer requests. It goes on when nobody waits for it any
    /// more, and keeps its turn until it is done.
    async fn run<T: Send + 'static>(
        &self,
        whose: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Full> {
        let place = self.places.take(whose).ok_or(Full)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| Full)?;
        let done = tokio::task::spawn_blocking(move || {
            let _ends_with_it = (place, turn);
            work()
        });
        done.await.map_err(|_| Full)
    }

    fn mac(&self, record: &Record, password: &Password) -> Mac {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [record.uid.as_bytes(), record.version.as_bytes(), password.expose()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let tag = context.sign();
        Mac(tag.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// What is remembered of a password.
#[derive(Clone, Copy, Eq)]
struct Mac([u8; 32]);

impl PartialEq for Mac {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl StdHash for Mac {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    fn record(version: &str, text: &str) -> (Record, Hash) {
        let hash = Hash::of(&password(text));
        let (key, version, uid) = ("shop/k".into(), version.into(), "u".into());
        (Record { key, hash: Some(hash.clone()), version, uid }, hash)
    }

    #[tokio::test]
    async fn a_right_password_is_remembered_for_its_version_and_a_wrong_one_is_not() {
        let checker = Checker::default();
        let (old, hash) = record("1", "old");
        for _ in 0..2 {
            assert_eq!(checker.is_right(&old, &hash, &password("old"), "shop").await, Ok(true));
            assert_eq!(checker.is_right(&old, &hash, &password("wrong"), "shop").await, Ok(false));
        }
        checker.right.run_pending_tasks().await;
        assert_eq!(checker.right.entry_count(), 1);
        // Without a turn nothing is hashed: what is answered then is remembered.
        let all = checker.turns.acquire_many(u32::try_from(AT_ONCE).unwrap()).await.unwrap();
        assert_eq!(checker.is_right(&old, &hash, &password("old"), "shop").await, Ok(true));
        drop(all);
        let (new, hash) = record("2", "new");
        assert_eq!(checker.is_right(&new, &hash, &password("old"), "shop").await, Ok(false));
        assert_eq!(checker.is_right(&new, &hash, &password("new"), "shop").await, Ok(true));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_flood_of_one_namespace_is_cut_off_and_leaves_others_their_turn() {
        let checker = Arc::new(Checker::default());
        let (record, hash) = record("1", "right");
        let turns =
            Arc::clone(&checker.turns).acquire_many_owned(u32::try_from(AT_ONCE).unwrap()).await.unwrap();
        let try_one = |text: String, whose: &'static str| {
            let (checker, record, hash) = (Arc::clone(&checker), record.clone(), hash.clone());
            tokio::spawn(async move { checker.is_right(&record, &hash, &password(&text), whose).await })
        };
        let flood: Vec<_> = (0..40).map(|number| try_one(format!("wrong {number}"), "bad")).collect();
        // All that found no place are answered, and the others wait.
        while flood.iter().filter(|one| one.is_finished()).count() < 40 - WAITING_OF_ONE {
            tokio::task::yield_now().await;
        }
        let other = try_one("right".into(), "good");
        drop(turns);
        assert_eq!(other.await.unwrap(), Ok(true));
        let mut answers = Vec::new();
        for one in flood {
            answers.push(one.await.unwrap());
        }
        assert_eq!(answers.iter().filter(|one| **one == Err(Full)).count(), 40 - WAITING_OF_ONE);
        assert_eq!(answers.iter().filter(|one| **one == Ok(false)).count(), WAITING_OF_ONE);
        let again: Vec<_> = (0..WAITING_OF_ONE).map(|_| checker.places.take("bad")).collect();
        assert!(again.iter().all(Option::is_some), "every place is given back");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_that_ask_the_same_need_one_place() {
        let checker = Arc::new(Checker::default());
        let (record, hash) = record("1", "right");
        let turns =
            Arc::clone(&checker.turns).acquire_many_owned(u32::try_from(AT_ONCE).unwrap()).await.unwrap();
        let asked: Vec<_> = (0..3 * WAITING)
            .map(|_| {
                let (checker, record, hash) = (Arc::clone(&checker), record.clone(), hash.clone());
                tokio::spawn(
                    async move { checker.is_right(&record, &hash, &password("right"), "shop").await },
                )
            })
            .collect();
        while checker.places.of("shop") == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(checker.places.of("shop"), 1);
        drop(turns);
        for one in asked {
            assert_eq!(one.await.unwrap(), Ok(true));
        }
    }
}
