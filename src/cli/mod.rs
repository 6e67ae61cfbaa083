//! Subcommands; the only place where the parts are wired together.

pub mod crd;
pub mod kubectl;
pub mod sidecar;

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
    /// Serves the HSM to a pod's other containers on loopback.
    Sidecar(Box<sidecar::Args>),
    /// Print the CustomResourceDefinitions.
    Crd(crd::Args),
    /// Tools for a person's shell; installed as `kubectl-hsm` they are `kubectl hsm …`.
    Kubectl(kubectl::Args),
}

/// Runs the chosen subcommand to its end.
///
/// # Errors
/// Whatever stopped it, with its causes, for a person to read.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Sidecar(args) => sidecar::run(*args),
        Command::Crd(args) => crd::run(&args),
        Command::Kubectl(args) => kubectl::run(args),
    }
}
