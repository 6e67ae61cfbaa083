//! Files over REST, with real tokens behind the gateway, and curl, Python and plain sockets before it.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hsm_operator::{
    api::partition::{Probed, TokenQuirk, TokenStatus},
    service::files::Files,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    common::token::{Module, run},
    real::{Stage, on_both_tokens},
    world::{Answer, NAMESPACE, PASSWORD, World},
};

const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const P521: &str = "1.3.132.0.35";

const ENCRYPT: &str = "SignedFileEncryptRequestDto";
const DECRYPT: &str = "SignedFileDecryptRequestDto";
const BOUNDARY: &str = "------------------------d74496d66958873e";

impl Stage {
    /// A key for files.
    pub async fn file_key(&self, name: &str, curve: &str) -> Vec<u8> {
        let attributes = json!({"derive": true, "sign": false});
        self.make(name, json!({"algorithm": "EC", "curveOid": curve, "attributes": attributes})).await
    }

    async fn encrypt(&self, key: &str, file: &[u8]) -> Answer {
        encrypt(&self.world, "app", key, file).await
    }

    async fn decrypt(&self, key: &str, file: &[u8]) -> Answer {
        decrypt(&self.world, "app", key, file).await
    }
}

/// One part of a form.
fn part(name: &str, more: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{more}\r\n\r\n");
    [head.as_bytes(), content, b"\r\n"].concat()
}

fn text(name: &str, content: &Value) -> Vec<u8> {
    part(name, "", content.to_string().as_bytes())
}

fn file(content: &[u8]) -> Vec<u8> {
    part("file", "; filename=\"a b.txt\"\r\nContent-Type: application/octet-stream", content)
}

fn form(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), format!("--{BOUNDARY}--\r\n").into_bytes()].concat()
}

fn asks_to_encrypt(key: &str) -> Vec<u8> {
    text(ENCRYPT, &json!({"fileEncryptRequest": {"encryptKeyName": key}}))
}

fn asks_to_decrypt(key: &str) -> Vec<u8> {
    text(DECRYPT, &json!({"fileDecryptRequest": {"decryptKeyName": key, "keyPassword": null}}))
}

async fn send(world: &World, caller: &str, path: &str, body: impl Into<Body>) -> Answer {
    send_as(world, caller, path, &format!("multipart/form-data; boundary={BOUNDARY}"), body).await
}

async fn send_as(world: &World, caller: &str, path: &str, kind: &str, body: impl Into<Body>) -> Answer {
    let request = hyper::Request::post(path)
        .header("authorization", format!("Bearer {caller}"))
        .header("content-type", kind)
        .body(body.into())
        .unwrap();
    world.send(request).await
}

pub async fn encrypt(world: &World, caller: &str, key: &str, content: &[u8]) -> Answer {
    send(world, caller, "/v1/fileEncrypt", form(&[asks_to_encrypt(key), file(content)])).await
}

async fn decrypt(world: &World, caller: &str, key: &str, content: &[u8]) -> Answer {
    send(world, caller, "/v1/synchronousFileDecrypt", form(&[asks_to_decrypt(key), file(content)])).await
}

/// A body that comes in pieces and does not say how long it is.
fn pieces(body: &[u8]) -> Body {
    let pieces = body.chunks(50_000).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)));
    Body::from_stream(futures::stream::iter(pieces.collect::<Vec<_>>()))
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 249).unwrap()).collect()
}

fn python(arguments: &[&str], folder: &Path, input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/file_format.py");
    let mut child = Command::new("python3")
        .arg(script)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "python3-cryptography is needed, see e2e/setup.sh: {output:?}");
    output.stdout
}

on_both_tokens! {
    a_file_goes_there_and_comes_back,
    what_was_changed_is_refused_before_a_byte_is_handed_out,
    what_somebody_else_wrote_by_the_description_is_decrypted,
    a_key_that_is_not_for_files_says_why,
}

