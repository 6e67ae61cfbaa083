//! The `hsm-operator` binary: every process of the operator is a subcommand of it.

use std::process::ExitCode;

use clap::Parser;
use hsm_operator::cli::{self, Cli};

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nothing installed a TLS provider before main");
    match cli::run(Cli::parse_from(cli::arguments())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
