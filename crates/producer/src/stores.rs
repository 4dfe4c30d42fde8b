//! Which stores an ingestor captures.

use std::collections::BTreeSet;

use bytes::Bytes;
use sluice_frame::{Elements, ScanError, ScanReason};
use sluice_model::{Filter, FilterSpec, filter::FilterError};

/// Most store names that are remembered to tell about them.
const REMEMBERED: usize = 1024;

/// The `stores` clause of an ingestor.
#[derive(Debug)]
pub struct Stores {
    filter: Filter,
    /// Names without wildcards; a typing error in one would capture nothing, silently.
    named: BTreeSet<String>,
    seen: BTreeSet<String>,
}

/// What is left of a piece of changes.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    /// Slices of the piece, in order.
    pub slices: Vec<Bytes>,
    /// Changes in the piece before anything was left out.
    pub offered: u32,
}

impl Stores {
    /// Compiles the clause; empty means every KV store.
    pub fn new(patterns: &[String]) -> Result<Self, FilterError> {
        let spec = FilterSpec { stores: patterns.to_vec(), ..FilterSpec::default() };
        let named =
            patterns.iter().filter(|name| !name.starts_with('!') && !name.contains(['*', '?']));
        Ok(Self {
            filter: Filter::compile(&spec)?,
            named: named.cloned().collect(),
            seen: BTreeSet::new(),
        })
    }

    /// The same clause, with nothing seen yet.
    pub fn anew(&self) -> Self {
        let (filter, named) = (self.filter.clone(), self.named.clone());
        Self { filter, named, seen: BTreeSet::new() }
    }

    /// Leaves out the changes of other stores.
    pub fn keep(&mut self, piece: &Bytes) -> Result<Kept, ScanError> {
        let mut kept = Kept { slices: Vec::new(), offered: 0 };
        let mut elements = Elements::new(piece);
        // Changes of one store lie side by side: it is decided once for each stretch of them.
        let (mut store, mut wanted): (Option<&[u8]>, bool) = (None, false);
        // The stretch of wanted changes at hand.
        let (mut from, mut to) = (0, 0);
        while let Some(element) = elements.next() {
            let element = element?;
            let at = elements.offset() - element.raw.len();
            if store != Some(element.store) {
                let name = std::str::from_utf8(element.store).map_err(|_| ScanError {
                    change: kept.offered,
                    offset: at,
                    reason: ScanReason::StoreUtf8,
                })?;
                wanted = self.wants(name);
                store = Some(element.store);
            }
            if wanted {
                if at != to {
                    push(&mut kept.slices, piece, from, to);
                    from = at;
                }
                to = elements.offset();
            }
            kept.offered = kept.offered.saturating_add(1);
        }
        push(&mut kept.slices, piece, from, to);
        Ok(kept)
    }

    fn wants(&mut self, store: &str) -> bool {
        if self.seen.len() < REMEMBERED && !self.seen.contains(store) {
            self.seen.insert(store.to_owned());
        }
        self.filter.matches_route(store, "")
    }

    /// Names that were asked for but not seen so far, with the stores that were; `None` if there
    /// is nothing to tell.
    pub fn missing(&self) -> Option<String> {
        let missing: Vec<_> = self.named.difference(&self.seen).map(String::as_str).collect();
        if missing.is_empty() || self.seen.is_empty() {
            return None;
        }
        let seen: Vec<_> = self.seen.iter().map(String::as_str).collect();
        Some(format!(
            "no change in the stores {} so far; seen were {}",
            missing.join(", "),
            seen.join(", ")
        ))
    }
}

fn push(slices: &mut Vec<Bytes>, piece: &Bytes, from: usize, to: usize) {
    if from < to {
        slices.push(piece.slice(from..to));
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;
    use sluice_frame::put_change;
    use sluice_model::Op;

    use super::*;

    fn piece(stores: &[&str]) -> Bytes {
        let mut out = BytesMut::new();
        for (i, store) in stores.iter().enumerate() {
            put_change(store, Op::Set, &[u8::try_from(i).unwrap()], b"v", &mut out);
        }
        out.freeze()
    }

    fn stores(patterns: &[&str]) -> Stores {
        Stores::new(&patterns.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn everything_is_one_slice_without_a_copy() {
        let all = piece(&["acc", "acc", "bank", "staking"]);
        let kept = stores(&["*"]).keep(&all).unwrap();
        assert_eq!((kept.slices.len(), kept.offered), (1, 4));
        assert_eq!(kept.slices[0].as_ptr(), all.as_ptr());
        assert_eq!(kept.slices[0], all);
    }

    #[test]
    fn names_that_never_come_are_told_with_those_that_do() {
        let mut own = stores(&["bank", "stakin", "!acc", "gov*"]);
        assert_eq!(own.missing(), None, "nothing seen yet");
        own.keep(&piece(&["acc", "bank"])).unwrap();
        let told = own.missing().unwrap();
        assert!(told.contains("stores stakin so far; seen were acc, bank"), "{told}");
    }

    #[test]
    fn pseudo_stores_are_kept_only_by_name() {
        let mixed = piece(&["abci.events", "bank"]);
        let pseudo = piece(&["abci.events"]).len();
        assert_eq!(stores(&["*"]).keep(&mixed).unwrap().slices, [mixed.slice(pseudo..)]);
        assert_eq!(
            stores(&["*", "abci.events"]).keep(&mixed).unwrap().slices,
            std::slice::from_ref(&mixed)
        );
    }

    proptest! {
        /// The same as deciding every change by itself.
        #[test]
        fn keeps_exactly_the_wanted_changes(names in prop::collection::vec("[abc]", 0..30)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let all = piece(&names);
            let kept = stores(&["*", "!b"]).keep(&all).unwrap();
            let expected: Vec<u8> = Elements::new(&all)
                .map(Result::unwrap)
                .filter(|element| element.store != b"b")
                .flat_map(|element| element.raw.to_vec())
                .collect();
            prop_assert_eq!(kept.slices.concat(), expected);
            prop_assert_eq!(kept.offered as usize, names.len());
        }
    }
}
