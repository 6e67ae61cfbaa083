//! What the sidecar answers itself: errors in the contract's body.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::pool::Relayed;

/// Body of an answer: our own text, or what a gateway sends, passed on as it comes.
pub type Body = Either<Full<Bytes>, Relayed>;

/// Why a request got no answer of a gateway.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Failure {
    /// The request is larger than the sidecar keeps in memory.
    #[error("the request body is larger than {0} bytes; hash a large payload and sign the hash")]
    TooLarge(usize),
    /// The application ended its request early.
    #[error("the request body ended early: {0}")]
    Incomplete(String),
    /// Something that is no request to a server, such as CONNECT.
    #[error("the sidecar forwards requests to the HSM gateways only; it is no proxy")]
    NotForUs,
    /// The pod's token was never readable.
    #[error("no gateway was asked: the pod's token cannot be read: {0}")]
    NoToken(String),
    /// The request reached no gateway.
    #[error("no gateway could be reached: {0}")]
    Unreachable(String),
    /// The request may have reached a gateway, so it is not sent again.
    #[error(
        "gateway {0} broke the connection before it answered: {1}; the request may have been carried out, so it \
         was not sent again"
    )]
    Broken(std::net::SocketAddr, String),
    /// No answer in time.
    #[error("no answer of a gateway within {0} s; the request may still be carried out")]
    Deadline(u64),
}

impl Failure {
    /// Status, code and reason of the REST contract.
    const fn wire(&self) -> (StatusCode, u16, &'static str) {
        const JSON: &str = "res.error.invalid.json";
        const PAYLOAD: &str = "res.error.invalid.payload"; // as the gateway says it
        const SUBSYSTEM: &str = "res.error.in.subystem"; // sic: clients compare the published spelling
        match self {
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, 612, PAYLOAD),
            Self::Incomplete(_) => (StatusCode::BAD_REQUEST, 621, JSON),
            Self::NotForUs => (StatusCode::BAD_REQUEST, 611, "res.error.unsupported.operation"),
            Self::NoToken(_) | Self::Unreachable(_) => (StatusCode::SERVICE_UNAVAILABLE, 700, SUBSYSTEM),
            Self::Broken(..) => (StatusCode::BAD_GATEWAY, 700, SUBSYSTEM),
            Self::Deadline(_) => (StatusCode::GATEWAY_TIMEOUT, 700, SUBSYSTEM),
        }
    }

    /// The answer for the application.
    pub fn into_response(self) -> Response<Body> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Contract {
            error_code: u16,
            reason: &'static str,
            message: String,
        }
        let (status, error_code, reason) = self.wire();
        let body = Contract { error_code, reason, message: self.to_string() };
        let text = serde_json::to_vec(&body).expect("numbers and strings are always JSON");
        let mut response = Response::new(Either::Left(Full::from(text)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
