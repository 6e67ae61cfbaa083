//! Requests and answers as files: `tests/contract/*.json`.
//!
//! A file has `keys` (see `World::make`) and `cases`; `cluster` is true where there is an API server. A case has `name`,
//! `request` and `answer`; `as` names the caller, `app` unless said otherwise, and `fault` what goes wrong on the token. A
//! request has `method`, `path`, and `body` (JSON), `text` (a body that need not be JSON) or `bytes` (a body of that
//! length); `headers` are sent instead of the usual ones. An answer has `status`, and `body`, or `error`: code, reason and
//! message, the last of which may be left out, or `raw` for how a body begins that is no JSON. Texts that begin with `$`
//! stand for many: `$text`, `$base64`, `$base64 32` with a length in bytes, `$time`, `$spki key`, `$contains text`,
//! `$begins text`.

use std::sync::Arc;

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::hsm::{
    Kind,
    fake::{Fake, Fault},
};
use serde_json::Value;

use crate::{
    cluster::Cluster,
    world::{Answer, World},
};

macro_rules! files {
    ($($name:ident)+) => {
        /// What is in the files, by their names.
        pub const FILES: &[(&str, &str)] =
            &[$((stringify!($name), include_str!(concat!("../contract/", stringify!($name), ".json")))),+];
        $(
        #[tokio::test]
        async fn $name() {
            run(stringify!($name), include_str!(concat!("../contract/", stringify!($name), ".json"))).await;
        }
    )+ };
}

files! {
    service authentication keys create delete sign verify encrypt decrypt hmac timestamp errors paths passwords policies
    addresses wrap export made change_password import unwrap data_objects certificates files
}

