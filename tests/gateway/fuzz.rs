//! Requests made up from the OpenAPI document by schemathesis, against a gateway with a real token: whatever is sent, the
//! answer is one that the document has, and none is a mistake of ours.

use std::{process::Stdio, sync::Arc, time::Duration};

use hsm_operator::server::https::Limits;
use tokio::time::timeout;

use crate::{
    common::token::{Module, Token},
    lifecycle::{Fate, world_over},
    listener::{Authority, LIMITS, Server},
    openapi::tool,
};

/// Known to hooks.py too.
const KEYS: &[&str] = &["p256", "rsa", "ed", "k1", "aes-cipher", "rsa-cipher", "hmac"];
/// Requests for each operation in the longest of the three phases.
const EXAMPLES: &str = "30";
/// It ends by itself long before.
const WITHIN: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn no_made_up_request_is_answered_by_a_500_or_by_what_is_not_documented() {
    let token = Token::new(Module::SoftHsm);
    let hsm = token.supervisor().await;
    let (world, stand) = world_over(hsm, Arc::default(), Fate::Ready, KEYS).await;
    for name in KEYS {
        let entry = world.directory.by_name(crate::world::NAMESPACE, name).unwrap();
        stand.objects().insert((*name).to_owned(), (*entry.object).clone());
    }
    let limits = Limits { handshake: Duration::from_secs(10), ..LIMITS };
    let server = Server::serving_within(limits, world.router.clone(), &Authority::new()).await;
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("schemathesis.toml", include_str!("fuzz/schemathesis.toml")),
        ("hooks.py", include_str!("fuzz/hooks.py")),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let command = tokio::process::Command::new(tool("schemathesis"))
        .args(["run", &format!("https://{}/v3/api-docs", server.address())])
        // The certificate is for another name.
        .args(["--tls-verify", "false", "--header", "Authorization: Bearer app"])
        .args(["--max-examples", EXAMPLES, "--workers", "2", "--generation-database", "none", "--no-color"])
        .args(["--request-timeout", "60", "--report", "ndjson", "--report-ndjson-path", "report.ndjson"])
        .current_dir(folder.path())
        .env("PYTHONWARNINGS", "ignore")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(WITHIN, command).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // A run that never got past the first check would prove little.
    let metrics = world.metrics.text();
    for route in
        ["/v1/synchronousSign", "/v1/verify", "/v1/encrypt", "/v1/key/attributes", "/v1/certificate/{name}"]
    {
        let line = |status: u16| {
            let start = format!("gateway_requests_total{{route=\"{route}\"");
            let end = format!("status=\"{status}\"}}");
            metrics.lines().any(|line| line.contains(&start) && line.contains(&end))
        };
        assert!(line(200), "{route} never answered 200:\n{metrics}");
    }
}
