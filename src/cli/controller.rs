//! `hsm-operator controller`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{self, gateway_tls, lease::Candidate},
    harden::harden,
    hsm::Registry,
    server::{admin, shutdown},
    telemetry::{Metrics, logs},
};

/// Reconciles the custom resources while it leads.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of /livez, /readyz and /metrics.
    #[arg(long, env = "HSM_OPERATOR_ADMIN_LISTEN", default_value = "0.0.0.0:8080")]
    admin_listen: SocketAddr,
    /// Namespace of the operator: of PINs, the lease and the gateways' certificate.
    #[arg(long, env = "POD_NAMESPACE", default_value = "hsm-operator")]
    namespace: String,
    /// Name of this replica, unique among them.
    #[arg(long, env = "POD_NAME")]
    replica: Option<String>,
    /// Service of the gateways, whose names are certified.
    #[arg(long, env = "HSM_OPERATOR_GATEWAY_SERVICE", default_value = "hsm-operator-gateway")]
    gateway_service: String,
    /// Secret that receives the gateways' certificate.
    #[arg(long, env = "HSM_OPERATOR_GATEWAY_TLS_SECRET", default_value = "hsm-operator-gateway-tls")]
    gateway_tls_secret: String,
    /// The admission policies are installed. Without them nobody knows who asked, and no SigningRequest is executed.
    #[arg(long, env = "HSM_OPERATOR_ADMISSION_CHECKED", default_value_t = false, action = clap::ArgAction::Set)]
    admission_checked: bool,
    /// Seconds after which an object is looked at although nothing happened.
    #[arg(long, env = "HSM_OPERATOR_RESYNC_SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(1..))]
    resync_seconds: u32,
    /// error, warn, info, debug, trace, or a filter such as `hsm_operator=debug`.
    #[arg(long, env = "HSM_OPERATOR_LOG_LEVEL", default_value = "info")]
    log_level: String,
}

/// Runs until SIGTERM, or until it loses the lease.
///
/// # Errors
/// What stopped it.
pub fn run(args: Args) -> anyhow::Result<()> {
    harden();
    let _logs = logs::init(&args.log_level);
    let runtime = tokio::runtime::Runtime::new().context("cannot start the event loop")?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let end = shutdown::on_signal().context("cannot wait for signals")?;
    let client = Client::try_default().await.context("cannot find the Kubernetes API")?;
    let metrics = Arc::new(Metrics::default());
    let registry = Arc::new(Registry::new(Arc::clone(&metrics)));
    // A replica that waits for the lease is as ready as one that has it.
    let router = admin::router(Arc::new(|| Ok(())), Arc::clone(&metrics));
    let admin_end = CancellationToken::new();
    let admin_port = tokio::spawn(admin::serve(args.admin_listen, router, admin_end.clone()));

    let replica = args.replica.unwrap_or_else(|| format!("controller-{}", uuid::Uuid::new_v4()));
    // A restarted container has its pod's name and is somebody else all the same.
    let identity = format!("{replica}_{}", uuid::Uuid::new_v4());
    let mut candidate = Candidate::new(client.clone(), &args.namespace, "hsm-operator-controller", identity);
    tracing::info!(replica, "waiting for the lease");
    let led = tokio::select! {
        led = candidate.lead(&end) => led,
        failed = admin_port => {
            failed.context("the admin port panicked")?.with_context(|| format!("cannot serve on {}", args.admin_listen))?;
            bail!("the admin port ended");
        }
    };
    if !led {
        return Ok(());
    }
    tracing::info!(replica, "leading");
    metrics.leader.set(1);

    let tls = gateway_tls::Settings {
        namespace: args.namespace.clone(),
        service: args.gateway_service,
        secret: args.gateway_tls_secret,
    };
    let tls = tokio::spawn(gateway_tls::keep(client.clone(), tls, end.clone()));
    let settings = controller::Settings {
        client,
        namespace: args.namespace,
        replica,
        admission_checked: args.admission_checked,
        registry: Arc::clone(&registry),
        metrics: Arc::clone(&metrics),
        resync: Duration::from_secs(args.resync_seconds.into()),
    };
    // The lease is kept until the last reconcile ended.
    let done = CancellationToken::new();
    let work = async {
        controller::run(settings, end.clone()).await;
        let _ = tls.await;
        registry.shutdown().await;
        done.cancel();
    };
    tokio::select! {
        kept = candidate.keep(&done) => {
            if !kept {
                // Nothing may be made on a token by someone who does not lead: the token-hosts go with us, now.
                bail!("lost the lease");
            }
        }
        () = async { work.await; std::future::pending().await } => {}
    }
    admin_end.cancel();
    Ok(())
}
