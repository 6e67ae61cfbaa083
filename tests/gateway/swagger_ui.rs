//! Swagger UI in a browser: opened, tried, answered, and nobody else asked for anything.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use hsm_operator::{
    server::https::Limits,
    sidecar::{Config, Resolve, Sidecar},
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    browser::Page,
    common::token::Module,
    listener::{Authority, LIMITS, Server},
    real::Stage,
    world::World,
};

/// Expands `versionInfo`, has it executed, and tells what the page then shows.
const TRY: &str = "
    const box = await until(() => document.getElementById('operations-Service_Information-versionInfo'));
    box.querySelector('.opblock-summary-control').click();
    (await until(() => box.querySelector('.try-out__btn'))).click();
    (await until(() => box.querySelector('.btn.execute'))).click();
    const row = await until(() => box.querySelector('.live-responses-table .response'));
    const status = row.querySelector('.response-col_status').textContent.trim();
    const body = (await until(() => row.querySelector('.response-col_description code'))).textContent;
    return { status, body };";

/// Has `fileEncryption` executed, with the example as it stands and a file, and tells what the page then shows.
const SEND: &str = "
    const box = await until(() => document.getElementById('operations-Files-fileEncryption'));
    box.querySelector('.opblock-summary-control').click();
    (await until(() => box.querySelector('.try-out__btn'))).click();
    const input = await until(() => box.querySelector('input[type=file]'));
    const chosen = new DataTransfer();
    chosen.items.add(new File(['a file'], 'a.txt'));
    input.files = chosen.files;
    input.dispatchEvent(new Event('change', { bubbles: true }));
    (await until(() => box.querySelector('.btn.execute'))).click();
    const row = await until(() => box.querySelector('.live-responses-table .response'));
    return row.querySelector('.response-col_status').textContent.trim();";

/// Expands an operation of each group and every schema, and counts the operations.
const ALL: &str = "
    await until(() => document.querySelector('.opblock'));
    const boxes = [...document.querySelectorAll('.opblock')];
    for (const group of document.querySelectorAll('.opblock-tag-section')) {
        const box = group.querySelector('.opblock:not(.is-open)');
        box.querySelector('.opblock-summary-control').click();
        await until(() => box.querySelector('.responses-wrapper'));
        box.querySelector('.opblock-summary-control').click();
        await until(() => !box.querySelector('.responses-wrapper'));
    }
    for (const schema of document.querySelectorAll('.models .json-schema-2020-12-accordion')) schema.click();
    await until(() => document.querySelector('.models .json-schema-2020-12-property'));
    return boxes.length;";

/// Opens the dialog for credentials and puts the cursor where the token goes.
const AUTHORIZE: &str = "
    (await until(() => document.querySelector('.auth-wrapper .authorize'))).click();
    (await until(() => document.querySelector('.auth-container input'))).focus();";

const AUTHORIZED: &str = "
    document.querySelector('.auth-btn-wrapper .authorize').click();
    (await until(() => document.querySelector('.auth-btn-wrapper .btn-done'))).click();
    await until(() => !document.querySelector('.auth-container'));";

struct Fixed(SocketAddr);

impl Resolve for Fixed {
    fn resolve(&self) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send + '_>> {
        Box::pin(async { Ok(vec![self.0]) })
    }
}

/// In a thread of its own: a page waits for the browser, and the servers have to go on.
async fn in_browser<T: Send + 'static>(
    act: impl FnOnce(&mut Page) -> T + Send + 'static,
) -> (T, Vec<String>) {
    let browse = move || {
        let mut page = Page::open();
        let result = act(&mut page);
        assert_eq!(page.complaints(), [""; 0]);
        (result, page.requests())
    };
    tokio::task::spawn_blocking(browse).await.unwrap()
}

async fn gateway(authority: &Authority) -> Server {
    let world = World::new(&[]).await;
    let limits = Limits { handshake: Duration::from_secs(10), ..LIMITS };
    Server::serving_within(limits, world.router, authority).await
}

/// What the page asked for: each file once, then the endpoint.
fn asked(requests: &[String], origin: &str) {
    let mut paths = Vec::new();
    for url in requests.iter().filter(|url| !url.starts_with("data:")) {
        let path = url.strip_prefix(origin).unwrap_or_else(|| panic!("somebody else was asked: {url}"));
        paths.push(path);
    }
    for path in ["/", "/swagger-ui/index.html", "/swagger-ui/swagger-ui-bundle.js", "/v3/api-docs"] {
        assert_eq!(paths.iter().filter(|one| **one == path).count(), 1, "{path} in {paths:?}");
    }
    assert_eq!(paths.last(), Some(&"/v1/versionInfo"), "{paths:?}");
}

fn answered(shown: &Value) {
    assert_eq!(shown["status"], "200", "{shown}");
    let body: Value = serde_json::from_str(shown["body"].as_str().unwrap()).unwrap();
    assert_eq!(body, json!({ "Version": env!("CARGO_PKG_VERSION") }));
}

#[tokio::test(flavor = "multi_thread")]
async fn swagger_ui_works_through_the_sidecar_without_a_credential() {
    let authority = Authority::new();
    let server = gateway(&authority).await;
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("token"), "app").unwrap();
    std::fs::write(files.path().join("ca.crt"), authority.pem()).unwrap();
    let name = "https://gateway.test:8443".parse().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        listen: any,
        admin: any,
        ..Config::new(name, files.path().join("ca.crt"), files.path().join("token"))
    };
    let sidecar = Sidecar::bind(config).await.unwrap();
    let origin = format!("http://{}", sidecar.address().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let resolver = Arc::new(Fixed(server.address()));
    let running = tokio::spawn(sidecar.run(resolver, async move { drop(stopped.await) }));
    let url = format!("{origin}/");
    let (shown, requests) = in_browser(move |page| {
        page.visit(&url);
        let shown = page.run(TRY);
        // Afterwards: with everything expanded, the page takes its time.
        let all = page.run(ALL).as_u64().unwrap();
        assert!(all > 30, "{all} operations");
        shown
    })
    .await;
    answered(&shown);
    asked(&requests, &origin);
    drop(stop);
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn swagger_ui_works_from_the_gateway_with_a_token() {
    let server = gateway(&Authority::new()).await;
    let origin = format!("https://{}", server.address());
    let url = format!("{origin}/");
    let (shown, requests) = in_browser(move |page| {
        page.visit(&url);
        page.run(AUTHORIZE);
        page.type_text("app");
        page.run(AUTHORIZED);
        page.run(TRY)
    })
    .await;
    answered(&shown);
    asked(&requests, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn swagger_ui_sends_files() {
    let stage = Stage::new(Module::SoftHsm).await;
    // As the page's example calls it.
    stage.file_key("string", "1.2.840.10045.3.1.7").await;
    let limits = Limits { handshake: Duration::from_secs(10), ..LIMITS };
    let server = Server::serving_within(limits, stage.world.router.clone(), &Authority::new()).await;
    let url = format!("https://{}/", server.address());
    let (status, _) = in_browser(move |page| {
        page.visit(&url);
        page.run(AUTHORIZE);
        page.type_text("app");
        page.run(AUTHORIZED);
        page.run(SEND)
    })
    .await;
    assert_eq!(status, "200");
}
