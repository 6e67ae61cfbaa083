//! Where the module keeps what SoftHSM has no place for: chain codes, and the private keys that children are derived
//! from. In plain, in a file: it is a module for tests, and its keys protect nothing.

use std::{fs::File, io::Write, path::PathBuf};

use sha2::{Digest, Sha256};

use super::{curve::Curve, tree::Node};

/// What `CKA_SUBJECT` of its keys begins with.
const MARK: &[u8; 8] = b"slip-10:";

/// How a key came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From random bytes of the token.
    Generated,
    /// From a seed that was given.
    Seed,
    /// From another key.
    Derived,
}

/// A key that the module keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub node: Node,
    pub origin: Origin,
}

/// The file.
pub struct Store(PathBuf);

impl Store {
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// Keeps a key, and returns the `CKA_SUBJECT` that it is found by.
    pub fn keep(&self, Kept { node, origin }: &Kept) -> std::io::Result<Vec<u8>> {
        let subject = [&MARK[..], &Sha256::digest(node.curve.public(&node.private))].concat();
        let line = format!(
            "{} {} {} {} {origin:?}\n",
            hex::encode(&subject),
            hex::encode(node.curve.params()),
            hex::encode(node.private),
            hex::encode(node.chain)
        );
        let mut file = File::options().create(true).append(true).open(&self.0)?;
        // In one piece: other processes append as well.
        file.write_all(line.as_bytes())?;
        Ok(subject)
    }

    /// The key of a `CKA_SUBJECT`, if it is one of ours.
    pub fn find(&self, subject: &[u8]) -> Option<Kept> {
        if !subject.starts_with(MARK) {
            return None;
        }
        let (text, subject) = (std::fs::read_to_string(&self.0).ok()?, hex::encode(subject));
        let line = text.lines().find(|line| line.starts_with(&subject))?;
        let words: Vec<&str> = line.split(' ').collect();
        let [_, params, private, chain, origin] = words.as_slice() else { return None };
        let number = |hex: &str| hex::decode(hex).ok()?.try_into().ok();
        let origin = match *origin {
            "Generated" => Origin::Generated,
            "Seed" => Origin::Seed,
            _ => Origin::Derived,
        };
        let curve = Curve::of(&hex::decode(params).ok()?)?;
        Some(Kept { node: Node { curve, private: number(private)?, chain: number(chain)? }, origin })
    }
}
