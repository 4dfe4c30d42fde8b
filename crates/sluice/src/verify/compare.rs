//! Two sides against each other, height by height, up to the first difference.

use std::collections::{BTreeSet, VecDeque};

use sluice_frame::StateDigest;
use sluice_model::Digest;

use super::{Block, Scope, Side, Step};
use crate::exit::Failure;

/// Gaps of one side that are kept to explain what is missing; more are forgotten, oldest first.
const GAPS: usize = 1024;

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Blocks that both sides have and that were compared.
    pub(crate) blocks: u64,
    /// Of these, blocks whose digest, which covers everything before them, was computed anew from
    /// the journal's bytes, and is that of the other side where that has one.
    pub(crate) chained: u64,
    /// The first and last height that both sides cover.
    pub(crate) range: Option<(u64, u64)>,
    /// The first difference.
    pub(crate) difference: Option<Difference>,
    /// What could not be compared, in words.
    pub(crate) notes: Vec<String>,
}

/// The first place where the sides are not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The height.
    pub(crate) height: u64,
    /// What differs.
    pub(crate) what: What,
}

/// What differs at a height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The changes of these stores.
    Stores(Vec<StoreDifference>),
    /// The same changes, with the stores in another order.
    Order,
    /// The metadata.
    Metadata {
        /// In the journal.
        here: Digest,
        /// On the other side.
        there: Digest,
    },
    /// The block's name in the order of blocks.
    Pointer {
        /// In the journal.
        here: String,
        /// On the other side.
        there: String,
    },
    /// The block is the same and what lies before it is not.
    Chain {
        /// In the journal.
        here: Digest,
        /// On the other side.
        there: Digest,
    },
    /// The journal does not have the block; why, if it says so.
    OnlyThere(Option<String>),
    /// The other side does not have the block; why, if it says so.
    OnlyHere(Option<String>),
}

/// A store whose changes differ. `None` where it has no changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreDifference {
    /// The store.
    pub(crate) store: String,
    /// Its digest in the journal.
    pub(crate) here: Option<Digest>,
    /// Its digest on the other side.
    pub(crate) there: Option<Digest>,
}

/// A side with what it gave and the other did not answer yet.
struct Cursor<'a> {
    side: &'a mut dyn Side,
    front: Option<Block>,
    /// Everything up to here was given.
    through: u64,
    gaps: VecDeque<(u64, u64, String)>,
    metadata: bool,
}

impl<'a> Cursor<'a> {
    fn new(side: &'a mut dyn Side) -> Self {
        Self { side, front: None, through: 0, gaps: VecDeque::new(), metadata: false }
    }

    /// Finds the next block of the range that has something to compare.
    async fn fill(&mut self, scope: &Scope) -> Result<(), Failure> {
        while self.front.is_none() {
            match self.side.next().await? {
                None => return Ok(()),
                Some(Step::Through(height)) => self.through = self.through.max(height),
                Some(Step::Gap { from, to, cause }) => {
                    if self.gaps.len() >= GAPS {
                        self.gaps.pop_front();
                    }
                    self.through = self.through.max(to);
                    self.gaps.push_back((from, to, cause));
                }
                Some(Step::Block(block)) => {
                    self.through = self.through.max(block.height);
                    self.metadata |= block.metadata.is_some();
                    let outside = scope.is_before(block.height) || scope.is_behind(block.height);
                    if !outside && !block.is_empty() {
                        self.front = Some(block);
                    }
                }
            }
        }
        Ok(())
    }

    /// What this side says about a block that it does not have.
    fn excuse(&self, height: u64) -> Option<String> {
        let gap = self.gaps.iter().find(|(from, to, _)| (*from..=*to).contains(&height))?;
        Some(format!("a recorded gap from {} to {}: {}", gap.0, gap.1, gap.2))
    }

    /// True if a block of this height would have been given.
    fn covers(&self, height: u64) -> bool {
        height >= self.side.first() && height <= self.through
    }
}

/// What the sides of one comparison have shown so far.
#[derive(Default)]
struct Seen {
    /// The digests of blocks can no longer be compared, and why is noted.
    unchained: bool,
    metadata_noted: bool,
}

