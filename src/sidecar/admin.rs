//! `/livez`, `/readyz` and `/metrics`.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::forward::Upstream;

/// Answers one request to the admin port.
pub fn answer(upstream: &Upstream, path: &str) -> Response<Full<Bytes>> {
    let (status, text) = match path {
        "/livez" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match unready(upstream) {
            None => (StatusCode::OK, "ok\n".to_owned()),
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        "/metrics" => (StatusCode::OK, upstream.metrics.text(upstream.pool.known())),
        _ => (StatusCode::NOT_FOUND, "try /livez, /readyz or /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

/// A gateway was reached once and the token can be read. Later trouble with the gateways does not show here: each
/// request tells it, and an application may have other work to do.
fn unready(upstream: &Upstream) -> Option<&'static str> {
    if !upstream.is_connected() {
        Some("no gateway was reached yet; the log says why")
    } else if !upstream.token.is_readable() {
        Some("the pod's token cannot be read; the log says why")
    } else {
        None
    }
}
