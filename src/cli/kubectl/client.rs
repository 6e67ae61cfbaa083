//! The cluster, as kubectl finds it.

use anyhow::Context;

/// A client for the cluster that kubectl would speak to: of KUBECONFIG, of `~/.kube/config`, or of the pod this runs in.
///
/// # Errors
/// When there is none.
pub async fn client() -> anyhow::Result<kube::Client> {
    kube::Client::try_default().await.context(
        "cannot find a cluster: does `kubectl get hsmpartitions` work here? KUBECONFIG names its file",
    )
}
