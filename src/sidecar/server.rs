//! The listeners, and an end in which no running request is lost.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::address::Resolve;
use super::connect::BUFFER;
use super::files::CaFile;
use super::forward::Upstream;
use super::{Config, admin, refresh};

/// The sidecar could not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct StartError {
    address: SocketAddr,
    source: io::Error,
}

/// A sidecar whose ports are open.
#[derive(Debug)]
pub struct Sidecar {
    config: Config,
    listener: TcpListener,
    admin: TcpListener,
}

impl Sidecar {
    /// Opens both ports.
    ///
    /// # Errors
    /// A port is taken or the address is not this machine's.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let open =
            async |address| TcpListener::bind(address).await.map_err(|source| StartError { address, source });
        Ok(Self { listener: open(config.listen).await?, admin: open(config.admin).await?, config })
    }

    /// Address for the application.
    ///
    /// # Errors
    /// The system's own.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Address of `/livez`, `/readyz` and `/metrics`.
    ///
    /// # Errors
    /// The system's own.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Serves until `shutdown`, then lets running requests end for a bounded time.
    pub async fn run(self, resolver: Arc<dyn Resolve>, shutdown: impl Future<Output = ()>) {
        let config = &self.config;
        let upstream = Arc::new(Upstream::new(config));
        let background = [
            tokio::spawn(refresh::files(
                upstream.clone(),
                CaFile::new(config.ca_file.clone()),
                config.files_every,
            )),
            tokio::spawn(refresh::addresses(upstream.clone(), resolver, config.resolve_every)),
            tokio::spawn(refresh::first_connection(upstream.clone())),
        ];
        let (stop, stopping) = watch::channel(false);
        let tracker = TaskTracker::new();
        let for_admin = upstream.clone();
        let admin = tokio::spawn(accept(self.admin, stopping.clone(), TaskTracker::new(), move |request| {
            let response = admin::answer(&for_admin, request.uri().path());
            async move { response }
        }));
        let serve = tokio::spawn(accept(self.listener, stopping, tracker.clone(), move |request| {
            let upstream = upstream.clone();
            async move { upstream.answer(request).await }
        }));
        tracing::info!(address = %config.listen, gateway = %config.gateway, "the HSM is served to this pod");

        shutdown.await;
        stop.send_replace(true);
        tracker.close();
        if tokio::time::timeout(config.drain, tracker.wait()).await.is_err() {
            tracing::warn!(unfinished = tracker.len(), "stopping with requests still running");
        }
        for task in background.into_iter().chain([admin, serve]) {
            task.abort();
        }
    }
}

/// Accepts connections until told to stop, and tells each of them to end after its running request.
async fn accept<S, F, B>(
    listener: TcpListener,
    mut stopping: watch::Receiver<bool>,
    tracker: TaskTracker,
    service: S,
) where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.changed() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tracker.spawn(serve(stream, stopping.clone(), service.clone()));
            }
            Err(error) => {
                // Out of file descriptors, mostly: those in use come back.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve<S, F, B>(stream: TcpStream, mut stopping: watch::Receiver<bool>, service: S)
where
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // An answer leaves at once; a failure here only makes it slower.
    drop(stream.set_nodelay(true));
    let service = service_fn(|request| {
        let response = service(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER).header_read_timeout(None);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "the application's connection ended early");
    }
}