async fn a_file_goes_there_and_comes_back(stage: &Stage) {
    for (name, curve, header) in [("p256", P256, 109), ("p384", P384, 141), ("p521", P521, 177)] {
        stage.file_key(name, curve).await;
        for length in [0, 1, 65536, 1_000_000] {
            let plain = content(length);
            let sealed = stage.encrypt(name, &plain).await;
            assert_eq!(sealed.status, 200, "{:?}", sealed.body);
            assert_eq!(sealed.headers["content-type"], "application/octet-stream");
            assert_eq!(sealed.headers["content-disposition"], "attachment; filename=\"a_b.txt.enc\"");
            assert_eq!(sealed.headers["content-length"], sealed.body.len().to_string());
            assert_eq!(sealed.body.len(), header + length + 16 * length.div_ceil(65536).max(1), "{name}");
            let opened = stage.decrypt(name, &sealed.body).await;
            assert_eq!(opened.status, 200, "{:?}", opened.body);
            assert_eq!(opened.headers["content-disposition"], "attachment; filename=\"a_b.txt\"");
            assert!(opened.body == plain, "{name} {length}");
        }
    }
    stage.world.rules.asked();
    let sealed = stage.encrypt("p384", b"file").await.body;
    stage.decrypt("p384", &sealed).await;
    assert_eq!(stage.world.rules.asked(), ["use hsmkeys shop/p384", "use hsmkeys shop/p384"]);
    for denied in ["reader", "nobody"] {
        assert_eq!(encrypt(&stage.world, denied, "p384", b"file").await.refused(), (403, 400));
        assert_eq!(decrypt(&stage.world, denied, "p384", &sealed).await.refused(), (403, 400));
    }
}

async fn what_was_changed_is_refused_before_a_byte_is_handed_out(stage: &Stage) {
    stage.file_key("k", P384).await;
    stage.file_key("other", P384).await;
    stage.file_key("smaller", P256).await;
    let sealed = stage.encrypt("k", &content(200_000)).await.body;
    let changed = |at: usize, with: u8| {
        let mut sealed = sealed.to_vec();
        sealed[at] ^= with;
        sealed
    };
    let last = sealed.len() - 1;
    for (what, file, code, said) in [
        ("the end", changed(last, 1), 410, "changed, cut off or continued"),
        ("the middle", changed(100_000, 1), 410, "changed, cut off or continued"),
        ("cut off", sealed[..last].to_vec(), 410, "cut off"),
        ("cut off at a segment", sealed[..141 + 2 * 65552].to_vec(), 410, "cut off"),
        ("continued", [&sealed[..], b"x"].concat(), 410, "continued"),
        ("no segment", sealed[..141].to_vec(), 410, "cut off"),
        ("half a header", sealed[..140].to_vec(), 623, "ends within its header"),
        ("nothing", Vec::new(), 623, "ends within its header"),
        ("something else", b"%PDF-1.7 and more".to_vec(), 623, "does not begin as"),
        ("another version", changed(7, 3), 623, "version 2"),
        ("another curve", changed(8, 8), 623, "unknown curve (10)"),
        ("another cipher", changed(9, 3), 623, "unknown cipher (2)"),
        ("an option", changed(11, 1), 623, "unknown option (1)"),
        ("the fingerprint", changed(20, 1), 623, "another key"),
        ("the point", changed(141 - 1, 1), 623, "no sound point of P-384"),
        ("the form of the point", changed(44, 6), 623, "no sound point of P-384"),
    ] {
        let answer = stage.decrypt("k", &file).await;
        assert_eq!(answer.refused(), (400, code), "{what}");
        let message = answer.json()["message"].to_string();
        assert!(message.contains(said), "{what}: {message}");
    }
    // Another point of the curve is a sound one, and gives another key.
    let other = stage.encrypt("k", b"another file").await.body;
    let mixed = [&other[..141], &sealed[141..]].concat();
    assert_eq!(stage.decrypt("k", &mixed).await.refused(), (400, 410));
    for key in ["other", "smaller"] {
        let answer = stage.decrypt(key, &sealed).await;
        assert_eq!(answer.refused(), (400, 623), "{key}");
    }
    assert_eq!(stage.decrypt("k", &sealed).await.body.len(), 200_000);
    assert_eq!(stage.hsm.counters().restarts, 0);
}

