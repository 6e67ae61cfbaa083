//! Listeners: TLS with reload, admin port, limits, graceful shutdown. Knows nothing of the domain.

pub mod admin;
pub mod https;
pub mod shutdown;
