//! Subcommands; the only place where the parts are wired together.

pub mod controller;
pub mod crd;
pub mod gateway;
pub mod kubectl;
pub mod sidecar;
pub mod token_errors;
pub mod token_host;

use std::{ffi::OsString, path::Path};

use clap::{Parser, Subcommand};

/// Keys in a hardware security module as ordinary Kubernetes objects.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconciles the custom resources and signs SigningRequests, while it leads.
    Controller(controller::Args),
    /// Serves the REST API over TLS to sidecars and clients.
    Gateway(gateway::Args),
    /// Serves the HSM to a pod's other containers on loopback.
    Sidecar(Box<sidecar::Args>),
    /// Print the CustomResourceDefinitions.
    Crd(crd::Args),
    /// Print what return values of PKCS#11 mean and what to do about each, as a page in Markdown.
    TokenErrors(token_errors::Args),
    /// Tools for a person's shell; installed as `kubectl-hsm` they are `kubectl hsm …`.
    Kubectl(kubectl::Args),
    /// Serve one token to the process that started this one.
    #[command(hide = true)]
    TokenHost,
}

/// The command line. Installed as `kubectl-hsm`, the program is its subcommand `kubectl`.
#[must_use]
pub fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments.first().and_then(|path| Path::new(path).file_name()?.to_str().map(str::to_owned));
    if name.as_deref() == Some("kubectl-hsm") {
        arguments.insert(1, "kubectl".into());
    }
    arguments
}

/// Runs the chosen subcommand to its end.
///
/// # Errors
/// Whatever stopped it, with its causes, for a person to read.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Controller(args) => controller::run(args),
        Command::Gateway(args) => gateway::run(args),
        Command::Sidecar(args) => sidecar::run(*args),
        Command::Crd(args) => crd::run(&args),
        Command::TokenErrors(args) => token_errors::run(&args),
        Command::Kubectl(args) => kubectl::run(args),
        Command::TokenHost => token_host::run(),
    }
}
