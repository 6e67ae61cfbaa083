//! What several test programs share.

pub mod openssl;
pub mod token;
