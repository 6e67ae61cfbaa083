//! `hsm-operator gateway`.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    api,
    auth::{access::AccessReviews, token_review::TokenReviews},
    gateway::{self, State, missed::Missed, partitions::Partitions, watch::View},
    harden::harden,
    hsm::Registry,
    server::{
        admin,
        https::{self, Certificate, Limits},
        shutdown,
    },
    service::{derive::Derived, directory::Directory, files::Files, password::Known, sign::Signer},
    telemetry::{Metrics, logs},
};

/// Serves the REST API over TLS.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the REST API.
    #[arg(long, env = "HSM_OPERATOR_LISTEN", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Address of /livez, /readyz and /metrics.
    #[arg(long, env = "HSM_OPERATOR_ADMIN_LISTEN", default_value = "0.0.0.0:8080")]
    admin_listen: SocketAddr,
    /// Namespace of the operator: of PINs and the certificate.
    #[arg(long, env = "POD_NAMESPACE", default_value = "hsm-operator")]
    namespace: String,
    /// Secret with the certificate, made by the controller.
    #[arg(long, env = "HSM_OPERATOR_GATEWAY_TLS_SECRET", default_value = "hsm-operator-gateway-tls")]
    tls_secret: String,
    /// Audience of the tokens that are accepted.
    #[arg(long, env = "HSM_OPERATOR_AUDIENCE", default_value = api::AUDIENCE)]
    audience: String,
    /// Seconds that connections stay open after SIGTERM, so that clients move on by themselves.
    #[arg(long, env = "HSM_OPERATOR_DRAIN_SECONDS", default_value_t = 8)]
    drain_seconds: u64,
    /// Bytes of the largest file that is encrypted or decrypted.
    #[arg(long, env = "HSM_OPERATOR_MAX_FILE_BYTES", default_value_t = 256 * 1024 * 1024)]
    max_file_bytes: u64,
    /// Files that are encrypted and decrypted at a time; further ones wait for a while.
    #[arg(long, env = "HSM_OPERATOR_MAX_FILES", default_value_t = 8)]
    max_files: usize,
    /// Where files wait, encrypted, until the last byte has come. As many as max-files of max-file-bytes need room.
    #[arg(long, env = "HSM_OPERATOR_FILE_DIRECTORY", default_value = "/tmp")]
    file_directory: std::path::PathBuf,
    /// error, warn, info, debug, trace, or a filter such as `hsm_operator=debug`.
    #[arg(long, env = "HSM_OPERATOR_LOG_LEVEL", default_value = "info")]
    log_level: String,
}

/// Runs until SIGTERM, then drains.
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
    let (directory, partitions) = (Arc::new(Directory::default()), Arc::new(Partitions::default()));
    let certificate = Arc::new(Certificate::default());
    let passwords = Arc::new(Known::new(args.namespace.clone()));
    let view = Arc::new(View::new(
        Arc::clone(&directory),
        Arc::clone(&partitions),
        Arc::clone(&registry),
        Arc::clone(&certificate),
        Arc::clone(&passwords),
        args.tls_secret,
    ));

    let (ready, ending) = (Arc::clone(&view), end.clone());
    let readiness = move || if ending.is_cancelled() { Err("draining".into()) } else { ready.readiness() };
    let admin_router = admin::router(Arc::new(readiness), Arc::clone(&metrics));
    let admin_end = CancellationToken::new();
    let admin_port = tokio::spawn(admin::serve(args.admin_listen, admin_router, admin_end.clone()));

    let known = Arc::clone(&view);
    let (watching, watch_client, namespace) = (Arc::clone(&view), client.clone(), args.namespace.clone());
    let watch = tokio::spawn(async move { watching.run(watch_client, &namespace).await });

    let state = State {
        authenticate: Arc::new(TokenReviews::new(client.clone(), args.audience, Arc::clone(&metrics))),
        authorize: Arc::new(AccessReviews::new(client.clone(), Arc::clone(&metrics))),
        directory,
        partitions,
        signer: Signer::new(Arc::clone(&metrics)),
        passwords,
        files: Files::new(args.max_file_bytes, args.max_files, args.file_directory),
        missed: Missed::default(),
        derived: Derived::default(),
        client: Some(client),
        metrics: Arc::clone(&metrics),
    };
    tokio::select! {
        () = known.filled() => {}
        // Nobody was served yet.
        () = end.cancelled() => return Ok(()),
    }
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let limits = Limits { linger: std::time::Duration::from_secs(args.drain_seconds), ..Limits::default() };
    tracing::info!(listen = %args.listen, "serving");
    tokio::select! {
        () = https::serve(listener, certificate, gateway::router(Arc::new(state)), limits, metrics, end) => {}
        failed = admin_port => {
            failed.context("the admin port panicked")?.with_context(|| format!("cannot serve on {}", args.admin_listen))?;
        }
    }
    watch.abort();
    registry.shutdown().await;
    admin_end.cancel();
    Ok(())
}
