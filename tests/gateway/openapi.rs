//! The OpenAPI document: valid, and neither more nor less than what is served.

use std::{path::PathBuf, process::Command};

use axum::body::Body;
use serde_json::{Value, json};

use crate::{
    common::token::run,
    world::{Answer, World},
};

/// Programs written in Python that read the document: `e2e/openapi/build.sh` installs them.
pub fn tool(name: &str) -> PathBuf {
    let usual = || {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        let builds = std::fs::read_dir(cache.join("hsm-operator/openapi")).ok()?;
        let folders = builds.filter_map(|build| Some(build.ok()?.path()));
        let age = |path: &PathBuf| path.metadata().and_then(|metadata| metadata.modified()).ok();
        folders.filter(|path| path.join("complete").exists()).max_by_key(age)
    };
    let folder = std::env::var_os("HSM_TEST_OPENAPI").map(PathBuf::from).or_else(usual);
    folder.map(|folder| folder.join("bin").join(name)).filter(|path| path.exists()).unwrap_or_else(|| {
        panic!("no {name}: run e2e/openapi/build.sh, or set HSM_TEST_OPENAPI to what it prints")
    })
}

/// Without a credential.
async fn get(world: &World, path: &str) -> Answer {
    world.send(hyper::Request::get(path).body(Body::empty()).unwrap()).await
}

async fn document(world: &World) -> Value {
    get(world, "/v3/api-docs").await.ok()
}

/// Method, path and description of each operation.
fn operations(document: &Value) -> Vec<(String, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let item = item.as_object().unwrap();
            item.iter().map(move |(method, one)| (method.to_uppercase(), path.as_str(), one))
        })
        .collect()
}

/// A path of a template, as the router or the document writes it.
fn filled(template: &str) -> String {
    let fill = |segment: &str| match segment {
        "{length}" => "1".to_owned(),
        parameter if parameter.starts_with('{') => "x".to_owned(),
        other => other.to_owned(),
    };
    template.split('/').map(fill).collect::<Vec<_>>().join("/")
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    let same = |(one, other): (&&str, &&str)| one == other || one.starts_with('{');
    template.len() == path.len() && template.iter().zip(&path).all(same)
}

/// Whether anything but "there is no such path" or "not with this method" is answered.
async fn served(world: &World, method: &str, path: &str) -> bool {
    let answer = world.call(method, path, &Value::Null).await;
    let code = serde_json::from_slice::<Value>(&answer.body).ok().and_then(|body| body["errorCode"].as_u64());
    answer.status != 405 && (answer.status.as_u16(), code) != (404, Some(611))
}

#[tokio::test]
async fn the_document_is_valid_openapi_3_1() {
    let world = World::new(&[]).await;
    let document = document(&world).await;
    assert_eq!(document["openapi"], "3.1.0");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("openapi.json");
    let validate = |document: &Value| {
        std::fs::write(&file, document.to_string()).unwrap();
        let mut command = Command::new(tool("openapi-spec-validator"));
        command.args(["--schema", "3.1", "--validation-errors", "all"]).arg(&file);
        command
    };
    run(&mut validate(&document));
    // What the validator is worth.
    let mut wrong = document.clone();
    wrong["paths"]["/v1/versionInfo"]["get"]["responses"] = json!([]);
    assert!(!validate(&wrong).output().unwrap().status.success());
    let mut wrong = document;
    wrong["paths"]["/v1/key"]["get"]["operationId"] = json!("createKey");
    assert!(!validate(&wrong).output().unwrap().status.success());
}

