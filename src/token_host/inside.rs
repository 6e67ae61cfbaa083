//! How long calls into the module have been under way.
//!
//! A call that does not return is a module that hangs. Many calls that do are work, however long it takes: reading the
//! names of all objects of a full token over a network may take minutes.

use std::{
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cryptoki_sys::{
    CK_MECHANISM_TYPE, CKM_AES_KEY_GEN, CKM_EC_EDWARDS_KEY_PAIR_GEN, CKM_EC_KEY_PAIR_GEN,
    CKM_EC_MONTGOMERY_KEY_PAIR_GEN, CKM_GENERIC_SECRET_KEY_GEN, CKM_HASH_SLH_DSA, CKM_HASH_SLH_DSA_SHAKE256,
    CKM_HSS, CKM_SLH_DSA, CKM_XMSS,
};

/// What the times of calls are counted from.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// The thread is not inside the module.
const OUTSIDE: u64 = u64::MAX;
/// The thread makes a key that may take minutes.
const MAKING: u64 = u64::MAX - 1;

/// What a signature of SLH-DSA may take before it counts, in milliseconds.
const SLOW_SIGNATURE: u64 = 20_000;

/// All threads that ever called the module and have not ended.
static THREADS: Mutex<Vec<Arc<AtomicU64>>> = Mutex::new(Vec::new());
/// How many such keys the module is making.
static KEYS: AtomicUsize = AtomicUsize::new(0);

fn threads() -> MutexGuard<'static, Vec<Arc<AtomicU64>>> {
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Since when a thread is inside, in milliseconds after [`ORIGIN`].
struct Thread(Arc<AtomicU64>);

impl Drop for Thread {
    fn drop(&mut self) {
        threads().retain(|other| !Arc::ptr_eq(other, &self.0));
    }
}

thread_local! {
    static THREAD: Thread = {
        let since = Arc::new(AtomicU64::new(OUTSIDE));
        threads().push(Arc::clone(&since));
        Thread(since)
    };
}

/// Sets what is told of the calling thread. A thread that is ending is not told of any more.
fn tell(since: u64) {
    let _ = THREAD.try_with(|thread| thread.0.store(since, Ordering::Relaxed));
}

fn now() -> u64 {
    u64::try_from(ORIGIN.elapsed().as_millis()).unwrap_or(MAKING - 1)
}

/// A call into the module, for as long as it lives.
pub struct Call {
    makes_a_key: bool,
}

impl Call {
    /// The calling thread goes inside.
    pub fn begin() -> Self {
        tell(now());
        Self { makes_a_key: false }
    }

    /// The same to sign. Signatures out of many hashes take seconds on a good day, and are not said to hang for so long.
    pub fn to_sign(mechanism: CK_MECHANISM_TYPE) -> Self {
        let slow = if is_of_hashes(mechanism) { SLOW_SIGNATURE } else { 0 };
        tell(now() + slow);
        Self { makes_a_key: false }
    }

    /// The same to make a key, which may take minutes where primes are looked for.
    pub fn to_make_a_key(mechanism: CK_MECHANISM_TYPE) -> Self {
        if is_quick(mechanism) {
            return Self::begin();
        }
        KEYS.fetch_add(1, Ordering::Relaxed);
        tell(MAKING);
        Self { makes_a_key: true }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        tell(OUTSIDE);
        if self.makes_a_key {
            KEYS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Whether signatures of this kind are made of many hashes.
fn is_of_hashes(mechanism: CK_MECHANISM_TYPE) -> bool {
    matches!(mechanism, CKM_SLH_DSA | CKM_HSS | CKM_XMSS)
        || (CKM_HASH_SLH_DSA..=CKM_HASH_SLH_DSA_SHAKE256).contains(&mechanism)
}

/// Whether keys of this kind are little more than random bytes.
fn is_quick(mechanism: CK_MECHANISM_TYPE) -> bool {
    const QUICK: &[CK_MECHANISM_TYPE] = &[
        CKM_EC_KEY_PAIR_GEN,
        CKM_EC_EDWARDS_KEY_PAIR_GEN,
        CKM_EC_MONTGOMERY_KEY_PAIR_GEN,
        CKM_AES_KEY_GEN,
        CKM_GENERIC_SECRET_KEY_GEN,
    ];
    QUICK.contains(&mechanism)
}

/// Whether the module is making a key that may take minutes.
pub fn is_making() -> bool {
    KEYS.load(Ordering::Relaxed) > 0
}

/// How long the longest of the calls that are under way has taken, leaving those aside that make such a key.
pub fn longest() -> Duration {
    let now = now();
    let since = threads().iter().map(|thread| thread.load(Ordering::Relaxed)).min();
    Duration::from_millis(since.map_or(0, |since| now.saturating_sub(since)))
}

#[cfg(test)]
mod tests {
    use cryptoki_sys::CKM_RSA_PKCS_KEY_PAIR_GEN;

    use super::*;

    #[test]
    fn the_longest_call_is_told_until_it_returns_and_keys_are_left_aside() {
        let short = Duration::from_millis(20);
        let quick = Call::to_make_a_key(CKM_EC_KEY_PAIR_GEN);
        assert!(!is_making());
        drop(quick);
        let making = Call::to_make_a_key(CKM_RSA_PKCS_KEY_PAIR_GEN);
        std::thread::sleep(short);
        assert!(is_making() && longest() < short);
        drop(making);
        let slow = Call::to_sign(CKM_SLH_DSA);
        std::thread::sleep(short);
        assert_eq!(longest(), Duration::ZERO);
        drop(slow);
        let inside = Call::begin();
        std::thread::spawn(|| drop(Call::begin())).join().unwrap();
        std::thread::sleep(short);
        assert!(!is_making() && longest() >= short);
        drop(inside);
        assert_eq!(longest(), Duration::ZERO);
    }
}
