//! The sidecar: plain HTTP on loopback, TLS to the gateways.
//!
//! It runs beside an application, holds the pod's projected token and nothing else, and gives the application an
//! HSM at `http://localhost:8081` without a credential. One request takes this way:
//! `server` (listener) → `forward` (headers, deadline, retry rule) → `pool` (which gateway) → `connect` (TLS).

mod address;
mod admin;
mod answer;
mod connect;
mod files;
mod forward;
mod headers;
mod metrics;
mod pool;
mod refresh;
mod server;
mod stream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use address::{Dns, GatewayUrl, InvalidGatewayUrl, Resolve};
pub use server::{Sidecar, StartError};

/// How a sidecar listens, where it forwards to and how long it waits.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the application connects; loopback, because whoever connects acts as this pod.
    pub listen: SocketAddr,
    /// Where `/livez`, `/readyz` and `/metrics` are; the kubelet probes the pod's address, not loopback.
    pub admin: SocketAddr,
    /// Name of the gateways: resolved to their addresses and expected in their certificate.
    pub gateway: GatewayUrl,
    /// Certificates (PEM) of the authority that signs the gateways' certificate.
    pub ca_file: PathBuf,
    /// The pod's ServiceAccount token for the operator's audience.
    pub token_file: PathBuf,
    /// Largest request body; a request is held in memory until it is answered, so that it can be sent again. Files pass as
    /// they come, whatever their size.
    pub max_body: usize,
    /// Requests in work at one time; further ones wait. Bounds the memory.
    pub max_in_flight: usize,
    /// TCP and TLS to one gateway.
    pub connect_timeout: Duration,
    /// From the whole request to the head of the answer.
    pub response_timeout: Duration,
    /// Age at which an unused connection is closed. Must stay well below the time for which a stopping gateway
    /// says `Connection: close`: then no request is ever written to a connection that is just being closed.
    pub idle_timeout: Duration,
    /// How often the gateways' addresses are looked up while there is traffic.
    pub resolve_every: Duration,
    /// How often token and CA are read again.
    pub files_every: Duration,
    /// How long running requests may take to finish after SIGTERM.
    pub drain: Duration,
}

impl Config {
    /// The defaults for everything that is not an address or a file.
    pub fn new(gateway: GatewayUrl, ca_file: PathBuf, token_file: PathBuf) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            admin: SocketAddr::from(([0, 0, 0, 0], 8082)),
            gateway,
            ca_file,
            token_file,
            max_body: 1024 * 1024,
            max_in_flight: 64,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(90),
            idle_timeout: Duration::from_secs(3),
            resolve_every: Duration::from_secs(1),
            files_every: Duration::from_secs(2),
            drain: Duration::from_secs(5),
        }
    }
}
