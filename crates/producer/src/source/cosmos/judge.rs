//! Decides from looks at the directory whether a block can be taken, is awaited, or never comes.
//! Pure: time and observations come in as values.

use std::time::{Duration, Instant};

use super::format::Completeness;

/// What a look at one file found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No such file.
    Missing,
    /// It is there, whole or not.
    There(Completeness),
}

/// What a look at the directory found for one height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its data file.
    pub data: Found,
    /// Its meta file; [`Found::Missing`] too where metadata is not wanted.
    pub meta: Found,
    /// The lowest height above with a data file.
    pub later: Option<u64>,
    /// Other blocks have meta files.
    pub others_have_meta: bool,
}

/// Which file an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The data file.
    Data,
    /// The meta file.
    Meta,
}

/// What to do about a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Read the block; the bodies have these sizes.
    Take {
        /// Of the data file.
        data: u64,
        /// Of the meta file.
        meta: Option<u64>,
    },
    /// Look again when something changed.
    Wait,
    /// The block is missing, the next one there is this.
    Gap {
        /// The next height that is there.
        next: u64,
    },
    /// There is nothing more, and nobody waits for more.
    End,
    /// The file is shorter than it says and will stay so, or longer.
    Broken(Which, Completeness),
}

/// How patient to be.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Wait for blocks at all.
    pub follow: bool,
    /// For a file that does not grow, or a block missing before a later one.
    pub torn_after: Duration,
    /// For a meta file beside a complete data file.
    pub meta_wait: Duration,
}

/// What was seen so far of the height at hand.
#[derive(Debug, Default)]
pub struct Judge {
    seen: Option<(Found, Found)>,
    /// Since when both files are as they are.
    since: Option<Instant>,
}

impl Judge {
    /// Takes a look into account.
    pub fn decide(&mut self, look: Look, now: Instant, patience: &Patience) -> Decision {
        let same = self.seen == Some((look.data, look.meta));
        let since = match self.since.filter(|_| same) {
            Some(since) => since,
            None => *self.since.insert(now),
        };
        self.seen = Some((look.data, look.meta));
        let unchanged = now.saturating_duration_since(since);
        let settled = !patience.follow || (same && unchanged >= patience.torn_after);
        // Two looks: between the first one and its listing the block may have been completed.
        let overtaken = same && look.later.is_some();
        match (look.data, look.later) {
            (Found::Missing, Some(next)) if settled => Decision::Gap { next },
            (Found::Missing, None) if !patience.follow => Decision::End,
            (Found::Missing, _) => Decision::Wait,
            (Found::There(Completeness::Complete(data)), _) => {
                let waited = !patience.follow || unchanged >= patience.meta_wait;
                Self::with_meta(data, &look, settled || overtaken, waited)
            }
            (Found::There(broken @ Completeness::Short { .. }), _) => {
                wait_unless(settled || overtaken, Which::Data, broken)
            }
            // A longer file may be one that is being written anew.
            (Found::There(broken @ Completeness::Long { .. }), _) => {
                wait_unless(same || !patience.follow, Which::Data, broken)
            }
        }
    }

    /// The node writes the meta file before the data file: beside complete data it is complete,
    /// or broken, or was never written. A copy of the directory may be in any order.
    fn with_meta(data: u64, look: &Look, settled: bool, waited: bool) -> Decision {
        match look.meta {
            Found::There(Completeness::Complete(meta)) => Decision::Take { data, meta: Some(meta) },
            Found::There(broken) => wait_unless(settled, Which::Meta, broken),
            Found::Missing if look.others_have_meta && !waited => Decision::Wait,
            Found::Missing => Decision::Take { data, meta: None },
        }
    }
}

