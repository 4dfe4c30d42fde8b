use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Digest, Pointer};

/// The index that means "the end of the block": after its last change.
pub const END_OF_BLOCK: u32 = u32::MAX;

/// Counts the histories of one ingestor: a rollback or a rewind starts the next one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A place in an ingestor's history, compared as (generation, pointer, index) everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The history.
    pub generation: Generation,
    /// The block.
    pub pointer: Pointer,
    /// The change in the block, or [`END_OF_BLOCK`].
    pub index: u32,
}

impl Position {
    /// The place before the first block of the first history.
    pub const ORIGIN: Self =
        Self { generation: Generation(0), pointer: Pointer::ORIGIN, index: END_OF_BLOCK };

    /// The end of a block: everything in it is done.
    pub fn end_of(generation: Generation, pointer: Pointer) -> Self {
        Self { generation, pointer, index: END_OF_BLOCK }
    }

    /// True where the whole block counts as passed.
    pub fn is_end_of_block(&self) -> bool {
        self.index == END_OF_BLOCK
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.generation.0 > 0 {
            write!(f, "g{}:", self.generation)?;
        }
        write!(f, "{}", self.pointer)?;
        match self.index {
            END_OF_BLOCK => Ok(()),
            index => write!(f, "#{index}"),
        }
    }
}

/// How far a reader is done, inclusively, and the digest of the block it stands in. The digest
/// tells a reader apart whose history the journal no longer has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Everything up to and including this is done.
    pub position: Position,
    /// The digest of the position's block; `None` if the reader does not know it.
    pub digest: Option<Digest>,
}