async fn what_somebody_else_wrote_by_the_description_is_decrypted(stage: &Stage) {
    let folder = stage.token.path();
    for (name, curve, openssl) in [("p256", P256, "P-256"), ("p384", P384, "P-384"), ("p521", P521, "P-521")]
    {
        let spki = stage.file_key(name, curve).await;
        std::fs::write(folder.join("public.der"), spki).unwrap();
        let convert = ["pkey", "-pubin", "-inform", "DER", "-in", "public.der", "-out", "public.pem"];
        run(Command::new("openssl").current_dir(folder).args(convert));
        for length in [0, 65536, 150_000] {
            let sealed = python(&["seal", "public.pem"], folder, &content(length));
            let opened = stage.decrypt(name, &sealed).await;
            assert!(opened.status == 200 && opened.body == content(length), "{name} {:?}", opened.status);
        }
        // The other way round with a key that is not on a token, so that somebody else has the private half.
        let parameter = format!("ec_paramgen_curve:{openssl}");
        let generate = ["genpkey", "-algorithm", "EC", "-pkeyopt", &parameter, "-out", "key.pem"];
        run(Command::new("openssl").current_dir(folder).args(generate));
        let convert = ["pkey", "-in", "key.pem", "-pubout", "-outform", "DER"];
        let spki = run(Command::new("openssl").current_dir(folder).args(convert)).stdout;
        let known = stage.world.directory.by_name(NAMESPACE, name).unwrap();
        let mut foreign = (*known.object).clone();
        foreign.metadata.name = Some("foreign".into());
        foreign.spec.label = Some("foreign".into());
        foreign.status.as_mut().unwrap().public_key = Some(STANDARD.encode(spki));
        stage.world.directory.put(Arc::new(foreign));
        for length in [0, 65536, 150_000] {
            let sealed = stage.encrypt("foreign", &content(length)).await;
            assert_eq!(sealed.status, 200, "{:?}", sealed.body);
            assert!(python(&["open", "key.pem"], folder, &sealed.body) == content(length), "{name} {length}");
        }
    }
}

async fn a_key_that_is_not_for_files_says_why(stage: &Stage) {
    stage.make("signs", json!({"algorithm": "EC", "curveOid": P384})).await;
    stage.make("rsa", json!({"algorithm": "RSA", "keySize": 2048, "attributes": {"derive": true}})).await;
    if stage.token.module == Module::SoftHsm {
        stage.file_key("k1", "1.3.132.0.10").await;
        assert_eq!(stage.encrypt("k1", b"file").await.refused(), (400, 607));
    }
    stage.file_key("good", P384).await;
    let sealed = stage.encrypt("good", b"file").await.body;
    for (key, refused, said) in [
        ("signs", (400, 614), "attribute derive is false"),
        ("rsa", (400, 607), "P-384"),
        ("nobody", (404, 650), "does not exist"),
    ] {
        let answer = stage.encrypt(key, b"file").await;
        assert_eq!(answer.refused(), refused, "{key}");
        assert!(answer.json()["message"].to_string().contains(said), "{answer:?}");
    }
    for (key, refused) in [("signs", (400, 614)), ("rsa", (400, 623)), ("nobody", (404, 650))] {
        assert_eq!(stage.decrypt(key, &sealed).await.refused(), refused, "{key}");
    }
}

