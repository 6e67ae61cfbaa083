//! PEM, read tolerantly and written as the contract has it.
//!
//! Clients carry PEM through JSON strings, forms and templates, so where its lines end is not insisted on: blocks are
//! read whatever their line width, while everything between the armour must be base64.

use base64::{Engine, engine::general_purpose::STANDARD};

/// Label of a certificate.
pub const CERTIFICATE: &str = "CERTIFICATE";
/// Labels of a certificate request; the second is what the contract writes.
pub const REQUEST: [&str; 2] = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];

/// Columns of a line of PEM (RFC 7468).
const COLUMNS: usize = 64;

/// Why a text is not PEM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPem {
    /// There is no block of the label.
    #[error("there is no PEM block '{0}'")]
    NoBlock(String),
    /// A block does not end.
    #[error("the PEM block '{0}' does not end")]
    NoEnd(String),
    /// The inside of a block is something else.
    #[error("the inside of the PEM block '{0}' is not base64")]
    Base64(String),
}

/// Reads all blocks with one of `labels`, in their order; text around them is passed over.
///
/// # Errors
/// When there is none, or one of them is damaged.
pub fn read(text: &str, labels: &[&str]) -> Result<Vec<Vec<u8>>, NotPem> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((at, label)) = next(rest, labels) {
        let inside = &rest[at..];
        let end = format!("-----END {label}-----");
        let length = inside.find("-----").ok_or_else(|| NotPem::NoEnd(label.into()))?;
        if !inside[length..].starts_with(&end) {
            return Err(NotPem::NoEnd(label.into()));
        }
        let body: String = inside[..length].chars().filter(|one| !one.is_ascii_whitespace()).collect();
        let der = STANDARD.decode(body).map_err(|_| NotPem::Base64(label.into()))?;
        blocks.push(der);
        rest = &inside[length + end.len()..];
    }
    if blocks.is_empty() { Err(NotPem::NoBlock(labels.join("' or '"))) } else { Ok(blocks) }
}

/// Where the inside of the next block begins, and which label it has.
fn next<'l>(text: &str, labels: &[&'l str]) -> Option<(usize, &'l str)> {
    let begins = labels.iter().filter_map(|label| {
        let begin = format!("-----BEGIN {label}-----");
        Some((text.find(&begin)? + begin.len(), *label))
    });
    begins.min()
}

/// Certificates as everybody reads them: lines of 64 columns, each ended.
#[must_use]
pub fn certificates<C: AsRef<[u8]>>(all: &[C]) -> String {
    all.iter().map(|der| block(CERTIFICATE, &lines(der.as_ref())) + "\n").collect()
}

/// A certificate as REST answers have it: the body on one line, nothing after the last.
#[must_use]
pub fn one_line(der: &[u8]) -> String {
    block(CERTIFICATE, &(STANDARD.encode(der) + "\n"))
}

/// A certificate request as REST answers have it.
#[must_use]
pub fn request(der: &[u8]) -> String {
    block(REQUEST[1], &lines(der))
}

fn block(label: &str, body: &str) -> String {
    format!("-----BEGIN {label}-----\n{body}-----END {label}-----")
}

fn lines(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut lines = String::with_capacity(base64.len() + base64.len() / COLUMNS + 1);
    for line in base64.as_bytes().chunks(COLUMNS) {
        lines.extend(line.iter().map(|byte| char::from(*byte)));
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_whatever_its_line_ends() {
        let (one, two) = (vec![7; 100], vec![9; 48]);
        let both = certificates(&[&one, &two]);
        assert_eq!(both.lines().map(str::len).max(), Some(64));
        let flat = both.replace('\n', "");
        for text in [both.clone(), both.replace('\n', "\r\n"), format!("subject=x\n{both}"), flat] {
            assert_eq!(read(&text, &[CERTIFICATE]).unwrap(), [one.clone(), two.clone()]);
        }
        assert_eq!(read(&one_line(&one), &[CERTIFICATE]).unwrap(), std::slice::from_ref(&one));
        assert_eq!(one_line(&one).lines().count(), 3);
        assert_eq!(read(&request(&two), &REQUEST).unwrap(), [two]);
    }

    #[test]
    fn damaged_blocks_are_told_apart() {
        let read = |text: &str| read(text, &[CERTIFICATE]).unwrap_err();
        let label = || CERTIFICATE.to_owned();
        assert_eq!(read(""), NotPem::NoBlock(label()));
        assert_eq!(
            read("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----"),
            NotPem::NoBlock(label())
        );
        assert_eq!(read("-----BEGIN CERTIFICATE-----\nAAAA"), NotPem::NoEnd(label()));
        let other_end = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END PUBLIC KEY-----";
        assert_eq!(read(other_end), NotPem::NoEnd(label()));
        for inside in ["A", "ä", "AA=A", "AAA"] {
            let text = format!("-----BEGIN CERTIFICATE-----\n{inside}\n-----END CERTIFICATE-----");
            assert_eq!(read(&text), NotPem::Base64(label()), "{inside}");
        }
    }
}
