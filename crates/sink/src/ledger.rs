//! Which checkpoint may be written, and when. Pure: the caller tells the time and does the I/O.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sluice_model::Position;

use crate::{
    batch::{Batch, Origin, Reached, Receipt},
    batcher::Progress,
};

/// A checkpoint that may be written. Built here only: from a receipt, or from progress over a
/// stretch behind which nothing is undelivered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a checkpoint that is not written is only lost progress, but it was asked for"]
pub(crate) struct Write {
    pub(crate) reached: Reached,
    /// The end of the last delivered batch.
    pub(crate) delivered: Position,
}

/// What is delivered, what is not, and what the stored checkpoint says.
#[derive(Debug)]
pub(crate) struct Ledger {
    origin: Arc<Origin>,
    /// As stored.
    stored: Reached,
    /// As it may be stored.
    reached: Reached,
    /// The end of the last batch for which a receipt came.
    delivered: Position,
    /// The end of the last batch given to the destination.
    given: Position,
    /// The number of the last batch given, and of the last fully accepted.
    last_given: u64,
    last_accepted: u64,
    written: Option<Instant>,
    /// Least time between two writes, unless forced.
    every: Duration,
}

/// A receipt that the ledger refuses; a defect of the dispatcher, never written over.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum LedgerError {
    /// Of a batch that was never given to the destination.
    #[error("the destination gave a receipt for batch {0}, which it was not given")]
    Foreign(u64),
}

impl Ledger {
    /// Begins where the stored checkpoint stands.
    pub(crate) fn new(
        origin: Arc<Origin>,
        stored: Reached,
        delivered: Position,
        every: Duration,
    ) -> Self {
        Self {
            origin,
            reached: stored.clone(),
            given: delivered.clone(),
            delivered,
            stored,
            last_given: 0,
            last_accepted: 0,
            written: None,
            every,
        }
    }

    /// True if a batch must not be given before the checkpoint of the one before is stored.
    pub(crate) const fn is_synchronous(&self) -> bool {
        self.every.is_zero()
    }

    /// A batch goes to the destination.
    pub(crate) fn given(&mut self, batch: &Batch) {
        self.given = batch.through().position.clone();
        self.last_given = batch.number();
    }

    /// The destination accepted what the receipt says; one that holds everything says nothing.
    pub(crate) fn settle(&mut self, receipt: Receipt) -> Result<(), LedgerError> {
        if receipt.number > self.last_given || *receipt.origin != *self.origin {
            return Err(LedgerError::Foreign(receipt.number));
        }
        let Some(reached) = receipt.reached else { return Ok(()) };
        if reached.at.position >= self.given {
            self.last_accepted = self.last_given;
        }
        if reached.at.position > self.delivered {
            self.delivered = reached.at.position.clone();
        }
        self.raise(reached);
        Ok(())
    }

    /// Nothing matched up to there. Ignored while a batch is not accepted: progress never passes
    /// an event that was not delivered.
    pub(crate) fn progress(&mut self, progress: Progress) {
        if self.all_accepted() {
            self.raise(progress.0);
        }
    }

    /// True if every batch given was accepted in full.
    pub(crate) const fn all_accepted(&self) -> bool {
        self.last_accepted == self.last_given
    }

    /// The checkpoint to write now, if there is one and it is time or `force`.
    pub(crate) fn due(&self, now: Instant, force: bool) -> Option<Write> {
        let moved = self.reached.at.position > self.stored.at.position
            || (self.reached.at.position == self.stored.at.position
                && self.reached.at.digest.is_some()
                && self.stored.at.digest.is_none());
        let ripe = self.next_write().is_none_or(|at| at <= now);
        (moved && (force || ripe))
            .then(|| Write { reached: self.reached.clone(), delivered: self.delivered.clone() })
    }

    /// When the next write may be made.
    pub(crate) fn next_write(&self) -> Option<Instant> {
        self.written.and_then(|at| at.checked_add(self.every))
    }

    /// The write is durable.
    pub(crate) fn stored(&mut self, write: Write, now: Instant) {
        self.stored = write.reached;
        self.written = Some(now);
    }

