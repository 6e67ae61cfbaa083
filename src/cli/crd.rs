//! `hsm-operator crd`: prints the CustomResourceDefinitions.

use std::path::PathBuf;

use anyhow::Context;
use kube::ResourceExt;

use crate::api;

/// Arguments of `crd`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write one file per resource into this folder instead of printing.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Prints or writes the CRDs.
///
/// # Errors
/// When a file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    for crd in api::all_crds() {
        let yaml = serde_saphyr::to_string(&crd).context("a CRD is plain data")?;
        match &args.out {
            None => print!("---\n{yaml}"),
            Some(folder) => {
                std::fs::create_dir_all(folder)?;
                let path = folder.join(format!("{}.yaml", crd.name_any()));
                std::fs::write(&path, yaml).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
    }
    Ok(())
}
