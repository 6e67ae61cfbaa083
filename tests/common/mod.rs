//! What several test programs share.

pub mod attestation;
pub mod faults;
pub mod hss;
pub mod openssl;
pub mod tally;
pub mod token;
pub mod vendor;
