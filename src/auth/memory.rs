//! Answers of the API server, remembered: fresh for a while, refreshed early by whoever comes late in that
//! while, and stale but usable for a bounded time when the API server does not answer.

use std::{
    future::Future,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use moka::future::Cache;

/// How long answers are good for.
#[derive(Clone, Copy, Debug)]
pub struct Ages {
    /// A grant is used without asking for this long.
    pub grant: Duration,
    /// A refusal is used without asking for this long.
    pub refusal: Duration,
    /// A grant is used for this long when the API server cannot be asked.
    pub stale: Duration,
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

    /// The answer for `key`, from memory or by `ask`; `ask` fails with `E` when nobody can be asked.
    ///
    /// # Errors
    /// What `ask` failed with, when nothing usable is remembered.
    pub async fn get<E, F, A>(&self, key: K, ask: A) -> Result<(Result<V, R>, Source), E>
    where
        E: Send + Sync + Clone + 'static,
        F: Future<Output = Result<Result<V, R>, E>> + Send + 'static,
        A: Fn() -> F,
    {
        let known = self.cache.get(&key).await;
        if let Some(entry) = &known {
            let age = entry.at.elapsed();
            let fresh = if entry.answer.is_ok() { self.ages.grant } else { self.ages.refusal };
            if age < fresh {
                if entry.answer.is_ok()
                    && age > fresh.mul_f32(0.7)
                    && !entry.refreshing.swap(true, Ordering::Relaxed)
                {
                    let (memory, asked) = (self.clone(), ask());
                    tokio::spawn(async move {
                        if let Ok(answer) = asked.await {
                            memory.remember(key, answer).await;
                        }
                    });
                }
                return Ok((entry.answer.clone(), Source::Memory));
            }
        }
        match ask().await {
            Ok(answer) => {
                self.remember(key, answer.clone()).await;
                Ok((answer, Source::Api))
            }
            Err(error) => match known {
                Some(entry) if entry.answer.is_ok() && entry.at.elapsed() < self.ages.stale => {
                    Ok((entry.answer.clone(), Source::Stale))
                }
                _ => Err(error),
            },
        }
    }

    async fn remember(&self, key: K, answer: Result<V, R>) {
        let entry = Entry { answer, at: Instant::now(), refreshing: AtomicBool::new(false) };
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
    };

    type Asked = Result<Result<u32, &'static str>, &'static str>;

    async fn answers(
        memory: &Memory<u8, u32, &'static str>,
        asked: Asked,
    ) -> Result<(Result<u32, &'static str>, Source), &'static str> {
        memory.get(1, || async move { asked }).await
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
            assert_eq!(memory.get(1, ask).await.unwrap().1, expected);
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_old_grant_serves_while_nobody_can_be_asked_and_an_old_refusal_does_not() {
        let memory = Memory::new(10, AGES);
        assert_eq!(answers(&memory, Ok(Ok(7))).await, Ok((Ok(7), Source::Api)));
        tokio::time::sleep(AGES.grant).await;
        assert_eq!(answers(&memory, Err("down")).await, Ok((Ok(7), Source::Stale)));
        assert_eq!(answers(&memory, Ok(Err("no"))).await, Ok((Err("no"), Source::Api)));
        tokio::time::sleep(AGES.refusal).await;
        assert_eq!(answers(&memory, Err("down")).await, Err("down"));
    }
}
