//! Makes a process that holds a PIN hard to look into.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core dumps, no other process of the same user that reads its memory, no new privileges. To be called first: before
/// a secret arrives, and before there are other threads. What the system refuses is not needed to work.
pub fn harden() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, none);
    let _ = rustix::thread::set_no_new_privs(true);
}
