//! A long time with everything that can go wrong, at 80 % of what the gateways can do. A line for each minute.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio_util::sync::CancellationToken;

use crate::{
    load::{CALLERS, Load, Manner, Sum},
    objects::{Batch, Ended},
    processes::{self, Weights},
    stage::{RECOVERY, SETTLED, Stage},
    table::{Callers, FAULTS},
};

/// How long the load is measured that is all.
const SATURATION: Duration = Duration::from_secs(8);
/// Of which this share is put on.
const SHARE: f64 = 0.8;
/// Between two troubles, in seconds.
const PAUSE: std::ops::Range<f64> = 3.0..12.0;
/// From one object to the next.
const STEP: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const WEIGH: Duration = Duration::from_secs(5);
/// What a process may grow by after the first tenth.
const GROWTH: f64 = 1.10;
/// A tenth of an hour. Before that a process has not come to all that it keeps, however short the soak is.
const WARM: Duration = Duration::from_secs(360);

/// What is weighed. Token-hosts need not live long enough.
const WEIGHED: [&str; 3] = ["gateway", "controller", HOST];
const HOST: &str = "token-host";
/// The fault that takes memory and keeps it.
const LEAK: &str = "leak";

/// What goes wrong beside modules.
const KILLS: [&str; 5] = [HOST, "gateway", "controller", "kube-apiserver", "etcd"];

/// What is written down meanwhile.
#[derive(Default)]
struct Diary {
    troubles: Vec<String>,
    /// What is not as it should be.
    wrong: Vec<String>,
    recovery: Duration,
}

/// Runs for so long; how much was as expected and how much was not.
pub async fn run(stages: &[Stage], time: Duration, seed: u64) -> [usize; 2] {
    println!("soak of {} s, SEED={seed}", time.as_secs());
    let full = futures::future::join_all(stages.iter().map(|stage| async {
        let load = Load::start(&stage.target, Manner::default(), 0).await;
        load.well(RECOVERY).await;
        let before = load.sum().answered;
        tokio::time::sleep(SATURATION).await;
        let answered = load.sum().answered - before;
        load.stop().await;
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let rate = answered as f64 / SATURATION.as_secs_f64();
        rate
    }))
    .await;
    let loads = futures::future::join_all(stages.iter().zip(&full).map(|(stage, rate)| {
        println!("{}: {rate:.0} signatures a second at most, {:.0} from now on", stage.name, rate * SHARE);
        #[expect(clippy::cast_precision_loss, reason = "sixteen")]
        let pace = Duration::from_secs_f64(CALLERS as f64 / (rate * SHARE));
        Load::start(&stage.target, Manner { elsewhere: true, pace }, 1 << 32)
    }))
    .await;
    let (diary, weights) = (Mutex::new(Diary::default()), Mutex::new(Weights::default()));
    let stop = CancellationToken::new();
    let end = Instant::now() + time;
    let troubles = async {
        trouble(stages, &loads, &mut StdRng::seed_from_u64(seed), end, &diary, &weights).await;
        stop.cancel();
    };
    let warm = WARM.max(time / 10);
    let weigh = async {
        while !stop.is_cancelled() {
            weights.lock().expect("no panic while it is held").weigh(warm);
            tokio::time::sleep(WEIGH).await;
        }
    };
    head();
    let lines = minutes(stages, &loads, &stop, &diary, &weights);
    let (_, (), mut objects) = tokio::join!(troubles, weigh, lines);
    let calls: Vec<_> = futures::future::join_all(loads.into_iter().map(Load::stop)).await;
    let diary = diary.into_inner().expect("no panic while it was held");
    let weights = weights.into_inner().expect("no panic while it was held");
    line("all", &calls, &objects, diary.recovery, "");
    let mut wrong = diary.wrong;
    wrong.append(&mut objects.why);
    for calls in calls {
        for (count, what) in [(calls.wrong, "wrong"), (calls.lost, "lost"), (calls.unexcused, "failed")] {
            if count > 0 {
                wrong.push(format!("{count} {what}: {}", calls.said));
            }
        }
    }
    for component in WEIGHED {
        match weights.growth(component) {
            Some((growth, what)) => {
                println!("memory of a {component} at most: {growth:.2} ({what})");
                if growth > GROWTH {
                    wrong.push(format!("a {component} grew: {what}"));
                }
            }
            None if component == HOST || warm > time / 10 => {
                println!("no {component} lived long enough to be weighed");
            }
            None => wrong.push(format!("no {component} lived long enough to be weighed")),
        }
    }
    for wrong in &wrong {
        println!("NOT: {wrong}");
    }
    [usize::from(wrong.is_empty()), wrong.len()]
}

