use std::{fmt, sync::Arc};

use sluice_frame::{Frame, FrameError};
use sluice_model::{
    Checkpoint, Digest, Epoch, Generation, IngestorName, Pointer, Position, SequenceId,
    event::Event,
};

/// What all batches of one running stream share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The stream's name.
    pub stream: Arc<str>,
    /// The ingestor it reads.
    pub ingestor: IngestorName,
    /// The filter's hash: names what "everything that matches" means.
    pub filter: Arc<str>,
    /// How often the stream was reset; part of the batch id.
    pub reset_epoch: u64,
    /// The epoch of the lock under which this process delivers.
    pub epoch: Epoch,
}

/// A stretch of a stream, ready to be delivered.
///
/// Everything that matches in `(after, through]` is in it. Only a [`crate::Batcher`] makes one,
/// so what a batch says about its bounds was seen in the feed.
#[derive(Clone, Debug)]
pub struct Batch {
    pub(crate) origin: Arc<Origin>,
    pub(crate) number: u64,
    pub(crate) after: Position,
    pub(crate) through: Checkpoint,
    pub(crate) through_height: u64,
    pub(crate) frames: Vec<Frame>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// Something other than changes that stands at a place in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// It stands before this frame of the batch; the number of frames if it stands at the end.
    pub before: usize,
    /// What it is.
    pub what: MarkKind,
}

/// What a mark says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// The blocks in `[from, to]` are missing for good; the source could not give them.
    Gap {
        /// First missing block.
        from: Pointer,
        /// Last missing block.
        to: Pointer,
        /// Why.
        cause: String,
    },
    /// A new history begins behind the base; what was delivered after the base is void.
    Rewind {
        /// The new generation.
        generation: Generation,
        /// The generation of the base.
        base_generation: Generation,
        /// The last block that both histories share.
        base: Pointer,
        /// The base's digest.
        digest: Digest,
        /// Why.
        reason: String,
    },
}

/// The name of a batch, equal for every retry of it: BLAKE3 over stream, reset epoch, first and
/// last id and count, 16 bytes as hex. After a crash that cuts the same events into other
/// batches the ids differ; the events' own ids never do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BatchId(String);

impl BatchId {
    /// The 32 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Batch {
    /// The stream's name.
    pub fn stream(&self) -> &str {
        &self.origin.stream
    }

    /// The ingestor.
    pub fn ingestor(&self) -> &IngestorName {
        &self.origin.ingestor
    }

    /// Counts the batches of this tenure of the lock, from 1. The same for every retry.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The end of the batch before: where this one begins, exclusively.
    pub const fn after(&self) -> &Position {
        &self.after
    }

    /// Where this one ends, inclusively; with the block's digest where the feed told it.
    pub const fn through(&self) -> &Checkpoint {
        &self.through
    }

    /// The height of the block that `through` stands in.
    pub const fn through_height(&self) -> u64 {
        self.through_height
    }

    /// The epoch of the lock under which it is delivered. Order holds within an epoch; a
    /// receiver that ignores lower epochs never sees it fall.
    pub fn epoch(&self) -> Epoch {
        self.origin.epoch
    }

    /// The hash of the filter that chose the events.
    pub fn filter_hash(&self) -> &str {
        &self.origin.filter
    }

    /// How often the stream was reset.
    pub fn reset_epoch(&self) -> u64 {
        self.origin.reset_epoch
    }

    /// The changes as frames, in order; a frame that did not fit is cut between two changes.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Gaps and rewinds, in order.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Number of events.
    pub const fn event_count(&self) -> usize {
        self.events
    }

    /// Bytes of the changes, in the encoding of frames.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// True if it only tells that nothing matched in `(after, through]`.
    pub const fn is_progress(&self) -> bool {
        self.events == 0 && self.marks.is_empty()
    }

    /// The id of the first event; `None` without events.
    pub fn first_id(&self) -> Option<SequenceId> {
        let frame = self.frames.iter().find(|frame| frame.header.changes() > 0)?;
        let skipped = frame.header.runs.first().map_or(0, |run| run.skip);
        let index = frame.header.first_index.saturating_add(skipped);
        Some(SequenceId::new(frame.header.position(index)))
    }

