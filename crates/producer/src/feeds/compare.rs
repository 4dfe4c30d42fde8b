//! Whether two feeds saw the same block. Pure.
//!
//! Compared are the state digests of the stores that both feeds capture. Which those are cannot be
//! read off one block: a store without changes has no digest. So a store counts as captured by a
//! feed from the first block on in which that feed showed it; from then on a block in which one
//! feed has it and the other does not is a difference too. What only one feed ever showed, pseudo
//! stores (which have no digests) and metadata are reported, never a difference.

use std::collections::{BTreeMap, BTreeSet};

use sluice_frame::{BlockEnd, StateDigest};
use sluice_model::{Digest, Pointer};

/// Most stores remembered per feed. Those beyond are compared only where both feeds have them.
const REMEMBERED: usize = 4096;

/// What a comparison says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both have the same in every store that both capture.
    Agree {
        /// Stores that were compared.
        compared: usize,
        /// Stores that only one of them has ever shown.
        alone: Vec<String>,
        /// The metadata differs, which says nothing about the state.
        metadata: bool,
    },
    /// They differ.
    Differ(Difference),
}

/// The first difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The store.
    pub store: String,
    /// What this feed has of it; `None`: no change.
    pub ours: Option<Digest>,
    /// What the other has of it.
    pub theirs: Option<Digest>,
}

/// A difference as people are told of it: the block, the store, and both sides with their names.
pub fn alarm(at: &Pointer, difference: &Difference, ours: &str, theirs: &str) -> String {
    let side = |digest: &Option<Digest>| {
        digest.as_ref().map_or_else(|| "unchanged".to_owned(), |digest| digest.short())
    };
    let Difference { store, ours: own, theirs: other } = difference;
    format!("block {at}: store {store} is {} in {ours} and {} in {theirs}", side(own), side(other))
}

/// Compares the blocks of two feeds, in order.
#[derive(Clone, Debug, Default)]
pub struct Comparer {
    ours: BTreeSet<String>,
    theirs: BTreeSet<String>,
}

impl Comparer {
    /// Compares one block.
    pub fn compare(&mut self, ours: &BlockEnd, theirs: &BlockEnd) -> Verdict {
        remember(&mut self.ours, &ours.states);
        remember(&mut self.theirs, &theirs.states);
        let index = |states: &[StateDigest]| -> BTreeMap<String, Digest> {
            states.iter().map(|state| (state.store.clone(), state.digest)).collect()
        };
        let (own, other) = (index(&ours.states), index(&theirs.states));
        let stores: BTreeSet<&String> = own.keys().chain(other.keys()).collect();
        let (mut compared, mut alone) = (0, Vec::new());
        for store in stores {
            let (ours, theirs) = (own.get(store).copied(), other.get(store).copied());
            let both = (ours.is_some() && theirs.is_some())
                || (self.ours.contains(store) && self.theirs.contains(store));
            if !both {
                alone.push(store.clone());
            } else if ours != theirs {
                return Verdict::Differ(Difference { store: store.clone(), ours, theirs });
            } else {
                compared += 1;
            }
        }
        let metadata = ours.metadata_digest != theirs.metadata_digest;
        Verdict::Agree { compared, alone, metadata }
    }
}

fn remember(seen: &mut BTreeSet<String>, states: &[StateDigest]) {
    for state in states {
        if seen.len() < REMEMBERED && !seen.contains(&state.store) {
            seen.insert(state.store.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(states: &[(&str, u8)]) -> BlockEnd {
        let state = |(store, byte): &(&str, u8)| StateDigest {
            store: (*store).to_owned(),
            digest: Digest::from_array([*byte; 32]),
        };
        BlockEnd { states: states.iter().map(state).collect(), ..BlockEnd::default() }
    }

    fn alone(verdict: &Verdict) -> Vec<&str> {
        let Verdict::Agree { alone, .. } = verdict else { panic!("{verdict:?}") };
        alone.iter().map(String::as_str).collect()
    }

    #[test]
    fn the_same_agrees_whatever_the_order_and_one_store_is_enough_to_differ() {
        let mut comparer = Comparer::default();
        let verdict =
            comparer.compare(&end(&[("acc", 1), ("bank", 2)]), &end(&[("bank", 2), ("acc", 1)]));
        assert!(alone(&verdict).is_empty());
        let verdict =
            comparer.compare(&end(&[("acc", 1), ("bank", 2)]), &end(&[("acc", 1), ("bank", 3)]));
        let Verdict::Differ(difference) = verdict else { panic!("{verdict:?}") };
        assert_eq!(difference.store, "bank");
        let told = alarm(&Pointer::from_height(7), &difference, "the one", "the other");
        assert_eq!(told, "block 7: store bank is 02020202 in the one and 03030303 in the other");
    }

    #[test]
    fn what_one_feed_never_shows_is_reported_and_what_it_shows_later_counts() {
        let mut comparer = Comparer::default();
        let verdict = comparer.compare(&end(&[("bank", 2)]), &end(&[("acc", 1), ("bank", 2)]));
        assert_eq!(alone(&verdict), ["acc"]);
        // Now both have shown it.
        let both = end(&[("acc", 4), ("bank", 2)]);
        assert!(alone(&comparer.compare(&both, &both)).is_empty());
        let verdict = comparer.compare(&end(&[("bank", 2)]), &both);
        let Verdict::Differ(difference) = verdict else { panic!("{verdict:?}") };
        assert_eq!((difference.store.as_str(), difference.ours), ("acc", None));
        let told = alarm(&Pointer::from_height(8), &difference, "the one", "the other");
        assert_eq!(told, "block 8: store acc is unchanged in the one and 04040404 in the other");
    }

    #[test]
    fn metadata_is_only_reported() {
        let theirs =
            BlockEnd { metadata_digest: Some(Digest::from_array([9; 32])), ..end(&[("bank", 1)]) };
        let verdict = Comparer::default().compare(&end(&[("bank", 1)]), &theirs);
        assert_eq!(verdict, Verdict::Agree { compared: 1, alone: vec![], metadata: true });
    }

    proptest! {
        /// Agreement is agreement from both sides, and a changed digest is always found.
        #[test]
        fn is_symmetric(
            ours in prop::collection::btree_map("[a-e]", 0u8..3, 0..5),
            theirs in prop::collection::btree_map("[a-e]", 0u8..3, 0..5),
        ) {
            let list = |map: &BTreeMap<String, u8>| {
                let pairs: Vec<_> = map.iter().map(|(s, d)| (s.as_str(), *d)).collect();
                end(&pairs)
            };
            let (a, b) = (list(&ours), list(&theirs));
            let forth = Comparer::default().compare(&a, &b);
            let back = Comparer::default().compare(&b, &a);
            let differs = |verdict: &Verdict| matches!(verdict, Verdict::Differ(_));
            prop_assert_eq!(differs(&forth), differs(&back));
            let expected = ours.iter().any(|(s, d)| theirs.get(s).is_some_and(|other| other != d));
            prop_assert_eq!(differs(&forth), expected);
        }
    }
}
