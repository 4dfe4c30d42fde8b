//! Which refusal a client sees for which error: the only place that knows both.

use sluice_client::details;
use sluice_frame::FrameError;
use sluice_journal::{AppendError, Corruption, JournalError, ReadError};
use sluice_model::{Generation, IngestorName, Position};
use sluice_proto::reason::{self, status};
use tonic::{Code, Status};

/// The status of a failed create, open, status or trim.
pub(crate) fn journal(error: &JournalError) -> Status {
    let message = error.to_string();
    match error {
        JournalError::AlreadyExists { .. } => {
            status(Code::AlreadyExists, reason::CONFLICT, message)
        }
        JournalError::NotHere { .. } => status(Code::NotFound, reason::NOT_HERE, message),
        JournalError::Fenced { .. } => status(Code::Aborted, reason::FENCED, message),
        JournalError::NoFenceState { .. } => status(Code::DataLoss, reason::CORRUPT, message),
        JournalError::DiskFull { .. } => {
            status(Code::ResourceExhausted, reason::DISK_FULL, message)
        }
        JournalError::Invalid(_) => status(Code::InvalidArgument, reason::INVALID, message),
        JournalError::Closed => stopping(),
        JournalError::InUse { .. } | JournalError::Io { .. } => Status::unavailable(message),
    }
}

/// The status of a refused frame. It ends the append stream.
pub(crate) fn append(
    ingestor: &IngestorName,
    generation: Generation,
    error: &AppendError,
) -> Status {
    let message = format!("{ingestor}: {error}");
    match error {
        AppendError::Fenced { .. } => status(Code::Aborted, reason::FENCED, message),
        AppendError::WrongParent { head, .. } => {
            let mut status = status(Code::FailedPrecondition, reason::WRONG_PARENT, message);
            if let Some(head) = head {
                details::put_head(&mut status, head);
            }
            status
        }
        AppendError::Behind { .. } | AppendError::WrongGeneration { .. } => {
            status(Code::FailedPrecondition, reason::WRONG_PARENT, message)
        }
        AppendError::Divergent { pointer, store } => {
            let mut status = status(Code::FailedPrecondition, reason::DIVERGENT, message);
            let at = Position::end_of(generation, pointer.clone());
            details::put_position(&mut status, details::AT, &at);
            if let Some(store) = store {
                details::put_text(&mut status, details::STORE, store);
            }
            status
        }
        AppendError::WrongDigest { .. } | AppendError::Invalid { .. } => {
            status(Code::InvalidArgument, reason::INVALID, message)
        }
        AppendError::Frame(error) => frame(ingestor, error),
        AppendError::DiskFull { .. } => status(Code::ResourceExhausted, reason::DISK_FULL, message),
        AppendError::Poisoned { .. } => status(Code::Unavailable, reason::POISONED, message),
        AppendError::Read(error) => read(ingestor, error),
        AppendError::Closed => stopping(),
    }
}

/// The status of bytes that are not a frame.
pub(crate) fn frame(ingestor: &IngestorName, error: &FrameError) -> Status {
    let reason = match error {
        FrameError::TooLarge(_) => reason::TOO_LARGE,
        _ => reason::INVALID,
    };
    status(Code::InvalidArgument, reason, format!("{ingestor}: {error}"))
}

/// What broke the stream of requests. A message beyond the limit is refused by the layer below,
/// which knows no reasons.
pub(crate) fn inbound(ingestor: &IngestorName, error: Status) -> Status {
    if error.code() != Code::OutOfRange || reason::of(&error).is_some() {
        return error;
    }
    let message = format!(
        "{ingestor}: {}; cut the block into smaller frames, a single change may have {} bytes",
        error.message(),
        sluice_frame::MAX_CHANGE,
    );
    status(Code::InvalidArgument, reason::TOO_LARGE, message)
}

/// The status of a failed read. It ends the subscription.
pub(crate) fn read(ingestor: &IngestorName, error: &ReadError) -> Status {
    let message = format!("{ingestor}: {error}");
    match error {
        ReadError::NotHere(_) => status(Code::NotFound, reason::NOT_HERE, error.to_string()),
        ReadError::OutOfRange { oldest } => {
            let mut status = status(Code::OutOfRange, reason::OUT_OF_RANGE, message);
            details::put_position(&mut status, details::OLDEST, oldest);
            status
        }
        ReadError::Diverged { head } => {
            let mut status = status(Code::FailedPrecondition, reason::DIVERGED, message);
            if let Some(head) = head {
                details::put_head(&mut status, head);
            }
            status
        }
        ReadError::Corrupt(corruption) => corrupt(ingestor, corruption),
        ReadError::Io { .. } => Status::unavailable(message),
        ReadError::Closed => stopping(),
    }
}

/// The status of unreadable blocks: what is lost, where, and how to look.
pub(crate) fn corrupt(ingestor: &IngestorName, corruption: &Corruption) -> Status {
    let message = format!("{ingestor}: {corruption}; run: sluice journal verify {ingestor}");
    let mut status = status(Code::DataLoss, reason::CORRUPT, message);
    if let Some(through) = &corruption.through {
        details::put_position(&mut status, details::THROUGH, through);
    }
    status
}

/// The service ends; the client comes back.
pub(crate) fn stopping() -> Status {
    status(Code::Unavailable, reason::STOPPING, "the router is stopping; connect again")
}

/// A newer writer has opened the journal.
pub(crate) fn fenced(ingestor: &IngestorName) -> Status {
    let message = format!("{ingestor}: this writer is fenced, the journal was opened again");
    status(Code::Aborted, reason::FENCED, message)
}

#[cfg(test)]
mod tests {
    use sluice_model::Pointer;

    use super::*;

    #[test]
    fn corruption_names_place_file_and_command() {
        let ingestor: IngestorName = "hub".parse().unwrap();
        let at = |height| Position::end_of(Generation(0), Pointer::from_height(height));
        let corruption = Corruption {
            after: at(6),
            through: Some(at(7)),
            digest: None,
            file: "0001.seg".into(),
            offset: 4096,
            cause: "checksum".into(),
        };
        let status = corrupt(&ingestor, &corruption);
        assert_eq!(status.code(), Code::DataLoss);
        for part in ["0001.seg", "4096", "after 6", "sluice journal verify hub"] {
            assert!(status.message().contains(part), "{part}: {}", status.message());
        }
        assert_eq!(details::position(&status, details::THROUGH), Some(at(7)));
    }

    #[test]
    fn only_the_limit_of_the_layer_below_is_given_a_reason() {
        let ingestor: IngestorName = "hub".parse().unwrap();
        let large = inbound(&ingestor, Status::out_of_range("too large: found 9, the limit is 8"));
        assert_eq!(reason::of(&large), Some(reason::TOO_LARGE));
        assert!(large.message().contains("found 9"));
        assert_eq!(inbound(&ingestor, Status::cancelled("x")).code(), Code::Cancelled);
    }
}
