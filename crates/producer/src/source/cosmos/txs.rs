//! Which of the transactions in a meta file are the block's own, told by the block itself.
//!
//! The header's `data_hash` is the root of a Merkle tree over the block's transactions (CometBFT's
//! simple tree, shaped and prefixed as in RFC 6962; what is hashed into a leaf is the SHA-256 of
//! the transaction). A meta file may list more than those, but always in front of them: the
//! transactions of earlier blocks since the node's start, and of the genesis. So the block's own
//! are the end of the list that has this root, and no two ends have the same one.

use std::collections::VecDeque;

use ring::digest::{Context, SHA256, digest};

/// A SHA-256.
pub type Hash = [u8; 32];

/// Most leaves that are remembered (2 MiB): a block with more transactions is not recognised.
/// Looking through as many without a match takes 1.5 million hashes and 34 MiB.
pub const KEPT: usize = 1 << 16;

fn array(digest: &ring::digest::Digest) -> Hash {
    let mut hash = Hash::default();
    for (to, from) in hash.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    hash
}

/// The leaf of a transaction.
pub fn leaf(tx: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[0]);
    context.update(digest(&SHA256, tx).as_ref());
    array(&context.finish())
}

fn inner(left: &Hash, right: &Hash) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[1]);
    context.update(left);
    context.update(right);
    array(&context.finish())
}

/// The root over these leaves; every left branch is the largest whole tree that leaves something
/// for the right one.
pub fn root(leaves: impl IntoIterator<Item = Hash>) -> Hash {
    // Whole trees from left to right, each smaller than the one before: the binary digits of the
    // number of leaves. A further leaf carries.
    let mut trees: Vec<Hash> = Vec::new();
    for (count, leaf) in leaves.into_iter().enumerate() {
        let mut tree = leaf;
        for _ in 0..count.trailing_ones() {
            if let Some(left) = trees.pop() {
                tree = inner(&left, &tree);
            }
        }
        trees.push(tree);
    }
    let joined = trees.into_iter().rev().reduce(|right, left| inner(&left, &right));
    joined.unwrap_or_else(|| array(&digest(&SHA256, b"")))
}

/// The last leaves of a list, at most [`KEPT`].
#[derive(Debug, Default)]
pub struct Ending {
    leaves: VecDeque<Hash>,
}

impl Ending {
    /// Takes the next transaction of the list.
    pub fn push(&mut self, tx: &[u8]) {
        if self.leaves.len() == KEPT {
            self.leaves.pop_front();
        }
        self.leaves.push_back(leaf(tx));
    }

    /// The next transaction cannot be hashed: no end of the list that has it can be recognised.
    pub fn push_unknown(&mut self) {
        self.leaves.clear();
    }

    /// How many of the last transactions have this root. `guess` is tried first.
    pub fn own(&self, data_hash: &Hash, guess: u64) -> Option<u64> {
        let guessed = usize::try_from(guess).ok().filter(|guess| {
            let skip = self.leaves.len().checked_sub(*guess);
            skip.is_some_and(|skip| root(self.leaves.range(skip..).copied()) == *data_hash)
        });
        guessed.or_else(|| self.search(data_hash)).map(|own| own as u64)
    }

    fn search(&self, data_hash: &Hash) -> Option<usize> {
        let mut ends = Ends::default();
        let mut next = self.leaves.iter().rev();
        loop {
            if ends.root() == *data_hash {
                return Some(ends.length);
            }
            ends.lengthen(*next.next()?);
        }
    }
}

/// The roots of all ends of a list, from the shortest on, with a few hashes for each: whole trees
/// are kept, because longer ends have them again.
#[derive(Debug, Default)]
struct Ends {
    length: usize,
    /// By height: the whole trees with 2^height leaves, the one that ends the list first, each
    /// further one beginning a leaf earlier.
    trees: Vec<Vec<Hash>>,
}

impl Ends {
    /// Takes the leaf in front of the present end.
    fn lengthen(&mut self, leaf: Hash) {
        self.length += 1;
        let mut tree = Some(leaf);
        let mut height = 0;
        while let Some(whole) = tree {
            if self.trees.len() == height {
                self.trees.push(Vec::new());
            }
            let Some(same) = self.trees.get_mut(height) else { return };
            same.push(whole);
            // The tree twice as large that begins here, if so many leaves are there: its right
            // half begins as many leaves later as the left half has.
            tree = self
                .length
                .checked_sub(2 << height)
                .and_then(|right| same.get(right))
                .map(|right| inner(&whole, right));
            height += 1;
        }
    }

    /// The root of the present end.
    fn root(&self) -> Hash {
        let digits =
            (0usize..).zip(&self.trees).filter(|(height, _)| self.length >> height & 1 == 1);
        let joined = digits
            .filter_map(|(height, trees)| trees.get(self.length & ((1 << height) - 1)))
            .copied()
            .reduce(|right, left| inner(&left, &right));
        joined.unwrap_or_else(|| root([]))
    }
}

#[cfg(test)]
mod tests;
