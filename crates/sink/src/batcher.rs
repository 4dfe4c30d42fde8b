//! Cuts a feed into batches. No clock, no waiting: the caller tells the time.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use sluice_frame::{Frame, FrameError};
use sluice_model::{Checkpoint, Kind, Position};

use crate::{
    batch::{Batch, Mark, MarkKind, Origin, Reached},
    dispatcher::BatchShape,
    feed::known,
    piece,
};

/// Most entries that wait to be cut. A bound beside the bytes, for marks and tiny frames.
const MAX_ENTRIES: usize = 4096;

/// Cuts the items of a feed into batches: by count and bytes, when the oldest has waited long
/// enough, or when told to.
///
/// What a batch says about `(after, through]` holds because every item passes here, in order.
#[derive(Debug)]
pub struct Batcher {
    origin: Arc<Origin>,
    shape: BatchShape,
    queue: VecDeque<Entry>,
    events: usize,
    bytes: usize,
    /// The end of the last batch cut.
    after: Position,
    /// How far the feed has come.
    seen: Reached,
    /// Since when there is news that no batch told; only where batches tell such news.
    news: Option<Instant>,
    number: u64,
}

#[derive(Debug)]
struct Entry {
    body: Body,
    arrived: Instant,
    /// What is known to be complete once this entry is delivered.
    through: Reached,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are frames; a box would cost each of them"
)]
enum Body {
    Frame(Frame),
    Mark(MarkKind),
}

/// Why an item cannot be taken: the feed does not keep its contract.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The frame's changes are not what its header says.
    #[error("the frame of block {at} does not verify: {source}")]
    Frame {
        /// The block.
        at: Position,
        /// What is wrong.
        source: FrameError,
    },
    /// Not a frame of a block.
    #[error("a {0} record came where changes were expected")]
    Kind(Kind),
    /// At or before what came already.
    #[error("{at} came after {seen}: the feed went backwards")]
    Order {
        /// What came.
        at: Position,
        /// What had come.
        seen: Position,
    },
}

/// Everything up to here is seen and either delivered or did not match. Only a [`Batcher`] in
/// which nothing waits makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress(pub(crate) Reached);

impl Batcher {
    /// A batcher that begins after a place. `after` is where the last delivered batch ended,
    /// `seen` how far it is known that nothing matched since; the same, if that is not known.
    pub fn new(origin: Arc<Origin>, shape: BatchShape, after: Position, seen: Checkpoint) -> Self {
        Self {
            origin,
            shape,
            queue: VecDeque::new(),
            events: 0,
            bytes: 0,
            after,
            seen: Reached { at: seen, height: 0 },
            news: None,
            number: 0,
        }
    }

    /// Takes a frame.
    pub fn push_frame(&mut self, frame: Frame, now: Instant) -> Result<(), BatchError> {
        let header = &frame.header;
        if header.kind != Kind::Block {
            return Err(BatchError::Kind(header.kind));
        }
        let count = header.changes();
        let last = match (&header.end, count) {
            (Some(_), _) => header.end_of_block(),
            (None, 0) => self.seen.at.position.clone(),
            (None, _) => header.position(header.next_index().saturating_sub(1)),
        };
        // The first index counts from before the changes left out: a frame that was cut behind a
        // checkpoint inside of it keeps it, and skips to its first change.
        let skipped = header.runs.first().map_or(0, |run| run.skip);
        let first = match count {
            0 => last.clone(),
            _ => header.position(header.first_index.saturating_add(skipped)),
        };
        if last <= self.seen.at.position && (count > 0 || header.end.is_some())
            || first < self.seen.at.position
            || count > 0 && first == self.seen.at.position
        {
            return Err(BatchError::Order { at: first, seen: self.seen.at.position.clone() });
        }
        frame
            .verify()
            .map_err(|source| BatchError::Frame { at: frame.header.end_of_block(), source })?;
        let digest = header.end.as_ref().and_then(|end| known(end.digest));
        self.seen = Reached { at: Checkpoint { position: last, digest }, height: header.height };
        if count == 0 && !self.keeps_empty_frames() {
            self.extend_last();
            return Ok(());
        }
        self.events += count as usize;
        self.bytes += frame.changes.len();
        self.enqueue(Body::Frame(frame), now);
        Ok(())
    }

