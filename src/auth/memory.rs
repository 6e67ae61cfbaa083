//! Answers of the API server, remembered: fresh for a while, refreshed early by whoever comes late in that
//! while, and stale but usable for a bounded time when the API server does not answer.

use std::{
    future::Future,
    hash::Hash,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use moka::future::Cache;
use tokio::time::timeout;

/// How long answers are good for.
#[derive(Clone, Copy, Debug)]
pub struct Ages {
    /// A grant is used without asking for this long.
    pub grant: Duration,
    /// A refusal is used without asking for this long.
    pub refusal: Duration,
    /// A grant is used for this long when the API server cannot be asked.
    pub stale: Duration,
    /// How long a caller with a grant waits for a newer one. An API server that is cut off does not refuse: it is
    /// silent. As long as it is, only the first one waits.
    pub known: Duration,
    /// How long a caller waits without one.
    pub unknown: Duration,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Remembered.
    Memory,
    /// Asked for just now.
    Api,
    /// Remembered for longer than we like, because nobody can be asked.
    Stale,
}

impl Source {
    /// A word for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Api => "api",
            Self::Stale => "stale",
        }
    }
}

struct Entry<V, R> {
    answer: Result<V, R>,
    at: Instant,
    refreshing: AtomicBool,
    /// Until then a grant is used without waiting for a newer one, which did not come the last time.
    excused: Mutex<Option<Instant>>,
}

impl<V, R> Entry<V, R> {
    fn excuse(&self, ages: &Ages) {
        *self.excused.lock().expect("no panic while it is held") =
            Some(Instant::now() + ages.known + ages.unknown);
    }

    fn is_excused(&self) -> bool {
        self.excused.lock().expect("no panic while it is held").is_some_and(|until| Instant::now() < until)
    }
}

/// Remembered answers: `V` grants, `R` refuses.
pub struct Memory<K, V, R> {
    cache: Cache<K, Arc<Entry<V, R>>>,
    ages: Ages,
}

impl<K, V, R> Clone for Memory<K, V, R> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone(), ages: self.ages }
    }
}

impl<K, V, R> Memory<K, V, R>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    R: Clone + Send + Sync + 'static,
{
    /// An empty memory of at most `entries` answers.
    #[must_use]
    pub fn new(entries: u64, ages: Ages) -> Self {
        let cache = Cache::builder().max_capacity(entries).time_to_live(ages.stale).build();
        Self { cache, ages }
    }

    /// The answer for `key`, from memory or by `ask`; `ask` fails with `E` when nobody can be asked, and `silent` is
    /// said when it does not end in time.
    ///
    /// # Errors
    /// What `ask` failed with, when nothing usable is remembered.
    pub async fn get<E, F, A>(&self, key: K, silent: E, ask: A) -> Result<(Result<V, R>, Source), E>
    where
        E: Send + Sync + Clone + 'static,
        F: Future<Output = Result<Result<V, R>, E>> + Send + 'static,
        A: Fn() -> F,
    {
        let Some(entry) = self.cache.get(&key).await else {
            let answer = timeout(self.ages.unknown, ask()).await.unwrap_or(Err(silent))?;
            self.remember(key, answer.clone()).await;
            return Ok((answer, Source::Api));
        };
        let age = entry.at.elapsed();
        let fresh = if entry.answer.is_ok() { self.ages.grant } else { self.ages.refusal };
        if age < fresh {
            if entry.answer.is_ok() && age > fresh.mul_f32(0.7) {
                self.refresh(key, &entry, ask());
            }
            return Ok((entry.answer.clone(), Source::Memory));
        }
        let usable = entry.answer.is_ok() && age < self.ages.stale;
        if usable && entry.is_excused() {
            self.refresh(key, &entry, ask());
            return Ok((entry.answer.clone(), Source::Stale));
        }
        let patience = if usable { self.ages.known } else { self.ages.unknown };
        match timeout(patience, ask()).await.unwrap_or(Err(silent)) {
            Ok(answer) => {
                self.remember(key, answer.clone()).await;
                Ok((answer, Source::Api))
            }
            Err(_) if usable => {
                entry.excuse(&self.ages);
                Ok((entry.answer.clone(), Source::Stale))
            }
            Err(error) => Err(error),
        }
    }

