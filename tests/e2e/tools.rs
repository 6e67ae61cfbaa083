//! Other people's programs: kubectl, openssl.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Runs a program and returns what it said, whatever came of it.
pub fn run(program: &str, args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    child.stdin.take().expect("it was asked for").write_all(stdin).expect("the program reads its input");
    child.wait_with_output().expect("the program ends")
}

/// Runs a program that must succeed and returns its output.
pub fn output(program: &str, args: &[&str], stdin: &[u8]) -> String {
    let output = run(program, args, stdin);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?} failed: {out}{err}");
    out.into_owned()
}

/// kubectl, as the cluster's administrator.
pub fn kubectl(args: &[&str]) -> String {
    output("kubectl", args, b"")
}

/// Applies manifests by server-side apply.
pub fn apply(yaml: &str) {
    output("kubectl", &["apply", "--server-side", "--force-conflicts", "-f", "-"], yaml.as_bytes());
}

/// Whether openssl verifies a signature over a message: `dgst -verify` with further options.
pub fn openssl_verifies(
    folder: &Path,
    pem: &[u8],
    digest: &str,
    options: &[&str],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("the folder is ours");
        path.to_str().expect("a plain path").to_owned()
    };
    let (key, sig, msg) = (file("key.pem", pem), file("sig", signature), file("msg", message));
    let digest = format!("-{digest}");
    let mut args = vec!["dgst", &digest, "-verify", &key, "-signature", &sig];
    for option in options {
        args.extend(["-sigopt", option]);
    }
    args.push(&msg);
    run("openssl", &args, b"").status.success()
}
