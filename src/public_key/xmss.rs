//! XMSS (RFC 8391) with the two parameter sets of the contract, trees of ten levels over hashes of 32 bytes: public keys and
//! signatures.

use digest::{ExtendableOutput, Update, XofReader};
use sha2::{Digest, Sha256};
use shake::Shake256;

/// Bytes of a hash.
const N: usize = 32;
/// Levels of a tree.
const HEIGHT: usize = 10;
/// Chains of a one-time signature, of four bits each; the last three sign a checksum.
const CHAINS: usize = 67;
const SUM_CHAINS: usize = 3;
/// Links of a chain.
const MOST: u32 = 15;

/// Bytes of a public key: the number of the parameter set, the root and the seed of all hashes.
pub(super) const LENGTH: usize = 4 + 2 * N;
/// Bytes of a signature.
const SIGNATURE: usize = 4 + N + N * CHAINS + N * HEIGHT;

type Node = [u8; N];

/// What hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// `XMSS-SHA2_10_256` (RFC 8391, 5.3).
    Sha256,
    /// `XMSS-SHAKE256_10_256` (NIST SP 800-208, 5.2).
    Shake256,
}

impl Set {
    const ALL: [Self; 2] = [Self::Sha256, Self::Shake256];

    /// Its number.
    pub const fn number(self) -> u32 {
        match self {
            Self::Sha256 => 0x01,
            Self::Shake256 => 0x10,
        }
    }

    /// The set of a public key.
    pub fn of(public: &[u8]) -> Option<Self> {
        let number = u32::from_be_bytes(public.get(..4)?.try_into().ok()?);
        Self::ALL.into_iter().find(|set| set.number() == number && public.len() == LENGTH)
    }

    fn hash(self, kind: u8, parts: &[&[u8]]) -> Node {
        let mut prefix = [0; N];
        prefix[N - 1] = kind;
        match self {
            Self::Sha256 => {
                let mut hasher = Sha256::new_with_prefix(prefix);
                parts.iter().for_each(|part| Digest::update(&mut hasher, part));
                hasher.finalize().into()
            }
            Self::Shake256 => {
                let mut hasher = Shake256::default();
                hasher.update(&prefix);
                parts.iter().for_each(|part| hasher.update(part));
                let mut out = [0; N];
                hasher.finalize_xof().read(&mut out);
                out
            }
        }
    }
}

/// Where in the tree something is hashed (RFC 8391, 2.5): the last five of its eight numbers.
#[derive(Clone, Copy)]
struct Place {
    kind: u32,
    first: u32,
    second: u32,
    third: u32,
}

const ONE_TIME: u32 = 0;
const L_TREE: u32 = 1;
const TREE: u32 = 2;

/// A public key that is read.
struct Key<'a> {
    set: Set,
    root: &'a [u8],
    seed: &'a [u8],
}

impl Key<'_> {
    /// Key or mask of one hash.
    fn random(&self, Place { kind, first, second, third }: Place, which: u32) -> Node {
        let mut address = [0; 32];
        for (at, number) in [kind, first, second, third, which].into_iter().enumerate() {
            address[12 + 4 * at..16 + 4 * at].copy_from_slice(&number.to_be_bytes());
        }
        self.set.hash(3, &[self.seed, &address])
    }

    /// A chain from a link to its end (RFC 8391, algorithm 2).
    fn chain(&self, mut hash: Node, from: u32, place: Place) -> Node {
        for link in from..MOST {
            let place = Place { third: link, ..place };
            hash = self.set.hash(0, &[&self.random(place, 0), &mixed(hash, self.random(place, 1))]);
        }
        hash
    }

    /// The parent of two nodes (algorithm 7).
    fn parent(&self, left: Node, right: Node, place: Place) -> Node {
        let (left, right) = (mixed(left, self.random(place, 1)), mixed(right, self.random(place, 2)));
        self.set.hash(1, &[&self.random(place, 0), &left, &right])
    }

    /// The leaf of a one-time public key (algorithm 8).
    fn leaf(&self, mut nodes: Vec<Node>, index: u32) -> Node {
        let mut second = 0;
        while nodes.len() > 1 {
            let pairs = nodes.chunks(2).zip(0..).map(|(pair, third)| match *pair {
                [left, right] => {
                    self.parent(left, right, Place { kind: L_TREE, first: index, second, third })
                }
                [alone] => alone,
                _ => unreachable!("chunks of two"),
            });
            nodes = pairs.collect();
            second += 1;
        }
        nodes[0]
    }
}

fn mixed(mut node: Node, mask: Node) -> Node {
    node.iter_mut().zip(mask).for_each(|(byte, other)| *byte ^= other);
    node
}

/// What the chains sign: four bits each of a digest, and of the sum of what is left in them (algorithm 1, algorithm 5).
fn digits(digest: &Node) -> Vec<u32> {
    let halves = |byte: &u8| [u32::from(byte >> 4), u32::from(byte & 15)];
    let mut all: Vec<u32> = digest.iter().flat_map(halves).collect();
    let sum: u32 = all.iter().map(|digit| MOST - digit).sum();
    all.extend((0..SUM_CHAINS).rev().map(|at| sum >> (4 * at) & 15));
    all
}

/// Whether a signature fits (RFC 8391, algorithms 13 and 14).
pub(super) fn verify(public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    fits(public, message, signature).unwrap_or(false)
}

fn fits(public: &[u8], message: &[u8], signature: &[u8]) -> Option<bool> {
    let (root, seed) = public.get(4..)?.split_at_checked(N)?;
    let key = Key { set: Set::of(public)?, root, seed };
    if signature.len() != SIGNATURE {
        return None;
    }
    let (index, rest) = signature.split_at(4);
    let index = u32::from_be_bytes(index.try_into().ok()?);
    if index >= 1 << HEIGHT {
        return None;
    }
    let (nodes, []) = rest.as_chunks::<N>() else { return None };
    let (randomizer, nodes) = nodes.split_first()?;
    let (chains, path) = nodes.split_at(CHAINS);
    let mut number = [0; N];
    number[N - 4..].copy_from_slice(&index.to_be_bytes());
    let digest = key.set.hash(2, &[randomizer, key.root, &number, message]);
    let ends = chains.iter().zip(digits(&digest)).zip(0..).map(|((chain, from), second)| {
        key.chain(*chain, from, Place { kind: ONE_TIME, first: index, second, third: 0 })
    });
    let mut node = key.leaf(ends.collect(), index);
    for (sibling, second) in path.iter().zip(0..) {
        let at = index >> second;
        let place = Place { kind: TREE, first: 0, second, third: at / 2 };
        node =
            if at % 2 == 0 { key.parent(node, *sibling, place) } else { key.parent(*sibling, node, place) };
    }
    Some(node == *key.root)
}
