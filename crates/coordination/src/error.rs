use std::time::Duration;

use sluice_model::{Epoch, IngestorName, JournalId};

use crate::{
    control::{Action, ActionResult},
    keys::KeyError,
    kv::KvError,
    record::{CommitRecord, StreamState},
};

/// What coordination can answer instead of success.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's key is not the owner's (any more).
    #[error("the lock {lock:?} is not owned under epoch {epoch}{}", owned_by(.current))]
    LostOwnership {
        /// The lock.
        lock: String,
        /// What the caller claimed.
        epoch: Epoch,
        /// The present owner's epoch, if there is one.
        current: Option<Epoch>,
    },
    /// The commit does not follow the stored one, or is not after it.
    #[error("the commit of {ingestor} must follow the stored one ({}) and be after it", commit_text(.stored))]
    PositionConflict {
        /// Whose commit.
        ingestor: IngestorName,
        /// What is stored.
        stored: Option<Box<CommitRecord>>,
    },
    /// The checkpoint does not replace the stored one, is of another reset epoch, or goes back.
    #[error("the checkpoint of stream {stream:?} must replace version {} of reset epoch {} and not go back behind it", .stored.checkpoint.as_ref().map_or(0, |c| c.version), .stored.reset_epoch)]
    CheckpointConflict {
        /// Whose checkpoint.
        stream: String,
        /// What is stored.
        stored: Box<StreamState>,
    },
    /// The commit names a journal that is not the ingestor's.
    #[error("the journal of {ingestor} is {}, not {named}", .minted.map_or_else(|| "not minted yet".to_owned(), |id| id.to_string()))]
    WrongJournal {
        /// Whose.
        ingestor: IngestorName,
        /// What the commit named.
        named: JournalId,
        /// What the coordinator minted.
        minted: Option<JournalId>,
    },
    /// The fence does not lie above the lock's epoch, or cannot be passed.
    #[error(
        "the fence {fence} gives no reason to raise the incarnation of epoch {epoch}: {message}"
    )]
    Fence {
        /// What was claimed to have refused the epoch.
        fence: Epoch,
        /// The lock's epoch.
        epoch: Epoch,
        /// Why not.
        message: &'static str,
    },
    /// A person paused the ingestor before.
    #[error("{ingestor} was paused by {by:?} before; an alarm can be raised once it is resumed")]
    PausedBefore {
        /// Whose.
        ingestor: IngestorName,
        /// Who paused it.
        by: String,
    },
    /// Another action waits to be done.
    #[error("{ingestor} still has action {} to do: {}, asked for by {:?}; wait for it or cancel it", .action.id, .action.kind.name(), .action.actor)]
    ActionWaits {
        /// Whose.
        ingestor: IngestorName,
        /// The one that waits.
        action: Box<Action>,
    },
    /// The action ended before.
    #[error("action {id} of {ingestor} has ended; the last one was {} ({}): {}", .last.id, .last.kind, .last.message)]
    ActionEnded {
        /// Whose.
        ingestor: IngestorName,
        /// The one that was meant.
        id: u64,
        /// How the last one ended.
        last: Box<ActionResult>,
    },
    /// The session ended; everything under it is gone.
    #[error("the session {0:x} ended; make a new one")]
    SessionLost(u64),
    /// A name or nonce is not one.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A request is not one.
    #[error("{0}")]
    Invalid(String),
    /// More writes than the budget allows are waiting; come back later.
    #[error("the coordinator's write budget is used up for {0:?}; write less often")]
    Busy(Duration),
    /// Writers kept overtaking each other; repeat the call.
    #[error("the write to {0} was overtaken too often; repeat it")]
    Contended(String),
    /// A stored value is not what it should be.
    #[error("the stored value of {key:?} is damaged: {message}")]
    Record {
        /// The key.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// The store failed.
    #[error(transparent)]
    Kv(KvError),
}

impl From<KvError> for Error {
    fn from(error: KvError) -> Self {
        match error {
            KvError::LeaseNotFound(lease) => Self::SessionLost(lease),
            other => Self::Kv(other),
        }
    }
}

impl Error {
    /// True if the write that failed may have taken effect.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Kv(KvError::Unknown(_)))
    }
}

fn owned_by(current: &Option<Epoch>) -> String {
    current.map_or_else(
        || "; it has no owner".to_owned(),
        |epoch| format!("; its owner has epoch {epoch}"),
    )
}

fn commit_text(stored: &Option<Box<CommitRecord>>) -> String {
    stored.as_ref().map_or_else(
        || "none".to_owned(),
        |commit| format!("generation {} at {}", commit.generation, commit.pointer),
    )
}