#[tokio::test]
async fn every_route_is_documented_and_nothing_else() {
    let world = World::new(&[]).await;
    let document = document(&world).await;
    let operations = operations(&document);
    let mut wrong = Vec::new();
    let routes = hsm_operator::gateway::paths();
    assert!(served(&world, "GET", "/v1/versionInfo").await && !served(&world, "GET", "/v1/nothing").await);
    for template in routes.iter().filter(|path| path.starts_with("/v1/")) {
        let path = filled(template);
        // Every GET is a HEAD as well, and needs no words.
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let described = operations.iter().any(|(one, path_of, _)| one == method && fits(path_of, &path));
            if !described && served(&world, method, &path).await {
                wrong.push(format!(
                    "{method} {template} is served and not documented: describe it in `document` of its file in \
                     src/gateway/routes, and call that from `document` in src/gateway/routes/mod.rs"
                ));
            }
        }
    }
    for (method, template, _) in &operations {
        if !served(&world, method, &filled(template)).await {
            wrong.push(format!("{method} {template} is documented and not served"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn every_operation_says_what_it_answers() {
    let world = World::new(&[]).await;
    let document = document(&world).await;
    for (method, path, operation) in operations(&document) {
        let at = format!("{method} {path}");
        for member in ["operationId", "summary"] {
            assert!(operation[member].as_str().is_some_and(|text| !text.is_empty()), "{at}: {member}");
        }
        let responses = operation["responses"].as_object().unwrap();
        for (status, response) in responses {
            let refused = response["$ref"] == format!("#/components/responses/Refused{status}");
            assert!(refused != status.starts_with('2'), "{at}: {status} {response}");
        }
        for status in ["401", "403", "501", "503"] {
            assert!(responses.contains_key(status), "{at}: {status}");
        }
        for (has, statuses) in [
            (operation.get("requestBody").is_some(), ["400", "413"].as_slice()),
            (path.contains('{'), ["400", "404"].as_slice()),
        ] {
            assert!(
                !has || statuses.iter().all(|status| responses.contains_key(*status)),
                "{at}: {statuses:?}"
            );
        }
    }
    let refused = &document["components"]["responses"]["Refused404"];
    assert_eq!(refused["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/Error");
    assert!(
        refused["description"].as_str().unwrap().contains("650 `res.error.key.not.existent`"),
        "{refused}"
    );
    let error = &document["components"]["schemas"]["Error"];
    assert_eq!(error["required"], json!(["errorCode", "reason", "message"]));
}

#[tokio::test]
async fn schemas_are_those_of_the_bodies() {
    let world = World::new(&[]).await;
    let document = document(&world).await;
    let schema = |name: &str| document["components"]["schemas"][name].clone();
    let sign = schema("SignRequest");
    assert_eq!(sign["required"], json!(["payload", "signKeyName", "signatureAlgorithm"]));
    let algorithms = sign["properties"]["signatureAlgorithm"]["enum"].as_array().unwrap();
    assert!(algorithms.contains(&json!("SHA256_WITH_ECDSA")), "{algorithms:?}");
    let password = schema("Password")["anyOf"].as_array().unwrap().clone();
    assert_eq!((&password[0]["type"], &password[1]["items"]["maxLength"]), (&json!("string"), &json!(1)));
    let optional = json!([{ "$ref": "#/components/schemas/Password" }, { "type": "null" }]);
    for (of, member) in [
        ("SignRequest", "keyPassword"),
        ("CreateBody", "password"),
        ("NameBody", "password"),
        ("WrapKeyRequest", "wrapKeyPassword"),
        ("CertificateBody", "keyPassword"),
    ] {
        assert_eq!(schema(of)["properties"][member]["anyOf"], optional, "{of} {member}");
    }
    let import = schema("KeyImport");
    assert_eq!(import["required"], json!(["label", "algorithm"]));
    assert_eq!(import["properties"]["privateKey"]["contentEncoding"], "base64");
    let form = &document["paths"]["/v1/fileEncrypt"]["post"]["requestBody"]["content"];
    let form = &form["multipart/form-data"];
    assert_eq!(form["schema"]["required"], json!(["SignedFileEncryptRequestDto", "file"]));
    let part = json!({ "contentType": "application/json" });
    assert_eq!(form["encoding"]["SignedFileEncryptRequestDto"], part);
    // What is always answered is required there, null or not.
    let key = schema("KeyAttributesJson");
    assert!(key["required"].as_array().unwrap().contains(&json!("uuid")), "{key}");
    assert_eq!(key["properties"]["uuid"]["type"], json!(["string", "null"]));
}

#[tokio::test]
async fn the_page_needs_no_credential_and_nothing_from_elsewhere() {
    let world = World::new(&[]).await;
    for (path, location) in [
        ("/", "swagger-ui/index.html"),
        ("/swagger-ui", "swagger-ui/index.html"),
        ("/swagger-ui/", "index.html"),
    ] {
        let answer = get(&world, path).await;
        assert_eq!((answer.status.as_u16(), &answer.headers["location"]), (302, &location.parse().unwrap()));
    }
    for (path, media_type, zipped) in [
        ("/v3/api-docs", "application/json", false),
        ("/v3/api-docs/swagger-config", "application/json", false),
        ("/swagger-ui/index.html", "text/html; charset=utf-8", false),
        ("/swagger-ui/swagger-initializer.js", "text/javascript; charset=utf-8", false),
        ("/swagger-ui/swagger-ui-bundle.js", "text/javascript; charset=utf-8", true),
        ("/swagger-ui/swagger-ui.css", "text/css; charset=utf-8", true),
        ("/swagger-ui/favicon-32x32.png", "image/png", true),
        ("/swagger-ui/LICENSE", "text/plain; charset=utf-8", true),
        ("/swagger-ui/NOTICE", "text/plain; charset=utf-8", true),
    ] {
        let answer = get(&world, path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.headers["content-type"], media_type, "{path}");
        assert_eq!(answer.headers.get("content-encoding").is_some_and(|one| one == "gzip"), zipped, "{path}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; "), "{policy}");
        assert!(!policy.contains("http") && !policy.contains("unsafe"), "{policy}");
        let known = hyper::Request::get(path).header("if-none-match", &answer.headers["etag"]);
        let again = world.send(known.body(Body::empty()).unwrap()).await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{path}");
        if zipped {
            unzipped(path, &answer.body);
        }
    }
    assert_eq!(get(&world, "/swagger-ui/nothing").await.refused(), (404, 611));
    assert_eq!(get(&world, "/swagger-ui/%2e%2e%2f%ff").await.refused(), (404, 611));
    assert_eq!(world.call("POST", "/v3/api-docs", &Value::Null).await.refused(), (405, 611));
}

#[tokio::test]
async fn pages_of_other_sites_may_not_call() {
    let world = World::new(&[]).await;
    for (site, status) in
        [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403), ("x", 403)]
    {
        let request = hyper::Request::get("/v1/versionInfo").header("authorization", "Bearer app");
        let answer = world.send(request.header("sec-fetch-site", site).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, status, "{site}");
        // A link to the page is none of its business.
        let link = hyper::Request::get("/swagger-ui/index.html").header("sec-fetch-site", site);
        assert_eq!(world.send(link.body(Body::empty()).unwrap()).await.status, 200);
    }
}

/// By somebody else's word: what build.rs wraps is gzip.
fn unzipped(path: &str, body: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file.gz");
    std::fs::write(&file, body).unwrap();
    let plain = run(Command::new("gzip").args(["--decompress", "--stdout"]).arg(&file)).stdout;
    let begins: &[u8] = match path.rsplit_once('/').unwrap().1 {
        "swagger-ui-bundle.js" => b"/*! For license information",
        "swagger-ui.css" => b".swagger-ui",
        "favicon-32x32.png" => b"\x89PNG\r\n",
        "NOTICE" => b"swagger-ui",
        _ => b"\n",
    };
    assert!(plain.starts_with(begins), "{path}: {:?}", String::from_utf8_lossy(&plain[..60]));
}
