//! HSS and LMS (RFC 8554) with the parameter sets of its tables 1 and 2, all of which hash by SHA-256: public keys, and
//! signatures, which are read from the front to the end.

use sha2::{Digest, Sha256};

/// Most levels of trees.
const LEVELS_MAX: u32 = 8;
/// Bytes of a tree's identifier.
const ID: usize = 16;
/// Bytes of a hash.
const N: usize = 32;
/// Bytes of the public key of a tree.
const TREE: usize = 4 + 4 + ID + N;

// What tells one kind of hash from another.
const D_PBLK: [u8; 2] = [0x80, 0x80];
const D_MESG: [u8; 2] = [0x81, 0x81];
const D_LEAF: [u8; 2] = [0x82, 0x82];
const D_INTR: [u8; 2] = [0x83, 0x83];

/// Bytes of a public key.
pub(super) const LENGTH: usize = 4 + TREE;

/// A way of one-time signatures (RFC 8554, table 1).
#[derive(Clone, Copy)]
struct OneTime {
    kind: u32,
    /// Bits that one chain of hashes signs.
    w: usize,
    /// Chains.
    p: usize,
    /// How far the checksum is shifted.
    ls: u32,
}

const ONE_TIME: [OneTime; 4] = [
    OneTime { kind: 1, w: 1, p: 265, ls: 7 },
    OneTime { kind: 2, w: 2, p: 133, ls: 6 },
    OneTime { kind: 3, w: 4, p: 67, ls: 4 },
    OneTime { kind: 4, w: 8, p: 34, ls: 0 },
];

/// The height of a tree (RFC 8554, table 2).
fn height(kind: u32) -> Option<u32> {
    (5..=9).contains(&kind).then(|| 5 * (kind - 4))
}

/// What is left to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }
}

/// The public key of one tree.
struct Tree<'a> {
    kind: u32,
    height: u32,
    one_time: OneTime,
    id: &'a [u8],
    root: &'a [u8],
}

impl<'a> Tree<'a> {
    fn read(from: &mut Rest<'a>) -> Option<Self> {
        let kind = from.number()?;
        let one_time = from.number()?;
        Some(Self {
            kind,
            height: height(kind)?,
            one_time: ONE_TIME.into_iter().find(|row| row.kind == one_time)?,
            id: from.take(ID)?,
            root: from.take(N)?,
        })
    }

    /// Whether the signature that comes next is one of this tree's over `message` (RFC 8554, algorithms 6 and 6a); nothing
    /// where none comes.
    fn signed(&self, message: &[u8], from: &mut Rest<'_>) -> Option<bool> {
        let q = from.number()?;
        if from.number()? != self.one_time.kind {
            return None;
        }
        let (randomizer, chains) = (from.take(N)?, from.take(N * self.one_time.p)?);
        if from.number()? != self.kind {
            return None;
        }
        let path = from.take(N * self.height as usize)?;
        let leaves = 1_u32 << self.height;
        if q >= leaves {
            return None;
        }
        let key = self.one_time_key(q, randomizer, chains, message);
        let mut node = leaves + q;
        let mut hash = self.hash(&[&node.to_be_bytes(), &D_LEAF, &key]);
        for sibling in path.chunks_exact(N) {
            let (left, right): (&[u8], &[u8]) =
                if node % 2 == 1 { (sibling, &hash) } else { (&hash, sibling) };
            node /= 2;
            hash = self.hash(&[&node.to_be_bytes(), &D_INTR, left, right]);
        }
        Some(hash == *self.root)
    }