    /// A write failed; the next attempt keeps its distance too.
    pub(crate) const fn attempted(&mut self, now: Instant) {
        self.written = Some(now);
    }

    /// True if something is not stored yet.
    pub(crate) fn is_behind(&self, now: Instant) -> bool {
        self.due(now, true).is_some()
    }

    fn raise(&mut self, reached: Reached) {
        if reached.at.position > self.reached.at.position
            || (reached.at.position == self.reached.at.position && reached.at.digest.is_some())
        {
            self.reached = reached;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::Epoch;

    use crate::testing::{batcher, block, origin, reached, through};

    const EVERY: Duration = Duration::from_secs(1);

    fn ledger() -> Ledger {
        Ledger::new(origin(Epoch::from_u64(9)), reached(0), reached(0).at.position, EVERY)
    }

    fn two_batches(now: Instant) -> (Batch, Batch, Progress) {
        let mut batcher = batcher(1, Duration::ZERO);
        batcher.push_frame(block(1, &[("a", vec![1])]), now).unwrap();
        batcher.push_frame(block(2, &[("a", vec![2])]), now).unwrap();
        let first = batcher.take(now).unwrap().unwrap();
        let second = batcher.take(now).unwrap().unwrap();
        let (at, height) = through(9);
        batcher.push_through(at, height, now).unwrap();
        (first, second, batcher.progress().unwrap())
    }

    fn position(write: Option<Write>) -> Option<Position> {
        write.map(|write| write.reached.at.position)
    }

    #[test]
    fn only_receipts_move_it_and_progress_never_passes_a_batch() {
        let now = Instant::now();
        let (first, second, progress) = two_batches(now);
        let mut ledger = ledger();
        assert_eq!(ledger.due(now, true), None);
        ledger.given(&first);
        ledger.progress(progress.clone());
        assert_eq!(ledger.due(now, true), None, "a batch is out");
        ledger.settle(first.held()).unwrap();
        ledger.progress(progress.clone());
        assert_eq!(ledger.due(now, true), None, "a held batch is not delivered");
        ledger.given(&second);
        ledger.settle(first.delivered()).unwrap();
        ledger.progress(progress.clone());
        assert_eq!(position(ledger.due(now, true)).as_ref(), Some(&first.through().position));
        ledger.settle(second.delivered()).unwrap();
        ledger.progress(progress);
        let write = ledger.due(now, true).unwrap();
        assert_eq!(write.reached.at.position, through(9).0.position);
        assert_eq!(write.delivered, second.through().position);
    }

    #[test]
    fn a_late_receipt_never_moves_it_back() {
        let now = Instant::now();
        let (first, second, _) = two_batches(now);
        let mut ledger = ledger();
        ledger.given(&first);
        ledger.given(&second);
        ledger.settle(second.delivered()).unwrap();
        ledger.settle(first.delivered()).unwrap();
        assert_eq!(position(ledger.due(now, true)).as_ref(), Some(&second.through().position));
    }

    #[test]
    fn writes_are_coalesced_but_can_be_forced() {
        let now = Instant::now();
        let (first, second, _) = two_batches(now);
        let mut ledger = ledger();
        ledger.given(&first);
        ledger.settle(first.delivered()).unwrap();
        let write = ledger.due(now, false).unwrap();
        ledger.stored(write, now);
        ledger.given(&second);
        ledger.settle(second.delivered()).unwrap();
        let soon = now + EVERY / 2;
        assert_eq!(ledger.due(soon, false), None);
        assert!(ledger.due(soon, true).is_some() && ledger.is_behind(soon));
        let write = ledger.due(now + EVERY, false).unwrap();
        ledger.stored(write, now + EVERY);
        assert!(!ledger.is_behind(now + EVERY));
    }

    #[test]
    fn a_receipt_for_a_batch_that_was_not_given_is_refused() {
        let (first, _, _) = two_batches(Instant::now());
        assert_eq!(ledger().settle(first.delivered()), Err(LedgerError::Foreign(1)));
    }
}
