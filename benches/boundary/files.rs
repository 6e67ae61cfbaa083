//! Files of 200 MiB to and from a gateway of its own process, by curl over TLS; and what that process needs for it.

use std::{path::Path, process::Command, time::Instant};

use crate::{
    REPEATS,
    gateway::Gateway,
    table::{Must, Row},
};

const MIB: usize = 1024 * 1024;
/// Bytes of a file.
const LENGTH: usize = 200 * MIB;

/// Sends a file in a form; the time that it took until the answer was there.
fn curl(folder: &Path, gateway: &Gateway, path: &str, text: &str, input: &str, out: &str) -> f64 {
    let input = format!("file=@{input}");
    let authorization = format!("Authorization: Bearer {}", gateway.about.caller);
    let begun = Instant::now();
    let status = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--insecure", "-H", &authorization])
        .args(["-F", text, "-F", &input, "-o", out])
        .arg(gateway.url(path))
        .current_dir(folder)
        .status()
        .expect("curl is installed");
    assert!(status.success(), "{path}");
    begun.elapsed().as_secs_f64()
}

/// Megabytes per second there and back, beside the same bytes thrown away by the same listener; and memory.
pub fn rows() -> Vec<Row> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let file: Vec<u8> = (0..LENGTH).map(|at| ((at * 2_654_435_761) >> 13) as u8).collect();
    std::fs::write(path.join("plain"), &file).expect("room for a file");
    drop(file);
    let gateway = Gateway::start(path);
    let encrypt = r#"SignedFileEncryptRequestDto={"fileEncryptRequest":{"encryptKeyName":"files"}}"#;
    let decrypt = r#"SignedFileDecryptRequestDto={"fileDecryptRequest":{"decryptKeyName":"files"}}"#;
    let (mut there, mut back, mut thrown) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=REPEATS {
        let discarded = curl(path, &gateway, "/discard", encrypt, "plain", "/dev/null");
        let encrypted = curl(path, &gateway, "/v1/fileEncrypt", encrypt, "plain", "sealed");
        let decrypted = curl(path, &gateway, "/v1/synchronousFileDecrypt", decrypt, "sealed", "opened");
        #[expect(clippy::cast_precision_loss, reason = "a few hundred million")]
        let [discarded, encrypted, decrypted] =
            [discarded, encrypted, decrypted].map(|time| LENGTH as f64 / 1e6 / time);
        eprintln!(
            "  files {round}/{REPEATS}: {encrypted:.0} MB/s there, {decrypted:.0} back, {discarded:.0} thrown away"
        );
        if round > 0 {
            there.push(encrypted);
            back.push(decrypted);
            thrown.push(discarded);
        }
    }
    let same = Command::new("cmp").args(["plain", "opened"]).current_dir(path).status().expect("cmp");
    assert!(same.success(), "the file came back");
    let fast = Some(Must::AtLeast(200.0));
    vec![
        Row::more("files/encrypt", "MB/s", &there, &thrown).must(fast),
        Row::more("files/decrypt", "MB/s", &back, &thrown).must(fast),
        Row::less("rss/gateway with files, peak", "MiB", &[gateway.peak()], &[])
            .must(Some(Must::AtMost(32.0))),
    ]
}