#[tokio::test]
async fn a_form_that_is_not_as_it_should_be_is_refused() {
    let stage = Stage::new(Module::SoftHsm).await;
    stage.file_key("k", P384).await;
    let (asks, file) = (asks_to_encrypt("k"), file(b"file"));
    let many = vec![b'x'; 300 * 1024];
    for (what, body, code, said) in [
        ("order", form(&[file.clone(), asks.clone()]), 600, "'file' must come after the part 'Signed"),
        ("no file", form(std::slice::from_ref(&asks)), 600, "'file' is missing"),
        ("no text", form(&[part("other", "", b"x")]), 600, "'SignedFileEncryptRequestDto' is missing"),
        ("nothing", form(&[]), 600, "is missing"),
        ("empty", Vec::new(), 600, "no complete multipart"),
        ("two texts", form(&[asks.clone(), asks.clone(), file.clone()]), 600, "is there twice"),
        ("two files", form(&[asks.clone(), file.clone(), file.clone()]), 600, "'file' is there twice"),
        ("text behind", form(&[asks.clone(), file.clone(), asks.clone()]), 600, "is there twice"),
        ("no end", [asks.clone(), file.clone()].concat(), 600, "no complete multipart"),
        ("cut in the file", [&asks[..], &file[..file.len() - 4]].concat(), 600, "no complete multipart"),
        ("no json", form(&[part(ENCRYPT, "", b"k"), file.clone()]), 621, "Cannot parse json"),
        ("no object", form(&[text(ENCRYPT, &json!([])), file.clone()]), 600, "must be a JSON object"),
        ("wrong text", form(&[text(ENCRYPT, &json!({"x": 1})), file.clone()]), 600, "fileEncryptRequest"),
        (
            "no name",
            form(&[text(ENCRYPT, &json!({"fileEncryptRequest": {}})), file.clone()]),
            600,
            "encryptKeyName",
        ),
        ("long text", form(&[part(ENCRYPT, "", &many), file.clone()]), 612, "more than 65536 bytes"),
    ] {
        let answer = send(&stage.world, "app", "/v1/fileEncrypt", body).await;
        let status = if code == 612 { 413 } else { 400 };
        assert_eq!(answer.refused(), (status, code), "{what}: {:?}", answer.body);
        let message = answer.json()["message"].to_string();
        assert!(message.contains(said), "{what}: {message}");
    }
    let long = form(&[part(&"x".repeat(600 * 1024), "", b""), asks.clone(), file.clone()]);
    let answer = send(&stage.world, "app", "/v1/fileEncrypt", pieces(&long)).await;
    assert_eq!(answer.refused(), (400, 600));
    assert!(answer.json()["message"].to_string().contains("head of more than"), "{answer:?}");
    let whole = form(&[asks.clone(), file.clone()]);
    for kind in
        ["application/json", "multipart/form-data", "multipart/form-data; boundary=", "text/plain", ""]
    {
        let answer = send_as(&stage.world, "app", "/v1/fileEncrypt", kind, whole.clone()).await;
        assert_eq!(answer.refused(), (400, 600), "{kind}");
    }
    // What nobody asked for is passed over, wherever it is and however large it is.
    let odd = part("note", "", &many);
    let body = form(&[odd.clone(), asks, odd.clone(), file, odd]);
    assert_eq!(send(&stage.world, "app", "/v1/fileEncrypt", body).await.status, 200);
    let answer = send(&stage.world, "stranger-to-all", "/v1/fileEncrypt", whole).await;
    assert_eq!(answer.refused(), (401, 617));
}

