use sluice_model::{DigestError, NameError, PointerError};

use crate::limits::{MAX_CHANGE, MAX_ROUTES, MAX_RUNS};

/// Why a region of changes is not one, and where.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("change {change} (byte {offset} of the changes): {reason}")]
pub struct ScanError {
    /// Number of the change in the region, from 0.
    pub change: u32,
    /// Offset of the change in the region, in bytes.
    pub offset: usize,
    /// What is wrong with it.
    pub reason: ScanReason,
}

/// What is wrong with a change.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScanReason {
    /// The element does not begin with the tag of `changes`.
    #[error("expected the tag 0x7a of a change, found 0x{0:02x}")]
    Tag(u8),
    /// A length or number is longer than 64 bits, or not in its shortest form.
    #[error("{0} is not a varint in its shortest form")]
    Varint(&'static str),
    /// A length points beyond the bytes that are there.
    #[error("{field} says {length} bytes, but only {left} are left")]
    Overrun {
        /// Which length.
        field: &'static str,
        /// What it says.
        length: u64,
        /// What is there.
        left: usize,
    },
    /// A field out of ascending order, repeated, unknown, or of the wrong wire type.
    #[error(
        "unexpected field tag 0x{0:x}: a change has store_key, delete, key and value, in order"
    )]
    Field(u64),
    /// A field that holds its default, which the canonical encoding leaves out.
    #[error("{0} is written although it holds its default")]
    Default(&'static str),
    /// No store key.
    #[error("store_key is missing or empty")]
    NoStore,
    /// The store key is not text.
    #[error("store_key is not valid UTF-8")]
    StoreUtf8,
    /// Larger than the limit.
    #[error("the change is {0} bytes long; at most {MAX_CHANGE} are allowed")]
    TooLarge(usize),
    /// Too many distinct (store, topic) in one frame.
    #[error("more than {MAX_ROUTES} distinct stores and topics in one frame")]
    TooManyRoutes,
    /// Too many stretches of different routes in one frame.
    #[error("more than {MAX_RUNS} runs in one frame")]
    TooManyRuns,
}

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The header breaks the format.
    #[error("frame header, field {field} at byte {offset}: {reason}")]
    Header {
        /// Name of the field, as in frame.proto.
        field: &'static str,
        /// Offset in the frame, in bytes.
        offset: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// The ingestor's name is not one.
    #[error("frame header, field ingestor: {0}")]
    Ingestor(#[from] NameError),
    /// A pointer is too long.
    #[error("frame header, pointer: {0}")]
    Pointer(#[from] PointerError),
    /// A digest has the wrong length.
    #[error("frame header, digest: {0}")]
    Digest(#[from] DigestError),
    /// A kind that this version does not know.
    #[error("frame of unknown kind {0}: written by a newer version")]
    UnknownKind(u64),
    /// The changes are not in canonical form.
    #[error(transparent)]
    Changes(#[from] ScanError),
    /// The run table does not describe the changes.
    #[error("the run table does not match the changes: {0}")]
    Table(&'static str),
    /// Larger than the limit.
    #[error("the frame is {0} bytes long; at most {limit} are allowed", limit = crate::MAX_FRAME)]
    TooLarge(usize),
}
