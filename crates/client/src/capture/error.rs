use sluice_frame::ScanError;
use sluice_proto::{convert::ConvertError, reason};
use tonic::{Code, Status};

/// The metadata key under which a standby says where the owner is.
pub const OWNER: &str = "sluice-owner";

/// Why a block or a connection was refused.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Another producer captures the ingestor.
    #[error("this producer does not capture the ingestor at the moment{}", owner.as_ref().map(|o| format!("; ask {o}")).unwrap_or_default())]
    NotOwner {
        /// Where it can be reached, if that is known.
        owner: Option<String>,
    },
    /// The ingestor is paused, blocked or halted and takes nothing until that is over.
    #[error("{0}")]
    Held(String),
    /// The block does not follow the last one.
    #[error("{0}")]
    WrongParent(String),
    /// The journal has other state at this place.
    #[error("{0}")]
    Divergent(String),
    /// The block or a message is not what the API asks for, and never will be.
    #[error("{0}")]
    Invalid(String),
    /// A change or a message is too large.
    #[error("{0}")]
    TooLarge(String),
    /// Another program has connected to capture the same ingestor.
    #[error("{0}")]
    Superseded(String),
    /// There is no such ingestor, or it has another kind of source.
    #[error("{0}")]
    NotFound(String),
    /// The region given to [`Blocks::changes`](super::Blocks::changes) is not one.
    #[error(transparent)]
    Changes(#[from] ScanError),
    /// A call out of order.
    #[error("{0}")]
    Usage(&'static str),
    /// The producer refused for another reason.
    #[error("the producer refused: {0}")]
    Refused(Box<Status>),
    /// The connection was lost or the producer starts over: blocks that were not acknowledged may
    /// or may not be durable. Resume.
    #[error("the outcome of unacknowledged blocks is unknown: {0}")]
    Unknown(Box<Status>),
    /// The connection had already ended; the first error said why.
    #[error("the connection has ended; resume")]
    Ended,
}

impl CaptureError {
    /// True if resuming may work without any change by the caller.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::NotOwner { .. } | Self::Held(_) | Self::Unknown(_) | Self::Ended)
    }

    pub(super) fn malformed(error: ConvertError) -> Self {
        Self::Unknown(Box::new(error.into()))
    }
}

impl From<Status> for CaptureError {
    fn from(status: Status) -> Self {
        let message = || status.message().to_owned();
        match reason::of(&status) {
            Some(reason::NOT_OWNER) => {
                let owner = status.metadata().get(OWNER).and_then(|value| value.to_str().ok());
                Self::NotOwner { owner: owner.map(str::to_owned) }
            }
            Some(reason::HELD) => Self::Held(message()),
            Some(reason::WRONG_PARENT) => Self::WrongParent(message()),
            Some(reason::DIVERGENT) => Self::Divergent(message()),
            Some(reason::INVALID) => Self::Invalid(message()),
            Some(reason::TOO_LARGE) => Self::TooLarge(message()),
            Some(reason::CONFLICT) => Self::Superseded(message()),
            Some(reason::STOPPING) => Self::Unknown(Box::new(status)),
            Some(_) => Self::Refused(Box::new(status)),
            None => match status.code() {
                Code::NotFound => Self::NotFound(message()),
                Code::OutOfRange | Code::ResourceExhausted => Self::TooLarge(message()),
                Code::InvalidArgument => Self::Invalid(message()),
                Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
                    Self::Refused(Box::new(status))
                }
                _ => Self::Unknown(Box::new(status)),
            },
        }
    }
}
