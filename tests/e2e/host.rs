//! The tokens from outside: OpenSC's pkcs11-tool on the host, as the user whose files they are.

use std::{
    io::ErrorKind,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use k8s_openapi::api::core::v1::Secret;

use crate::{
    tools,
    world::{OPERATOR, Token, World},
};

/// User and group of the operator's containers.
const USER: u32 = 65532;

/// How often pkcs11-tool tries what somebody else may be in the way of.
const LOOKS: usize = 20;

/// pkcs11-tool's words for the halves of a pair.
pub const PRIVATE: &str = "Private Key Object";
/// See [`PRIVATE`].
pub const PUBLIC: &str = "Public Key Object";

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

    /// The token that all tests share.
    fn shared(&self, token: Token) -> Place {
        let folder = match token {
            Token::SoftHsm => "softhsm",
            Token::Kryoptic => "kryoptic",
        };
        Place { token, volume: self.volume.clone(), folder: folder.into() }
    }

    /// Room for a token of its own, with nothing in it yet.
    pub fn place(&self, token: Token, name: &str) -> Place {
        let place = Place { token, volume: self.volume.clone(), folder: name.into() };
        for folder in [place.path(""), place.path("tokens")] {
            std::fs::create_dir(&folder).unwrap();
            chown(&folder, Some(USER), Some(USER)).unwrap();
        }
        place.write_conf("pod.conf", "/hsm");
        place
    }

    /// Runs pkcs11-tool on a token, logged in. See [`Self::objects`] for what is on it.
    pub async fn pkcs11(&self, token: Token, args: &[&str]) -> String {
        self.shared(token).pkcs11(token.partition(), &self.pin().await, args)
    }

    /// Deletes both halves of a key. kryoptic says that it did also where it could not, because another process was
    /// writing.
    pub async fn delete_pair(&self, token: Token, id: &str) {
        for (kind, class) in [("privkey", PRIVATE), ("pubkey", PUBLIC)] {
            let there = async || {
                self.objects(token).await.iter().any(|object| object.id == id && object.class == class)
            };
            let mut tries = 0;
            while there().await {
                tries += 1;
                assert!(tries < LOOKS, "{token:?}: {id} does not go");
                self.pkcs11(token, &["--delete-object", "--type", kind, "--id", id]).await;
            }
        }
    }

    /// Everything on a token.
    pub async fn objects(&self, token: Token) -> Vec<Object> {
        self.shared(token).objects(token.partition(), &self.pin().await)
    }

    /// Classes of the objects of a label, sorted.
    pub async fn classes(&self, token: Token, label: &str) -> Vec<String> {
        let named = self.objects(token).await.into_iter().filter(|object| object.label == label);
        let mut classes: Vec<_> = named.map(|object| object.class).collect();
        classes.sort();
        classes
    }
}

/// What pkcs11-tool says. SoftHSM rewrites a token's file whenever somebody logs in: who starts in that moment sees no token,
/// and looks again.
fn patiently(args: &[&str], run: impl Fn() -> Output) -> String {
    let mut output = run();
    for _ in 1..LOOKS {
        if !String::from_utf8_lossy(&output.stderr).contains("No slot with token named") {
            break;
        }
        output = run();
    }
    said(&output, args)
}

fn said(output: &Output, args: &[&str]) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "pkcs11-tool {args:?} failed: {out}{err}");
    out.into_owned()
}

