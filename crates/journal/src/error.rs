use std::{io, path::PathBuf, sync::Arc};

use sluice_frame::FrameError;
use sluice_model::{Digest, Epoch, Generation, Head, IngestorName, JournalId, Pointer, Position};

use crate::Corruption;

/// Why a journal cannot be made, opened or looked at.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process works on the directory.
    #[error(
        "the journal directory {dir} is already in use by process {pid}; stop it or choose another directory"
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process that holds the lock, as it says; 0 if it does not.
        pid: u32,
    },
    /// The ingestor has a journal with another identity.
    #[error("the journal of {ingestor} already exists as {existing}")]
    AlreadyExists {
        /// Whose journal.
        ingestor: IngestorName,
        /// The identity it has.
        existing: JournalId,
    },
    /// This volume does not hold the journal.
    #[error("this volume does not hold a journal of {ingestor}{}", other.map(|id| format!(" with that identity, but one with the identity {id}")).unwrap_or_default())]
    NotHere {
        /// Whose journal.
        ingestor: IngestorName,
        /// The identity of the one it holds instead.
        other: Option<JournalId>,
    },
    /// A newer epoch has opened the journal.
    #[error("the journal is fenced at epoch {fence}: a newer owner has opened it")]
    Fenced {
        /// The lowest epoch that may open.
        fence: Epoch,
    },
    /// There are segments but no readable fence state. Nothing is created or deleted.
    #[error("{file}: {reason}; the journal's data is left as it is")]
    NoFenceState {
        /// The control file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk is full.
    #[error("no space for the journal: {reason}")]
    DiskFull {
        /// What needed room.
        reason: String,
    },
    /// A value that an open may not have.
    #[error("{0}")]
    Invalid(String),
    /// The journal has been closed.
    #[error("the journal is closed")]
    Closed,
    /// The disk refused.
    #[error("{action} {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        file: PathBuf,
        /// The system's words.
        source: Arc<io::Error>,
    },
}

/// Why a frame was not appended. After any of these the block has to begin again, at its part 0.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// A newer writer has opened the journal. Final.
    #[error("this writer is fenced: the journal was opened again, fence {fence}")]
    Fenced {
        /// The epoch of the newer writer.
        fence: Epoch,
    },
    /// The block does not follow the head.
    #[error("block {pointer} has the parent {got}, the journal is at {expected}")]
    WrongParent {
        /// The block.
        pointer: Pointer,
        /// The parent it must have.
        expected: Pointer,
        /// The parent it has.
        got: Pointer,
        /// The head, with blocks that are still being written counted in.
        head: Option<Box<Head>>,
    },
    /// The block lies before the head and the journal never had it.
    #[error(
        "block {pointer} lies before the head {head} and is not in the journal; going back needs a GENERATION record"
    )]
    Behind {
        /// The block.
        pointer: Pointer,
        /// The head.
        head: Position,
    },
    /// The frame is of another history than the journal.
    #[error("the frame is of generation {got}, the journal is at {expected}")]
    WrongGeneration {
        /// The journal's.
        expected: Generation,
        /// The frame's.
        got: Generation,
    },
    /// The journal has another block at this place.
    #[error("block {pointer} differs from the stored one in {}", store.as_deref().map_or_else(|| "its stores or parent".to_owned(), |s| format!("store {s}")))]
    Divergent {
        /// The block.
        pointer: Pointer,
        /// The first store that differs; `None` if the sets of stores differ.
        store: Option<String>,
    },
    /// The caller named a digest that the bytes do not have.
    #[error("block {pointer} was announced with the {what} {got}, its bytes give {expected}")]
    WrongDigest {
        /// The block.
        pointer: Pointer,
        /// Which digest.
        what: &'static str,
        /// What the bytes or the chain give.
        expected: Digest,
        /// What was announced.
        got: Digest,
    },
    /// The frame is not what a journal stores.
    #[error("the frame of block {pointer} is refused: {reason}")]
    Invalid {
        /// The block.
        pointer: Pointer,
        /// What is wrong.
        reason: String,
    },
    /// The frame's bytes are not a frame.
    #[error("the frame is refused: {0}")]
    Frame(#[from] Arc<FrameError>),
    /// There is no room. The journal goes on by itself when there is; send the block again.
    #[error("no space for the journal: {reason}")]
    DiskFull {
        /// What needed room.
        reason: String,
    },
    /// The disk failed while making data durable: nobody knows what it holds. Open again.
    #[error("the writer is poisoned, open the journal again: {reason}")]
    Poisoned {
        /// What failed.
        reason: String,
    },
    /// A stored block that a re-sent one has to be compared with cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The journal has been closed. The outcome of blocks not acknowledged is unknown.
    #[error("the journal is closed")]
    Closed,
}

/// Why a journal cannot be read from there, or any more.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// This volume does not hold the journal.
    #[error("this volume does not hold a journal of {0}")]
    NotHere(IngestorName),
    /// Retention has passed the position.
    #[error("the journal begins after {oldest}; what was before is no longer kept")]
    OutOfRange {
        /// The lowest position to read after.
        oldest: Position,
    },
    /// The journal does not have the position: it is beyond the head, of a history it never had,
    /// or its block is another one.
    #[error("the journal does not have this position: its history differs{}", head.as_ref().map(|h| format!(" (head {})", h.position())).unwrap_or_default())]
    Diverged {
        /// The head.
        head: Option<Head>,
    },
    /// A stored block cannot be read.
    #[error("{0}")]
    Corrupt(Box<Corruption>),
    /// The disk refused; the same read may work later.
    #[error("{action} {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        file: PathBuf,
        /// The system's words.
        source: Arc<io::Error>,
    },
    /// The journal has been closed.
    #[error("the journal is closed")]
    Closed,
}

/// A failed file operation with its circumstances.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{action} {}: {source}", file.display())]
pub(crate) struct Fault {
    pub(crate) action: &'static str,
    pub(crate) file: PathBuf,
    pub(crate) source: Arc<io::Error>,
}

impl Fault {
    /// True if room is all that was missing. A sync that failed for lack of room is a failed
    /// sync: nobody knows what of the file is durable.
    pub(crate) fn is_full(&self) -> bool {
        self.action != "sync"
            && matches!(
                self.source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
    }
}

/// Says what was being done when a file operation failed.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, file: &std::path::Path) -> Result<T, Fault>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, file: &std::path::Path) -> Result<T, Fault> {
        self.map_err(|source| Fault { action, file: file.to_owned(), source: Arc::new(source) })
    }
}

impl From<Fault> for JournalError {
    fn from(fault: Fault) -> Self {
        if fault.is_full() {
            return Self::DiskFull { reason: fault.to_string() };
        }
        Self::Io { action: fault.action, file: fault.file, source: fault.source }
    }
}

impl From<Fault> for ReadError {
    fn from(fault: Fault) -> Self {
        Self::Io { action: fault.action, file: fault.file, source: fault.source }
    }
}
