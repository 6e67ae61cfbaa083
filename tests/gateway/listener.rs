//! The TLS listener: certificates that change, limits, and an end that loses no request.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Body, routing::get};
use hsm_operator::{
    server::https::{self, Certificate, Limits},
    telemetry::Metrics,
};
use http_body_util::BodyExt;
use hyper::{Request, Response, body::Incoming, client::conn::http1::SendRequest, header::CONNECTION};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

pub const LIMITS: Limits = Limits {
    connections: 64,
    handshake: Duration::from_millis(300),
    idle: Duration::from_secs(30),
    linger: Duration::from_millis(400),
    drain: Duration::from_secs(5),
};

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

    /// Lets a listener serve a new certificate of this authority.
    fn certify(&self, certificate: &Certificate) {
        let key = KeyPair::generate().unwrap();
        let signed = CertificateParams::new(vec!["gateway.test".into()]).unwrap().signed_by(&key, &self.0);
        certificate.set(signed.unwrap().pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    }

    pub fn client(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

pub struct Server {
    address: SocketAddr,
    certificate: Arc<Certificate>,
    metrics: Arc<Metrics>,
    end: CancellationToken,
    task: JoinHandle<()>,
    served: Arc<AtomicUsize>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let served = Arc::new(AtomicUsize::new(0));
        let count = served.clone();
        let router = Router::new().route("/slow", get(async || sleep(2 * LIMITS.linger).await)).route(
            "/work",
            get(async move || {
                sleep(Duration::from_millis(3)).await;
                count.fetch_add(1, Ordering::Relaxed);
                "done"
            }),
        );
        Self { served, ..Self::of(limits, router).await }
    }

    async fn of(limits: Limits, router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (certificate, metrics) = (Arc::new(Certificate::default()), Arc::new(Metrics::default()));
        let end = CancellationToken::new();
        let serve = https::serve(listener, certificate.clone(), router, limits, metrics.clone(), end.clone());
        let task = tokio::spawn(serve);
        Self { address, certificate, metrics, end, task, served: Arc::default() }
    }

    /// Of a gateway.
    pub async fn serving(router: Router, authority: &Authority) -> Self {
        Self::serving_within(LIMITS, router, authority).await
    }

    /// The same with other limits.
    pub async fn serving_within(limits: Limits, router: Router, authority: &Authority) -> Self {
        let server = Self::of(limits, router).await;
        authority.certify(&server.certificate);
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    async fn certified(limits: Limits, authority: &Authority) -> Self {
        let server = Self::start(limits).await;
        authority.certify(&server.certificate);
        server
    }

    /// Waits for the end, which must come by itself.
    async fn ended(self) -> Duration {
        let begin = Instant::now();
        timeout(LIMITS.drain + Duration::from_secs(5), self.task).await.expect("it ends").unwrap();
        begin.elapsed()
    }
}

pub async fn handshake(server: &Server, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server.address).await?;
    client.connect("gateway.test".try_into().unwrap(), stream).await
}

/// A connection that is kept.
struct Connection(SendRequest<Body>);

impl Connection {
    async fn open(server: &Server, client: &TlsConnector) -> Self {
        let stream = handshake(server, client).await.expect("a handshake");
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn get(&mut self, path: &str) -> Response<Incoming> {
        self.0.ready().await.expect("the connection is open");
        let request =
            Request::builder().uri(path).header("host", "gateway.test").body(Body::empty()).unwrap();
        self.0.send_request(request).await.unwrap_or_else(|error| panic!("a lost request: {error:?}"))
    }

    /// Whether the server asks to leave.
    async fn work(&mut self) -> bool {
        let answer = self.get("/work").await;
        assert_eq!(answer.status(), 200);
        let close = answer.headers().get(CONNECTION).is_some_and(|value| value == "close");
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "done");
        close
    }
}

#[tokio::test]
async fn http_1_is_served_over_tls_and_connections_are_kept() {
    let authority = Authority::new();
    let server = Server::certified(LIMITS, &authority).await;
    let stream = handshake(&server, &authority.client()).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut connection = Connection::open(&server, &authority.client()).await;
    for _ in 0..3 {
        assert!(!connection.work().await);
    }
    assert_eq!(server.served.load(Ordering::Relaxed), 3);
    assert_eq!(server.metrics.connections.get(), 2);
    assert!(
        handshake(&server, &Authority::new().client()).await.is_err(),
        "another authority is not trusted"
    );
}

#[tokio::test]
async fn a_new_certificate_is_served_from_the_next_handshake_on() {
    let (old, new) = (Authority::new(), Authority::new());
    let server = Server::certified(LIMITS, &old).await;
    let mut kept = Connection::open(&server, &old.client()).await;
    kept.work().await;
    new.certify(&server.certificate);
    Connection::open(&server, &new.client()).await.work().await;
    assert!(handshake(&server, &old.client()).await.is_err());
    assert!(!kept.work().await, "a connection outlives the certificate that it began with");
}

#[tokio::test]
async fn what_is_no_certificate_changes_nothing() {
    let authority = Authority::new();
    let server = Server::certified(LIMITS, &authority).await;
    let other = KeyPair::generate().unwrap().serialize_pem();
    let chain = authority.0.pem();
    for (chain, key) in
        [("", ""), ("nonsense", "nonsense"), (chain.as_str(), ""), (chain.as_str(), other.as_str())]
    {
        assert!(server.certificate.set(chain.as_bytes(), key.as_bytes()).is_err(), "{chain} {key}");
    }
    Connection::open(&server, &authority.client()).await.work().await;
}

#[tokio::test]
async fn before_there_is_a_certificate_handshakes_fail_and_nothing_else() {
    let authority = Authority::new();
    let server = Server::start(LIMITS).await;
    assert!(handshake(&server, &authority.client()).await.is_err());
    authority.certify(&server.certificate);
    Connection::open(&server, &authority.client()).await.work().await;
}

#[tokio::test]
async fn who_does_not_shake_hands_is_sent_away_and_keeps_no_place() {
    let authority = Authority::new();
    let server = Server::certified(Limits { connections: 1, ..LIMITS }, &authority).await;
    let silent = TcpStream::connect(server.address).await.unwrap();
    let begin = Instant::now();
    Connection::open(&server, &authority.client()).await.work().await;
    assert!(begin.elapsed() >= LIMITS.handshake - Duration::from_millis(50), "there is one place");
    assert_eq!(silent.try_read(&mut [0; 1]).unwrap(), 0, "closed");
}

#[tokio::test]
async fn an_idle_connection_is_closed_by_the_server() {
    let authority = Authority::new();
    let server = Server::certified(Limits { idle: Duration::from_millis(150), ..LIMITS }, &authority).await;
    let mut connection = Connection::open(&server, &authority.client()).await;
    connection.work().await;
    sleep(Duration::from_millis(600)).await;
    assert!(connection.0.ready().await.is_err());
    assert_eq!(server.metrics.connections.get(), 0);
}

#[tokio::test]
async fn at_the_end_every_answer_asks_the_client_to_leave() {
    let authority = Authority::new();
    let server = Server::certified(LIMITS, &authority).await;
    let mut kept = Connection::open(&server, &authority.client()).await;
    assert!(!kept.work().await);
    server.end.cancel();
    assert!(kept.work().await, "a connection from before is told");
    assert!(kept.0.ready().await.is_err(), "and closed after the answer");
    let mut late = Connection::open(&server, &authority.client()).await;
    assert!(late.work().await, "one that comes late is answered and told");
    assert!(server.ended().await < LIMITS.linger + Duration::from_secs(1), "there is nothing to wait for");
}

#[tokio::test]
async fn a_request_that_takes_longer_than_the_linger_is_answered() {
    let authority = Authority::new();
    let server = Server::certified(LIMITS, &authority).await;
    let (mut slow, mut idle) = (
        Connection::open(&server, &authority.client()).await,
        Connection::open(&server, &authority.client()).await,
    );
    idle.work().await;
    let answer = tokio::spawn(async move { slow.get("/slow").await });
    sleep(Duration::from_millis(100)).await;
    let address = server.address;
    server.end.cancel();
    server.ended().await;
    let answer = answer.await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()[CONNECTION]), (200, &"close".parse().unwrap()));
    assert!(idle.0.ready().await.is_err(), "an idle connection is closed");
    assert!(TcpStream::connect(address).await.is_err(), "the port is free");
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut() {
    let authority = Authority::new();
    let limits = Limits { drain: Duration::from_millis(100), ..LIMITS };
    let server = Server::certified(limits, &authority).await;
    let mut slow = Connection::open(&server, &authority.client()).await;
    let answer = tokio::spawn(async move { timeout(Duration::from_secs(3), slow.get("/slow")).await });
    sleep(Duration::from_millis(100)).await;
    server.end.cancel();
    assert!(server.ended().await < 2 * LIMITS.linger);
    answer.abort();
}

