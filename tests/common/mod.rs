//! What several test programs share.

pub mod faults;
pub mod openssl;
pub mod tally;
pub mod token;
pub mod vendor;
