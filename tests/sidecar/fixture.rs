//! Gateways of TLS and hyper that behave as told, and a sidecar in front of them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hsm_operator::sidecar::{Config, GatewayUrl, Resolve, Sidecar};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

const NAME: &str = "gateway.test";

/// A CA.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![NAME.into()]).unwrap().signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// What a gateway does with a request.
#[derive(Clone, Copy)]
pub enum Behaviour {
    Answer,
    Slow(Duration),
    Hang,
    BreakAfterReading,
    /// Sends back what comes, while it comes.
    Echo,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    seen: Mutex<Vec<(Parts, String)>>,
    connections: AtomicUsize,
    /// 0 serves, 1 says `Connection: close`, 2 ends.
    phase: watch::Sender<u8>,
}

pub struct Gateway {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Gateway {
    pub async fn start(authority: &Authority) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Behaviour::Answer),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            phase: watch::channel(0).0,
        });
        let task = tokio::spawn(serve(listener, authority.acceptor(), shared.clone()));
        Self { address, shared, task }
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    pub fn seen(&self) -> Vec<(Parts, String)> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub fn last_token(&self) -> String {
        let seen = self.seen();
        seen.last()
            .map(|(head, _)| head.headers["authorization"].to_str().unwrap().to_owned())
            .unwrap_or_default()
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Gone at once: the port and every connection.
    pub fn kill(&mut self) {
        self.task.abort();
    }

    /// As the real gateway stops: `Connection: close` for a while, then no new connections, then the end.
    pub async fn drain(self, while_known: Duration) {
        self.shared.phase.send_replace(1);
        tokio::time::sleep(while_known).await;
        self.shared.phase.send_replace(2);
        self.task.await.unwrap();
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let mut phase = shared.phase.subscribe();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                shared.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(connection(stream, acceptor.clone(), shared.clone()));
            }
            _ = phase.wait_for(|phase| *phase == 2) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let mut phase = shared.phase.subscribe();
    let Ok(tls) = acceptor.accept(stream).await else { return };
    let service = service_fn(|request| answer(request, shared.clone()));
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        _ = served.as_mut() => true,
        _ = phase.wait_for(|phase| *phase == 2) => false,
    };
    if !ended {
        served.as_mut().graceful_shutdown();
        drop(served.await);
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Either<Full<Bytes>, Incoming>>, String> {
    let (head, body) = request.into_parts();
    if matches!(*shared.behaviour.lock().unwrap(), Behaviour::Echo) {
        shared.seen.lock().unwrap().push((head, String::new()));
        return Ok(Response::new(Either::Right(body)));
    }
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    shared.seen.lock().unwrap().push((head, String::from_utf8_lossy(&body).into_owned()));
    let behaviour = *shared.behaviour.lock().unwrap();
    match behaviour {
        Behaviour::Answer | Behaviour::Echo => {}
        Behaviour::Slow(time) => tokio::time::sleep(time).await,
        Behaviour::Hang => std::future::pending().await,
        Behaviour::BreakAfterReading => return Err("told to break".into()),
    }
    let mut response = Response::new(Either::Left(Full::from("{\"signature\":\"c2ln\"}")));
    if *shared.phase.borrow() > 0 {
        response.headers_mut().insert("connection", "close".parse().unwrap());
    }
    Ok(response)
}

struct Addresses(Arc<Mutex<Vec<SocketAddr>>>);

impl Resolve for Addresses {
    fn resolve(
        &self,
    ) -> std::pin::Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send + '_>> {
        Box::pin(async { Ok(self.0.lock().unwrap().clone()) })
    }
}

