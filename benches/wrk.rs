//! wrk, as the load generator: it costs less than what it measures.
#![allow(dead_code, reason = "every bench uses its own part of this")]

use std::process::Command;

/// A request to repeat.
pub struct Target {
    /// Where to.
    pub url: String,
    /// Bearer token, if the target wants one.
    pub token: Option<String>,
    /// JSON body, which is posted; without one the target is only asked for.
    pub body: Option<String>,
}

/// Successful answers per second from `connections` at a time. Stops the program if any answer is an error.
pub fn answers_per_second(target: &Target, connections: usize, seconds: u64) -> f64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = folder.path().join("request.lua");
    let mut lua = String::new();
    if let Some(token) = &target.token {
        lua += &format!("wrk.headers['Authorization'] = 'Bearer {token}'\n");
    }
    if let Some(body) = &target.body {
        lua += "wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\n";
        lua += &format!("wrk.body = [[{body}]]\n");
    }
    std::fs::write(&script, lua).expect("the folder is ours");
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"])
        .arg(&script)
        .arg(&target.url)
        .output()
        .expect("wrk is installed by e2e/setup.sh");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "{} answered with errors: {text}",
        target.url
    );
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    rate.and_then(|rate| rate.trim().parse().ok()).unwrap_or_else(|| panic!("wrk printed no rate: {text}"))
}
