//! What any boundary costs here: the same bytes to another process and back, with nothing else on the way. A core that has
//! nothing to do sleeps, and has to be woken up on both sides; how long that takes is the machine's affair.

use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::table::median;

const ECHO: &str = "echo";
/// About as much as a request or an answer.
const BYTES: usize = 100;

/// The other process's side, if this is one: it answers after it worked for as long as a signature takes.
pub fn be_child() -> bool {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [what, micros] = &words[..] else { return false };
    if what != ECHO {
        return false;
    }
    let work = Duration::from_micros(micros.parse().expect("a number"));
    let mut socket = std::fs::File::from(rustix::io::dup(std::io::stdin()).expect("a socket"));
    let mut bytes = [0; BYTES];
    while socket.read_exact(&mut bytes).is_ok() {
        let begun = Instant::now();
        while begun.elapsed() < work {}
        socket.write_all(&bytes).expect("the other side waits");
    }
    true
}

/// Median time that the way there and back takes beside `work` microseconds in the other process.
pub fn round_trip(work: f64, time: Duration) -> f64 {
    let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
    let mut child = Command::new("/proc/self/exe")
        .args([ECHO, &format!("{work:.0}")])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .expect("this program");
    let (mut bytes, mut times, end) = ([0; BYTES], Vec::new(), Instant::now() + time);
    while Instant::now() < end {
        let begun = Instant::now();
        ours.write_all(&bytes).expect("the other side reads");
        ours.read_exact(&mut bytes).expect("the other side answers");
        times.push(begun.elapsed().as_secs_f64() * 1e6 - work.round());
    }
    drop(ours);
    child.wait().expect("our child");
    median(&times)
}