/// Two replicas; the first one ends while four clients, each with a connection that it keeps, send one request
/// after the other. A client that is asked to leave goes to the other replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_when_they_are_asked_lose_nothing() {
    let authority = Authority::new();
    let [first, second] = [
        Arc::new(Server::certified(LIMITS, &authority).await),
        Arc::new(Server::certified(LIMITS, &authority).await),
    ];
    let stop = CancellationToken::new();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (first, second, stop) = (first.clone(), second.clone(), stop.clone());
            let client = authority.client();
            tokio::spawn(async move {
                let mut connection = Connection::open(&first, &client).await;
                let (mut sent, mut moved) = (0, 0);
                while !stop.is_cancelled() {
                    sent += 1;
                    if connection.work().await {
                        moved += 1;
                        connection = Connection::open(&second, &client).await;
                    }
                }
                assert_eq!(moved, 1);
                sent
            })
        })
        .collect();
    sleep(Duration::from_millis(200)).await;
    first.end.cancel();
    sleep(LIMITS.linger).await;
    sleep(Duration::from_millis(200)).await;
    stop.cancel();
    let mut sent = 0;
    for client in clients {
        sent += client.await.expect("no request is lost");
    }
    let served = |server: &Server| server.served.load(Ordering::Relaxed);
    let (one, other) = (served(&first), served(&second));
    assert_eq!(one + other, sent);
    assert!(one > 20 && other > 20, "{one} and {other}");
    assert!(first.task.is_finished(), "every connection was left by its client");
}
