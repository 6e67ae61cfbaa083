//! A token with ten thousand keys: how long it takes to find one by its label, and what the token-host remembers of
//! them all.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        protocol::{Find, Reply, Request},
    },
    model::{KeyId, KeyLabel},
};

use crate::{
    REPEATS,
    common::token::{Module, Token},
    raw::Raw,
    table::{Must, Row, median},
};

/// Keys on the crowded token.
const MANY: u32 = 10_000;
/// Keys on the other one.
const FEW: u32 = 10;
/// How long keys are looked for, each time.
const TIME: Duration = Duration::from_secs(2);

/// All rows.
pub async fn rows() -> Vec<Row> {
    let (few, many) = (Token::new(Module::SoftHsm), Token::new(Module::SoftHsm));
    let begun = Instant::now();
    child(&few, "make", FEW);
    child(&many, "make", MANY);
    eprintln!("  {MANY} keys made in {:.0} s", begun.elapsed().as_secs_f32());
    let (mut at_many, mut at_few, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut read_many, mut read_few) = (Vec::new(), Vec::new());
    let near = few.supervisor().await;
    for round in 0..=REPEATS {
        // Each time a new one: what is measured is how large it becomes.
        let crowded = open(&many).await;
        let (with_many, with_few) = (find(&crowded, MANY).await, find(&near, FEW).await);
        let host = resident(crowded.counters().pid.expect("it runs"));
        crowded.shutdown().await;
        let plain = child(&many, "look", MANY);
        let (known_many, known_few) = (child(&many, "read", MANY), child(&few, "read", FEW));
        eprintln!(
            "  crowd {round}/{REPEATS}: {with_many:.0} us at {MANY} keys, {with_few:.0} us at {FEW}; the library alone \
             {known_many:.0} us, {known_few:.0} us; {host:.1} MiB, a plain process {plain:.1} MiB"
        );
        if round > 0 {
            at_many.push(with_many);
            at_few.push(with_few);
            ours.push(host);
            theirs.push(plain);
            read_many.push(known_many);
            read_few.push(known_few);
        }
    }
    near.shutdown().await;
    vec![
        Row::less("find, 10000 keys / 10", "us", &at_many, &at_few).must(Some(Must::RatioAtMost(1.2))),
        // What the library takes longer for one of many keys when it need not look for it.
        Row::less("known handles, 10000 / 10", "us", &read_many, &read_few),
        Row::less("rss with 10000 keys", "MiB", &ours, &theirs).must(Some(Must::MoreByAtMost(20.0))),
    ]
}

/// A token-host that has looked at everything. There is more to look at than most tokens have.
async fn open(token: &Token) -> Arc<Supervisor> {
    let mut config = token.config();
    config.deadlines.open = Duration::from_secs(120);
    config.deadlines.look = Duration::from_secs(120);
    let hsm = Supervisor::start(config);
    hsm.ready().await.expect("the token opens");
    let begun = Instant::now();
    let Ok(Reply::Inventory(all)) = hsm.call(Request::Inventory).await else { panic!("no inventory") };
    eprintln!("  an inventory of {} objects in {:.1} s", all.len(), begun.elapsed().as_secs_f32());
    // Whoever comes first to look for a key looks at everything; some hundred others after it wait longer than the rest.
    find(&hsm, 1).await;
    hsm
}

/// Median time in which a key is found by its label, in microseconds.
async fn find(hsm: &Arc<Supervisor>, keys: u32) -> f64 {
    let (mut times, end) = (Vec::new(), Instant::now() + TIME);
    while times.len() < 5 || Instant::now() < end {
        let label = KeyLabel::new(label(rand::random_range(0..keys))).expect("a label");
        let begun = Instant::now();
        let found = hsm.call(Request::Find(Find::Label(label))).await;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
        assert!(matches!(&found, Ok(Reply::Keys(keys)) if keys.len() == 1), "{found:?}");
    }
    median(&times)
}

fn label(number: u32) -> String {
    format!("crowd-{number}")
}

/// Resident memory of a process in MiB.
fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says so");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

/// Runs this program again with the token's library in it, to do one thing; what it prints is a number.
fn child(token: &Token, what: &str, keys: u32) -> f64 {
    let mut child = Command::new(std::env::current_exe().expect("a program has a path"))
        .args([what, &token.label, &keys.to_string()])
        .envs(token.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it ran once");
    child.stdin.take().expect("it was asked for").write_all(token.pin.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{what} failed");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}

/// The child's side, if this is one.
pub fn be_child() -> bool {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [what, token, keys] = &words[..] else { return false };
    let keys: u32 = keys.parse().expect("a number");
    let pin = std::io::read_to_string(std::io::stdin()).expect("a PIN");
    let raw = Raw::open(&Module::SoftHsm.library(), &[], token, &pin);
    match what.as_str() {
        "make" => {
            for number in 0..keys {
                raw.generate(KeyId::for_purpose(&label(number)).as_bytes(), &label(number));
                if number % 1000 == 999 {
                    eprintln!("  {} keys", number + 1);
                }
            }
            println!("{keys}");
        }
        "read" => println!("{}", raw.read_known(TIME)),
        _ => {
            assert_eq!(raw.look_at_all(), keys as usize);
            println!("{}", resident(std::process::id()));
        }
    }
    true
}