fn wait_unless(certain: bool, which: Which, broken: Completeness) -> Decision {
    if certain { Decision::Broken(which, broken) } else { Decision::Wait }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLLOW: Patience = Patience {
        follow: true,
        torn_after: Duration::from_secs(30),
        meta_wait: Duration::from_secs(1),
    };
    const IMPORT: Patience = Patience { follow: false, ..FOLLOW };
    const WHOLE: Found = Found::There(Completeness::Complete(5));

    fn short(found: u64) -> Found {
        Found::There(Completeness::Short { expected: Some(100), found })
    }

    fn look(data: Found) -> Look {
        Look { data, meta: Found::Missing, later: None, others_have_meta: false }
    }

    /// Decides over looks at these seconds.
    fn decide(looks: &[(u64, Look)], patience: &Patience) -> Vec<Decision> {
        let (mut judge, start) = (Judge::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        looks.iter().map(|(s, look)| judge.decide(*look, at(*s), patience)).collect()
    }

    #[test]
    fn a_growing_file_is_awaited_and_a_still_one_is_torn() {
        let torn =
            Decision::Broken(Which::Data, Completeness::Short { expected: Some(100), found: 60 });
        let decisions = decide(
            &[
                (0, look(short(20))),
                (29, look(short(60))),
                (40, look(short(60))),
                (59, look(short(60))),
            ],
            &FOLLOW,
        );
        assert_eq!(decisions, [Decision::Wait, Decision::Wait, Decision::Wait, torn]);
        assert_eq!(
            decide(&[(0, look(short(60)))], &IMPORT),
            [torn],
            "nobody will complete what is imported"
        );
        let done = decide(&[(0, look(short(60))), (1, look(WHOLE))], &FOLLOW);
        assert_eq!(done[1], Decision::Take { data: 5, meta: None });
    }

    #[test]
    fn a_later_block_proves_a_torn_one_but_not_at_first_sight() {
        let overtaken = Look { later: Some(8), ..look(short(60)) };
        let decisions = decide(&[(0, overtaken), (1, overtaken)], &FOLLOW);
        assert_eq!(decisions[0], Decision::Wait);
        assert!(matches!(decisions[1], Decision::Broken(Which::Data, _)));
    }

    #[test]
    fn a_missing_block_is_a_gap_only_before_a_later_one() {
        let missing = look(Found::Missing);
        let before = Look { later: Some(9), ..missing };
        assert_eq!(decide(&[(0, missing), (100, missing)], &FOLLOW)[1], Decision::Wait);
        let decisions = decide(&[(0, before), (29, before), (30, before)], &FOLLOW);
        assert_eq!(decisions, [Decision::Wait, Decision::Wait, Decision::Gap { next: 9 }]);
        assert_eq!(decide(&[(0, before)], &IMPORT), [Decision::Gap { next: 9 }]);
        assert_eq!(decide(&[(0, missing)], &IMPORT), [Decision::End]);
    }

    #[test]
    fn a_longer_file_needs_two_looks() {
        let long = look(Found::There(Completeness::Long { expected: 30, found: 31 }));
        let decisions = decide(&[(0, long), (1, long)], &FOLLOW);
        assert_eq!(decisions[0], Decision::Wait);
        assert!(matches!(decisions[1], Decision::Broken(..)));
        assert!(matches!(decide(&[(0, long)], &IMPORT)[0], Decision::Broken(..)));
    }

    #[test]
    fn meta_is_awaited_a_moment_where_others_have_it() {
        let alone = Look { others_have_meta: true, ..look(WHOLE) };
        let decisions = decide(&[(0, alone), (1, alone)], &FOLLOW);
        assert_eq!(decisions, [Decision::Wait, Decision::Take { data: 5, meta: None }]);
        let both = Look { meta: Found::There(Completeness::Complete(7)), ..alone };
        assert_eq!(decide(&[(0, both)], &FOLLOW), [Decision::Take { data: 5, meta: Some(7) }]);
        assert_eq!(decide(&[(0, alone)], &IMPORT), [Decision::Take { data: 5, meta: None }]);
    }

    #[test]
    fn broken_meta_beside_complete_data_is_an_error() {
        let torn = Look { meta: short(9), ..look(WHOLE) };
        let decisions = decide(&[(0, torn), (30, torn)], &FOLLOW);
        assert_eq!(decisions[0], Decision::Wait);
        assert!(matches!(decisions[1], Decision::Broken(Which::Meta, _)));
    }
}
