//! `hsm-operator token-host`: started by gateway and controller, never by a person.

use anyhow::Context;

/// Serves one token over the socket on standard input.
///
/// # Errors
/// When standard input is not the socket of a parent that speaks the same protocol.
pub fn run() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    // The parent may have set up logging of its own kind; a second time is not worth an error.
    let _ = tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    match crate::token_host::run().context("token-host is started by the operator itself")? {}
}
