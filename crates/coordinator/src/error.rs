//! What goes wrong, and the status it becomes.

use sluice_coordination::{Error, KvError};
use sluice_model::Epoch;
use sluice_proto::reason;
use tonic::{Code, Status};

/// Why a coordinator cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// etcd without an address.
    #[error(
        "coordinator.etcd.endpoints is empty; name the cluster's addresses, or set coordinator.store = \"embedded\""
    )]
    NoEndpoints,
    /// A user without a password, or the reverse.
    #[error("coordinator.etcd.user and coordinator.etcd.password go together")]
    HalfUser,
    /// The password cannot be had from where it is said to be.
    #[error("coordinator.etcd.password: {0}")]
    Secret(String),
    /// A certificate without its key, or the reverse.
    #[error("coordinator.etcd.cert and coordinator.etcd.key go together")]
    HalfIdentity,
    /// A certificate file cannot be read.
    #[error("cannot read {path}: {error}")]
    File {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The store cannot be opened.
    #[error("the coordinator's store cannot be opened: {0}")]
    Store(#[from] KvError),
}

/// The status of an error: a code for whoever only knows gRPC, a reason for our clients.
pub(crate) fn status(error: &Error) -> Status {
    let message = error.to_string();
    match error {
        Error::LostOwnership { current, .. } => lost(message, *current),
        Error::PositionConflict { .. }
        | Error::CheckpointConflict { .. }
        | Error::WrongJournal { .. } => conflict(error, message),
        Error::ActionWaits { .. } | Error::ActionEnded { .. } | Error::PausedBefore { .. } => {
            reason::status(Code::FailedPrecondition, reason::CONFLICT, message)
        }
        Error::SessionLost(_) => reason::status(Code::NotFound, reason::SESSION_LOST, message),
        Error::Key(_) | Error::Invalid(_) | Error::Fence { .. } => {
            reason::status(Code::InvalidArgument, reason::INVALID, message)
        }
        Error::Busy(_) => Status::resource_exhausted(message),
        // Repeating it is right in both cases; every write is idempotent.
        Error::Contended(_) | Error::Kv(KvError::Unavailable(_) | KvError::Unknown(_)) => {
            Status::unavailable(message)
        }
        Error::Kv(KvError::NoSpace(_)) => {
            reason::status(Code::FailedPrecondition, reason::DISK_FULL, message)
        }
        Error::Record { .. } => reason::status(Code::DataLoss, reason::CORRUPT, message),
        Error::Kv(_) => Status::internal(message),
    }
}

fn conflict(error: &Error, message: String) -> Status {
    // A commit that names another journal will not fit after a restart from the stored one.
    let word = match error {
        Error::WrongJournal { .. } => reason::NOT_HERE,
        _ => reason::CONFLICT,
    };
    reason::status(Code::FailedPrecondition, word, message)
}

fn lost(message: String, current: Option<Epoch>) -> Status {
    let mut status = reason::status(Code::Aborted, reason::LOST_OWNERSHIP, message);
    if let Some(epoch) = current {
        status.metadata_mut().insert(reason::EPOCH_KEY, epoch.as_u64().into());
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why_and_an_outage_says_try_again() {
        let lost = Error::LostOwnership {
            lock: "ingestor/a".to_owned(),
            epoch: Epoch::new(0, 3),
            current: Some(Epoch::new(0, 7)),
        };
        let status = status(&lost);
        assert_eq!(reason::of(&status), Some(reason::LOST_OWNERSHIP));
        assert_eq!(status.metadata().get(reason::EPOCH_KEY).unwrap(), "7");
        for error in [KvError::Unavailable(String::new()), KvError::Unknown(String::new())] {
            assert_eq!(super::status(&Error::Kv(error)).code(), Code::Unavailable);
        }
    }
}