#[tokio::test]
async fn a_file_may_be_as_large_as_is_allowed_and_comes_back_from_that_size() {
    let directory = tempfile::tempdir().unwrap();
    let largest = 300_000;
    let files = Files::new(largest as u64, 1, directory.path().into());
    let stage = Stage::with(Module::SoftHsm, files).await;
    stage.file_key("k", P521).await;
    let sealed = stage.encrypt("k", &content(largest)).await;
    assert_eq!(sealed.status, 200);
    assert!(stage.decrypt("k", &sealed.body).await.body == content(largest));
    let answer = stage.encrypt("k", &content(largest + 1)).await;
    assert_eq!(answer.refused(), (413, 612));
    assert!(answer.json()["message"].to_string().contains("more than 300000 bytes"));
    let longer = [&sealed.body[..], b"x"].concat();
    assert_eq!(stage.decrypt("k", &longer).await.refused(), (413, 612));
    // Far beyond it, whether the request says so or not.
    let far = form(&[asks_to_encrypt("k"), file(&content(5_000_000))]);
    assert_eq!(send(&stage.world, "app", "/v1/fileEncrypt", far.clone()).await.refused(), (413, 612));
    assert_eq!(send(&stage.world, "app", "/v1/fileEncrypt", pieces(&far)).await.refused(), (413, 612));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn without_a_place_to_wait_nothing_is_lost() {
    let files = Files::new(1 << 20, 1, "/nowhere".into());
    let stage = Stage::with(Module::SoftHsm, files).await;
    stage.file_key("k", P384).await;
    // What fits into memory never goes there.
    assert_eq!(stage.encrypt("k", b"file").await.status, 200);
    let answer = stage.encrypt("k", &content(900_000)).await;
    assert_eq!(answer.refused(), (500, 700));
    assert!(answer.json()["message"].to_string().contains("put aside on disk"), "{answer:?}");
    assert_eq!(stage.encrypt("k", b"file").await.status, 200);
}

#[tokio::test]
async fn a_token_that_cannot_decrypt_a_file_gets_none() {
    let world = World::new(&["p384"]).await;
    let entry = world.directory.by_name(NAMESPACE, "p384").unwrap();
    let mut key = (*entry.object).clone();
    key.status.as_mut().unwrap().attributes.as_mut().unwrap().derive = Some(true);
    world.directory.put(Arc::new(key));
    let sealed = b"HSMFILE\x01\x02\x01\x00\x00";
    for answer in
        [encrypt(&world, "app", "p384", b"file").await, decrypt(&world, "app", "p384", sealed).await]
    {
        assert_eq!(answer.refused(), (400, 611));
        assert!(answer.json()["message"].to_string().contains("CKM_ECDH1_DERIVE"), "{answer:?}");
    }
    // One that lists it and was seen not to hand out the secret.
    let stage = Stage::new(Module::SoftHsm).await;
    stage.file_key("k", P384).await;
    let quirk = TokenQuirk { name: "sharedSecrets".into(), odd: true, ..TokenQuirk::default() };
    let found = |value: &str| {
        let quirk = TokenQuirk { value: value.into(), ..quirk.clone() };
        Some(TokenStatus {
            probed: Some(Probed { quirks: vec![quirk], ..Probed::default() }),
            ..TokenStatus::default()
        })
    };
    for (value, status) in
        [("not to be had: CKR_MECHANISM_INVALID", 400), ("not probed: no answer in time", 200)]
    {
        stage.partition(|partition| partition.status.as_mut().unwrap().token = found(value));
        let answer = stage.encrypt("k", b"file").await;
        assert_eq!(answer.status, status, "{value}: {:?}", answer.body);
    }
}

/// The gateway on a socket.
async fn listen(world: &World) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, router) = (listener.local_addr().unwrap(), world.router.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_sends_and_takes_files_and_sees_an_error_for_what_it_is() {
    let stage = Stage::new(Module::SoftHsm).await;
    stage.file_key("k", P384).await;
    let address = listen(&stage.world).await;
    let folder = stage.token.path();
    let plain = content(20_000_000);
    std::fs::write(folder.join("plain"), &plain).unwrap();
    let curl = async |path: &str, text: &str, file: &str, out: &str| {
        let (text, file) = (text.to_owned(), format!("file=@{file}"));
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "-w", "%{http_code}", "-H", "Authorization: Bearer app"])
            .args(["-F", &text, "-F", &file, "-o", out])
            .arg(format!("http://{address}{path}"))
            .current_dir(folder);
        let output = tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // As the documentation of the contract has it.
    let encrypt = format!("{ENCRYPT}={{\"fileEncryptRequest\":{{\"encryptKeyName\":\"k\"}}}}");
    let decrypt = format!("{DECRYPT}={{\"fileDecryptRequest\":{{\"decryptKeyName\":\"k\"}}}}");
    assert_eq!(curl("/v1/fileEncrypt", &encrypt, "plain", "sealed").await, "200");
    assert_eq!(curl("/v1/synchronousFileDecrypt", &decrypt, "sealed", "opened").await, "200");
    assert!(std::fs::read(folder.join("opened")).unwrap() == plain);
    let mut sealed = std::fs::read(folder.join("sealed")).unwrap();
    *sealed.last_mut().unwrap() ^= 1;
    std::fs::write(folder.join("sealed"), &sealed).unwrap();
    assert_eq!(curl("/v1/synchronousFileDecrypt", &decrypt, "sealed", "refused").await, "400");
    let refused: Value = serde_json::from_slice(&std::fs::read(folder.join("refused")).unwrap()).unwrap();
    assert_eq!(refused["errorCode"], 410);
    // Refused before it is sent, of which most is on its way.
    let unknown = encrypt.replace("\"k\"", "\"unknown\"");
    assert_eq!(curl("/v1/fileEncrypt", &unknown, "plain", "refused").await, "404");
}

