//! `kubectl hsm …`.

mod client;
pub mod inject;
pub mod orphans;
pub mod recover;
mod table;

use anyhow::Context;
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
        Command::Orphans(args) => wait_for(orphans::run(args)),
        Command::Recover(args) => wait_for(recover::run(args)),
    }
}

fn wait_for(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new().context("cannot start the event loop")?.block_on(work)
}