/// One trouble after the other until the end; each is over before the next begins.
async fn trouble(
    stages: &[Stage],
    loads: &[Load],
    random: &mut StdRng,
    end: Instant,
    diary: &Mutex<Diary>,
    weights: &Mutex<Weights>,
) {
    loop {
        let pause = Duration::from_secs_f64(random.random_range(PAUSE));
        tokio::time::sleep(pause).await;
        // What is to recover until the end has to have begun before.
        if Instant::now() + RECOVERY > end {
            return;
        }
        let at = random.random_range(0..stages.len());
        let (name, excused, came) = if random.random_bool(0.5) {
            let fault = FAULTS.choose(random).expect("there are faults");
            let excused = fault.callers == Callers::GetErrorsMeanwhile;
            if excused {
                loads[at].excuse(true);
            }
            let came = stages[at].strike(fault).await;
            if fault.name == LEAK {
                weights.lock().expect("no panic while it is held").excuse(HOST);
            }
            (fault.name, excused, came)
        } else {
            let name = *KILLS.choose(random).expect("there are kills");
            let victim = random.random::<u32>();
            let killed = tokio::task::spawn_blocking(move || kill(name, victim));
            killed.await.expect("it was killed, and another one came");
            (name, false, true)
        };
        let recovered = futures::future::join_all(loads.iter().map(|load| load.well(RECOVERY * 4))).await;
        if excused {
            loads[at].excuse(false);
        }
        let mut diary = diary.lock().expect("no panic while it is held");
        diary.troubles.push(if came { name.into() } else { format!("({name} never came)") });
        for recovery in recovered {
            let took = recovery.unwrap_or(RECOVERY * 4);
            diary.recovery = diary.recovery.max(took);
            if took > RECOVERY {
                diary.wrong.push(format!("{name}: well again after {} ms", took.as_millis()));
            }
        }
    }
}

fn kill(name: &'static str, victim: u32) {
    if ["kube-apiserver", "etcd"].contains(&name) {
        return processes::restart(name);
    }
    let all: Vec<_> = processes::all().into_iter().filter(|process| process.component == name).collect();
    if let Some(process) = all.get(victim as usize % all.len().max(1)) {
        process.kill();
    }
}

/// Makes objects, and tells of each minute, and of the objects of the one before.
async fn minutes(
    stages: &[Stage],
    loads: &[Load],
    stop: &CancellationToken,
    diary: &Mutex<Diary>,
    weights: &Mutex<Weights>,
) -> Ended {
    let (mut all, mut before) = (Ended::default(), Vec::<Batch>::new());
    for minute in 1.. {
        let over = stop.child_token();
        let prefix = format!("m{minute}");
        let streams = stages.iter().map(|stage| stage.objects.stream(&prefix, STEP, &over));
        let wait = async {
            tokio::time::timeout(MINUTE, stop.cancelled()).await.ok();
            over.cancel();
        };
        let (batches, ()) = tokio::join!(futures::future::join_all(streams), wait);
        all.add(judge(stages, &before, Duration::ZERO).await);
        before = batches;
        let calls: Vec<_> = loads.iter().map(Load::sum).collect();
        let (troubles, recovery) = {
            let mut diary = diary.lock().expect("no panic while it is held");
            (std::mem::take(&mut diary.troubles).join(", "), diary.recovery)
        };
        let memory = WEIGHED.map(|component| {
            let growth = weights.lock().expect("no panic while it is held").growth(component);
            growth.map_or_else(|| "-".into(), |(growth, _)| format!("{growth:.2}"))
        });
        line(&minute.to_string(), &calls, &all, recovery, &format!("memory {} {troubles}", memory.join(" ")));
        if stop.is_cancelled() {
            break;
        }
    }
    all.add(judge(stages, &before, SETTLED).await);
    for stage in stages {
        all.why.extend(stage.left(SETTLED).await);
    }
    all
}

/// What became of objects; and they are removed, so that there are as many at the end as at the beginning: what memory
/// grows by is not theirs.
async fn judge(stages: &[Stage], batches: &[Batch], patience: Duration) -> Ended {
    let mut all = Ended::default();
    for (stage, batch) in stages.iter().zip(batches) {
        stage.objects.settle(batch, patience).await;
        all.add(stage.judge(batch).await);
        stage.objects.remove(batch).await;
    }
    all
}

fn head() {
    println!(
        "{:<6} {:>8} {:>8} {:>5} {:>4} {:>7} {:>12} {:>8} {:>8} {:>9}",
        "minute",
        "sent",
        "answered",
        "wrong",
        "lost",
        "doubled",
        "failed (due)",
        "stall",
        "recovery",
        "objects"
    );
}

fn line(minute: &str, calls: &[Sum], objects: &Ended, recovery: Duration, more: &str) {
    let sum = |of: fn(&Sum) -> u64| calls.iter().map(of).sum::<u64>();
    let failed = sum(|calls| calls.failed) + objects.failed;
    println!(
        "{minute:<6} {:>8} {:>8} {:>5} {:>4} {:>7} {:>12} {:>5} ms {:>5} ms {:>9} {more}",
        sum(|calls| calls.sent),
        sum(|calls| calls.answered),
        sum(|calls| calls.wrong) + objects.wrong,
        sum(|calls| calls.lost) + objects.lost,
        objects.doubled,
        format!("{failed} ({})", failed - sum(|calls| calls.unexcused)),
        calls.iter().map(|calls| calls.stall.as_millis()).max().unwrap_or(0),
        recovery.as_millis(),
        format!("{}/{}", objects.done, objects.made),
    );
}
