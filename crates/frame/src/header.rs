use bytes::Bytes;
use sluice_model::{Digest, Epoch, Generation, IngestorName, Kind, Pointer, Position};

use crate::routes::RouteTable;

/// A stretch of consecutive changes of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index into the header's routes.
    pub route: u32,
    /// Changes in the run.
    pub count: u32,
    /// Bytes of the run, tags and lengths included.
    pub bytes: u32,
    /// Changes left out before the run.
    pub skip: u32,
}

/// Closes a block; on its last part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockEnd {
    /// Parts of the block.
    pub parts: u32,
    /// Changes of the whole block.
    pub changes: u32,
    /// The block's digest. [`Digest::ZERO`] where it is not known yet: the journal computes it.
    pub digest: Digest,
    /// The digest of the block before. [`Digest::ZERO`] before the first block, or not known.
    pub parent_digest: Digest,
    /// One digest per store, in order of first appearance.
    pub states: Vec<StateDigest>,
    /// Digest of the metadata, if the block has any.
    pub metadata_digest: Option<Digest>,
    /// W3C trace context of the capture; empty if there was none.
    pub traceparent: String,
}

/// Tells whether two feeds saw the same changes of one store in one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDigest {
    /// The store.
    pub store: String,
    /// BLAKE3-256 over the height and the store's changes in order.
    pub digest: Digest,
}

/// What the source knows of a block beside its changes; a piece of it, if it is large.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Names the type of the value.
    pub type_url: String,
    /// The value, or a piece of it; the pieces of a block are concatenated in order of parts.
    pub value: Bytes,
}

/// The content of a control record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The blocks in `[from, to]` are missing.
    Gap {
        /// First missing block.
        from: Pointer,
        /// Last missing block.
        to: Pointer,
        /// Why.
        cause: String,
    },
    /// A new history begins; the next block's parent is the base.
    GenerationStart {
        /// The new generation.
        generation: Generation,
        /// The history that the base belongs to.
        base_generation: Generation,
        /// The last block that both histories share.
        base_pointer: Pointer,
        /// Its digest.
        base_digest: Digest,
        /// Why.
        reason: String,
        /// Who decided it.
        actor: String,
    },
    /// A writer opened the journal; every earlier one is fenced.
    EpochStart {
        /// The writer.
        writer_id: u64,
        /// Tells a repeated open apart.
        nonce: Bytes,
        /// Who opened, for people.
        holder: String,
    },
}

/// Everything of a frame but its changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record is.
    pub kind: Kind,
    /// The ingestor.
    pub ingestor: IngestorName,
    /// Its history.
    pub generation: Generation,
    /// The block's place.
    pub pointer: Pointer,
    /// The block before.
    pub parent: Pointer,
    /// The block's height.
    pub height: u64,
    /// The block's own time, nanoseconds since 1970.
    pub time: Option<i64>,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// Number of this part in its block, from 0.
    pub part: u32,
    /// Distinct (store, topic) in use in this frame.
    pub routes: RouteTable,
    /// The index of the changes.
    pub runs: Vec<Run>,
    /// Index in the block of the frame's first change.
    pub first_index: u32,
    /// On the last part of a block.
    pub end: Option<BlockEnd>,
    /// What the source knows of the block, or a piece of it.
    pub metadata: Option<Metadata>,
    /// In control records.
    pub record: Option<Record>,
}

impl Header {
    /// A header of this kind for a block, without content.
    pub fn new(kind: Kind, ingestor: IngestorName, pointer: Pointer, height: u64) -> Self {
        Self {
            kind,
            ingestor,
            generation: Generation::default(),
            pointer,
            parent: Pointer::ORIGIN,
            height,
            time: None,
            epoch: Epoch::ZERO,
            part: 0,
            routes: RouteTable::default(),
            runs: Vec::new(),
            first_index: 0,
            end: None,
            metadata: None,
            record: None,
        }
    }

    /// The position at the end of the header's block.
    pub fn end_of_block(&self) -> Position {
        Position::end_of(self.generation, self.pointer.clone())
    }

    /// The position of a change of the block.
    pub fn position(&self, index: u32) -> Position {
        Position { generation: self.generation, pointer: self.pointer.clone(), index }
    }

    /// Changes in this frame.
    pub fn changes(&self) -> u32 {
        self.runs.iter().fold(0, |sum, run| sum.saturating_add(run.count))
    }

    /// Index in the block of the change behind this frame's last.
    pub fn next_index(&self) -> u32 {
        self.runs
            .iter()
            .fold(self.first_index, |at, run| at.saturating_add(run.skip).saturating_add(run.count))
    }
}
