//! What the capturing program saw.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What the program saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Digest of every acknowledged block.
    pub(crate) acked: BTreeMap<u64, [u8; 32]>,
    /// When a new block was acknowledged.
    pub(crate) times: Vec<Instant>,
    /// Acknowledgements of blocks that the journal had already.
    pub(crate) duplicates: u64,
    /// Why connections ended, counted.
    pub(crate) ends: BTreeMap<&'static str, u64>,
    /// What must never happen.
    pub(crate) wrong: Vec<String>,
    /// When no further block was begun on purpose, and until when.
    pub(super) holds: Vec<(Instant, Option<Instant>)>,
    /// The highest block that was begun, and the highest that may be.
    pub(super) sent: u64,
    pub(super) limit: u64,
}

impl History {
    /// The last acknowledged block.
    pub(crate) fn last(&self) -> u64 {
        self.acked.last_key_value().map_or(0, |(height, _)| *height)
    }

    /// The longest time without a new acknowledged block between two moments; holds on purpose
    /// do not count.
    pub(crate) fn longest_stall(&self, from: Instant, to: Instant) -> Duration {
        let held = |begin: Instant, end: Instant| {
            self.holds.iter().any(|(from, to)| *from < end && to.is_none_or(|to| to > begin))
        };
        let between = self.times.iter().copied().filter(|at| (from..to).contains(at));
        let mut longest = Duration::ZERO;
        let mut before = from;
        for at in between.chain([to]) {
            if !held(before, at) {
                longest = longest.max(at.saturating_duration_since(before));
            }
            before = at;
        }
        longest
    }

    /// Lets no block above the limit begin.
    pub(super) fn hold(&mut self, limit: u64) {
        self.limit = limit;
        if self.holds.last().is_none_or(|(_, until)| until.is_some()) {
            self.holds.push((Instant::now(), None));
        }
    }
}
