//! `kubectl hsm …`.

pub mod client;
pub mod doctor;
pub mod inject;
pub mod orphans;
pub mod recover;
mod table;

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
    /// Lists keys without an HsmKey, HsmKeys without their key, and what is left of others.
    Orphans(orphans::Args),
    /// Has HsmKeys find their keys again after the cluster's data was lost, or a restore.
    Recover(recover::Args),
}

/// Runs one `kubectl hsm` command.
///
/// # Errors
/// Whatever stopped it, for a person to read.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Inject(args) => inject::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Orphans(args) => client::runtime()?.block_on(orphans::run(args)),
        Command::Recover(args) => client::runtime()?.block_on(recover::run(args)),
    }
}