    /// Takes the news that everything up to `at` has come.
    pub fn push_through(
        &mut self,
        at: Checkpoint,
        height: u64,
        now: Instant,
    ) -> Result<(), BatchError> {
        if at.position < self.seen.at.position {
            return Err(BatchError::Order { at: at.position, seen: self.seen.at.position.clone() });
        }
        let moved = at.position > self.seen.at.position;
        if !moved && at.digest.is_none() {
            return Ok(());
        }
        self.seen = Reached { at, height };
        if !self.extend_last() && moved && self.keeps_empty_frames() && self.news.is_none() {
            self.news = Some(now);
        }
        Ok(())
    }

    /// Takes a gap or a rewind, and the place that it brings the feed to.
    pub fn push_mark(
        &mut self,
        what: MarkKind,
        through: Option<Position>,
        now: Instant,
    ) -> Result<(), BatchError> {
        if let Some(position) = through {
            if position < self.seen.at.position {
                return Err(BatchError::Order {
                    at: position,
                    seen: self.seen.at.position.clone(),
                });
            }
            let height = position.pointer.height().unwrap_or(self.seen.height);
            self.seen = Reached { at: Checkpoint { position, digest: None }, height };
        }
        self.enqueue(Body::Mark(what), now);
        Ok(())
    }

    /// True if another item may be taken: what waits is less than one full batch, so memory holds
    /// at most that and the item.
    pub fn has_room(&self) -> bool {
        let (count, bytes) = match self.shape {
            BatchShape::Events { count, bytes, .. } => (count.get(), bytes),
            BatchShape::Blocks { bytes, .. } => (usize::MAX, bytes),
        };
        self.queue.len() < MAX_ENTRIES && self.events < count && self.bytes < bytes
    }

    /// Bytes of changes that wait.
    pub const fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// When the next batch is due even if nothing more comes.
    pub fn deadline(&self) -> Option<Instant> {
        let since = self.queue.front().map(|entry| entry.arrived).or(self.news)?;
        since.checked_add(self.wait())
    }

    /// The next batch, if one is full or due.
    pub fn take(&mut self, now: Instant) -> Result<Option<Batch>, BatchError> {
        let due = self.deadline().is_some_and(|deadline| deadline <= now);
        if !due && self.has_room() {
            return Ok(None);
        }
        self.cut()
    }

    /// The next batch of whatever waits, on stop. What cannot be cut (a block whose end has not
    /// come) stays, and comes again from the checkpoint.
    pub fn drain(&mut self) -> Result<Option<Batch>, BatchError> {
        self.cut()
    }

    /// How far it is known that nothing matched since the last batch. `None` while something
    /// waits, and where batches tell it.
    pub fn progress(&self) -> Option<Progress> {
        let tell = !self.keeps_empty_frames() && self.queue.is_empty();
        (tell && self.seen.at.position > self.after).then(|| Progress(self.seen.clone()))
    }

    /// How far the feed has come.
    pub const fn seen(&self) -> &Checkpoint {
        &self.seen.at
    }

    const fn wait(&self) -> Duration {
        match self.shape {
            BatchShape::Events { wait, .. } | BatchShape::Blocks { wait, .. } => wait,
        }
    }

    const fn keeps_empty_frames(&self) -> bool {
        matches!(self.shape, BatchShape::Blocks { .. })
    }

    fn enqueue(&mut self, body: Body, now: Instant) {
        self.news = None;
        self.queue.push_back(Entry { body, arrived: now, through: self.seen.clone() });
    }

    /// What waits at the end is now known to reach as far as the feed has come.
    fn extend_last(&mut self) -> bool {
        match self.queue.back_mut() {
            Some(last) => {
                last.through = self.seen.clone();
                true
            }
            None => false,
        }
    }

    fn cut(&mut self) -> Result<Option<Batch>, BatchError> {
        match self.shape {
            BatchShape::Events { count, bytes, .. } => self.cut_events(count, bytes),
            BatchShape::Blocks { bytes, .. } => Ok(self.cut_blocks(bytes)),
        }
    }

