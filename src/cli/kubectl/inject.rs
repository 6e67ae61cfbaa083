//! `kubectl hsm inject`.

use std::io::{Read, Write};

use anyhow::Context;

use crate::inject::{Ca, DEFAULT_AUDIENCE, DEFAULT_GATEWAY, InjectConfig, inject_stream};

/// Adds the sidecar to manifests; for clusters below 1.37 and for repositories that keep what they deploy.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Manifests in YAML or JSON; `-` reads standard input.
    #[arg(short = 'f', long, value_name = "FILE")]
    filename: String,
    /// The operator's image.
    #[arg(long, env = "HSM_OPERATOR_IMAGE", default_value = concat!("ghcr.io/hsm-operator/hsm-operator:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Always, IfNotPresent or Never.
    #[arg(long, default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    /// The gateways, as https://host:port.
    #[arg(long, env = "HSM_OPERATOR_GATEWAY", default_value = DEFAULT_GATEWAY)]
    gateway: crate::sidecar::GatewayUrl,
    /// Audience of the pod's token.
    #[arg(long, default_value = DEFAULT_AUDIENCE)]
    audience: String,
    /// Take the gateways' CA from key ca.crt of this ConfigMap in the pod's namespace, where the cluster has no
    /// ClusterTrustBundle (below 1.37).
    #[arg(long, value_name = "NAME")]
    ca_configmap: Option<String>,
    /// Inject into pods without the label hsm-operator.io/inject, too; "false" still wins.
    #[arg(long)]
    all: bool,
}

/// Prints the manifests with the sidecar in them, and on standard error what became of each.
///
/// # Errors
/// The file cannot be read, or is neither YAML nor JSON.
pub fn run(args: Args) -> anyhow::Result<()> {
    let input = match args.filename.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            text
        }
        file => std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?,
    };
    let config = InjectConfig {
        image: args.image,
        image_pull_policy: args.image_pull_policy,
        gateway: args.gateway.to_string(),
        audience: args.audience,
        ca: args.ca_configmap.map_or(Ca::TrustBundle, Ca::ConfigMap),
        unlabelled: args.all,
    };
    let (output, outcomes) = inject_stream(&input, &config)?;
    for outcome in outcomes {
        eprintln!("{outcome}");
    }
    std::io::stdout().write_all(output.as_bytes()).context("cannot write the result")
}