/// Compares until one side ends or differs. `tell` hears how far it is.
///
/// # Errors
/// What keeps a side from being read to its end, a difference inside of one side included.
pub(crate) async fn compare(
    here: &mut dyn Side,
    there: &mut dyn Side,
    scope: &Scope,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<Report, Failure> {
    let (mut here, mut there) = (Cursor::new(here), Cursor::new(there));
    let (mut report, mut seen) = (Report::default(), Seen::default());
    loop {
        here.fill(scope).await?;
        there.fill(scope).await?;
        let next = match (&here.front, &there.front) {
            (None, None) => break,
            (Some(block), None) | (None, Some(block)) => block.height,
            (Some(a), Some(b)) => a.height.min(b.height),
        };
        tell(next);
        let mine = here.front.take_if(|block| block.height == next);
        let other = there.front.take_if(|block| block.height == next);
        let what = match (mine, other) {
            (Some(mine), Some(other)) => {
                report.blocks += 1;
                same(&mine, &other, scope.whole, &mut seen, &mut report)
            }
            (Some(mine), None) => one_sided(&mine, &there).map(What::OnlyHere),
            (None, Some(other)) => one_sided(&other, &here).map(What::OnlyThere),
            (None, None) => None,
        };
        if let Some(what) = what {
            report.difference = Some(Difference { height: next, what });
            break;
        }
        if there.front.is_none() && next > there.through
            || here.front.is_none() && next > here.through
        {
            // Behind the end of the other side; what else this one has is not compared.
            break;
        }
    }
    report.range = range(&here, &there, scope, report.difference.as_ref());
    Ok(report)
}

/// The heights that both sides cover, as far as they were compared.
fn range(
    here: &Cursor<'_>,
    there: &Cursor<'_>,
    scope: &Scope,
    difference: Option<&Difference>,
) -> Option<(u64, u64)> {
    let from = here.side.first().max(there.side.first()).max(scope.from.unwrap_or(0));
    let end = here.through.min(there.through).min(scope.until.unwrap_or(u64::MAX));
    let to = difference.map_or(end, |difference| difference.height);
    (from <= to).then_some((from, to))
}

/// A block that the other side did not give: a difference where it should have.
fn one_sided(block: &Block, other: &Cursor<'_>) -> Option<Option<String>> {
    // Metadata alone is no block for a side that keeps none.
    let counts = !block.stores.is_empty() || other.metadata;
    (counts && other.covers(block.height)).then(|| other.excuse(block.height))
}

fn same(
    here: &Block,
    there: &Block,
    whole: bool,
    seen: &mut Seen,
    report: &mut Report,
) -> Option<What> {
    let stores = stores(&here.stores, &there.stores);
    if !stores.is_empty() {
        return Some(What::Stores(stores));
    }
    if here.pointer != there.pointer {
        let (here, there) = (here.pointer.to_string(), there.pointer.to_string());
        return Some(What::Pointer { here, there });
    }
    match (here.metadata, there.metadata) {
        (Some(here), Some(there)) if here != there => return Some(What::Metadata { here, there }),
        (Some(_), None) | (None, Some(_)) => {
            seen.unchained = true;
            if !std::mem::replace(&mut seen.metadata_noted, true) {
                let (with, without) =
                    if here.metadata.is_some() { ("here", "there") } else { ("there", "here") };
                report.notes.push(format!(
                    "from block {} on the metadata is not compared everywhere: it is {with} and \
                     not {without}",
                    here.height
                ));
            }
        }
        _ => {}
    }
    if whole && names(&here.stores) != names(&there.stores) {
        return Some(What::Order);
    }
    if whole { chain(here, there, seen, report) } else { None }
}

/// The digests of both, which cover everything before the block.
fn chain(here: &Block, there: &Block, seen: &mut Seen, report: &mut Report) -> Option<What> {
    let Some((mine, other)) = here.digest.zip(there.digest) else {
        report.chained += u64::from(here.linked);
        return None;
    };
    if here.generation != there.generation && !std::mem::replace(&mut seen.unchained, true) {
        report.notes.push(format!(
            "from block {} on the chains are not compared, only what is in the blocks: it is in \
             generation {} here and in {} there",
            here.height, here.generation, there.generation
        ));
    }
    if seen.unchained {
        return None;
    }
    report.chained += u64::from(here.linked && mine == other);
    (mine != other).then_some(What::Chain { here: mine, there: other })
}

fn names(states: &[StateDigest]) -> Vec<&str> {
    states.iter().map(|state| state.store.as_str()).collect()
}

/// The stores that differ, by name.
fn stores(here: &[StateDigest], there: &[StateDigest]) -> Vec<StoreDifference> {
    let all: BTreeSet<&str> = names(here).into_iter().chain(names(there)).collect();
    let digest = |states: &[StateDigest], store: &str| {
        states.iter().find(|state| state.store == store).map(|state| state.digest)
    };
    all.into_iter()
        .map(|store| (store, digest(here, store), digest(there, store)))
        .filter(|(_, here, there)| here != there)
        .map(|(store, here, there)| StoreDifference { store: store.to_owned(), here, there })
        .collect()
}

#[cfg(test)]
mod tests;