async fn run(file: &str, text: &str) {
    let content: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{file}.json: {error}"));
    let keys: Vec<_> = content["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
    let world = if content["cluster"] == true {
        let fake = Arc::new(Fake::default());
        Cluster::before(fake.clone(), fake, &keys).await.0
    } else {
        World::new(&keys).await
    };
    let mut wrong = Vec::new();
    for case in content["cases"].as_array().unwrap() {
        for fault in case["fault"].as_str().iter().flat_map(|all| all.split(", ")) {
            let (request, kind) = fault.split_once(' ').unwrap();
            let names = ["sign", "random", "encrypt", "decrypt", "hmac", "wrap", "export"];
            let name = names.into_iter().find(|name| *name == request).unwrap_or_else(|| panic!("{request}"));
            world.fake.inject(name, told(kind));
        }
        let answer = world.send(request(case)).await;
        if let Err(difference) = compare(&world, &case["answer"], &answer) {
            let body = String::from_utf8_lossy(&answer.body);
            wrong.push(format!("{}: {difference}\n    {} {body}", case["name"], answer.status));
        }
    }
    assert!(wrong.is_empty(), "{file}.json\n  {}", wrong.join("\n  "));
}

fn told(word: &str) -> Fault {
    match word {
        "other" => Fault::SignOther,
        "confused" => Fault::Confuse,
        _ => Fault::refuse(
            *KINDS.iter().find(|kind| <&str>::from(**kind) == word).unwrap_or_else(|| panic!("{word}")),
        ),
    }
}

const KINDS: &[Kind] = &[
    Kind::LibraryNotLoaded,
    Kind::TokenNotFound,
    Kind::TokenNotInitialized,
    Kind::PinRejected,
    Kind::PinLocked,
    Kind::PinFinalTry,
    Kind::KeyNotFound,
    Kind::Ambiguous,
    Kind::Unsupported,
    Kind::Invalid,
    Kind::Forbidden,
    Kind::Full,
    Kind::Lost,
    Kind::Busy,
    Kind::Timeout,
    Kind::Crashed,
    Kind::Poisonous,
    Kind::Unavailable,
    Kind::Device,
];

fn request(case: &Value) -> hyper::Request<Body> {
    let request = &case["request"];
    let mut builder = hyper::Request::builder()
        .method(request["method"].as_str().expect("a method"))
        .uri(request["path"].as_str().expect("a path"));
    match request["headers"].as_array() {
        Some(headers) => {
            for header in headers {
                let (name, value) = header.as_str().unwrap().split_once(": ").unwrap();
                builder = builder.header(name, value);
            }
        }
        None => {
            let caller = case["as"].as_str().unwrap_or("app");
            builder = builder.header("authorization", format!("Bearer {caller}"));
        }
    }
    let body = match (&request["body"], request["text"].as_str(), request["bytes"].as_u64()) {
        (Value::Null, Some(text), _) => Body::from(text.to_owned()),
        (Value::Null, None, Some(bytes)) => Body::from(vec![b' '; usize::try_from(bytes).unwrap()]),
        (Value::Null, None, None) => Body::empty(),
        (body, ..) => Body::from(body.to_string()),
    };
    builder.body(body).unwrap()
}

fn compare(world: &World, expected: &Value, answer: &Answer) -> Result<(), String> {
    if expected["status"].as_u64() != Some(answer.status.as_u16().into()) {
        return Err(format!("status {} expected", expected["status"]));
    }
    let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    if let Some(headers) = expected["headers"].as_object() {
        for (name, value) in headers {
            matches(world, value, &Value::from(header(name))).map_err(|why| format!("{name}: {why}"))?;
        }
    }
    if header("x-request-id").is_empty() {
        return Err("no x-request-id".into());
    }
    if let Some(error) = expected["error"].as_array() {
        if header("content-type") != "application/json" {
            return Err(format!("content type {}", header("content-type")));
        }
        let (status, code) = answer.refused();
        let body = answer.json();
        if Some(code) != error[0].as_u64() || body["reason"] != error[1] {
            return Err(format!("{status} {code}: {error:?} expected"));
        }
        return error.get(2).map_or(Ok(()), |message| matches(world, message, &body["message"]));
    }
    if let Some(begins) = expected["raw"].as_str() {
        let good = answer.body.starts_with(begins.as_bytes());
        return if good { Ok(()) } else { Err(format!("a body expected that begins with {begins}")) };
    }
    match &expected["body"] {
        Value::Null => Err("the case expects no body")
            .or_else(|why| if answer.body.is_empty() { Ok(()) } else { Err(why.to_owned()) }),
        body => {
            if header("content-type") != "application/json" {
                return Err(format!("content type {}", header("content-type")));
            }
            matches(world, body, &answer.json())
        }
    }
}

/// Exactly: no member more and none less.
fn matches(world: &World, expected: &Value, given: &Value) -> Result<(), String> {
    match (expected, given) {
        (Value::Object(expected), Value::Object(given)) => {
            let (names, others): (Vec<_>, Vec<_>) = (expected.keys().collect(), given.keys().collect());
            if names != others {
                return Err(format!("members {names:?} expected, not {others:?}"));
            }
            expected.iter().try_for_each(|(name, value)| {
                matches(world, value, &given[name]).map_err(|why| format!("{name}: {why}"))
            })
        }
        (Value::Array(expected), Value::Array(given)) if expected.len() == given.len() => {
            expected.iter().zip(given).try_for_each(|(one, other)| matches(world, one, other))
        }
        (Value::String(pattern), given) if pattern.starts_with('$') => {
            let text = given.as_str().ok_or("a text expected")?;
            let (word, rest) = pattern.split_once(' ').unwrap_or((pattern, ""));
            let decoded = || STANDARD.decode(text).map_err(|error| format!("base64 expected: {error}"));
            let good = match word {
                "$text" => !text.is_empty(),
                "$base64" if rest.is_empty() => !decoded()?.is_empty(),
                "$base64" => decoded()?.len().to_string() == rest,
                "$spki" => decoded()? == world.spki(rest),
                "$time" => text.len() == 20 && text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok(),
                "$contains" => text.contains(rest),
                "$begins" => text.starts_with(rest),
                other => return Err(format!("the case has an unknown word {other}")),
            };
            if good { Ok(()) } else { Err(format!("{pattern} expected, not {text}")) }
        }
        _ if expected == given => Ok(()),
        _ => Err(format!("{expected} expected, not {given}")),
    }
}