/// The objects of a listing.
fn parse(listing: &str) -> Vec<Object> {
    let mut all: Vec<Object> = Vec::new();
    for line in listing.lines() {
        let value = |name: &str| line.trim().strip_prefix(name).map(|rest| rest.trim().to_owned());
        // What is deleted while it is listed appears as a data object of no label, and in other letters.
        let class =
            line.split_once("Object; ").or_else(|| line.split_once("Object:")).map(|(class, _)| class);
        if let Some(class) = class.or_else(|| line.starts_with("Data object").then_some("Data ")) {
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

/// Where a token lives in the volume that pods see as `/hsm`.
#[derive(Clone)]
pub struct Place {
    /// What kind of token.
    pub token: Token,
    volume: PathBuf,
    folder: String,
}

impl Place {
    /// A file of it on the host.
    pub fn path(&self, file: &str) -> PathBuf {
        self.volume.join(&self.folder).join(file)
    }

    /// The library, as pods see it.
    pub const fn library(&self) -> &'static str {
        match self.token {
            Token::SoftHsm => "/hsm/lib/libsofthsm2.so",
            Token::Kryoptic => "/hsm/lib/libkryoptic.so",
        }
    }

    const fn variable(&self) -> &'static str {
        match self.token {
            Token::SoftHsm => "SOFTHSM2_CONF",
            Token::Kryoptic => "KRYOPTIC_CONF",
        }
    }

    /// Spec of a partition on the token of a label here, with the PIN in a Secret.
    pub fn partition(&self, label: &str, secret: &str) -> serde_json::Value {
        serde_json::json!({
            "pkcs11": {
                "library": self.library(), "tokenLabel": label, "pinSecretRef": {"name": secret},
                "environment": self.environment()
            },
            "allowedNamespaces": {}, "sessions": 1,
        })
    }

    fn write_conf(&self, name: &str, root: &str) -> PathBuf {
        let text = match self.token {
            Token::SoftHsm => format!(
                "directories.tokendir = {root}/{}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n",
                self.folder
            ),
            Token::Kryoptic => format!(
                "[[slots]]\nslot = 43\ndbtype = \"sqlite\"\ndbargs = \"{root}/{}/token.sql\"\n",
                self.folder
            ),
        };
        // Renamed into place: somebody may be reading it.
        let (conf, new) = (self.path(name), self.path(&format!(".{}", rand::random::<u64>())));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &conf).unwrap();
        conf
    }

    fn tool(&self, args: &[&str]) -> Command {
        let conf = self.write_conf("host.conf", self.volume.to_str().unwrap());
        let mut tool = Command::new("pkcs11-tool");
        tool.arg("--module")
            .arg(self.volume.join(self.library().trim_start_matches("/hsm/")))
            .args(args)
            .env(self.variable(), conf)
            .current_dir("/")
            .stdin(Stdio::null())
            .uid(USER)
            .gid(USER);
        tool
    }

    /// Makes a token here.
    pub fn initialise(&self, label: &str, pin: &str) {
        let run = |args: &[&str]| {
            let mut tool = self.tool(args);
            tool.args(["--so-pin", "env:TEST_SO_PIN"]).env("TEST_SO_PIN", "56785678").env("TEST_PIN", pin);
            said(&tool.output().unwrap(), args)
        };
        run(&["--slot-index", "0", "--init-token", "--label", label]);
        let officer = ["--token-label", label, "--login", "--login-type", "so"];
        run(&[&officer[..], &["--init-pin", "--new-pin", "env:TEST_PIN"]].concat());
    }

    fn files(&self) -> &'static str {
        match self.token {
            Token::SoftHsm => "tokens",
            Token::Kryoptic => "token.sql",
        }
    }

    /// Puts a copy of the token here in another place.
    pub fn copy_to(&self, other: &Self) {
        let (from, to) = (self.path(self.files()), other.path(""));
        tools::output("cp", &["-a", from.to_str().unwrap(), to.to_str().unwrap()], b"");
    }

    /// The token here is gone, for whoever opens it from now on.
    pub fn take_away(&self) {
        std::fs::rename(self.path(self.files()), self.path("away")).unwrap();
        if self.token == Token::SoftHsm {
            std::fs::create_dir(self.path("tokens")).unwrap();
            chown(self.path("tokens"), Some(USER), Some(USER)).unwrap();
        }
    }

    /// It is back.
    pub fn bring_back(&self) {
        if self.token == Token::SoftHsm {
            std::fs::remove_dir(self.path("tokens")).unwrap();
        }
        // Over what kryoptic makes where there is nothing.
        std::fs::rename(self.path("away"), self.path(self.files())).unwrap();
    }

    /// The variables that name it.
    pub fn environment(&self) -> serde_json::Value {
        serde_json::json!([{"name": self.variable(), "value": format!("/hsm/{}/pod.conf", self.folder)}])
    }

    /// Runs pkcs11-tool on the token of a label here, logged in. See [`Self::listing`] for what is on it.
    pub fn pkcs11(&self, label: &str, pin: &str, args: &[&str]) -> String {
        patiently(args, || self.logged_in(label, pin, args))
    }

    /// Everything on the token of a label here.
    pub fn objects(&self, label: &str, pin: &str) -> Vec<Object> {
        parse(&self.listing(label, pin))
    }

    /// The same in pkcs11-tool's words.
    ///
    /// Of SoftHSM a copy is listed. pkcs11-tool asks every object for its attributes, one that an operator's process has only
    /// begun to make, too, and SoftHSM 2.6 writes what such an object lacks into the file that is being written: the key
    /// would be spoilt by who looks at another one.
    pub fn listing(&self, label: &str, pin: &str) -> String {
        const LIST: [&str; 1] = ["--list-objects"];
        match self.token {
            Token::SoftHsm => patiently(&LIST, || {
                let folder = tempfile::tempdir_in(&self.volume).unwrap();
                chown(folder.path(), Some(USER), Some(USER)).unwrap();
                let name = folder.path().file_name().unwrap().to_str().unwrap();
                let still = Self { folder: name.into(), ..self.clone() };
                copy(&self.path(self.files()), &still.path(self.files()));
                still.logged_in(label, pin, &LIST)
            }),
            Token::Kryoptic => self.pkcs11(label, pin, &LIST),
        }
    }

    fn logged_in(&self, label: &str, pin: &str, args: &[&str]) -> Output {
        let mut tool = self.tool(args);
        tool.args(["--token-label", label, "--login", "--pin", "env:TEST_PIN"]).env("TEST_PIN", pin);
        tool.output().unwrap()
    }
}

/// Makes a copy of a folder that pkcs11-tool can open. What vanishes meanwhile is not in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    chown(to, Some(USER), Some(USER)).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&from, &to);
            continue;
        }
        match std::fs::copy(from, &to) {
            Ok(_) => chown(&to, Some(USER), Some(USER)).unwrap(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
    }
}
