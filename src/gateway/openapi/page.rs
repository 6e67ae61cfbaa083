//! The document and Swagger UI over HTTP. Nothing here is a secret or differs between callers, so nobody is asked who
//! they are; all of it is in memory, and nothing of it comes from elsewhere.

use std::sync::LazyLock;

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Document;
use crate::gateway::{
    error::{ApiError, Code},
    extract::name_in_path,
    routes,
};

/// Swagger UI needs no more; its style sheet has images inside.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Where Swagger UI is, seen from `/` and from `/swagger-ui`; below some other path it is right too.
const PAGE: &str = "swagger-ui/index.html";

/// Where its files are.
const FOLDER: &str = "/swagger-ui/";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Something that is always the same.
struct Fixed {
    media_type: &'static str,
    zipped: bool,
    body: Bytes,
    /// Changes with the body.
    tag: HeaderValue,
}

impl Fixed {
    fn new(media_type: &'static str, zipped: bool, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let digest = hex::encode(&Sha256::digest(&body)[..16]);
        let tag = HeaderValue::try_from(format!("\"{digest}\"")).expect("hexadecimal fits a header");
        Self { media_type, zipped, body, tag }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let fixed = |value: &'static str| HeaderValue::from_static(value);
        let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == self.tag);
        let mut response =
            if known { StatusCode::NOT_MODIFIED.into_response() } else { self.body.clone().into_response() };
        let headers = response.headers_mut();
        // Asked for every time and sent once: what is here changes with the gateway.
        headers.insert(header::CACHE_CONTROL, fixed("no-cache"));
        headers.insert(header::ETAG, self.tag.clone());
        headers.insert(header::CONTENT_SECURITY_POLICY, fixed(POLICY));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
        headers.insert(header::REFERRER_POLICY, fixed("no-referrer"));
        if !known {
            headers.insert(header::CONTENT_TYPE, fixed(self.media_type));
            if self.zipped {
                headers.insert(header::CONTENT_ENCODING, fixed("gzip"));
            }
        }
        response
    }
}

macro_rules! taken {
    ($file:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $file)).as_slice()
    };
}

static FILES: LazyLock<[(&str, Fixed); 7]> = LazyLock::new(|| {
    [
        ("index.html", Fixed::new(HTML, false, include_str!("index.html"))),
        ("swagger-initializer.js", Fixed::new(SCRIPT, false, include_str!("swagger-initializer.js"))),
        ("swagger-ui-bundle.js", Fixed::new(SCRIPT, true, taken!("swagger-ui-bundle.js"))),
        ("swagger-ui.css", Fixed::new("text/css; charset=utf-8", true, taken!("swagger-ui.css"))),
        ("favicon-32x32.png", Fixed::new("image/png", true, taken!("favicon-32x32.png"))),
        ("LICENSE", Fixed::new(TEXT, true, taken!("LICENSE"))),
        ("NOTICE", Fixed::new(TEXT, true, taken!("NOTICE"))),
    ]
});

static DOCUMENT: LazyLock<Fixed> = LazyLock::new(|| {
    let mut document = Document::new();
    routes::document(&mut document);
    Fixed::new(JSON, false, document.finish().to_string())
});

static CONFIG: LazyLock<Fixed> = LazyLock::new(|| {
    let config = json!({
        "configUrl": "/v3/api-docs/swagger-config",
        "url": "/v3/api-docs",
        // Without it, the page would ask swagger.io whether the document is valid.
        "validatorUrl": "none",
    });
    Fixed::new(JSON, false, config.to_string())
});

/// `GET /v3/api-docs`: the document.
pub async fn document(headers: HeaderMap) -> Response {
    DOCUMENT.answer(&headers)
}

/// `GET /v3/api-docs/swagger-config`: what Swagger UI reads first.
pub async fn config(headers: HeaderMap) -> Response {
    CONFIG.answer(&headers)
}

/// `GET /` and `GET /swagger-ui`: leads to the page.
pub async fn home() -> Response {
    (StatusCode::FOUND, [(header::LOCATION, PAGE)]).into_response()
}

/// `GET /swagger-ui/`: the same, seen from there.
pub async fn folder() -> Response {
    (StatusCode::FOUND, [(header::LOCATION, "index.html")]).into_response()
}

/// `GET /swagger-ui/{file}`: the page and what belongs to it.
pub async fn file(uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    let name = name_in_path(uri.path(), FOLDER);
    let file = FILES.iter().find(|(known, _)| *known == name);
    let (_, file) =
        file.ok_or_else(|| ApiError::new(Code::NoRoute, format!("{FOLDER}{name} is not served")))?;
    Ok(file.answer(&headers))
}
