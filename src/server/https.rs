//! A TLS listener for HTTP/1.1 that drains without losing a request.
//!
//! Draining: from the moment the process is asked to end, every answer carries `Connection: close`, and
//! connections stay open for [`Limits::linger`], so that clients leave by themselves, each after an answer;
//! only then are idle connections closed. A client that obeys `Connection: close` therefore never writes a
//! request into a connection that is being closed.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use axum::{Router, body::Body};
use hyper::{
    Request, Response, body::Incoming, header::CONNECTION, header::HeaderValue, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use crate::telemetry::Metrics;

/// What a listener allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait to be accepted.
    pub connections: usize,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time until the head of the next request, so also how long an idle connection is kept. Longer than any
    /// client of ours keeps one, so that it is the client who closes.
    pub idle: Duration,
    /// How long connections stay open after the process was asked to end.
    pub linger: Duration,
    /// How long requests may take after that.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            linger: Duration::from_secs(8),
            drain: Duration::from_secs(20),
        }
    }
}

/// The certificate that is served, which can be replaced at any time.
#[derive(Debug, Default)]
pub struct Certificate(ArcSwapOption<CertifiedKey>);

impl Certificate {
    /// Serves this chain from the next handshake on.
    ///
    /// # Errors
    /// When the PEM texts are not a chain and its key.
    pub fn set(&self, chain_pem: &[u8], key_pem: &[u8]) -> Result<(), rustls::Error> {
        use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
        let bad = |what: &str| rustls::Error::General(format!("the {what} is not PEM"));
        let chain = CertificateDer::pem_slice_iter(chain_pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| bad("certificate chain"))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| bad("private key"))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        self.0.store(Some(Arc::new(CertifiedKey::from_der(chain, key, &provider)?)));
        Ok(())
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load().is_some()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// Serves `router` on `listener` until `end`, then drains.
pub async fn serve(
    listener: TcpListener,
    certificate: Arc<Certificate>,
    router: Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    end: CancellationToken,
) {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let places = Arc::new(Semaphore::new(limits.connections));
    let tasks = TaskTracker::new();
    let close = CancellationToken::new();

    let linger = {
        let (end, close) = (end.clone(), close.clone());
        async move {
            end.cancelled().await;
            tokio::time::sleep(limits.linger).await;
            close.cancel();
        }
    };
    let accept = async {
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors: others will end; spinning would not help them.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (acceptor, router, metrics) = (acceptor.clone(), router.clone(), Arc::clone(&metrics));
            let (end, close) = (end.clone(), close.clone());
            tasks.spawn(async move {
                metrics.connections.inc();
                let _ = stream.set_nodelay(true);
                match timeout(limits.handshake, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => connection(stream, peer, router, limits, end, close).await,
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
                }
                metrics.connections.dec();
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = linger => {}
    }
    drop(listener);
    tasks.close();
    if timeout(limits.drain, tasks.wait()).await.is_err() {
        tracing::warn!(open = tasks.len(), "connections did not end in time and are cut");
    }
}

async fn connection(
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    end: CancellationToken,
    close: CancellationToken,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let (mut router, end) = (router.clone(), end.clone());
        async move {
            let mut response: Response<Body> = router.call(request.map(Body::new)).await?;
            if end.is_cancelled() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = close.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended early");
    }
}
