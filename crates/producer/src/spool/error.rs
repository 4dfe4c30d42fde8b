use std::path::{Path, PathBuf};

use sluice_frame::FrameError;
use sluice_model::Pointer;

/// Why the spool cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The system refused.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Another process has the spool.
    #[error("{path} is in use by another process; give each producer a data_dir of its own")]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// There is no room, and nothing in the spool is known to be durable in the journal.
    #[error(
        "the spool is full: {bytes} of {limit} bytes hold blocks that the journal does not have; \
         raise spool_bytes, or let the owner catch up"
    )]
    Full {
        /// Bytes in use.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// One block does not fit, however much else goes.
    #[error("block {pointer} does not fit into the spool of {limit} bytes; raise spool_bytes")]
    TooLarge {
        /// The block.
        pointer: Pointer,
        /// Bytes allowed.
        limit: u64,
    },
    /// What was written cannot be read back.
    #[error(
        "{path} at byte {offset}: {cause}; the block is captured again or comes from the owner"
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// What is wrong.
        cause: String,
    },
    /// A frame came out of order.
    #[error("block {pointer}: part {got} came where part {expected} was due")]
    Order {
        /// The block.
        pointer: Pointer,
        /// The part that was due.
        expected: u32,
        /// The part that came.
        got: u32,
    },
    /// A frame that is none.
    #[error("a frame in the spool: {0}")]
    Frame(#[from] FrameError),
    /// The runtime is going down.
    #[error("the process stops")]
    Stopping,
}

impl SpoolError {
    /// For `map_err`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
