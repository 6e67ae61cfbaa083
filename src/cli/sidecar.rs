//! `hsm-operator sidecar`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tracing::Level;

use crate::sidecar::{Config, Dns, GatewayUrl, Sidecar};

/// Serves the HSM to the other containers of the pod on loopback.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address for the application.
    #[arg(long, env = "HSM_OPERATOR_LISTEN", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// Address of /livez, /readyz and /metrics.
    #[arg(long, env = "HSM_OPERATOR_ADMIN_LISTEN", default_value = "0.0.0.0:8082")]
    admin_listen: SocketAddr,
    /// The gateways, as https://host[:port].
    #[arg(long, env = "HSM_OPERATOR_GATEWAY", default_value = crate::inject::DEFAULT_GATEWAY)]
    gateway: GatewayUrl,
    /// CA certificates (PEM) of the gateways.
    #[arg(long, env = "HSM_OPERATOR_CA_FILE", default_value = crate::inject::CA_FILE)]
    ca_file: PathBuf,
    /// ServiceAccount token of this pod for the operator's audience.
    #[arg(long, env = "HSM_OPERATOR_TOKEN_FILE", default_value = crate::inject::TOKEN_FILE)]
    token_file: PathBuf,
    /// Largest request body in bytes.
    #[arg(long, env = "HSM_OPERATOR_MAX_BODY", default_value_t = 1024 * 1024)]
    max_body: usize,
    /// Requests in work at one time; further ones wait.
    #[arg(long, env = "HSM_OPERATOR_MAX_IN_FLIGHT", default_value_t = 64)]
    max_in_flight: usize,
    /// Seconds until a request without an answer is given up.
    #[arg(long, env = "HSM_OPERATOR_RESPONSE_TIMEOUT", default_value_t = 90)]
    response_timeout: u64,
    /// error, warn, info, debug or trace.
    #[arg(long, env = "HSM_OPERATOR_LOG_LEVEL", default_value_t = Level::INFO)]
    log_level: Level,
}

/// Serves until SIGTERM.
///
/// # Errors
/// A port that cannot be opened.
pub fn run(args: Args) -> anyhow::Result<()> {
    // A level instead of a filter expression: the latter brings a regular expression engine into every pod.
    tracing_subscriber::fmt().json().flatten_event(true).with_max_level(args.log_level).init();
    let config = Config {
        listen: args.listen,
        admin: args.admin_listen,
        max_body: args.max_body,
        max_in_flight: args.max_in_flight,
        response_timeout: Duration::from_secs(args.response_timeout),
        ..Config::new(args.gateway.clone(), args.ca_file, args.token_file)
    };
    // One thread, and one more with a small stack for the system's blocking DNS lookups: this runs in every pod.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .thread_stack_size(256 * 1024)
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let sidecar = Sidecar::bind(config).await?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        sidecar.run(Arc::new(Dns::new(args.gateway)), shutdown).await;
        Ok(())
    })
}
