//! The tokens from outside: OpenSC's pkcs11-tool on the host, as the user whose files they are.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Output, Stdio},
};

use k8s_openapi::api::core::v1::Secret;

use crate::world::{OPERATOR, Token, World};

/// User and group of the operator's containers.
const USER: u32 = 65532;

/// An object on a token, as pkcs11-tool lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// `Private Key Object`, `Public Key Object`, `Secret Key Object`, `Certificate Object`, …
    pub class: String,
    /// CKA_LABEL.
    pub label: String,
    /// CKA_ID in hexadecimal.
    pub id: String,
}

impl World {
    /// The PIN of both tokens.
    pub async fn pin(&self) -> String {
        let secret = self.api::<Secret>(OPERATOR).get("hsm-demo-pin").await.unwrap();
        String::from_utf8(secret.data.unwrap()["pin"].0.clone()).unwrap()
    }

    fn tool(&self, token: Token, args: &[&str]) -> Command {
        let conf = self.volume.join(format!("host-{}.conf", token.partition()));
        let (library, variable, text) = match token {
            Token::SoftHsm => (
                "lib/libsofthsm2.so",
                "SOFTHSM2_CONF",
                format!(
                    "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                    self.volume.join("softhsm/tokens").display()
                ),
            ),
            Token::Kryoptic => (
                "lib/libkryoptic.so",
                "KRYOPTIC_CONF",
                format!(
                    "[[slots]]\nslot = 43\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n",
                    self.volume.join("kryoptic/token.sql").display()
                ),
            ),
        };
        // Renamed into place: another test may be reading it.
        let new = conf.with_extension(format!("{}.new", rand::random::<u64>()));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &conf).unwrap();
        let mut tool = Command::new("pkcs11-tool");
        tool.arg("--module")
            .arg(self.volume.join(library))
            .args(["--token-label", token.partition()])
            .args(args)
            .env(variable, conf)
            .current_dir("/")
            .stdin(Stdio::null())
            .uid(USER)
            .gid(USER);
        tool
    }

    /// Runs pkcs11-tool on a token without logging in.
    pub fn pkcs11_public(&self, token: Token, args: &[&str]) -> String {
        said(&self.tool(token, args).output().unwrap(), args)
    }

    /// Runs pkcs11-tool on a token, logged in.
    pub async fn pkcs11(&self, token: Token, args: &[&str]) -> String {
        let pin = self.pin().await;
        let mut tool = self.tool(token, args);
        tool.args(["--login", "--pin", "env:TEST_PIN"]).env("TEST_PIN", pin);
        said(&tool.output().unwrap(), args)
    }

    /// Everything on a token.
    pub async fn objects(&self, token: Token) -> Vec<Object> {
        let listing = self.pkcs11(token, &["--list-objects"]).await;
        let mut all: Vec<Object> = Vec::new();
        for line in listing.lines() {
            let value = |name: &str| line.trim().strip_prefix(name).map(|rest| rest.trim().to_owned());
            if let Some((class, _)) = line.split_once("Object; ").or_else(|| line.split_once("Object:")) {
                let class = format!("{class}Object");
                all.push(Object { class, label: String::new(), id: String::new() });
            } else if let (Some(label), Some(last)) = (value("label:"), all.last_mut()) {
                last.label = label;
            } else if let (Some(id), Some(last)) = (value("ID:"), all.last_mut()) {
                last.id = id;
            }
        }
        all
    }

    /// Classes of the objects of a label, sorted.
    pub async fn classes(&self, token: Token, label: &str) -> Vec<String> {
        let named = self.objects(token).await.into_iter().filter(|object| object.label == label);
        let mut classes: Vec<_> = named.map(|object| object.class).collect();
        classes.sort();
        classes
    }
}

fn said(output: &Output, args: &[&str]) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "pkcs11-tool {args:?} failed: {out}{err}");
    out.into_owned()
}
