//! Why a call was refused, as a word that programs can compare, in metadata `sluice-reason`.
//!
//! gRPC's codes are too few to act on; every refusal that a client treats in its own way carries
//! one of these in its metadata.

use tonic::{Code, Status, metadata::MetadataValue};

/// The metadata key of a reason.
pub const KEY: &str = "sluice-reason";

/// The metadata key of the epoch that holds a lock now, with [`LOST_OWNERSHIP`].
pub const EPOCH_KEY: &str = "sluice-epoch";

/// A writer with a newer epoch, or a newer open of the same epoch, exists.
pub const FENCED: &str = "FENCED";
/// The block's parent is not the journal's head.
pub const WRONG_PARENT: &str = "WRONG_PARENT";
/// The journal has other state at this position.
pub const DIVERGENT: &str = "DIVERGENT";
/// The position is below retention.
pub const OUT_OF_RANGE: &str = "OUT_OF_RANGE";
/// The position is in a history that the journal does not have.
pub const DIVERGED: &str = "DIVERGED";
/// This volume does not hold the journal.
pub const NOT_HERE: &str = "NOT_HERE";
/// There is no space; goes on by itself when there is.
pub const DISK_FULL: &str = "DISK_FULL";
/// The writer's file failed; open again.
pub const POISONED: &str = "POISONED";
/// Another process owns the ingestor.
pub const NOT_OWNER: &str = "NOT_OWNER";
/// Larger than a limit.
pub const TOO_LARGE: &str = "TOO_LARGE";
/// The content breaks the format.
pub const INVALID: &str = "INVALID";
/// Another value is stored than the caller expected.
pub const CONFLICT: &str = "CONFLICT";
/// The lock belongs to somebody else now.
pub const LOST_OWNERSHIP: &str = "LOST_OWNERSHIP";
/// The session ended, and every lock under it.
pub const SESSION_LOST: &str = "SESSION_LOST";
/// A block cannot be read.
pub const CORRUPT: &str = "CORRUPT";
/// The ingestor is paused, blocked or halted, as the message says; goes on when that is over.
pub const HELD: &str = "HELD";
/// The service stops; another connection may succeed.
pub const STOPPING: &str = "STOPPING";

/// A status with a reason.
pub fn status(code: Code, reason: &'static str, message: impl Into<String>) -> Status {
    let mut status = Status::new(code, message);
    status.metadata_mut().insert(KEY, MetadataValue::from_static(reason));
    status
}

/// The reason of a status, if it has one.
pub fn of(status: &Status) -> Option<&str> {
    status.metadata().get(KEY).and_then(|value| value.to_str().ok())
}
