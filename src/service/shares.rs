//! How much of something scarce each namespace has at a time, so that none takes it from the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is shared.
#[derive(Debug)]
pub struct Shares {
    /// What there is.
    all: usize,
    /// What one namespace may have of it.
    of_one: usize,
    taken: Mutex<HashMap<String, usize>>,
}

/// One of it, until it is dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<Shares>,
    whose: String,
}

impl Shares {
    /// Shares `all`, and at most `of_one` of it to a namespace.
    #[must_use]
    pub fn new(all: usize, of_one: usize) -> Arc<Self> {
        Arc::new(Self { all, of_one, taken: Mutex::default() })
    }

    /// Takes one for a namespace, unless there is none left for it.
    pub fn take(self: &Arc<Self>, whose: &str) -> Option<Share> {
        let mut taken = self.taken();
        let mine = taken.get(whose).copied().unwrap_or_default();
        if mine >= self.of_one || taken.values().sum::<usize>() >= self.all {
            return None;
        }
        taken.insert(whose.to_owned(), mine + 1);
        Some(Share { of: Arc::clone(self), whose: whose.to_owned() })
    }

    /// How many a namespace has.
    #[cfg(test)]
    pub fn of(&self, whose: &str) -> usize {
        self.taken().get(whose).copied().unwrap_or_default()
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        if let Some(mine) = taken.get_mut(&self.whose) {
            *mine -= 1;
            if *mine == 0 {
                taken.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_namespace_leaves_room_for_others_and_what_is_given_back_is_there_again() {
        let shares = Shares::new(3, 2);
        let mine = [shares.take("a"), shares.take("a")];
        assert!(mine.iter().all(Option::is_some) && shares.take("a").is_none());
        let theirs = shares.take("b");
        assert!(theirs.is_some() && shares.take("b").is_none(), "there is no more of it");
        drop(mine);
        assert!(shares.take("b").is_some() && shares.take("a").is_some());
        drop(theirs);
        assert!(shares.taken().is_empty());
    }
}
