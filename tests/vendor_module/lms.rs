//! Keys and signatures of LMS (RFC 8554) as HSS of one level, as plainly as the algorithms of the RFC. For tests: nothing
//! here runs in constant time, and whoever calls keeps count of what is spent.

use sha2::{Digest, Sha256};

type Hash = [u8; 32];

/// A key of which everything follows from a seed.
#[derive(Clone, Debug)]
pub struct Key {
    pub id: [u8; 16],
    pub seed: Hash,
    /// Type of the tree: 5 has 32 leaves, and each further one 32 times as many.
    pub tree: u32,
    /// Type of the one-time signatures: chains sign 1, 2, 4 or 8 bits.
    pub one_time: u32,
}

impl Key {
    /// Signatures that it has.
    pub const fn leaves(&self) -> u32 {
        1 << (5 * (self.tree - 4))
    }

    /// Bits of a chain, chains, and how far the checksum is shifted.
    fn chains(&self) -> (usize, u16, u32) {
        [(1, 265, 7), (2, 133, 6), (4, 67, 4), (8, 34, 0)][self.one_time as usize - 1]
    }

    fn hash(&self, parts: &[&[u8]]) -> Hash {
        let mut hasher = Sha256::new();
        hasher.update(self.id);
        parts.iter().for_each(|part| hasher.update(part));
        hasher.finalize().into()
    }

    /// A chain from one of its links to another.
    fn chain(&self, q: u32, chain: u16, from: usize, to: usize, mut hash: Hash) -> Hash {
        for link in from..to {
            let link = u8::try_from(link).expect("below 255");
            hash = self.hash(&[&q.to_be_bytes(), &chain.to_be_bytes(), &[link], &hash]);
        }
        hash
    }

    /// Where a chain begins (appendix A).
    fn start(&self, q: u32, chain: u16) -> Hash {
        self.hash(&[&q.to_be_bytes(), &chain.to_be_bytes(), &[0xff], &self.seed])
    }

    /// The public key of a one-time signature (algorithm 1).
    fn one_time_public(&self, q: u32) -> Hash {
        let (w, p, _) = self.chains();
        let ends: Vec<Hash> =
            (0..p).map(|chain| self.chain(q, chain, 0, (1 << w) - 1, self.start(q, chain))).collect();
        self.hash(&[&q.to_be_bytes(), &[0x80, 0x80], &ends.concat()])
    }

    /// Every node of the tree by its number; the root is 1.
    fn nodes(&self) -> Vec<Hash> {
        let leaves = self.leaves();
        let mut nodes = vec![[0; 32]; 2 * leaves as usize];
        for number in (1..2 * leaves).rev() {
            let at = number as usize;
            nodes[at] = if number >= leaves {
                let public = self.one_time_public(number - leaves);
                self.hash(&[&number.to_be_bytes(), &[0x82, 0x82], &public])
            } else {
                self.hash(&[&number.to_be_bytes(), &[0x83, 0x83], &nodes[2 * at], &nodes[2 * at + 1]])
            };
        }
        nodes
    }

    /// The public key as that of one level.
    pub fn public(&self) -> Vec<u8> {
        let numbers = [1, self.tree, self.one_time].map(u32::to_be_bytes).concat();
        [&numbers[..], &self.id, &self.nodes()[1]].concat()
    }

    /// A signature with the part of this number.
    pub fn sign(&self, q: u32, randomizer: &Hash, message: &[u8]) -> Vec<u8> {
        let (w, p, shift) = self.chains();
        let most = (1_usize << w) - 1;
        let digest = self.hash(&[&q.to_be_bytes(), &[0x81, 0x81], randomizer, message]);
        let digits = |string: &[u8]| -> Vec<usize> {
            let of = |byte: &u8| (0..8 / w).rev().map(|at| usize::from(*byte) >> (w * at) & most).collect();
            string.iter().flat_map::<Vec<usize>, _>(of).collect()
        };
        let sum: usize = digits(&digest).iter().map(|digit| most - digit).sum();
        let sum = u16::try_from(sum << shift).expect("two bytes");
        let all = digits(&[&digest[..], &sum.to_be_bytes()].concat());
        let chains: Vec<Hash> =
            (0..p).zip(all).map(|(chain, to)| self.chain(q, chain, 0, to, self.start(q, chain))).collect();
        let nodes = self.nodes();
        let mut path = Vec::new();
        let mut node = (self.leaves() + q) as usize;
        while node > 1 {
            path.extend_from_slice(&nodes[node ^ 1]);
            node /= 2;
        }
        [
            &[0; 4][..],
            &q.to_be_bytes(),
            &self.one_time.to_be_bytes(),
            randomizer,
            &chains.concat(),
            &self.tree.to_be_bytes(),
            &path,
        ]
        .concat()
    }
}
