//! Files through the installed gateways.

use serde_json::json;

use crate::{
    caller::{ALL_VERBS, GATEWAYS, caller},
    world::{Token, World},
};

const KIND: &str = "multipart/form-data; boundary=x";

fn form(name: &str, text: &str, file: &[u8]) -> Vec<u8> {
    let head = format!(
        "--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n\
         --x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n"
    );
    [head.as_bytes(), file, b"\r\n--x--\r\n"].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_one_gateway_encrypts_another_decrypts() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for on in Token::BOTH {
        let namespace = world.namespace("files").await;
        let app = caller(&namespace, "app", ALL_VERBS);
        let label = format!("{namespace}-files");
        let spec = json!({ "algorithm": "EC", "curveOid": "1.3.132.0.34", "label": label, "attributes": { "derive": true, "destroyable": true } });
        world.make_key(&namespace, "files", on, spec).await;
        world.ready(&namespace, "files").await;
        let plain: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        let text = json!({ "fileEncryptRequest": { "encryptKeyName": label } }).to_string();
        let body = form("SignedFileEncryptRequestDto", &text, &plain);
        let sealed = app.send("/v1/fileEncrypt", KIND, body).await;
        assert_eq!(sealed.status, 200, "{:?}", sealed.body);
        let text = json!({ "fileDecryptRequest": { "decryptKeyName": label } }).to_string();
        let decrypt = async |file: &[u8]| {
            app.send("/v1/synchronousFileDecrypt", KIND, form("SignedFileDecryptRequestDto", &text, file))
                .await
        };
        let opened = decrypt(&sealed.body).await;
        assert!(opened.status == 200 && opened.body == plain, "{}", opened.status);
        decrypt(&sealed.body[..sealed.body.len() - 1]).await.is_error(400, 410, "decrypt.failed");
        decrypt(&plain).await.is_error(400, 623, "invalid.file.header");
    }
}
