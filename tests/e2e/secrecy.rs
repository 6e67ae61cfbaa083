//! What holds a PIN keeps it to itself.

use std::{
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};

use crate::{
    processes, tools,
    world::{OPERATOR, World},
};

/// Files of a process under `/proc` that say something of it, with those of its threads left out. The rest is its
/// memory itself, or endless.
const FILES: [&str; 9] =
    ["cmdline", "environ", "status", "stat", "maps", "mountinfo", "limits", "comm", "auxv"];

/// Those of them that belong to the system while nobody may trace the process.
const KEPT: [&str; 2] = ["mem", "environ"];

/// The user that a process is.
fn user(status: &str) -> u32 {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a process has a user");
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Whether another process of a user may read a file.
fn opens(file: &Path, user: u32) -> bool {
    assert_ne!(user, 0, "nobody keeps anything from root");
    // At its beginning, memory cannot be read; that it was opened shows all the same.
    let script = "exec 3<\"$1\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(file).uid(user).gid(user);
    shell.status().expect("a shell starts").success()
}

async fn of_component(world: &World, component: &str, subcommand: &str) -> Vec<PathBuf> {
    let of = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
    let pods = world.api::<Pod>(OPERATOR).list(&of).await.unwrap();
    let all = pods.iter().flat_map(|pod| processes::all_of_pod(&pod.name_any(), OPERATOR, subcommand));
    all.map(|id| Path::new("/proc").join(id.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_a_pin_is_hardened_and_shows_it_nowhere() {
    // Nobody kills any of them meanwhile.
    let world = World::alone().await;
    let pin = world.pin().await;
    let shows = |content: &[u8]| content.windows(pin.len()).any(|window| window == pin.as_bytes());
    let mut seen = 0;
    for (component, subcommand) in [
        ("controller", "controller"),
        ("gateway", "gateway"),
        ("controller", "token-host"),
        ("gateway", "token-host"),
    ] {
        for process in of_component(&world, component, subcommand).await {
            seen += 1;
            let read = |file: &str| std::fs::read(process.join(file)).expect("root reads all of it");
            let text = |file: &str| String::from_utf8(read(file)).unwrap();
            let who = format!("{subcommand} of {component}");
            let core = text("limits")
                .lines()
                .find(|line| line.starts_with("Max core file size"))
                .map(|line| line.split_whitespace().skip(4).take(2).map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(core.as_deref(), Some(["0".to_owned(), "0".to_owned()].as_slice()), "{who}");
            assert!(text("status").contains("NoNewPrivs:\t1"), "{who}");
            for file in KEPT {
                let file = process.join(file);
                assert_eq!(std::fs::metadata(&file).unwrap().uid(), 0, "{} of {who}", file.display());
                assert!(!opens(&file, user(&text("status"))), "{} of {who} can be read", file.display());
            }
            for file in FILES {
                assert!(!shows(&read(file)), "{file} of {who} shows the PIN");
            }
        }
        assert!(!shows(world.logs(component).as_bytes()), "the log of {component} shows the PIN");
    }
    for objects in ["events", "events.events.k8s.io", "hsmpartitions", "hsmkeys", "signingrequests"] {
        let all = tools::kubectl(&["get", objects, "-A", "-o", "json", "--show-managed-fields"]);
        assert!(!shows(all.as_bytes()), "{objects} show the PIN");
    }
    // Two of each, and the token-hosts of two partitions in the leader and in both gateways.
    assert!(seen >= 4 + 6, "only {seen} processes");
}
