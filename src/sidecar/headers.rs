//! Which headers pass from one side to the other.

use hyper::HeaderMap;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// Headers that speak about one connection only.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Whether the sender ends this connection after this message.
pub fn closes(headers: &HeaderMap) -> bool {
    named_by_connection(headers).any(|name| name.eq_ignore_ascii_case("close"))
}

/// Makes an application's headers fit for the gateway: the pod's token is the only credential that counts, so
/// what the application may have sent as `Authorization` is dropped.
pub fn to_gateway(headers: &mut HeaderMap, host: &HeaderValue, token: HeaderValue) {
    remove_hop_by_hop(headers);
    headers.remove(EXPECT); // answered here, by reading the body
    headers.remove(CONTENT_LENGTH); // follows from the buffered body
    headers.insert(HOST, host.clone());
    headers.insert(AUTHORIZATION, token);
}

/// Removes what speaks about one connection only, including what `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<String> = named_by_connection(headers).map(str::to_owned).collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn named_by_connection(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn the_gateway_sees_the_pods_token_and_its_own_name() {
        let mut headers = map(&[
            ("authorization", "Bearer forged"),
            ("host", "localhost:8081"),
            ("expect", "100-continue"),
            ("content-type", "application/json"),
        ]);
        to_gateway(
            &mut headers,
            &HeaderValue::from_static("gw:8443"),
            HeaderValue::from_static("Bearer pod"),
        );
        let wanted = map(&[
            ("authorization", "Bearer pod"),
            ("host", "gw:8443"),
            ("content-type", "application/json"),
        ]);
        assert_eq!(headers, wanted);
    }

    #[test]
    fn hop_by_hop_headers_and_those_that_connection_names_stay_behind() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("x-kept", "1"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("x-kept", "1")]));
    }

    #[test]
    fn close_is_found_in_a_list_in_any_case() {
        assert!(closes(&map(&[("connection", "x, Close")])));
        assert!(!closes(&map(&[("connection", "keep-alive")])));
    }
}
