//! Where the gateways are.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::str::FromStr;

use hyper::Uri;
use rustls::pki_types::ServerName;

/// `https://host[:port]` of the gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayUrl {
    host: String,
    port: u16,
    name: ServerName<'static>,
}

/// A gateway address that is not `https://host[:port]`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a gateway address: expected https://host[:port] without a path")]
pub struct InvalidGatewayUrl(String);

impl GatewayUrl {
    /// The host alone, as looked up in DNS.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, 443 unless given.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name that the gateway's certificate must carry.
    pub fn server_name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// Value of the `Host` header.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)
    }
}

impl FromStr for GatewayUrl {
    type Err = InvalidGatewayUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidGatewayUrl(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let plain = uri.scheme_str() == Some("https") && uri.path() == "/" && uri.query().is_none();
        let authority = uri.authority().filter(|a| plain && !a.as_str().contains('@')).ok_or_else(invalid)?;
        let bare = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare).map_err(|_| invalid())?;
        Ok(Self { host: authority.host().to_owned(), port: authority.port_u16().unwrap_or(443), name })
    }
}

/// The future of a lookup.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Finds the addresses of all gateways. Asked by one task only, never twice at a time.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses now; none is an error for the caller to judge.
    fn resolve(&self) -> Lookup<'_>;
}

/// The system's resolver. The gateways' Service is headless, so that its name has one address per ready replica.
#[derive(Debug)]
pub struct Dns(GatewayUrl);

impl Dns {
    /// Looks up the host of `gateway`.
    pub fn new(gateway: GatewayUrl) -> Self {
        Self(gateway)
    }
}

impl Resolve for Dns {
    fn resolve(&self) -> Lookup<'_> {
        Box::pin(async {
            let found = tokio::net::lookup_host(self.0.authority()).await?;
            Ok(found.collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::GatewayUrl;

    #[test]
    fn a_gateway_is_an_https_origin() {
        let url: GatewayUrl = "https://hsm-operator-gateway.hsm-operator.svc:8443".parse().unwrap();
        assert_eq!(url.authority(), "hsm-operator-gateway.hsm-operator.svc:8443");
        assert_eq!("https://gw".parse::<GatewayUrl>().unwrap().port(), 443);
        assert_eq!("https://[::1]:8443/".parse::<GatewayUrl>().unwrap().authority(), "[::1]:8443");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["http://gw:8443", "gw:8443", "https://gw/v1", "https://user@gw", "https://gw?x=1", ""] {
            assert!(text.parse::<GatewayUrl>().is_err(), "{text} was accepted");
        }
    }
}
