//! One request: read it whole, choose a gateway, send it, and send it again only where that is safe.
//!
//! A signature must not be made twice because a connection broke, so a request is repeated only if it certainly
//! never reached a gateway: the connection could not be opened, or hyper gives the request back unsent. Requests
//! that only read are repeated in any case. Files pass as they come, see [`stream`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, EXPECT, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Method, Request, Response, Uri};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Config;
use super::address::GatewayUrl;
use super::answer::{Body, Failure};
use super::connect::{Connector, Sender, chain};
use super::files::TokenFile;
use super::headers;
use super::metrics::{Metrics, count};
use super::pool::{Lease, Pool, Relayed};
use super::refresh::Lookups;
use super::stream::{self, Outgoing, Passing, Progress};

/// How long a gateway that says goodbye, or that cannot be reached, is the last resort.
const DRAINING: Duration = Duration::from_secs(10);
const UNREACHABLE: Duration = Duration::from_secs(2);
/// All bodies in memory, in units of 1 KiB, as long as none is larger than this by itself.
const BODIES_KIB: usize = 4 * 1024;
/// A body over the limit is read to this multiple and thrown away: a client that is still writing would otherwise
/// see a reset connection instead of the answer.
const DISCARD: usize = 8;

/// Everything a request needs on its way to a gateway.
#[derive(Debug)]
pub struct Upstream {
    pub gateway: GatewayUrl,
    pub pool: Arc<Pool>,
    pub connector: Connector,
    pub token: TokenFile,
    pub lookups: Lookups,
    pub metrics: Metrics,
    connected: AtomicBool,
    host: HeaderValue,
    max_body: usize,
    response_timeout: Duration,
    bodies: Semaphore,
    in_flight: Semaphore,
}

/// A request that can be sent any number of times.
struct Message {
    method: Method,
    target: PathAndQuery,
    headers: HeaderMap,
    body: Bytes,
}

/// Why one attempt gave no answer.
enum Attempt {
    /// The gateway certainly saw nothing of it.
    Unsent(String),
    /// It may have seen it.
    Broken(String),
}

impl Upstream {
    /// Reads the token; the CA and the addresses are brought in by the tasks of `refresh`.
    pub fn new(config: &Config) -> Self {
        let host =
            HeaderValue::try_from(config.gateway.authority()).expect("a URI's authority fits a header");
        let bodies = BODIES_KIB.max(kib(config.max_body) as usize);
        Self {
            gateway: config.gateway.clone(),
            pool: Pool::new(config.idle_timeout),
            connector: Connector::new(config.gateway.server_name(), config.connect_timeout),
            token: TokenFile::open(config.token_file.clone()),
            lookups: Lookups::new(),
            metrics: Metrics::default(),
            connected: AtomicBool::new(false),
            host,
            max_body: config.max_body,
            response_timeout: config.response_timeout,
            bodies: Semaphore::new(bodies),
            in_flight: Semaphore::new(config.max_in_flight.max(1)),
        }
    }