    /// Asks in the background, once at a time for each entry.
    fn refresh<E, F>(&self, key: K, entry: &Arc<Entry<V, R>>, asked: F)
    where
        F: Future<Output = Result<Result<V, R>, E>> + Send + 'static,
        E: Send + 'static,
    {
        if entry.refreshing.swap(true, Ordering::Relaxed) {
            return;
        }
        let (memory, entry) = (self.clone(), Arc::clone(entry));
        tokio::spawn(async move {
            match timeout(memory.ages.unknown, asked).await {
                Ok(Ok(answer)) => memory.remember(key, answer).await,
                Ok(Err(_)) | Err(_) => {
                    entry.excuse(&memory.ages);
                    entry.refreshing.store(false, Ordering::Relaxed);
                }
            }
        });
    }

    async fn remember(&self, key: K, answer: Result<V, R>) {
        let entry = Entry {
            answer,
            at: Instant::now(),
            refreshing: AtomicBool::new(false),
            excused: Mutex::new(None),
        };
        self.cache.insert(key, Arc::new(entry)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    const AGES: Ages = Ages {
        grant: Duration::from_millis(40),
        refusal: Duration::from_millis(40),
        stale: Duration::from_secs(60),
        known: Duration::from_millis(100),
        unknown: Duration::from_millis(200),
    };

    type Asked = Result<Result<u32, &'static str>, &'static str>;

    async fn answers(
        memory: &Memory<u8, u32, &'static str>,
        asked: Asked,
    ) -> Result<(Result<u32, &'static str>, Source), &'static str> {
        memory.get(1, "silent", || async move { asked }).await
    }

    #[tokio::test]
    async fn a_fresh_answer_is_not_asked_for_again() {
        let memory = Memory::new(10, AGES);
        let count = Arc::new(AtomicU32::new(0));
        for expected in [Source::Api, Source::Memory] {
            let counter = Arc::clone(&count);
            let ask = move || {
                let counter = Arc::clone(&counter);
                async move { Ok::<_, ()>(Ok::<_, ()>(counter.fetch_add(1, Ordering::Relaxed))) }
            };
            assert_eq!(memory.get(1, (), ask).await.unwrap().1, expected);
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_old_grant_serves_while_nobody_can_be_asked_and_an_old_refusal_does_not() {
        let memory = Memory::new(10, AGES);
        assert_eq!(answers(&memory, Ok(Ok(7))).await, Ok((Ok(7), Source::Api)));
        tokio::time::sleep(AGES.grant).await;
        assert_eq!(answers(&memory, Err("down")).await, Ok((Ok(7), Source::Stale)));
        tokio::time::sleep(AGES.known + AGES.unknown).await;
        assert_eq!(answers(&memory, Ok(Err("no"))).await, Ok((Err("no"), Source::Api)));
        tokio::time::sleep(AGES.refusal).await;
        assert_eq!(answers(&memory, Err("down")).await, Err("down"));
    }

    #[tokio::test]
    async fn silence_costs_a_known_caller_one_wait_and_a_stranger_a_refusal() {
        let memory = Memory::<u8, u32, &'static str>::new(10, Ages { grant: Duration::ZERO, ..AGES });
        let silence = || std::future::pending::<Asked>();
        assert_eq!(memory.get(1, "silent", silence).await, Err("silent"));
        assert_eq!(answers(&memory, Ok(Ok(7))).await, Ok((Ok(7), Source::Api)));
        let begun = Instant::now();
        assert_eq!(memory.get(1, "silent", silence).await, Ok((Ok(7), Source::Stale)));
        assert!(begun.elapsed() >= AGES.known, "the first one waits");
        // Nobody waits again soon: a thousand do not take a thousand waits, however busy the machine is.
        let begun = Instant::now();
        for _ in 0..1000 {
            assert_eq!(memory.get(1, "silent", silence).await, Ok((Ok(7), Source::Stale)));
        }
        assert!(begun.elapsed() < 500 * AGES.known);
        // A withdrawal counts as soon as it is heard of.
        tokio::time::sleep(2 * (AGES.known + AGES.unknown)).await;
        assert_eq!(answers(&memory, Ok(Err("no"))).await, Ok((Err("no"), Source::Api)));
    }
}
