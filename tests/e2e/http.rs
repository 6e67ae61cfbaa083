//! A client of the gateways, as far from our own sidecar as it can be: one connection, no retries.

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The gateways, and the credential that is sent to them.
#[derive(Clone)]
pub struct Gateways {
    connector: TlsConnector,
    host: String,
    port: u16,
    token: Option<String>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON, which it must be.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON body of an answer that must have this status.
    pub fn with_status(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// An error in the contract's body; returns its message.
    pub fn is_error(&self, status: u16, code: u16, reason: &str) -> String {
        let body = self.with_status(status);
        assert_eq!(
            (&body["errorCode"], &body["reason"]),
            (&code.into(), &format!("res.error.{reason}").into()),
            "{body}"
        );
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(3), "{body}");
        body["message"].as_str().expect("a message").to_owned()
    }
}

/// One connection to one gateway.
pub struct Connection {
    sender: http1::SendRequest<Body>,
    gateways: Gateways,
}

impl Gateways {
    /// Those of GATEWAY_URL, which must prove that they belong to GATEWAY_CA. Nobody calls yet.
    pub fn new() -> Self {
        let url = std::env::var("GATEWAY_URL").expect("GATEWAY_URL is set by the cluster's env file");
        let url: hyper::Uri = url.parse().expect("it is a URL");
        let ca = std::env::var("GATEWAY_CA").expect("GATEWAY_CA is set by the cluster's env file");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(Path::new(&ca)).expect("the CA can be read") {
            roots.add(certificate.expect("the CA is PEM")).expect("it is a CA");
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self {
            connector: TlsConnector::from(Arc::new(config)),
            host: url.host().expect("it has a host").to_owned(),
            port: url.port_u16().unwrap_or(443),
            token: None,
        }
    }

    /// The same, called with this token.
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self.clone() }
    }

    /// Every gateway that is ready.
    pub async fn addresses(&self) -> Vec<SocketAddr> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .expect("the cluster's DNS answers");
        found.collect()
    }

    /// Connects to one of them.
    pub async fn connect(&self, address: SocketAddr) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone()).expect("a host name");
        let stream = self.connector.connect(name, stream).await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, gateways: self.clone() })
    }

    /// One request to whichever gateway comes first, which is another one every time.
    pub async fn call(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        let addresses = self.addresses().await;
        let address = *addresses.first().expect("a gateway is ready");
        let mut connection = self.connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        connection.call(method, path, body).await.unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    /// `POST` of something else than JSON.
    pub async fn send(&self, path: &str, kind: &str, body: impl Into<Bytes>) -> Answer {
        let addresses = self.addresses().await;
        let address = *addresses.first().expect("a gateway is ready");
        let mut connection = self.connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let answer = connection.send("POST", path, kind, body).await;
        answer.unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "").await
    }

    /// `POST` of JSON.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, body.to_string()).await
    }
}

impl Connection {
    /// One request.
    pub async fn call(
        &mut self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, hyper::Error> {
        self.send(method, path, "application/json", body).await
    }

    /// The same with a body of another kind.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, hyper::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.gateways.host)
            .header(header::CONTENT_TYPE, kind);
        if let Some(token) = &self.gateways.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.sender.ready().await?;
        let response =
            self.sender.send_request(request.body(Body::from(body.into())).expect("plain values")).await?;
        let status = response.status().as_u16();
        Ok(Answer { status, body: response.into_body().collect().await?.to_bytes() })
    }
}