    fn cut_events(
        &mut self,
        count: NonZeroUsize,
        bytes: usize,
    ) -> Result<Option<Batch>, BatchError> {
        let mut open = Open::default();
        while open.events < count.get() {
            let Some(entry) = self.queue.pop_front() else { break };
            let frame = match entry.body {
                Body::Mark(what) => {
                    open.mark(what, entry.through);
                    continue;
                }
                Body::Frame(frame) => frame,
            };
            let left = (count.get() - open.events, bytes.saturating_sub(open.bytes));
            let fit = piece::fit(&frame, left.0, left.1, open.events == 0)
                .map_err(|source| BatchError::Frame { at: frame.header.end_of_block(), source })?;
            if fit.changes == frame.header.changes() {
                open.frame(frame, entry.through);
                continue;
            }
            let (arrived, through) = (entry.arrived, entry.through);
            if fit.changes == 0 {
                self.queue.push_front(Entry { body: Body::Frame(frame), arrived, through });
                break;
            }
            let (piece, rest) = piece::split(frame, fit);
            let last = piece.header.position(piece.header.next_index().saturating_sub(1));
            let reached = Reached {
                at: Checkpoint { position: last, digest: None },
                height: piece.header.height,
            };
            open.frame(piece, reached);
            self.queue.push_front(Entry { body: Body::Frame(rest), arrived, through });
            break;
        }
        Ok(self.close(open))
    }

    fn cut_blocks(&mut self, bytes: usize) -> Option<Batch> {
        let mut open = Open::default();
        for _ in 0..self.blocks_to_cut(bytes) {
            match self.queue.pop_front() {
                None => break,
                Some(Entry { body: Body::Mark(what), through, .. }) => open.mark(what, through),
                Some(Entry { body: Body::Frame(frame), through, .. }) => open.frame(frame, through),
            }
        }
        if open.through.is_none() && self.queue.is_empty() && self.seen.at.position > self.after {
            open.through = Some(self.seen.clone());
        }
        self.news = None;
        self.close(open)
    }

    /// How many entries make a batch of whole blocks within `bytes`; if the first block alone is
    /// larger, as many of its frames as fit.
    fn blocks_to_cut(&self, bytes: usize) -> usize {
        let (mut sum, mut whole, mut fitting) = (0usize, 0, 0);
        for (i, entry) in self.queue.iter().enumerate() {
            if let Body::Frame(frame) = &entry.body {
                sum += frame.changes.len();
            }
            if sum > bytes && i > 0 {
                return if whole > 0 { whole } else { fitting };
            }
            fitting = i + 1;
            if entry.through.at.position.is_end_of_block() {
                whole = i + 1;
            }
        }
        // Everything fits: a block whose end has not come waits for it, unless it is full.
        if whole == 0 && sum >= bytes { fitting } else { whole }
    }

    fn close(&mut self, open: Open) -> Option<Batch> {
        let through = open.through?;
        self.events = self.events.saturating_sub(open.events);
        self.bytes = self.bytes.saturating_sub(open.bytes);
        self.number += 1;
        let after = std::mem::replace(&mut self.after, through.at.position.clone());
        Some(Batch {
            origin: Arc::clone(&self.origin),
            number: self.number,
            after,
            through: through.at,
            through_height: through.height,
            frames: open.frames,
            marks: open.marks,
            events: open.events,
            bytes: open.bytes,
        })
    }
}

/// A batch while it is put together.
#[derive(Default)]
struct Open {
    frames: Vec<Frame>,
    marks: Vec<Mark>,
    events: usize,
    bytes: usize,
    through: Option<Reached>,
}

impl Open {
    fn mark(&mut self, what: MarkKind, through: Reached) {
        self.marks.push(Mark { before: self.frames.len(), what });
        self.through = Some(through);
    }

    fn frame(&mut self, frame: Frame, through: Reached) {
        self.events += frame.header.changes() as usize;
        self.bytes += frame.changes.len();
        self.frames.push(frame);
        self.through = Some(through);
    }
}

#[cfg(test)]
mod tests;
