//! How a command ends: one exit code per kind of failure, decided here and nowhere else.

use std::{fmt, io};

use sluice_client::subscribe::SubscribeError;
use sluice_proto::reason;
use tonic::{Code, Status};

/// The exit codes of every command. `sluice status` alone uses 1 and 2 for degraded and down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It worked.
    Ok = 0,
    /// It failed in a way that no other code names.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// A service refused: fenced, wrong parent, conflict, not allowed.
    Refused = 4,
    /// No answer.
    Unreachable = 5,
    /// The data has a problem: a gap, corruption, another history.
    Data = 6,
    /// Ended by a signal.
    Interrupted = 130,
}

/// Why a command failed: the code, what is wrong, and the command that shows or fixes it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    fix: Option<String>,
}

/// What every command returns.
pub(crate) type Outcome = Result<Exit, Failure>;

impl Failure {
    /// A failure with its code. The message says what is wrong, without a final full stop.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), fix: None }
    }

    /// The command line or a file given by the user is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The end without a word: nobody reads the output any more.
    pub(crate) const fn quiet() -> Self {
        Self { exit: Exit::Ok, message: String::new(), fix: None }
    }

    /// Adds the command that shows or fixes it, unless the message names one already.
    #[must_use]
    pub(crate) fn fix(mut self, command: impl Into<String>) -> Self {
        if self.fix.is_none() && !self.message.contains("sluice ") {
            self.fix = Some(command.into());
        }
        self
    }

    /// Says first what was being done.
    #[must_use]
    pub(crate) fn context(mut self, doing: impl fmt::Display) -> Self {
        if !self.message.is_empty() {
            self.message = format!("{doing}: {}", self.message);
        }
        self
    }

    /// The code.
    pub(crate) const fn exit(&self) -> Exit {
        self.exit
    }

    /// What is wrong, without the command that shows or fixes it.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// True if there is nothing to say.
    pub(crate) fn is_quiet(&self) -> bool {
        self.message.is_empty()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.fix {
            Some(command) => write!(f, "\n  run: {command}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// The code of a gRPC status: its reason decides, then its code.
fn of_status(status: &Status) -> Exit {
    match reason::of(status) {
        Some(
            reason::FENCED
            | reason::WRONG_PARENT
            | reason::DIVERGENT
            | reason::NOT_OWNER
            | reason::CONFLICT
            | reason::HELD
            | reason::LOST_OWNERSHIP,
        ) => Exit::Refused,
        Some(reason::OUT_OF_RANGE | reason::DIVERGED | reason::CORRUPT) => Exit::Data,
        Some(reason::NOT_HERE) => Exit::NotFound,
        Some(reason::INVALID | reason::TOO_LARGE) => Exit::Usage,
        Some(reason::STOPPING) => Exit::Unreachable,
        Some(reason::DISK_FULL | reason::POISONED) => Exit::Failed,
        _ => of_code(status),
    }
}

fn of_code(status: &Status) -> Exit {
    match status.code() {
        Code::Ok => Exit::Ok,
        Code::InvalidArgument => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists
        | Code::Aborted
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated => Exit::Refused,
        // Cancelled is a connection that was closed under a call, as when our certificate is
        // refused; an interrupt of ours never gets here.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Exit::Unreachable,
        Code::OutOfRange | Code::DataLoss => Exit::Data,
        // The client's own layers name a connection that could not be made like this.
        Code::Unknown if std::error::Error::source(status).is_some() => Exit::Unreachable,
        Code::Unknown if status.message().starts_with("Service was not ready") => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::from(&status)
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Self {
        let exit = of_status(status);
        let message = match status.message() {
            "" => format!("the service answered {:?}", status.code()),
            message => message.to_owned(),
        };
        Self::new(exit, message)
    }
}

impl From<SubscribeError> for Failure {
    fn from(error: SubscribeError) -> Self {
        let exit = match &error {
            SubscribeError::OutOfRange { .. }
            | SubscribeError::Diverged { .. }
            | SubscribeError::DataLoss { .. }
            | SubscribeError::Broken(_) => Exit::Data,
            SubscribeError::NotHere { .. } => Exit::NotFound,
            SubscribeError::Invalid { .. } => Exit::Usage,
            SubscribeError::Refused(status) => of_status(status),
            SubscribeError::GaveUp { .. } => Exit::Unreachable,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<sluice_service::Error> for Failure {
    fn from(error: sluice_service::Error) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}

impl From<sluice_config::ConfigError> for Failure {
    fn from(error: sluice_config::ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::quiet(),
            io::ErrorKind::NotFound => Self::new(Exit::NotFound, error.to_string()),
            _ => Self::new(Exit::Failed, error.to_string()),
        }
    }
}

/// An error of the system about a file, with the file's name.
pub(crate) fn on_path(path: &std::path::Path) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::from(error).context(path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_decides_before_the_code() {
        for (code, reason, exit) in [
            (Code::Aborted, reason::FENCED, Exit::Refused),
            (Code::FailedPrecondition, reason::WRONG_PARENT, Exit::Refused),
            (Code::FailedPrecondition, reason::DIVERGENT, Exit::Refused),
            (Code::FailedPrecondition, reason::DIVERGED, Exit::Data),
            (Code::OutOfRange, reason::OUT_OF_RANGE, Exit::Data),
            (Code::DataLoss, reason::CORRUPT, Exit::Data),
            (Code::NotFound, reason::NOT_HERE, Exit::NotFound),
            (Code::Unavailable, reason::STOPPING, Exit::Unreachable),
            (Code::Unavailable, reason::HELD, Exit::Refused),
            (Code::Unavailable, reason::POISONED, Exit::Failed),
            (Code::ResourceExhausted, reason::DISK_FULL, Exit::Failed),
            (Code::InvalidArgument, reason::INVALID, Exit::Usage),
            (Code::AlreadyExists, reason::CONFLICT, Exit::Refused),
        ] {
            let failure = Failure::from(reason::status(code, reason, "x"));
            assert_eq!(failure.exit(), exit, "{reason}");
        }
    }

    #[test]
    fn without_a_reason_the_code_decides() {
        for (status, exit) in [
            (Status::unavailable("x"), Exit::Unreachable),
            (Status::deadline_exceeded("x"), Exit::Unreachable),
            (Status::cancelled("x"), Exit::Unreachable),
            (Status::not_found("x"), Exit::NotFound),
            (Status::permission_denied("x"), Exit::Refused),
            (Status::data_loss("x"), Exit::Data),
            (Status::unknown("Service was not ready: refused"), Exit::Unreachable),
            (Status::unknown("x"), Exit::Failed),
            (Status::internal("x"), Exit::Failed),
        ] {
            assert_eq!(Failure::from(&status).exit(), exit, "{status:?}");
        }
    }

    #[test]
    fn the_command_comes_last_and_only_once() {
        let failure = Failure::new(Exit::Unreachable, "no answer").fix("sluice status");
        assert_eq!(failure.to_string(), "no answer\n  run: sluice status");
        let named = Failure::new(Exit::Data, "corrupt; run: sluice journal verify hub");
        assert!(!named.fix("sluice status").to_string().contains("sluice status"));
    }

    #[test]
    fn a_broken_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.is_quiet() && failure.exit() == Exit::Ok);
    }
}