    /// Whether a gateway was reached since the start.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Answers one request of the application.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.lookups.used();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let late = || Err(Failure::Deadline(self.response_timeout.as_secs()));
        let done = if stream::has_file(&request) {
            let progress = Progress::begun();
            progress.watch(self.response_timeout, self.pass(request, progress.clone())).await
        } else {
            tokio::time::timeout(self.response_timeout, self.forward(request)).await.ok()
        };
        let response = done.unwrap_or_else(late).unwrap_or_else(|failure| {
            tracing::warn!(%method, path, error = %failure, "request was not forwarded");
            count(&self.metrics.own_answers);
            failure.into_response()
        });
        self.metrics.answered(response.status().as_u16());
        response
    }

    /// Opens a connection, without a request, and keeps it for the first one.
    pub async fn probe(&self) -> Result<(), String> {
        let lease = self.pool.lease(&[]).ok_or_else(|| self.nowhere())?;
        let sender = self.connect(&lease).await?;
        lease.keep(sender);
        Ok(())
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let _slot = self.in_flight.acquire().await.expect("the semaphore is never closed");
        let (head, body) = request.into_parts();
        let target = match head.uri.path_and_query() {
            Some(target) if head.method != Method::CONNECT => target.clone(),
            _ => return Err(Failure::NotForUs),
        };
        let mut headers = head.headers;
        let (body, _room) = self.read(body, &headers).await?;
        let token = self.token.header().map_err(Failure::NoToken)?;
        headers::to_gateway(&mut headers, &self.host, token);
        self.send(&Message { method: head.method, target, headers, body }).await
    }

    /// Sends a request whose body passes as it comes.
    async fn pass(&self, request: Request<Incoming>, progress: Progress) -> Result<Response<Body>, Failure> {
        let _slot = self.in_flight.acquire().await.expect("the semaphore is never closed");
        let (head, body) = request.into_parts();
        let target = head.uri.path_and_query().cloned().ok_or(Failure::NotForUs)?;
        let mut headers = head.headers;
        let token = self.token.header().map_err(Failure::NoToken)?;
        headers::to_gateway(&mut headers, &self.host, token);
        let mut request = Request::new(Outgoing::Right(Passing::new(body, progress)));
        *request.method_mut() = head.method;
        *request.uri_mut() = Uri::from(target);
        *request.headers_mut() = headers;
        let (mut tried, mut reasons, mut looked_up) = (Vec::new(), Vec::new(), false);
        while let Some(lease) = self.next(&mut tried, &mut looked_up).await {
            let address = lease.address();
            loop {
                let (mut sender, new) = match lease.idle() {
                    Some(sender) => (sender, false),
                    None => match self.connect(&lease).await {
                        Ok(sender) => (sender, true),
                        Err(why) => {
                            reasons.push(format!("{address}: {why}"));
                            break;
                        }
                    },
                };
                let mut error = match sender.try_send_request(request).await {
                    Ok(response) => return Ok(relay(response, lease, sender)),
                    Err(error) => error,
                };
                let unsent = error.take_message();
                let why = chain(error.error());
                request = unsent.ok_or_else(|| Failure::Broken(address, why.clone()))?;
                count(&self.metrics.retries);
                if new {
                    reasons.push(format!("{address}: {why}"));
                    break;
                }
            }
        }
        Err(self.unreachable(reasons))
    }

    /// A gateway that was not tried yet; when there is none, those that are new after a look.
    async fn next(&self, tried: &mut Vec<SocketAddr>, looked_up: &mut bool) -> Option<Lease> {
        loop {
            if let Some(lease) = self.pool.lease(tried) {
                if !tried.is_empty() {
                    count(&self.metrics.retries);
                }
                tried.push(lease.address());
                return Some(lease);
            }
            if std::mem::replace(looked_up, true) {
                return None;
            }
            self.lookups.once_more().await;
        }
    }

    fn unreachable(&self, mut reasons: Vec<String>) -> Failure {
        if reasons.is_empty() {
            reasons.push(self.nowhere());
        }
        Failure::Unreachable(reasons.join("; "))
    }

    /// The whole body, and the room it takes while it is in memory.
    async fn read(
        &self,
        mut body: Incoming,
        head: &HeaderMap,
    ) -> Result<(Bytes, SemaphorePermit<'_>), Failure> {
        let too_large = Failure::TooLarge(self.max_body);
        let told = head.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if told.is_some_and(|length| length > self.max_body) && head.contains_key(EXPECT) {
            return Err(too_large); // the client waits for our word before it sends anything
        }
        let expected =
            if body.is_end_stream() { 0 } else { told.unwrap_or(self.max_body).min(self.max_body) };
        let room = self.bodies.acquire_many(kib(expected)).await.expect("the semaphore is never closed");
        let (mut kept, mut length) = (BytesMut::with_capacity(told.map_or(0, |_| expected)), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failure::Incomplete(chain(&error)))?;
            let Ok(data) = frame.into_data() else { continue };
            length += data.len();
            if length <= self.max_body {
                kept.extend_from_slice(&data);
            } else if length > self.max_body.saturating_mul(DISCARD) {
                break;
            } else {
                kept = BytesMut::new();
            }
        }
        if length > self.max_body { Err(too_large) } else { Ok((kept.freeze(), room)) }
    }

    /// Tries each gateway at most once, looks the addresses up once more, and tries those that are new.
    async fn send(&self, message: &Message) -> Result<Response<Body>, Failure> {
        let repeatable = message.method == Method::GET || message.method == Method::HEAD;
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut reasons: Vec<String> = Vec::new();
        let mut looked_up = false;
        while let Some(lease) = self.next(&mut tried, &mut looked_up).await {
            let address = lease.address();
            match self.try_gateway(lease, message).await {
                Ok(response) => return Ok(response),
                Err(Attempt::Broken(why)) if !repeatable => return Err(Failure::Broken(address, why)),
                Err(Attempt::Broken(why) | Attempt::Unsent(why)) => reasons.push(format!("{address}: {why}")),
            }
        }
        Err(self.unreachable(reasons))
    }

    /// Why there is no address to try.
    fn nowhere(&self) -> String {
        let why = self.lookups.problem().unwrap_or_else(|| "its name has no address".to_owned());
        format!("{}: {why}", self.gateway)
    }

    /// Sends over a connection that is open, else over a new one.
    async fn try_gateway(&self, lease: Lease, message: &Message) -> Result<Response<Body>, Attempt> {
        while let Some(mut sender) = lease.idle() {
            match send_over(&mut sender, message).await {
                Ok(response) => return Ok(relay(response, lease, sender)),
                Err(Attempt::Unsent(_)) => count(&self.metrics.retries),
                Err(broken) => return Err(broken),
            }
        }
        let mut sender = self.connect(&lease).await.map_err(Attempt::Unsent)?;
        let response = send_over(&mut sender, message).await?;
        Ok(relay(response, lease, sender))
    }

    async fn connect(&self, lease: &Lease) -> Result<Sender, String> {
        match self.connector.connect(lease.address()).await {
            Ok(sender) => {
                count(&self.metrics.connects);
                self.connected.store(true, Ordering::Relaxed);
                Ok(sender)
            }
            Err(why) => {
                count(&self.metrics.connect_errors);
                lease.avoid(UNREACHABLE);
                Err(why)
            }
        }
    }
}

async fn send_over(sender: &mut Sender, message: &Message) -> Result<Response<Incoming>, Attempt> {
    let mut request = Request::new(Outgoing::Left(Full::new(message.body.clone())));
    *request.method_mut() = message.method.clone();
    *request.uri_mut() = Uri::from(message.target.clone());
    *request.headers_mut() = message.headers.clone();
    sender.try_send_request(request).await.map_err(|mut error| {
        let unsent = error.take_message().is_some();
        let why = chain(error.error());
        if unsent { Attempt::Unsent(why) } else { Attempt::Broken(why) }
    })
}

/// Passes the answer on. A gateway that says `Connection: close` is about to stop and gets no further request; with a refusal,
/// it says no more than that it does not wait for the rest of the body.
fn relay(response: Response<Incoming>, lease: Lease, sender: Sender) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    let goodbye = headers::closes(&head.headers);
    if goodbye && !head.status.is_client_error() {
        lease.avoid(DRAINING);
    }
    headers::remove_hop_by_hop(&mut head.headers);
    let sender = (!goodbye).then_some(sender);
    Response::from_parts(head, Either::Right(Relayed::new(body, lease, sender)))
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}
