use sluice_model::{Head, Position};
use sluice_proto::reason;
use tonic::{Code, Status};

use crate::details;

/// Why a journal was not opened, or a block not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A newer writer has opened the journal. Final for this epoch.
    #[error("{0}")]
    Fenced(String),
    /// The block does not follow the head.
    #[error("{message}")]
    WrongParent {
        /// The head, where the router said it.
        head: Option<Head>,
        /// The router's words.
        message: String,
    },
    /// The journal has other state at this place: two feeds disagree, or the source changed its
    /// history.
    #[error("{message}")]
    Divergent {
        /// The block.
        at: Option<Position>,
        /// The first store that differs; `None` if the sets of stores differ.
        store: Option<String>,
        /// The router's words.
        message: String,
    },
    /// This router does not hold the journal.
    #[error("{0}")]
    NotHere(String),
    /// There is no space. Goes on when there is: open again and send the block again.
    #[error("{0}")]
    DiskFull(String),
    /// The disk failed under the writer. Open again: nobody knows what it holds.
    #[error("{0}")]
    Poisoned(String),
    /// The block itself is refused: it breaks the format or a limit, and always will.
    #[error("{0}")]
    Invalid(String),
    /// The router refused for another reason.
    #[error("the router refused: {0}")]
    Refused(Box<Status>),
    /// The connection or the router was lost: blocks that were not acknowledged may or may not
    /// be in the journal.
    #[error("the outcome of unacknowledged blocks is unknown: {0}")]
    Unknown(Box<Status>),
    /// The stream had already ended; the first error said why.
    #[error("the append stream has ended; open the journal again")]
    Ended,
}

impl AppendError {
    /// True if opening again and going on from the journal's head may work. False for what stays
    /// refused until somebody acts.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::DiskFull(_) | Self::Poisoned(_) | Self::Unknown(_) | Self::Ended)
    }
}

impl From<Status> for AppendError {
    fn from(status: Status) -> Self {
        let message = || status.message().to_owned();
        match reason::of(&status) {
            Some(reason::FENCED) => Self::Fenced(message()),
            Some(reason::WRONG_PARENT) => {
                Self::WrongParent { head: details::head(&status), message: message() }
            }
            Some(reason::DIVERGENT) => Self::Divergent {
                at: details::position(&status, details::AT),
                store: details::text(&status, details::STORE),
                message: message(),
            },
            Some(reason::NOT_HERE) => Self::NotHere(message()),
            Some(reason::DISK_FULL) => Self::DiskFull(message()),
            Some(reason::POISONED) => Self::Poisoned(message()),
            Some(reason::INVALID | reason::TOO_LARGE) => Self::Invalid(message()),
            Some(reason::STOPPING) => Self::Unknown(Box::new(status)),
            Some(_) => Self::Refused(Box::new(status)),
            None => match status.code() {
                // Without our reason these come from layers before the router's own code.
                Code::OutOfRange | Code::InvalidArgument => Self::Invalid(message()),
                Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
                    Self::Refused(Box::new(status))
                }
                _ => Self::Unknown(Box::new(status)),
            },
        }
    }
}
