//! Looks for the last block that the source and the journal both have. Pure.

use sluice_model::Pointer;

/// The source gave another block than the journal has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Divergence {
    /// The block.
    pub(super) at: Pointer,
    /// The block before it, in the journal and as the source says.
    pub(super) parent: Pointer,
    /// What differs, with both digests.
    pub(super) cause: String,
    /// The source gave the block before in the same run, and it is the one that the journal has.
    pub(super) parent_agrees: bool,
}

/// How far back a source was asked to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    /// The lowest block known to differ.
    pub(super) found: Divergence,
    /// Runs so far; each goes back twice as far as the one before.
    runs: u32,
}

/// Where a source can begin again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// The lowest block it gives.
    pub(super) first: Pointer,
    /// Blocks are taken away once durable: one that is there was made anew.
    pub(super) made_anew: bool,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// Both have this one.
    Base(Pointer),
    /// Let the source begin again behind this one, if it can.
    Earlier(Pointer),
}

impl Trace {
    pub(super) const fn new(found: Divergence) -> Self {
        Self { found, runs: 0 }
    }

    /// Another run found the difference at this block.
    pub(super) fn again(self, found: Divergence) -> Self {
        Self { found, runs: self.runs.saturating_add(1) }
    }

    /// Where to look.
    pub(super) fn search(&self) -> Search {
        let Divergence { at, parent, parent_agrees, .. } = &self.found;
        match at.height() {
            Some(height) if !parent_agrees => {
                let back = 1u64.checked_shl(self.runs).unwrap_or(u64::MAX);
                let from = height.saturating_sub(1).saturating_sub(back);
                Search::Earlier(Pointer::from_height(from))
            }
            _ => Search::Base(parent.clone()),
        }
    }

    /// What the answer of the source means: go on with its run (`None`), or this is the base, or
    /// there is none. `None` as the answer is a source that cannot give blocks again: whoever
    /// sent the block named its parent.
    pub(super) fn reached(&self, reach: Option<&Reach>) -> Option<Result<Pointer, String>> {
        let Divergence { at, parent, cause, .. } = &self.found;
        match reach {
            None => Some(Ok(parent.clone())),
            Some(reach) if reach.first < *at => None,
            Some(reach) if reach.made_anew => Some(Ok(parent.clone())),
            Some(_) => Some(Err(format!(
                "{cause}; the source has no earlier block that shows where the histories part"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(height: u64) -> Pointer {
        Pointer::from_height(height)
    }

    fn found(height: u64, parent_agrees: bool) -> Divergence {
        Divergence {
            at: at(height),
            parent: at(height - 1),
            cause: "differs".into(),
            parent_agrees,
        }
    }

    #[test]
    fn goes_back_twice_as_far_each_time_until_a_block_agrees() {
        let mut trace = Trace::new(found(100, false));
        let mut low = 100;
        let mut asked = Vec::new();
        // They part at 60: every run that begins at or below it finds 60.
        while let Search::Earlier(from) = trace.search() {
            asked.push(from.height().unwrap());
            low = (from.height().unwrap() + 1).min(low);
            let first = low.max(60);
            trace = trace.again(found(first, low < 60));
        }
        assert_eq!(trace.search(), Search::Base(at(59)));
        assert_eq!(asked, [98, 96, 92, 84, 68, 36]);
    }

    #[test]
    fn a_source_that_cannot_go_back_is_taken_at_its_word() {
        let trace = Trace::new(found(8, false));
        assert_eq!(trace.reached(None), Some(Ok(at(7))));
        let earlier = Reach { first: at(6), made_anew: false };
        assert_eq!(trace.reached(Some(&earlier)), None);
    }

    #[test]
    fn the_lowest_file_counts_only_where_files_are_taken_away() {
        let trace = Trace::new(found(8, false));
        let anew = Reach { first: at(8), made_anew: true };
        assert_eq!(trace.reached(Some(&anew)), Some(Ok(at(7))));
        let kept = Reach { first: at(8), made_anew: false };
        assert!(trace.reached(Some(&kept)).unwrap().unwrap_err().contains("no earlier block"));
    }

    #[test]
    fn the_first_block_has_nothing_before_it() {
        let first = Divergence { parent: Pointer::ORIGIN, ..found(1, false) };
        assert_eq!(Trace::new(first).search(), Search::Earlier(at(0)));
    }
}
