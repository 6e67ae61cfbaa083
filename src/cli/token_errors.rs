//! `hsm-operator token-errors`: prints what return values of PKCS#11 mean.

use std::path::PathBuf;

use anyhow::Context;

/// Arguments of `token-errors`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write into this file instead of printing.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Prints or writes the page.
///
/// # Errors
/// When the file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let page = crate::token_host::errors_page();
    match &args.output {
        None => print!("{page}"),
        Some(path) => {
            std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?
        }
    }
    Ok(())
}
