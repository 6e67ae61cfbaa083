//! Keys and signatures of XMSS (RFC 8391) with the parameter set `XMSS-SHA2_10_256`, as plainly as the algorithms of the RFC.
//! For tests: nothing here runs in constant time, and whoever calls keeps count of what is spent.

use sha2::{Digest, Sha256};

type Hash = [u8; 32];

/// Signatures that a key has.
pub const LEAVES: u32 = 1 << 10;
/// Number of the parameter set.
pub const SET: u32 = 1;
const CHAINS: u32 = 67;
const MOST: u32 = 15;

/// What everything of a key follows from.
#[derive(Clone, Debug)]
pub struct Key {
    pub secret: Hash,
    pub public: Hash,
}

fn hash(kind: u8, parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0; 31]);
    hasher.update([kind]);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

fn xor(one: &Hash, other: &Hash) -> Hash {
    std::array::from_fn(|at| one[at] ^ other[at])
}

/// Four bits each, and of the sum of what they lack twelve.
fn digits(digest: &Hash) -> Vec<u32> {
    let mut all: Vec<u32> = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(u32::from).collect();
    let sum = all.iter().map(|digit| MOST - digit).sum::<u32>();
    all.extend([sum >> 8, sum >> 4 & 15, sum & 15]);
    all
}

impl Key {
    /// The keyed randomness for one hash, at the end of an address.
    fn random(&self, address: [u32; 5]) -> Hash {
        let mut bytes = [0; 32];
        bytes[12..].copy_from_slice(&address.map(u32::to_be_bytes).concat());
        hash(3, &[&self.public, &bytes])
    }

    fn chain(&self, leaf: u32, chain: u32, to: u32) -> Hash {
        let place = [leaf.to_be_bytes(), chain.to_be_bytes()].concat();
        let mut link = hash(9, &[&self.secret, &place]);
        for at in 0..to {
            let of = |which| self.random([0, leaf, chain, at, which]);
            link = hash(0, &[&of(0), &xor(&link, &of(1))]);
        }
        link
    }

    fn parent(&self, left: &Hash, right: &Hash, kind: u32, tree: u32, height: u32, index: u32) -> Hash {
        let of = |which| self.random([kind, tree, height, index, which]);
        hash(1, &[&of(0), &xor(left, &of(1)), &xor(right, &of(2))])
    }

    fn leaf(&self, leaf: u32) -> Hash {
        let mut level: Vec<Hash> = (0..CHAINS).map(|chain| self.chain(leaf, chain, MOST)).collect();
        let mut height = 0;
        while level.len() > 1 {
            let odd = (level.len() % 2 == 1).then(|| level[level.len() - 1]);
            let pairs = level.as_chunks::<2>().0.iter().zip(0..);
            let mut next: Vec<Hash> = pairs
                .map(|([left, right], index)| self.parent(left, right, 1, leaf, height, index))
                .collect();
            next.extend(odd);
            level = next;
            height += 1;
        }
        level[0]
    }

    /// Every node of the tree, leaves first, the root last. It takes seconds.
    pub fn nodes(&self) -> Vec<Hash> {
        let mut all: Vec<Hash> = (0..LEAVES).map(|leaf| self.leaf(leaf)).collect();
        let (mut from, mut width, mut height) = (0, LEAVES as usize, 0);
        while width > 1 {
            for index in 0..width / 2 {
                let (left, right) = (all[from + 2 * index], all[from + 2 * index + 1]);
                let number = u32::try_from(index).expect("below 1024");
                all.push(self.parent(&left, &right, 2, 0, height, number));
            }
            (from, width, height) = (from + width, width / 2, height + 1);
        }
        all
    }

    /// The public key.
    pub fn public(&self, nodes: &[Hash]) -> Vec<u8> {
        [&SET.to_be_bytes()[..], &nodes[nodes.len() - 1], &self.public].concat()
    }

    /// A signature with the part of this number.
    pub fn sign(&self, nodes: &[Hash], leaf: u32, randomizer: &Hash, message: &[u8]) -> Vec<u8> {
        let number = [&[0; 28][..], &leaf.to_be_bytes()].concat();
        let digest = hash(2, &[randomizer, &nodes[nodes.len() - 1], &number, message]);
        let mut signature = [&leaf.to_be_bytes()[..], randomizer].concat();
        for (digit, chain) in digits(&digest).into_iter().zip(0..) {
            signature.extend_from_slice(&self.chain(leaf, chain, digit));
        }
        let (mut from, mut width, mut at) = (0, LEAVES as usize, leaf as usize);
        while width > 1 {
            signature.extend_from_slice(&nodes[from + (at ^ 1)]);
            (from, width, at) = (from + width, width / 2, at / 2);
        }
        signature
    }
}
