//! The cluster of a person's kubeconfig.

use anyhow::Context;
use kube::{Client, Config, config::KubeConfigOptions};

/// A client of the cluster that `kubectl` would ask: of the kubeconfig's present context, or of the pod that this runs in.
///
/// # Errors
/// When there is no kubeconfig, or it names nothing that can be used.
pub async fn client() -> anyhow::Result<Client> {
    let config = match Config::from_kubeconfig(&KubeConfigOptions::default()).await {
        Ok(config) => config,
        Err(error) => Config::incluster().map_err(|_| error).context(
            "cannot find a cluster: set KUBECONFIG, or see whether `kubectl config current-context` names one",
        )?,
    };
    Client::try_from(config).context("cannot use the kubeconfig")
}

/// An event loop for one command.
///
/// # Errors
/// When the system has no more threads.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the event loop")
}
