//! `hsm-operator sidecar` as a program of its own, for it runs beside every application: what it does not do, it does
//! not bring into memory. Half of what the whole `hsm-operator` keeps resident is code around the few pages it uses.

use std::process::ExitCode;

use clap::Parser;
use hsm_operator::cli::sidecar;

/// Serves the HSM to a pod's other containers on loopback.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    args: sidecar::Args,
}

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nothing installed a TLS provider before main");
    match sidecar::run(Cli::parse().args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
