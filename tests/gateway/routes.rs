//! That every route of the gateway is in the tables of these tests.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{bad_input, contract, world::World};

/// The gateway's routes. `*` stands for what may be there, slashes too, and `?` for one segment.
pub const ROUTES: &[(&str, &str)] = &[
    ("GET", "/v1/versionInfo"),
    ("GET", "/v1/licenseInfo"),
    ("GET", "/v1/keystore/statistics"),
    ("GET", "/v1/generateRandom/?"),
    ("GET", "/v1/hsm/log"),
    ("GET", "/v1/hsm/log/*"),
    ("GET", "/v1/attestation"),
    ("GET", "/v1/attestation/*"),
    ("GET", "/v1/key"),
    ("POST", "/v1/key"),
    ("POST", "/v1/key/attributes"),
    ("POST", "/v1/key/deleteKey"),
    ("POST", "/v1/key/keyAttestation"),
    ("POST", "/v1/key/address"),
    ("POST", "/v1/key/changePassword"),
    ("POST", "/v1/key/export/plain"),
    ("GET", "/v1/key/export/plain"),
    ("POST", "/v1/key/import/plain"),
    ("DELETE", "/v1/key/*"),
    ("GET", "/v1/key/*/attributes"),
    ("GET", "/v1/key/*/address"),
    ("GET", "/v1/key/*/export/plain"),
    ("POST", "/v1/derivedKey"),
    ("POST", "/v1/derivedkey"),
    ("POST", "/v1/importedKey"),
    ("POST", "/v1/dataObject"),
    ("GET", "/v1/dataObject/*"),
    ("DELETE", "/v1/dataObject/*"),
    ("POST", "/v1/synchronousSign"),
    ("POST", "/v1/verify"),
    ("POST", "/v1/synchronousHmac"),
    ("POST", "/v1/encrypt"),
    ("POST", "/v1/synchronousDecrypt"),
    ("POST", "/v1/wrap"),
    ("POST", "/v1/synchronousUnwrap"),
    ("POST", "/v1/createRfcTimestamp"),
    ("POST", "/v1/fileEncrypt"),
    ("POST", "/v1/synchronousFileDecrypt"),
    ("POST", "/v1/certificate/synchronous/request"),
    ("POST", "/v1/certificate/synchronous/request/download"),
    ("POST", "/v1/certificate/synchronous/selfsign"),
    ("POST", "/v1/certificate/synchronous/create/selfSigned"),
    ("POST", "/v1/certificate/synchronous/sign"),
    ("POST", "/v1/certificate/import/plain"),
    ("GET", "/v1/certificate/*"),
    ("DELETE", "/v1/certificate/*"),
];

/// Whose endpoint a request goes to: the most particular one.
pub fn route_of(method: &str, path: &str) -> Option<(&'static str, &'static str)> {
    // What has a path of its own there is no key's name.
    let own = path.starts_with("/v1/certificate/") && ROUTES.iter().any(|(_, pattern)| *pattern == path);
    let fits = |pattern: &str| match pattern.split_once(['*', '?']) {
        None => path == pattern,
        Some((before, after)) => {
            let between = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            let several = pattern.contains('*');
            !own && between.is_some_and(|name| !name.is_empty() && (several || !name.contains('/')))
        }
    };
    let of_method = ROUTES.iter().filter(|(verb, pattern)| *verb == method && fits(pattern));
    of_method.copied().max_by_key(|(_, pattern)| (!pattern.contains(['*', '?']), pattern.len()))
}

#[test]
fn the_list_has_every_path_of_the_router() {
    let source = include_str!("../../src/gateway/routes/mod.rs");
    let in_source: BTreeSet<_> = source
        .split('"')
        .filter(|text| text.starts_with("/v1/"))
        .map(|path| path.split('{').next().unwrap().to_owned())
        .collect();
    let listed: BTreeSet<_> =
        ROUTES.iter().map(|(_, path)| path.split(['*', '?']).next().unwrap().to_owned()).collect();
    assert_eq!(listed, in_source);
}

/// Each is served by the methods that are listed, and by no other.
#[tokio::test]
async fn the_list_has_every_method_of_the_router() {
    let world = World::new(&["ed"]).await;
    let paths: BTreeSet<_> =
        ROUTES.iter().map(|(_, path)| path.replace('?', "7").replace('*', "ed")).collect();
    for path in paths {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let answer = world.call(method, &path, &Value::Null).await;
            let unserved = match answer.status.as_u16() {
                405 => true,
                404 => answer.json()["message"].as_str().is_some_and(|text| text.contains("is not served")),
                _ => false,
            };
            // No key is called so: what follows a slash in a name is a number.
            if method == "DELETE" && path.ends_with("port/plain") && !path.contains("certificate") {
                continue;
            }
            assert_eq!(!unserved, route_of(method, &path).is_some(), "{method} {path}: {:?}", answer.body);
        }
    }
}

#[test]
fn every_route_is_in_a_table_of_what_is_refused() {
    let tried: BTreeSet<_> = bad_input::tried()
        .iter()
        .map(|(method, path)| route_of(method, path).unwrap_or_else(|| panic!("{path}")))
        .collect();
    let all: BTreeSet<_> = ROUTES.iter().copied().collect();
    // These ask for nothing that could be wrong; who may not is in tests/contract.
    let plain = [
        ("GET", "/v1/versionInfo"),
        ("GET", "/v1/licenseInfo"),
        ("GET", "/v1/keystore/statistics"),
        ("GET", "/v1/hsm/log"),
        ("GET", "/v1/hsm/log/*"),
        ("GET", "/v1/attestation"),
        ("GET", "/v1/attestation/*"),
        ("GET", "/v1/key"),
        // Forms have a table of their own, in files.rs.
        ("POST", "/v1/fileEncrypt"),
        ("POST", "/v1/synchronousFileDecrypt"),
    ];
    let left: Vec<_> = all.difference(&tried).filter(|route| !plain.contains(*route)).collect();
    assert_eq!(left, [] as [&(&str, &str); 0], "not in bad_input.rs");
}

#[test]
fn every_route_has_a_fixture_of_a_success_and_one_of_a_refusal() {
    let mut seen = BTreeSet::new();
    for (_, text) in contract::FILES {
        let content: Value = serde_json::from_str(text).unwrap();
        for case in content["cases"].as_array().unwrap() {
            let (method, path) = (&case["request"]["method"], &case["request"]["path"]);
            if let Some(route) = route_of(method.as_str().unwrap(), path.as_str().unwrap()) {
                seen.insert((route, case["answer"]["status"].as_u64().unwrap() < 300));
            }
        }
    }
    let never = [
        // Addresses, keys from seeds and timestamps without a key for them: only refused.
        ("POST", "/v1/key/address"),
        ("GET", "/v1/key/*/address"),
        ("GET", "/v1/key/export/plain"),
        ("POST", "/v1/importedKey"),
        // On tokens that can; tests/gateway/{derivation,timestamps,files}.rs have those.
        ("POST", "/v1/derivedKey"),
        ("POST", "/v1/derivedkey"),
        ("POST", "/v1/createRfcTimestamp"),
        ("POST", "/v1/fileEncrypt"),
        ("POST", "/v1/synchronousFileDecrypt"),
    ];
    let mut left = Vec::new();
    for route in ROUTES {
        if !seen.contains(&(*route, false)) {
            left.push(format!("{route:?} refused"));
        }
        if !seen.contains(&(*route, true)) && !never.contains(route) {
            left.push(format!("{route:?} done"));
        }
    }
    assert!(left.is_empty(), "no fixture of\n{}", left.join("\n"));
}
