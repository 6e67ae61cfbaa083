//! `kubectl hsm …`.

pub mod client;
pub mod doctor;
pub mod inject;

use clap::Subcommand;

/// Arguments of `kubectl hsm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Adds the sidecar to manifests.
    Inject(inject::Args),
    /// Prints what is known of a partition's token, and what is odd about it.
    Doctor(doctor::Args),
}

/// Runs one `kubectl hsm` command.
///
/// # Errors
/// Whatever stopped it, for a person to read.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Inject(args) => inject::run(args),
        Command::Doctor(args) => doctor::run(&args),
    }
}
