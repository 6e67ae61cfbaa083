//! Passwords of keys.
//!
//! A generic token knows no passwords of single keys, so they are checked here, by whoever uses a key for somebody: see
//! `docs/security-model.md` for what that is worth. What checks them is a hash in a Secret of the operator's namespace;
//! the HsmKey says which.

mod checker;
mod hash;
mod known;
mod record;

pub use self::{
    checker::{Checker, Full},
    hash::Hash,
    known::Known,
    record::{Record, Unreadable, changed, is_record, secret},
};