    /// The one-time public key with which the chains are a signature of the message (RFC 8554, algorithm 4b).
    fn one_time_key(&self, q: u32, randomizer: &[u8], chains: &[u8], message: &[u8]) -> [u8; N] {
        let OneTime { w, p, ls, .. } = self.one_time;
        let q = q.to_be_bytes();
        let digest = self.hash(&[&q, &D_MESG, randomizer, message]);
        let most = (1_usize << w) - 1;
        let sum: usize = (0..N * 8 / w).map(|at| most - digit(&digest, at, w)).sum();
        let sum = u16::try_from(sum).expect("at most 265 times 255") << ls;
        let digits = [&digest[..], &sum.to_be_bytes()].concat();
        let mut whole = self.hasher(&[&q, &D_PBLK]);
        for (chain, at) in chains.chunks_exact(N).zip(0_u16..).take(p) {
            let mut hash: [u8; N] = chain.try_into().expect("a chunk has that length");
            for step in digit(&digits, usize::from(at), w)..most {
                let step = u8::try_from(step).expect("below 255");
                hash = self.hash(&[&q, &at.to_be_bytes(), &[step], &hash]);
            }
            whole.update(hash);
        }
        whole.finalize().into()
    }

    /// Every hash begins with the tree's identifier.
    fn hasher(&self, parts: &[&[u8]]) -> Sha256 {
        let mut hasher = Sha256::new_with_prefix(self.id);
        parts.iter().for_each(|part| hasher.update(part));
        hasher
    }

    fn hash(&self, parts: &[&[u8]]) -> [u8; N] {
        self.hasher(parts).finalize().into()
    }
}

/// So many bits of a string (RFC 8554, 3.1.3).
fn digit(string: &[u8], at: usize, w: usize) -> usize {
    let byte = usize::from(string[at * w / 8]);
    let each = 8 / w;
    (byte >> (w * (each - 1 - at % each))) & ((1 << w) - 1)
}

/// Levels of trees, and the topmost one.
fn read(public: &[u8]) -> Option<(u32, Tree<'_>)> {
    let mut rest = Rest(public);
    let levels = rest.number().filter(|levels| (1..=LEVELS_MAX).contains(levels))?;
    let tree = Tree::read(&mut rest)?;
    rest.0.is_empty().then_some((levels, tree))
}

/// Whether these bytes are a public key with parameters that are known here.
pub(super) fn is_sound(public: &[u8]) -> bool {
    read(public).is_some()
}

/// Whether a signature fits (RFC 8554, 6.3): each tree signs the next one, and the last one the message.
pub(super) fn verify(public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    fits(public, message, signature).unwrap_or(false)
}

fn fits(public: &[u8], message: &[u8], signature: &[u8]) -> Option<bool> {
    let (levels, mut tree) = read(public)?;
    let mut rest = Rest(signature);
    if rest.number()? != levels - 1 {
        return None;
    }
    for _ in 1..levels {
        // What is signed stands behind its signature.
        let mut behind = Rest(rest.0);
        behind.take(tree.signature_length())?;
        let next = behind.take(TREE)?;
        if !tree.signed(next, &mut rest)? {
            return Some(false);
        }
        tree = Tree::read(&mut Rest(rest.take(TREE)?))?;
    }
    let signed = tree.signed(message, &mut rest)?;
    Some(signed && rest.0.is_empty())
}

impl Tree<'_> {
    /// Bytes of a signature.
    fn signature_length(&self) -> usize {
        4 + 4 + N + N * self.one_time.p + 4 + N * self.height as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_rfc() {
        assert_eq!((digit(&[0x12, 0x34], 7, 1), digit(&[0x12, 0x34], 0, 4)), (0, 1));
        assert_eq!((digit(&[0x12, 0x34], 3, 4), digit(&[0x12, 0x34], 1, 8)), (4, 0x34));
    }

    #[test]
    fn a_key_has_one_to_eight_levels_and_parameters_that_are_known() {
        let key = |levels: u8, tree: u8, one_time: u8| {
            [&[0, 0, 0, levels, 0, 0, 0, tree, 0, 0, 0, one_time][..], &[7; ID + N]].concat()
        };
        assert!(is_sound(&key(1, 5, 1)) && is_sound(&key(8, 9, 4)));
        for bad in [key(0, 5, 1), key(9, 5, 1), key(1, 4, 1), key(1, 10, 1), key(1, 5, 0), key(1, 5, 5)] {
            assert!(!is_sound(&bad), "{bad:?}");
        }
        assert!(!is_sound(&key(1, 5, 1)[1..]) && !is_sound(&[key(1, 5, 1), vec![0]].concat()));
    }
}