    /// The id of the last event; `None` without events.
    pub fn last_id(&self) -> Option<SequenceId> {
        let frame = self.frames.iter().rev().find(|frame| frame.header.changes() > 0)?;
        let index = frame.header.next_index().saturating_sub(1);
        Some(SequenceId::new(frame.header.position(index)))
    }

    /// The batch's name.
    pub fn id(&self) -> BatchId {
        let id = |id: Option<SequenceId>| id.map(|id| id.to_string()).unwrap_or_default();
        let mut hasher = blake3::Hasher::new();
        for part in [
            self.stream().to_owned(),
            self.origin.reset_epoch.to_string(),
            id(self.first_id()),
            id(self.last_id()),
            self.events.to_string(),
        ] {
            // Length first, so that no two lists of parts hash alike.
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        let hash = hasher.finalize();
        BatchId(hex::encode(hash.as_bytes().first_chunk::<16>().unwrap_or(&[0; 16])))
    }

    /// The trace context of the last block in the batch that carries one.
    pub fn traceparent(&self) -> Option<&str> {
        let ends = self.frames.iter().rev().filter_map(|frame| frame.header.end.as_ref());
        ends.map(|end| end.traceparent.as_str()).find(|text| !text.is_empty())
    }

    /// Shows every event, in order. The frames were verified when they were taken in, so an
    /// error means that memory was altered since.
    pub fn for_each_event(&self, mut each: impl FnMut(&Event<'_>)) -> Result<(), FrameError> {
        for frame in &self.frames {
            let header = &frame.header;
            let mut position = header.position(0);
            for change in frame.changes() {
                let (index, route, change) = change?;
                position.index = index;
                each(&Event {
                    ingestor: &header.ingestor,
                    position: &position,
                    height: header.height,
                    time: header.time,
                    topic: &route.topic,
                    change,
                });
            }
        }
        Ok(())
    }

    /// The receipt of a destination that accepted all of it. To be called after acceptance,
    /// never before: the checkpoint is built from it.
    pub fn delivered(&self) -> Receipt {
        self.receipt(Some(Reached { at: self.through.clone(), height: self.through_height }))
    }

    /// The receipt of a destination that keeps the batch in memory until it is flushed. No
    /// checkpoint moves; the destination keeps a [`Batch::delivered`] and gives it at the flush.
    pub fn held(&self) -> Receipt {
        self.receipt(None)
    }

    /// The receipt of a destination that accepted everything up to and including `position`,
    /// and holds the rest. `None` if the position is not in `(after, through]`.
    pub fn delivered_until(&self, position: &Position) -> Option<Receipt> {
        if *position == self.through.position {
            return Some(self.delivered());
        }
        if *position <= self.after || *position > self.through.position {
            return None;
        }
        let same = |frame: &&Frame| frame.header.end_of_block() == *position;
        let ends = self.frames.iter().filter(same).filter_map(|frame| frame.header.end.as_ref());
        let digest = ends.map(|end| end.digest).find(|digest| *digest != Digest::ZERO);
        let before = |frame: &&Frame| frame.header.position(0) <= *position;
        let height = self.frames.iter().rev().find(before).map_or(0, |frame| frame.header.height);
        let at = Checkpoint { position: position.clone(), digest };
        Some(self.receipt(Some(Reached { at, height })))
    }

    fn receipt(&self, reached: Option<Reached>) -> Receipt {
        Receipt { origin: Arc::clone(&self.origin), number: self.number, reached }
    }
}

/// Proof that a destination accepted a batch, or a part of it. A checkpoint of delivered events
/// can be built from nothing else, and only a [`Batch`] makes one.
#[derive(Clone, Debug)]
#[must_use = "without its receipt a delivery is repeated"]
pub struct Receipt {
    pub(crate) origin: Arc<Origin>,
    pub(crate) number: u64,
    pub(crate) reached: Option<Reached>,
}

/// How far, and how high that is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) at: Checkpoint,
    pub(crate) height: u64,
}

impl Receipt {
    /// How far the destination is done; `None` while it only holds the batch.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.reached.as_ref().map(|reached| &reached.at)
    }

    /// The number of the batch.
    pub const fn number(&self) -> u64 {
        self.number
    }
}
