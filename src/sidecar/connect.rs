//! One TLS connection to one gateway.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::stream::Outgoing;

/// Sends requests over one connection, one at a time.
pub type Sender = http1::SendRequest<Outgoing>;

/// Largest head of a message, and how much of a body is read at once.
pub const BUFFER: usize = 64 * 1024;

/// Opens connections to gateways that prove their name.
#[derive(Debug)]
pub struct Connector {
    name: ServerName<'static>,
    timeout: Duration,
    tls: Mutex<Result<Arc<ClientConfig>, String>>,
}

impl Connector {
    /// Trusts nobody until [`Connector::trust`] is called.
    pub fn new(name: ServerName<'static>, timeout: Duration) -> Self {
        Self { name, timeout, tls: Mutex::new(Err("the gateways' CA was not read yet".into())) }
    }

    /// From now on only gateways with a certificate of `roots` are talked to.
    pub fn trust(&self, roots: RootCertStore) {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites for TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(8);
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = Ok(Arc::new(config));
    }

    /// Remembers why there is no CA to trust; one that was read before goes on to count.
    pub fn no_trust(&self, problem: &str) {
        let mut tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(why) = &mut *tls {
            *why = format!("the gateways' CA cannot be read: {problem}");
        }
    }

    /// Connects, proves the gateway's name and is ready to send. Sends no request.
    ///
    /// # Errors
    /// Why it did not work, for a person to read.
    pub async fn connect(&self, address: SocketAddr) -> Result<Sender, String> {
        let config = self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        match tokio::time::timeout(self.timeout, self.open(address, config)).await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(error)) => Err(chain(&*error)),
            Err(_) => Err(format!("no connection within {} s", self.timeout.as_secs_f32())),
        }
    }

    async fn open(
        &self,
        address: SocketAddr,
        config: Arc<ClientConfig>,
    ) -> Result<Sender, Box<dyn Error + Send + Sync>> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(config).connect(self.name.clone(), tcp).await?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER);
        let (sender, connection) = builder.handshake(TokioIo::new(tls)).await?;
        // Its end is told to whoever holds the sender; there is nothing to add here.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

/// An error with its causes in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
