//! A short run of the fuzz targets: the corpus as it is, and changed at random from a fixed seed.
//!
//! `FUZZ_MINUTES=n` goes on for so long with each target, from a seed that is printed; `FUZZ_SEED=n` repeats a run.
//! The name of a target as argument runs it alone.
#![allow(missing_docs, reason = "tests")]

mod targets;
#[allow(dead_code, reason = "targets use a part of it")]
#[path = "../gateway/world.rs"]
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Changed inputs of each target in a short run, of the quick ones and of those that ask the whole gateway.
const QUICK: u32 = 4000;
const SLOW: u32 = 150;
/// Most bytes of an input that random changes make.
const LONGEST: usize = 8192;

/// Bytes that mean something to one reader or another.
const WORDS: &[&[u8]] = &[
    b"\x00",
    b"\xff",
    b"\x80",
    b"\x30\x82\xff\xff",
    b"\x30\x80",
    b"\x02\x01\x00",
    b"\x04",
    b"'",
    b"/",
    b"//",
    b"2147483648",
    b"-----BEGIN CERTIFICATE-----\n",
    b"-----END CERTIFICATE-----\n",
    b"=",
    b"==",
    b"\n",
    b"\r\n",
    b"--x",
    b"--x--\r\n",
    b"null",
    b"true",
    b"[",
    b"{",
    b"}",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"1e999",
    b"-1",
    b"18446744073709551616",
    b"\"keyPassword\":[\"a\"],",
    b"<!DOCTYPE x>",
    b"<![CDATA[",
    b"&amp;",
    b"</",
    b"HSMFILE\x01\x02\x01\x00\x00",
];

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The inputs in a target's folder, in an order that is always the same.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(folder(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
    let mut all: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap())
        })
        .collect();
    all.sort();
    all
}

/// Changes an input in a few places.
fn changed(random: &mut StdRng, corpus: &[(String, Vec<u8>)]) -> Vec<u8> {
    let pick = |random: &mut StdRng| corpus[random.random_range(0..corpus.len())].1.clone();
    let mut input = pick(random);
    for _ in 0..random.random_range(1..=6) {
        let at = random.random_range(0..=input.len());
        let until = random.random_range(at..=input.len().min(at + 64));
        match random.random_range(0..8) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => input[at] = random.random(),
            2 => drop(input.drain(at..until)),
            3 => {
                let copy = input[at..until].to_vec();
                input.splice(at..at, copy);
            }
            4 => input.truncate(at),
            5 => {
                let other = pick(random);
                let from = random.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            6 => {
                let word = WORDS[random.random_range(0..WORDS.len())];
                let end = if random.random() { until } else { at };
                input.splice(at..end, word.iter().copied());
            }
            _ => input.insert(at, random.random()),
        }
    }
    input.truncate(LONGEST);
    input
}

/// Runs one input; a failure names it, so that it can be put into the corpus.
fn run(name: &str, target: targets::Target, what: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let path = std::env::temp_dir().join(format!("hsm-operator-fuzz-{name}-{}", std::process::id()));
        std::fs::write(&path, input).expect("a file can be written");
        panic!("{name}: {what}; the input of {} bytes is {}", input.len(), path.display());
    }
}

fn fuzz(name: &str, target: targets::Target) {
    let corpus = corpus(name);
    assert!(corpus.len() >= 2, "{name} has a corpus");
    for (file, input) in &corpus {
        run(name, target, file, input);
    }
    run(name, target, "nothing", b"");
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let minutes = number("FUZZ_MINUTES");
    let seed = number("FUZZ_SEED").unwrap_or_else(|| if minutes.is_some() { rand::random() } else { 5 });
    let mut random = StdRng::seed_from_u64(seed);
    let few = if name.starts_with("rest_") { SLOW } else { QUICK };
    let (begun, mut count) = (Instant::now(), 0_u32);
    let goes_on = |count: u32| match minutes {
        Some(minutes) => begun.elapsed() < Duration::from_secs(60 * minutes),
        None => count < few,
    };
    while goes_on(count) {
        let input = changed(&mut random, &corpus);
        run(name, target, &format!("number {count} from seed {seed}"), &input);
        count += 1;
    }
    println!(
        "{name}: {} files, {count} changed ones from seed {seed} in {:?}",
        corpus.len(),
        begun.elapsed()
    );
}

macro_rules! targets {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            let (name, target) = targets::ALL.iter().find(|(name, _)| *name == stringify!($name)).unwrap();
            fuzz(name, *target);
        })+

        #[test]
        fn every_target_is_run() {
            let names: Vec<_> = targets::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),+]);
        }
    };
}

targets! {
    public_key_der public_key_pem certificates derivation label password private_key signature payload attestation
    sealed_file frames rest_body rest_path rest_form
}
