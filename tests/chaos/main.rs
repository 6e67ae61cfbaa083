//! What callers and objects notice of modules that go wrong: sixteen callers of the gateways and a stream of HsmKeys and
//! SigningRequests, while faults are played on a real cluster. One line for each fault; not successful unless every
//! line is as expected. `e2e/chaos.sh` starts it: `all`, `short` or `soak`. `FAULTS` chooses by parts of names, and so does
//! `TOKEN`.

#[path = "../e2e/caller.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest of it")]
mod caller;
#[path = "../common/mod.rs"]
mod common;
#[path = "../e2e/host.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest of it")]
mod host;
#[path = "../e2e/http.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest of it")]
mod http;
mod load;
mod objects;
mod processes;
mod report;
mod soak;
mod stage;
mod table;
#[path = "../e2e/tools.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest of it")]
mod tools;
#[path = "../e2e/world.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest of it")]
mod world;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use stage::{Scene, Stage};
use table::{FAULTS, Fault};
use tokio::sync::Mutex;
use world::World;

#[tokio::main]
async fn main() -> ExitCode {
    let what = std::env::args().nth(1).unwrap_or_else(|| "all".into());
    let begun = Instant::now();
    let [passed, failed] = match what.as_str() {
        "all" | "short" => faults(what == "short").await,
        "soak" => soak().await,
        other => panic!("not {other}: all, short or soak"),
    };
    // As test programs say it, for whoever counts.
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let seconds = begun.elapsed().as_secs_f32();
    println!("test result: {verdict}. {passed} passed; {failed} failed; finished in {seconds:.2}s");
    if passed > 0 && failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// As long as the environment says, with troubles that its seed repeats.
async fn soak() -> [usize; 2] {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(60 * number("MINUTES").unwrap_or(60));
    let world = World::new().await;
    let mut stages = Vec::new();
    for scene in scenes().filter(|scene| !scene.replica) {
        stages.push(Stage::new(&world, scene).await);
    }
    soak::run(&stages, time, number("SEED").unwrap_or_else(|| rand::random::<u32>().into())).await
}

/// Those that the environment chooses.
fn scenes() -> impl Iterator<Item = Scene> {
    let chosen = std::env::var("TOKEN").unwrap_or_default();
    Scene::ALL.into_iter().filter(move |scene| scene.to_string().contains(&chosen))
}

fn chosen(short: bool) -> Vec<&'static Fault> {
    let words = std::env::var("FAULTS").unwrap_or_default();
    let words: Vec<_> = words.split(',').filter(|word| !word.is_empty()).collect();
    let is = |fault: &&Fault| {
        (words.is_empty() || words.iter().any(|word| fault.name.contains(word))) && (fault.short || !short)
    };
    FAULTS.iter().filter(is).collect()
}

/// Plays faults on all scenes side by side: one is struck while objects of the others settle. How many lines were as
/// expected, and how many were not.
async fn faults(short: bool) -> [usize; 2] {
    let world = World::new().await;
    let light = Mutex::new(());
    let chosen = chosen(short);
    report::head();
    let each = scenes().map(async |scene| {
        let stage = Stage::new(&world, scene).await;
        let mut count = [0, 0];
        for (number, fault) in chosen.iter().enumerate().filter(|(_, fault)| scene.shows(fault)) {
            let played = stage.play(fault, number, &light).await;
            count[usize::from(!report::line(scene, fault, &played))] += 1;
        }
        stage.end();
        count
    });
    let counts = futures::future::join_all(each).await;
    [0, 1].map(|which| counts.iter().map(|count| count[which]).sum())
}
