use std::fmt;

use bytes::Bytes;
use sluice_model::{Digest, Epoch, IngestorName, Pointer, Position};
use sluice_proto::v1 as pb;
use tonic::Status;

use super::{
    Coordination, CoordinationError, Lock,
    call::{self, Answers, Caller, Pause},
    wire,
};

/// What operators want of an ingestor, whoever owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Whose.
    pub ingestor: IngestorName,
    /// Who paused it; `None` while it is to run.
    pub paused: Option<Paused>,
    /// The action that waits to be done.
    pub action: Option<Action>,
    /// How the last action ended.
    pub last: Option<ActionResult>,
    /// Grows with every change.
    pub version: u64,
}

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    /// Who asked for it.
    pub by: String,
    /// Why; may be empty.
    pub reason: String,
    /// When, nanoseconds since 1970, on the coordinator's clock; 0 if unknown.
    pub at: i64,
    /// Two feeds differ; no person asked for it.
    pub alarm: bool,
}

/// Something the owner is to do once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Rises by one with each action of the ingestor.
    pub id: u64,
    /// Who asked for it.
    pub actor: String,
    /// Why; may be empty.
    pub reason: String,
    /// When, nanoseconds since 1970, on the coordinator's clock; 0 if unknown.
    pub requested: i64,
    /// What.
    pub kind: ActionKind,
}

/// What an owner can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionKind {
    /// Forget the failures and try the blocked block again at once.
    Retry,
    /// Write a gap over the blocks from `pointer` to `through` and go on behind it.
    Skip {
        /// The blocked block.
        pointer: Pointer,
        /// The last one left out; the same for just one.
        through: Pointer,
    },
    /// A new generation from a block that the journal has.
    Rewind {
        /// The block.
        to: Position,
        /// If given, the block must have it.
        digest: Option<Digest>,
    },
    /// Take the journal's head as the truth: a new generation from it, the commit repaired.
    AcceptLoss,
    /// Drain, commit, release the lock, and queue again after a pause. Finish the action before
    /// the lock is released: afterwards it is refused.
    HandOver,
}

impl ActionKind {
    /// The word for it, as in [`ActionResult::kind`].
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip { .. } => "skip",
            Self::Rewind { .. } => "rewind",
            Self::AcceptLoss => "accept-loss",
            Self::HandOver => "hand-over",
        }
    }
}

impl fmt::Display for ActionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skip { pointer, through } if pointer == through => write!(f, "skip {pointer}"),
            Self::Skip { pointer, through } => write!(f, "skip {pointer} through {through}"),
            Self::Rewind { to, .. } => {
                write!(f, "rewind to {} of generation {}", to.pointer, to.generation)
            }
            other => f.write_str(other.name()),
        }
    }
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionResult {
    /// The action's.
    pub id: u64,
    /// False if it was refused, failed, or was withdrawn.
    pub done: bool,
    /// What came of it.
    pub message: String,
    /// The action's word.
    pub kind: String,
    /// Who had asked for it.
    pub actor: String,
    /// Of the owner that ended it; [`Epoch::ZERO`] if it was withdrawn.
    pub epoch: Epoch,
    /// When, nanoseconds since 1970, on the coordinator's clock; 0 if unknown.
    pub finished: i64,
    /// True if it was withdrawn before anybody had done it.
    pub cancelled: bool,
}

impl Coordination {
    /// Follows what operators want of an ingestor. Does no I/O before the first
    /// [`ControlWatch::next`].
    pub fn watch_control(&self, ingestor: &IngestorName) -> ControlWatch {
        ControlWatch {
            caller: self.caller.clone(),
            ingestor: ingestor.clone(),
            told: None,
            stream: None,
            pause: Pause::default(),
        }
    }

    /// Pauses or resumes an ingestor, on behalf of `actor`. Idempotent: a pause that is there
    /// stays as it is, with who asked for it first.
    pub async fn set_paused(
        &self,
        ingestor: &IngestorName,
        paused: bool,
        actor: &str,
        reason: &str,
    ) -> Result<Control, CoordinationError> {
        self.pause(pb::SetPausedRequest {
            ingestor: ingestor.to_string(),
            paused,
            actor: actor.to_owned(),
            reason: reason.to_owned(),
            alarm: false,
        })
        .await
    }

    /// Pauses an ingestor whose feeds differ, until somebody resumes it, and puts that into its
    /// trail. Idempotent.
    ///
    /// Errors: [`CoordinationError::Refused`] with the reason `CONFLICT` while a person has paused
    /// it: their resuming must not end an alarm that they were not shown.
    pub async fn raise_alarm(
        &self,
        ingestor: &IngestorName,
        actor: &str,
        reason: &str,
    ) -> Result<Control, CoordinationError> {
        self.pause(pb::SetPausedRequest {
            ingestor: ingestor.to_string(),
            paused: true,
            actor: actor.to_owned(),
            reason: reason.to_owned(),
            alarm: true,
        })
        .await
    }

