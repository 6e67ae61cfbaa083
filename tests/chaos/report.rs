//! One line for each fault.

use std::time::Duration;

use crate::{
    stage::{Played, Scene},
    table::{Callers, Fault},
};

/// What the columns are.
pub fn head() {
    println!(
        "{:<10} {:<33} {:>6} {:>8} {:>5} {:>4} {:>7} {:>6} {:>8} {:>8} {:>7} {:>8}",
        "token",
        "fault",
        "sent",
        "answered",
        "wrong",
        "lost",
        "doubled",
        "failed",
        "stall",
        "recovery",
        "objects",
        "settled"
    );
}

/// A line; whether all is as expected.
pub fn line(scene: Scene, fault: &Fault, played: &Played) -> bool {
    let Played { calls, objects, recovery, settled, wrong } = played;
    let recovery = recovery.map_or_else(|| "never".into(), millis);
    let errors = match scene.callers(fault) {
        Callers::NoticeNothing => "",
        Callers::GetErrorsMeanwhile => " (errors while it lasts)",
    };
    let verdict = if wrong.is_empty() { "as expected".into() } else { format!("NOT: {}", wrong.join("; ")) };
    println!(
        "{scene:<10} {:<33} {:>6} {:>8} {:>5} {:>4} {:>7} {:>6} {:>8} {recovery:>8} {:>7} {:>8}  {verdict}{errors}",
        fault.name,
        calls.sent,
        calls.answered,
        calls.wrong + objects.wrong,
        calls.lost + objects.lost,
        objects.doubled,
        calls.failed + objects.failed,
        millis(calls.stall),
        format!("{}/{}", objects.done, objects.made),
        millis(*settled),
    );
    wrong.is_empty()
}

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
