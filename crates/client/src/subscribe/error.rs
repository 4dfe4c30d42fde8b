use std::time::Duration;

use sluice_frame::FrameError;
use sluice_model::{Digest, Head, IngestorName, Position};
use tonic::Status;

/// Why a subscription cannot go on by itself.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// Retention has passed the position. Choosing a later start loses what lies between; the
    /// caller decides.
    #[error("{message}")]
    OutOfRange {
        /// The lowest position that can be read after, where the router said it.
        oldest: Option<Position>,
        /// The router's words.
        message: String,
    },
    /// The journal does not have the position, or has another block there: its history differs
    /// from the one this subscriber saw.
    #[error("{message}")]
    Diverged {
        /// The journal's head, where the router said it.
        head: Option<Head>,
        /// The router's words.
        message: String,
    },
    /// The router does not hold the journal.
    #[error("{message}")]
    NotHere {
        /// The router's words.
        message: String,
    },
    /// The request is wrong: a filter that does not compile, an impossible range.
    #[error("{message}")]
    Invalid {
        /// The router's words, naming the clause.
        message: String,
    },
    /// Stored blocks are unreadable.
    #[error("{message}")]
    DataLoss {
        /// The last position that is lost, where what follows tells it: the next readable block
        /// comes after.
        through: Option<Position>,
        /// The router's words: what is lost, where, and the command to look.
        message: String,
    },
    /// The router refused for another reason that trying again does not change.
    #[error("the router refused the subscription: {0}")]
    Refused(Box<Status>),
    /// What arrived cannot be what the journal holds.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// Nothing was heard for as long as the caller wanted to wait.
    #[error("gave up after {waited:?} without an answer of the router: {last}")]
    GaveUp {
        /// Since the last message.
        waited: Duration,
        /// The last failure.
        last: Box<Status>,
    },
}

/// A promise of the stream that was not kept. Delivering more could skip or mix changes.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Bytes that are not a frame.
    #[error("the router sent a frame that cannot be read: {0}")]
    Frame(#[from] FrameError),
    /// A message without a field that it must have, or with one out of its range.
    #[error("the router sent a message that cannot be read: {0}")]
    Message(String),
    /// A frame of another ingestor.
    #[error("the router sent a frame of {got}")]
    Ingestor {
        /// Whose it is.
        got: IngestorName,
    },
    /// A start behind the position that was asked for.
    #[error("asked for everything after {asked}, the router starts after {got}")]
    StartedLate {
        /// The position asked for.
        asked: Position,
        /// Where it began.
        got: Position,
    },
    /// A position at or before one that was delivered.
    #[error("the router sent {got} after {done} was delivered")]
    Backwards {
        /// What was delivered.
        done: Position,
        /// What came.
        got: Position,
    },
    /// A block without its end, followed by another.
    #[error("the router sent {got} before the end of block {block}")]
    Unfinished {
        /// The block without end.
        block: Position,
        /// What came.
        got: Position,
    },
    /// Parts of one block with different parents.
    #[error("the parts of block {block} name different parents")]
    Parent {
        /// The block.
        block: Position,
    },
    /// The chain of digests is broken: this is another history under the same names.
    #[error(
        "block {position} had the digest {expected}, now it has {got}: the journal's history differs"
    )]
    Digest {
        /// The block.
        position: Position,
        /// Its digest as delivered before.
        expected: Digest,
        /// Its digest as named now.
        got: Digest,
    },
}
