//! A real token whose module goes wrong on demand: the token of [`super::token`] behind the module of `fault_module`.
#![allow(dead_code, reason = "every test program uses its own part of this")]

#[path = "../fault_module/control.rs"]
pub mod control;
#[path = "../fault_module/rule.rs"]
pub mod rule;

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use hsm_operator::hsm::{SupervisorConfig, supervisor::Deadlines};

use super::token::Token;
use control::Control;
use rule::Rule;

/// The fault module. One that is missing fails the test.
pub fn library() -> PathBuf {
    let program = std::env::current_exe().expect("a program has a path");
    let profile = program.parent().and_then(Path::parent).expect("it is in target/PROFILE/deps");
    let library = profile.join("examples/libfault_module.so");
    assert!(library.exists(), "no {}: run `cargo build --example fault_module`", library.display());
    library
}

/// The control file of a module.
pub struct Rules {
    control: PathBuf,
    /// Rules given so far. A rule's number is never used again, so that its counts are its own.
    given: AtomicUsize,
}

impl Rules {
    /// No rules yet, in a file that the module knows.
    pub fn new(control: PathBuf) -> Self {
        Self { control, given: AtomicUsize::new(0) }
    }

    /// From now on these rules, and no others. Returns their numbers, in order.
    pub fn set(&self, rules: &[&str]) -> Vec<usize> {
        let before = self.given.fetch_add(rules.len(), Ordering::SeqCst);
        let text = "\n".repeat(before) + &rules.join("\n");
        let parsed = Rule::parse_all(&text).unwrap_or_else(|error| panic!("{error}"));
        self.write(&text);
        parsed.iter().map(|rule| rule.number).collect()
    }

    /// From now on nothing goes wrong.
    pub fn clear(&self) {
        self.write("");
    }

    /// How often a rule came true.
    pub fn fired(&self, rule: usize) -> u64 {
        Control::new(self.control.clone()).count(rule, "fired")
    }

    fn write(&self, text: &str) {
        // In one step: a reader sees the rules of before or those of now.
        let new = self.control.with_extension("new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &self.control))
            .expect("a control file");
    }
}

/// A token whose module has rules.
pub struct Faults {
    config: SupervisorConfig,
    rules: Rules,
}

impl Faults {
    /// No rules yet.
    pub fn new(token: &Token) -> Self {
        let control = token.path().join("faults");
        let mut config = token.config();
        let text = |path: &Path| path.display().to_string();
        config.open.library = text(&library());
        config.environment.extend([
            ("FAULT_LIBRARY".to_owned(), text(&token.library)),
            ("FAULT_CONTROL".to_owned(), text(&control)),
        ]);
        config.deadlines = Deadlines {
            sign: Duration::from_secs(1),
            generate: Duration::from_secs(2),
            // A call that takes a third of it hangs, and making a key beside a dozen other tests may take half a second.
            look: Duration::from_secs(3),
            open: Duration::from_secs(2),
        };
        config.ping = (Duration::from_millis(100), Duration::from_secs(1));
        Self { config, rules: Rules::new(control) }
    }

    /// A supervisor's configuration for the token, with deadlines as short as a test's patience.
    pub fn config(&self) -> SupervisorConfig {
        self.config.clone()
    }
}

impl Deref for Faults {
    type Target = Rules;

    fn deref(&self) -> &Rules {
        &self.rules
    }
}
