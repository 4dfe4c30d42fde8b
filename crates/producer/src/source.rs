//! Sources: the code that obtains blocks for an ingestor.
//!
//! A source gives a [`Feed`]: a bounded queue that a task of its own fills ahead. A block comes
//! in pieces ([`Item`]), so that one of any size passes in bounded memory.

pub mod capture;
pub mod cosmos;
pub mod feed;
pub mod registry;
pub mod synthetic;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use sluice_frame::ScanError;
use sluice_model::{Digest, Durability, Head, Pointer};

pub use feed::{Feed, FeedWriter};
pub use registry::{OnGap, Registry, SourceContext};

/// Where an ingestor's blocks come from.
///
/// # Contract
///
/// - [`blocks`](Self::blocks) gives the blocks strictly after `after` (from the first one, if
///   there is none), each once and in order, none left out. What is missing is an
///   [`Item::Gap`] or [`SourceError::Gap`], never a jump.
/// - Given the same `after` again, also after a crash, the blocks are the same bytes.
/// - A source that may be asked again keeps every block until [`durable`](Self::durable) named
///   it.
/// - A block at or below `after` may come again: the journal compares it. With the parent
///   [`Pointer::ORIGIN`] it is only offered for that, and dropped where the journal has no block
///   to compare it with.
/// - Dropping or closing the feed ends every task behind it.
#[async_trait]
pub trait Source: Send + Sync {
    /// Starts to obtain blocks. A feed given before has been closed by then.
    async fn blocks(&mut self, after: Option<&Head>) -> Result<Feed, SourceError>;

    /// As [`blocks`](Self::blocks), but lets the journal compare blocks that it has up to `head`:
    /// begins with the lowest one behind `from` from which on the source still has every block up
    /// to `at`. `None` if it cannot give blocks again.
    async fn again(
        &mut self,
        head: &Head,
        from: &Pointer,
        at: &Pointer,
    ) -> Result<Option<Again>, SourceError> {
        let _ = (head, from, at);
        Ok(None)
    }

    /// True if the source's very first block has changes in every store there is, so that a store
    /// that the ingestor names and the block lacks is a mistake.
    fn first_block_is_complete(&self) -> bool {
        false
    }

    /// A block is durable in the journal; called in the order of the feed.
    ///
    /// An error here is about the source's own housekeeping, never about the block.
    async fn durable(&mut self, ack: &Ack) -> Result<(), SourceError> {
        let _ = ack;
        Ok(())
    }

    /// The journal refused a block. The source may have somebody to tell; then the ingestor goes
    /// on. Otherwise the refusal stops it.
    async fn refused(&mut self, refusal: &Refusal) -> Verdict {
        let _ = refusal;
        Verdict::Halt
    }
}

/// A source that sends blocks again.
#[derive(Debug)]
pub struct Again {
    /// The blocks.
    pub feed: Feed,
    /// The first of them.
    pub first: Pointer,
    /// The source takes blocks away once they are durable, so one that is there was made anew.
    pub made_anew: bool,
}

/// What becomes of an ingestor whose block the journal refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An operator has to look at it.
    Halt,
    /// Whoever sent the block was told; the next one may be right.
    Continue,
}

/// What a feed is made of. A block is [`Begin`](Self::Begin), any number of
/// [`Changes`](Self::Changes) and [`Metadata`](Self::Metadata), [`End`](Self::End).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A block begins.
    Begin(Begin),
    /// A piece of its changes.
    Changes(Piece),
    /// A piece of its metadata; all pieces of a block have one type.
    Metadata {
        /// Names the type.
        type_url: Arc<str>,
        /// The piece.
        value: Bytes,
    },
    /// The block is complete.
    End {
        /// The sender's own count of changes, to be checked.
        changes: Option<u32>,
        /// W3C trace context of the capture; empty if there is none.
        traceparent: String,
    },
    /// The block that was begun will not be completed.
    Abort,
    /// Blocks that are missing and that the operator chose to record as missing.
    Gap {
        /// First missing block.
        from: Pointer,
        /// Last missing block.
        to: Pointer,
        /// Why.
        cause: String,
    },
    /// The newest height that the source is known to have.
    Progress {
        /// The height.
        source_height: u64,
    },
    /// There will be no more blocks.
    Finished,
}

impl Item {
    /// What the item costs in a queue, in bytes.
    pub fn weight(&self) -> usize {
        match self {
            Self::Changes(piece) => piece.bytes.len(),
            Self::Metadata { value, .. } => value.len(),
            _ => 0,
        }
    }
}

/// The begin of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// Its height.
    pub height: u64,
    /// Its place.
    pub pointer: Pointer,
    /// The block before; `None` if the source just goes on from the last one.
    pub parent: Option<Pointer>,
    /// Its own time, nanoseconds since 1970.
    pub time: Option<i64>,
}

/// A piece of changes: whole elements of field 15 of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The elements.
    pub bytes: Bytes,
    /// Where they come from, for errors.
    pub place: Option<Place>,
}

/// Where in a file a piece of changes comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// Where the first pair begins in it.
    pub offset: u64,
    /// The number of the first pair in it, from 0.
    pub first_pair: u64,
}

impl Piece {
    /// A piece that does not come from a file.
    pub const fn new(bytes: Bytes) -> Self {
        Self { bytes, place: None }
    }

    /// An error about the piece, in terms of the file it comes from.
    pub fn explain(&self, error: &ScanError) -> String {
        let Some(place) = &self.place else { return error.to_string() };
        // An element has one byte more than the pair in the file: the tag in front of it.
        let tags = u64::from(error.change);
        let offset = place.offset + (error.offset as u64).saturating_sub(tags);
        let pair = place.first_pair + u64::from(error.change);
        format!("{}: pair {pair} at byte {offset}: {}", place.file.display(), error.reason)
    }
}

/// A durable block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Its place.
    pub pointer: Pointer,
    /// Its height.
    pub height: u64,
    /// Its history.
    pub generation: sluice_model::Generation,
    /// Its digest.
    pub digest: Digest,
    /// Its own time, nanoseconds since 1970.
    pub time: Option<i64>,
    /// What it survives.
    pub durability: Durability,
    /// The journal already had it.
    pub duplicate: bool,
    /// It is older than what the journal kept; nobody can tell whether it is the same.
    pub unverifiable: bool,
}

/// Why the journal refused a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The block, as far as it is known.
    pub pointer: Option<Pointer>,
    /// The reason in capitals, such as `DIVERGENT`.
    pub reason: String,
    /// In words.
    pub message: String,
}

/// Why a source cannot give its next block.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The system refused; it may work later.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Blocks are missing.
    #[error("blocks {from} to {to} are missing: {cause}")]
    Gap {
        /// First missing block.
        from: Pointer,
        /// Last missing block.
        to: Pointer,
        /// Why.
        cause: String,
    },
    /// A block cannot be read.
    #[error("block {pointer}: {cause}")]
    Block {
        /// The block.
        pointer: Pointer,
        /// What is wrong and where.
        cause: String,
    },
    /// The source cannot go on from the journal's head.
    #[error("{0}")]
    Start(String),
    /// The feed's reader is gone. Never seen by it.
    #[error("nobody reads the feed any more")]
    Closed,
}

impl SourceError {
    /// The block that the error is about.
    pub const fn pointer(&self) -> Option<&Pointer> {
        match self {
            Self::Gap { from: pointer, .. } | Self::Block { pointer, .. } => Some(pointer),
            Self::Io { .. } | Self::Start(_) | Self::Closed => None,
        }
    }
}

impl fmt::Debug for dyn Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}
