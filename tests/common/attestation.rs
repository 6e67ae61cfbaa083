//! Attestations checked by the `openssl` program, as whoever gets one is told to.
#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::{path::Path, process::Command};

use super::token::run;

/// Unpacks the zip of a key in an empty folder and does what its readme says; the readme, and what that printed.
pub fn zip_checked(folder: &Path, zip: &[u8]) -> (String, String) {
    std::fs::write(folder.join("a.zip"), zip).expect("the folder can be written");
    run(Command::new("python3").args(["-m", "zipfile", "-e", "a.zip", "."]).current_dir(folder));
    let readme = std::fs::read_to_string(folder.join("README_attestation.md")).expect("the zip has a readme");
    let blocks: Vec<_> = readme.split("```").skip(1).step_by(2).collect();
    assert_eq!(blocks.len(), 2);
    let output = said(folder, &blocks.concat());
    assert!(output.contains("chain-1.pem: OK") && output.contains("Verified OK"), "{output}");
    (readme, output)
}

/// What a script prints that has to succeed.
pub fn said(folder: &Path, script: &str) -> String {
    let script = format!("set -eu\n{script}");
    let output = run(Command::new("bash").args(["-o", "pipefail", "-c", &script]).current_dir(folder));
    String::from_utf8(output.stdout).expect("it is text")
}