/// Most clients read nothing before they have sent everything. An answer that began earlier would fill all buffers, and
/// both sides would wait for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_only_after_it_has_sent_everything_gets_its_file() {
    let stage = Stage::new(Module::SoftHsm).await;
    stage.file_key("k", P384).await;
    let address = listen(&stage.world).await;
    let exchange = async |path: &str, body: Vec<u8>| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer app\r\nConnection: close\r\n\
             Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        (String::from_utf8(answer[..head].to_vec()).unwrap(), answer[head + 4..].to_vec())
    };
    let plain = content(40_000_000);
    let (head, sealed) = exchange("/v1/fileEncrypt", form(&[asks_to_encrypt("k"), file(&plain)])).await;
    assert!(head.starts_with("HTTP/1.1 200 OK") && sealed.len() > plain.len(), "{head}");
    let body = form(&[asks_to_decrypt("k"), file(&sealed)]);
    let (head, opened) = exchange("/v1/synchronousFileDecrypt", body).await;
    assert!(head.starts_with("HTTP/1.1 200 OK") && opened == plain, "{head}");
    // The same of a refusal.
    let body = form(&[asks_to_encrypt("unknown"), file(&plain)]);
    let (head, _) = exchange("/v1/fileEncrypt", body).await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[tokio::test]
async fn a_file_is_not_decrypted_without_the_password_of_its_key() {
    let world = World::new(&["p384-locked"]).await;
    let calls = world.fake.calls();
    for given in [Value::Null, json!("wrong")] {
        let request = json!({"fileDecryptRequest": {"decryptKeyName": "p384-locked", "keyPassword": given}});
        let body = form(&[text(DECRYPT, &request), file(b"not yet looked at")]);
        let answer = send(&world, "app", "/v1/synchronousFileDecrypt", body).await;
        assert_eq!(answer.refused(), (400, 620), "{}", answer.json());
    }
    let right = json!({"fileDecryptRequest": {"decryptKeyName": "p384-locked", "keyPassword": PASSWORD}});
    let body = form(&[text(DECRYPT, &right), file(b"looked at now")]);
    let answer = send(&world, "app", "/v1/synchronousFileDecrypt", body).await;
    assert_ne!(answer.refused().1, 620, "{}", answer.json());
    assert_eq!(world.fake.calls(), calls, "the token was asked");
}
