//! Subcommands; the only place where the parts are wired together.

pub mod kubectl;
pub mod token_host;

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
    /// Tools for a person's shell; installed as `kubectl-hsm` they are `kubectl hsm …`.
    Kubectl(kubectl::Args),
    /// Serve one token to the process that started this one.
    #[command(hide = true)]
    TokenHost,
}

/// Runs the chosen subcommand to its end.
///
/// # Errors
/// Whatever stopped it, with its causes, for a person to read.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Kubectl(args) => kubectl::run(args),
        Command::TokenHost => token_host::run(),
    }
}