    async fn pause(&self, request: pb::SetPausedRequest) -> Result<Control, CoordinationError> {
        let response = self
            .caller
            .call("SetPaused", |mut client| {
                let request = request.clone();
                async move { client.set_paused(request).await }
            })
            .await?;
        wire::control::control(&response)
    }

    /// Asks the ingestor's owner, present or next, to do something once; the answer has the
    /// action with its id. Follow [`Self::watch_control`] to see it end.
    ///
    /// Errors: [`CoordinationError::Refused`] with the reason `CONFLICT` while another action
    /// waits, which the message names.
    pub async fn request_action(
        &self,
        ingestor: &IngestorName,
        actor: &str,
        reason: &str,
        kind: ActionKind,
    ) -> Result<Control, CoordinationError> {
        let request = pb::RequestActionRequest {
            ingestor: ingestor.to_string(),
            nonce: nonce(),
            action: Some(wire::control::action_message(actor, reason, &kind)),
        };
        let response = self
            .caller
            .call("RequestAction", |mut client| {
                let request = request.clone();
                async move { client.request_action(request).await }
            })
            .await?;
        wire::control::control(&response)
    }

    /// Withdraws the action with this id. Idempotent. An owner that is at it already may still
    /// finish it, which then stands as done.
    ///
    /// Errors: [`CoordinationError::Refused`] with the reason `CONFLICT` if it ended before.
    pub async fn cancel_action(
        &self,
        ingestor: &IngestorName,
        id: u64,
        actor: &str,
        reason: &str,
    ) -> Result<Control, CoordinationError> {
        let request = pb::CancelActionRequest {
            ingestor: ingestor.to_string(),
            id,
            actor: actor.to_owned(),
            reason: reason.to_owned(),
        };
        let response = self
            .caller
            .call("CancelAction", |mut client| {
                let request = request.clone();
                async move { client.cancel_action(request).await }
            })
            .await?;
        wire::control::control(&response)
    }
}

impl Lock {
    /// Says how the ingestor's action ended, as its owner. Idempotent by the action's id.
    ///
    /// Errors: [`CoordinationError::LostOwnership`] if the lock is no longer held (also when it is
    /// past its deadline here, without a call); [`CoordinationError::Refused`] if there is no such
    /// action or this is not the ingestor's lock.
    pub async fn finish_action(
        &self,
        ingestor: &IngestorName,
        id: u64,
        done: bool,
        message: &str,
    ) -> Result<Control, CoordinationError> {
        self.check()?;
        let (session, nonce) = self.credentials();
        let request = pb::FinishActionRequest {
            ingestor: ingestor.to_string(),
            session,
            nonce,
            epoch: self.epoch().as_u64(),
            id,
            done,
            message: message.to_owned(),
        };
        let response = self
            .caller()
            .call("FinishAction", |mut client| {
                let request = request.clone();
                async move { client.finish_action(request).await }
            })
            .await
            .map_err(|error| error.of_lock(self.name()))?;
        wire::control::control(&response)
    }
}

/// Follows what operators want of an ingestor, over any number of calls and coordinators: first
/// the present state, then every later one. States that followed each other quickly may be left
/// out, the last one never.
pub struct ControlWatch {
    caller: Caller,
    ingestor: IngestorName,
    told: Option<Control>,
    stream: Option<Answers<pb::IngestorControl>>,
    pause: Pause,
}

impl fmt::Debug for ControlWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlWatch").field("ingestor", &self.ingestor).finish_non_exhaustive()
    }
}

impl ControlWatch {
    /// The next state that differs from the one told before; waits for ever if need be, also
    /// while no coordinator answers. Errors only if the coordinator refuses, or says what this
    /// version does not understand; asking again is allowed then. Cancel safe.
    pub async fn next(&mut self) -> Result<Control, CoordinationError> {
        loop {
            let control = match self.message().await {
                Ok(message) => wire::control::control(&message)?,
                Err(status) => {
                    self.stream = None;
                    if !call::is_transient(&status) {
                        return Err(CoordinationError::refused("WatchControl", &status));
                    }
                    tracing::debug!(ingestor = %self.ingestor, error = status.message(),
                        "control not watched; again");
                    tokio::time::sleep(self.pause.next()).await;
                    continue;
                }
            };
            self.pause.reset();
            if self.told.as_ref() != Some(&control) {
                self.told = Some(control.clone());
                return Ok(control);
            }
        }
    }

    async fn message(&mut self) -> Result<pb::IngestorControl, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let request = pb::WatchControlRequest { ingestor: self.ingestor.to_string() };
                let mut client = self.caller.client();
                none.insert(self.caller.stream(client.watch_control(request)).await?)
            }
        };
        stream.message().await?.ok_or_else(|| Status::unavailable("the answer ended"))
    }
}

/// Tells a repeated request from another one.
pub(super) fn nonce() -> Bytes {
    Bytes::copy_from_slice(&rand::random::<u128>().to_be_bytes())
}
