//! What can be done with keys: the one path for REST and reconcilers.

pub mod address;
pub mod attest;
pub mod audit;
pub mod certificate;
pub mod cipher;
pub mod derive;
pub mod directory;
pub mod files;
pub mod password;
pub mod shares;
pub mod sign;
pub mod timestamp;
