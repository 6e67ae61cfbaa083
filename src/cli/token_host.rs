//! `hsm-operator token-host`: started by gateway and controller, never by a person.

use anyhow::Context;

/// Serves one token over the sockets on standard input and output.
///
/// # Errors
/// When they are not the sockets of a parent that speaks the same protocol.
pub fn run() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    // The parent may have set up logging of its own kind; a second time is not worth an error.
    let _ = tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    match crate::token_host::run().context("token-host is started by the operator itself")? {}
}