/// A sidecar with its files and gateways.
pub struct Setup {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub authority: Authority,
    pub gateways: Vec<Gateway>,
    known: Arc<Mutex<Vec<SocketAddr>>>,
    files: TempDir,
    gateway: GatewayUrl,
    sidecar: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Setup {
    pub async fn with_gateways(count: usize) -> Self {
        let authority = Authority::new();
        let mut gateways = Vec::new();
        for _ in 0..count {
            gateways.push(Gateway::start(&authority).await);
        }
        let files = tempfile::tempdir().unwrap();
        let known = Arc::new(Mutex::new(gateways.iter().map(|gateway| gateway.address).collect()));
        replace(files.path(), "token", "one");
        replace(files.path(), "ca.crt", &authority.pem());
        let gateway: GatewayUrl = format!("https://{NAME}:8443").parse().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config {
            listen: any,
            admin: any,
            response_timeout: Duration::from_secs(2),
            resolve_every: Duration::from_millis(100),
            files_every: Duration::from_millis(50),
            idle_timeout: Duration::from_millis(200),
            ..Config::new(gateway.clone(), files.path().join("ca.crt"), files.path().join("token"))
        };
        let sidecar = Sidecar::bind(config).await.unwrap();
        let (address, admin) = (sidecar.address().unwrap(), sidecar.admin_address().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let resolver = Arc::new(Addresses(known.clone()));
        let task = tokio::spawn(sidecar.run(resolver, async move { drop(stopped.await) }));
        let setup =
            Self { address, admin, authority, gateways, known, files, gateway, sidecar: Some((stop, task)) };
        if count > 0 {
            eventually("ready", async || get(admin, "/readyz").await.status == 200).await;
        }
        setup
    }

    pub fn host(&self) -> String {
        self.gateway.authority()
    }

    pub fn requests(&self) -> usize {
        self.gateways.iter().map(|gateway| gateway.seen().len()).sum()
    }

    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        *self.known.lock().unwrap() = addresses;
    }

    /// The name now stands for the gateways of this setup.
    pub fn publish(&self) {
        self.set_addresses(self.gateways.iter().map(|gateway| gateway.address).collect());
    }

    pub fn swap(&self, file: &str, content: &str) {
        replace(self.files.path(), file, content);
    }

    pub fn remove(&self, file: &str) {
        std::fs::remove_file(self.files.path().join(file)).unwrap();
    }

    pub async fn stop(&mut self) {
        let (stop, task) = self.sidecar.take().unwrap();
        drop(stop);
        task.await.unwrap();
    }

    pub async fn until(&self, reached: impl Fn(&Gateway) -> bool) {
        eventually("the gateway sees it", async || {
            post(self.address, "{}").await;
            reached(&self.gateways[0])
        })
        .await;
    }

    pub async fn until_status(&self, status: u16) -> Answer {
        let last = Mutex::new(None);
        eventually("the status", async || {
            let answer = post(self.address, "{}").await;
            let reached = answer.status == status;
            *last.lock().unwrap() = Some(answer);
            reached
        })
        .await;
        last.into_inner().unwrap().unwrap()
    }
}

/// As the kubelet does it: the name points to another file at once.
fn replace(dir: &Path, name: &str, content: &str) {
    let data = tempfile::Builder::new().disable_cleanup(true).tempfile_in(dir).unwrap();
    std::fs::write(data.path(), content).unwrap();
    let link = dir.join("..new");
    std::os::unix::fs::symlink(data.path(), &link).unwrap();
    std::fs::rename(link, dir.join(name)).unwrap();
}

pub async fn eventually(what: &str, reached: impl AsyncFn() -> bool) {
    for _ in 0..100 {
        if reached().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

/// What a client saw.
pub struct Answer {
    pub status: u16,
    pub body: String,
    headers: HeaderMap,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

pub async fn post(address: SocketAddr, body: &str) -> Answer {
    send(address, Request::post("/v1/synchronousSign"), body).await
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, Request::get(path), "").await
}

async fn send(address: SocketAddr, request: hyper::http::request::Builder, body: &str) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let request =
        request.header("host", "localhost:8081").body(Full::<Bytes>::from(body.to_owned())).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Answer { status: head.status.as_u16(), body, headers: head.headers }
}

/// Writes bytes and reads to the end.
pub async fn raw(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}
