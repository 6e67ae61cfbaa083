//! The control file, and how often its rules came true.
//!
//! The counts are the sizes of files beside it, so that they outlive the process: a crash that is to happen once must
//! not happen to the next process too.

use std::{
    fs::{File, Metadata},
    io::Write,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use super::rule::{Action, Rule};

/// Rules that may change at any time.
pub struct Control {
    path: PathBuf,
    present: Mutex<(Option<Stamp>, Vec<Rule>)>,
}

/// What tells one version of the file from another.
#[derive(PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64);

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self(file.ino(), file.size(), file.mtime(), file.mtime_nsec())
    }
}

impl Control {
    /// The rules in a file; none while there is no file.
    pub fn new(path: PathBuf) -> Self {
        Self { path, present: Mutex::new((None, Vec::new())) }
    }

    /// What to do to a call: the first rule that covers it and has neither to wait nor been used up.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn decide(&self, function: &str) -> Result<Option<Action>, String> {
        // Held over the counting: two threads must not both be the one that is hit.
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, rules) = &mut *present;
        let stamp = self.path.metadata().ok().map(|file| Stamp::of(&file));
        if *seen != stamp {
            *rules = Rule::parse_all(&std::fs::read_to_string(&self.path).unwrap_or_default())?;
            *seen = stamp;
        }
        for rule in rules.iter().filter(|rule| rule.covers(function)) {
            if self.count(rule.number, "passed") < rule.after {
                self.add(rule.number, "passed")?;
            } else if rule.times.is_none_or(|times| self.count(rule.number, "fired") < times) {
                self.add(rule.number, "fired")?;
                return Ok(Some(rule.action));
            }
        }
        Ok(None)
    }

    /// How often a rule came true, or had a call pass.
    pub fn count(&self, rule: usize, what: &str) -> u64 {
        self.counter(rule, what).metadata().map_or(0, |file| file.size())
    }

    fn add(&self, rule: usize, what: &str) -> Result<(), String> {
        let counter = self.counter(rule, what);
        let file = File::options().create(true).append(true).open(&counter);
        file.and_then(|mut file| file.write_all(b".")).map_err(|e| format!("{}: {e}", counter.display()))
    }

    fn counter(&self, rule: usize, what: &str) -> PathBuf {
        PathBuf::from(format!("{}.{rule}.{what}", self.path.display()))
    }
}
