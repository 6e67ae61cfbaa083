//! Real tokens for tests: a fresh one each, on SoftHSM 2 or kryoptic.
#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use hsm_operator::{
    hsm::{
        Supervisor, SupervisorConfig,
        protocol::{Open, TokenSelector},
    },
    model::{secret::Pin, vendor::VendorNumbers},
};
use tempfile::TempDir;

const SO_PIN: &str = "56785678";

/// A PKCS#11 module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    SoftHsm,
    Kryoptic,
}

impl Module {
    /// Path of the library. One that is missing fails the test: both are part of every run.
    pub fn library(self) -> PathBuf {
        let (variable, found, advice) = match self {
            Self::SoftHsm => {
                let usual = Some(PathBuf::from("/usr/lib/softhsm/libsofthsm2.so"));
                ("HSM_TEST_SOFTHSM", usual, "install the package softhsm2")
            }
            Self::Kryoptic => ("HSM_TEST_KRYOPTIC", cached_kryoptic(), "run e2e/kryoptic/build.sh"),
        };
        let path = std::env::var_os(variable).map(PathBuf::from).or(found);
        path.filter(|path| path.exists())
            .unwrap_or_else(|| panic!("no library for {self:?}: {advice}, or set {variable} to its path"))
    }
}

fn cached_kryoptic() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let builds = std::fs::read_dir(cache.join("hsm-operator/kryoptic")).ok()?;
    let libraries = builds.filter_map(|build| Some(build.ok()?.path().join("libkryoptic.so")));
    let age = |path: &PathBuf| path.metadata().and_then(|metadata| metadata.modified()).ok();
    libraries.filter(|path| path.exists()).max_by_key(age)
}

/// An initialised token in a directory of its own, gone with this value.
pub struct Token {
    pub module: Module,
    pub label: String,
    pub pin: String,
    pub library: PathBuf,
    pub environment: Vec<(String, String)>,
    /// Numbers of its vendor's own.
    pub vendor: VendorNumbers,
    directory: TempDir,
}

impl Token {
    pub fn new(module: Module) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let label = format!("test-{}", uuid::Uuid::new_v4().simple().to_string().split_at(8).0);
        let pin = format!("pin{}", uuid::Uuid::new_v4().as_u128() % 10_000_000_000);
        if module == Module::SoftHsm {
            std::fs::create_dir(directory.path().join("tokens")).expect("a directory for tokens");
        }
        let environment = configured(module, directory.path());
        let (library, vendor) = (module.library(), VendorNumbers::default());
        let token = Self { module, label, pin, library, environment, vendor, directory };
        token.initialise();
        token
    }

    /// Another token with the same label, PIN and keys. Nobody may be using this one meanwhile.
    pub fn copy(&self) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = match self.module {
            Module::SoftHsm => "tokens",
            Module::Kryoptic => "token.sql",
        };
        run(Command::new("cp").arg("-r").arg(self.path().join(file)).arg(directory.path()));
        Self {
            module: self.module,
            label: self.label.clone(),
            pin: self.pin.clone(),
            library: self.library.clone(),
            environment: configured(self.module, directory.path()),
            vendor: self.vendor,
            directory,
        }
    }

    fn initialise(&self) {
        match self.module {
            Module::SoftHsm => self.run(
                Command::new("softhsm2-util")
                    .args(["--init-token", "--free", "--label", &self.label])
                    .args(["--so-pin", SO_PIN, "--pin", &self.pin]),
            ),
            Module::Kryoptic => {
                self.run(self.tool().args(["--slot", "43", "--init-token", "--label", &self.label]));
                self.run(
                    self.tool()
                        .args(["--slot", "43", "--login", "--login-type", "so", "--init-pin"])
                        .args(["--pin", "env:TOKEN_PIN"]),
                )
            }
        };
    }

    /// `pkcs11-tool` with this token's library and the officer's PIN.
    pub fn tool(&self) -> Command {
        let mut tool = Command::new("pkcs11-tool");
        tool.arg("--module").arg(&self.library).args(["--so-pin", "env:TOKEN_SO_PIN"]);
        tool.env("TOKEN_SO_PIN", SO_PIN).env("TOKEN_PIN", &self.pin);
        tool
    }

    fn run(&self, command: &mut Command) -> Output {
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        run(command)
    }

    /// A place for files.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// How to open the token, with as many workers as suit the module.
    pub fn open(&self) -> Open {
        Open {
            library: self.library.display().to_string(),
            token: TokenSelector::Label(self.label.clone()),
            pin: Pin::new(&self.pin),
            init_args: None,
            vendor: Box::new(self.vendor),
            workers: if self.module == Module::Kryoptic { 1 } else { 4 },
        }
    }

    /// A supervisor's configuration for the token.
    pub fn config(&self) -> SupervisorConfig {
        SupervisorConfig {
            exe: env!("CARGO_BIN_EXE_hsm-operator").into(),
            environment: self.environment.clone(),
            ..SupervisorConfig::new(self.open())
        }
    }

    /// A token-host that is open and ready.
    pub async fn supervisor(&self) -> Arc<Supervisor> {
        let supervisor = Supervisor::start(self.config());
        supervisor.ready().await.expect("the token opens");
        supervisor
    }
}

/// Writes a module's configuration for the token in a directory; the environment that names it.
fn configured(module: Module, directory: &Path) -> Vec<(String, String)> {
    let at = |name: &str| directory.join(name);
    let (variable, file, config) = match module {
        Module::SoftHsm => {
            let config = format!("directories.tokendir = {}\nlog.level = ERROR\n", at("tokens").display());
            ("SOFTHSM2_CONF", at("softhsm2.conf"), config)
        }
        Module::Kryoptic => {
            let config = format!(
                "[[slots]]\nslot = 43\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n",
                at("token.sql").display()
            );
            ("KRYOPTIC_CONF", at("token.conf"), config)
        }
    };
    std::fs::write(&file, config).expect("a configuration");
    vec![(variable.to_owned(), file.display().to_string())]
}

/// Runs a command that has to succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Sends a signal by name.
pub fn signal(name: &str, pid: u32) {
    run(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]));
}
