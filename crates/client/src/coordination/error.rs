use std::time::Duration;

use sluice_model::{Epoch, IngestorName};
use tonic::{Code, Status};

use super::{
    types::{CommitRecord, StreamState},
    wire,
};

/// What coordination can answer instead of success.
#[derive(Debug, thiserror::Error)]
pub enum CoordinationError {
    /// The lock is no longer this holder's. Stop, await everything under it, acquire again.
    #[error("the lock {lock:?} is no longer held here{}", owned_by(.current))]
    LostOwnership {
        /// The lock.
        lock: String,
        /// The present owner's epoch, where it is known.
        current: Option<Epoch>,
    },
    /// The commit does not follow the stored one. Restart from the stored one.
    #[error("the commit of {ingestor} does not follow the stored one ({}); restart from there", stored_commit(.stored))]
    PositionConflict {
        /// Whose commit.
        ingestor: IngestorName,
        /// What is stored.
        stored: Option<Box<CommitRecord>>,
    },
    /// The checkpoint does not follow the stored one, or the stream was reset. Restart from the
    /// stored state.
    #[error("the checkpoint of stream {stream:?} does not follow the stored one (version {}, reset epoch {}); restart from there", .stored.version(), .stored.reset_epoch)]
    CheckpointConflict {
        /// Whose checkpoint.
        stream: String,
        /// What is stored.
        stored: Box<StreamState>,
    },
    /// No coordinator answered in time. Whether a write took effect is unknown; repeat it.
    #[error("the coordinator did not answer {call} within {after:?} ({tries} tries); last: {last}")]
    Unavailable {
        /// The call.
        call: &'static str,
        /// How long it was tried.
        after: Duration,
        /// How often.
        tries: u32,
        /// The last failure.
        last: String,
    },
    /// The coordinator refused the call; repeating it will not help.
    #[error("the coordinator refused {call}: {message} ({code:?}, {reason})")]
    Refused {
        /// The call.
        call: &'static str,
        /// The gRPC code.
        code: Code,
        /// The reason, in capitals; empty if the coordinator gave none.
        reason: String,
        /// In words.
        message: String,
    },
    /// The coordinator's answer makes no sense; its version may differ from this one.
    #[error("the coordinator's answer is not understood: {0}")]
    Malformed(String),
    /// The session was closed by its owner.
    #[error("the session is closed")]
    Closed,
}

impl CoordinationError {
    /// True if the same call may succeed later without any change by the caller.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// The error of a status that is not worth another try.
    pub(super) fn refused(call: &'static str, status: &Status) -> Self {
        let reason = sluice_proto::reason::of(status).unwrap_or_default().to_owned();
        if reason == wire::LOST_OWNERSHIP {
            let current = wire::epoch_detail(status);
            return Self::LostOwnership { lock: String::new(), current };
        }
        Self::Refused { call, code: status.code(), reason, message: status.message().to_owned() }
    }

    /// The same error with the lock's name filled in.
    pub(super) fn of_lock(self, name: &str) -> Self {
        match self {
            Self::LostOwnership { current, .. } => {
                Self::LostOwnership { lock: name.to_owned(), current }
            }
            other => other,
        }
    }
}

fn owned_by(epoch: &Option<Epoch>) -> String {
    epoch.map_or_else(String::new, |epoch| format!("; its epoch is {epoch} now"))
}

fn stored_commit(stored: &Option<Box<CommitRecord>>) -> String {
    stored.as_ref().map_or_else(
        || "none".to_owned(),
        |commit| format!("generation {} at {}", commit.generation, commit.pointer),
    )
}

/// Why a lock is no longer held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LostCause {
    /// The lease could not be renewed before its deadline.
    #[error("the session passed its deadline without a renewal")]
    Deadline,
    /// The store ended the lease.
    #[error("the store ended the session")]
    SessionLost,
    /// The lock's own key is gone.
    #[error("the lock's key is gone: {0}")]
    KeyGone(String),
    /// The holder gave it up.
    #[error("released")]
    Released,
}
