use sluice_frame::{Frame, RouteInterner};
use sluice_model::{Digest, Generation, Head, Position};
use sluice_proto::{convert, convert::ConvertError, v1 as pb};
use tonic::{Code, Status};

use super::{Broken, Complete, Gap, Rewind, Start, SubscribeError, SubscribeOptions, Through};
use crate::details;

/// A message of the router, as values.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every answer is a frame")]
pub(super) enum Answer {
    Started { after: Position, head: Option<Head> },
    Frame(Frame),
    Through(Through),
    Gap(Gap),
    Rewind(Rewind),
    Heartbeat(Option<Head>),
    Complete(Complete),
}

pub(super) fn request(options: &SubscribeOptions, start: Start) -> pb::SubscribeRequest {
    let start = match start {
        Start::At(at) => pb::Start::from(&at),
        Start::After(checkpoint) => {
            let digest = checkpoint.digest.as_ref().map(convert::digest_bytes).unwrap_or_default();
            let position = Some((&checkpoint.position).into());
            let after = pb::start::After { position, digest };
            pb::Start { at: Some(pb::start::At::After(after)) }
        }
    };
    pb::SubscribeRequest {
        ingestor: options.ingestor.to_string(),
        filter: Some((&options.filter).into()),
        start: Some(start),
        until_height: options.until,
        metadata: options.metadata,
        max_frame_bytes: 0,
    }
}

/// Reads a message; `None` for a kind that this version does not know.
pub(super) fn answer(
    response: pb::SubscribeResponse,
    interner: &mut RouteInterner,
) -> Result<Option<Answer>, Broken> {
    use pb::subscribe_response::Message;
    Ok(Some(match response.message {
        None => return Ok(None),
        Some(Message::Frame(wire)) => {
            Answer::Frame(Frame::parse_interned(wire.into_bytes(), interner)?)
        }
        Some(Message::Started(started)) => Answer::Started {
            after: position("started.after", started.after)?,
            head: convert::head(started.head)?,
        },
        Some(Message::Progress(progress)) => Answer::Through(Through {
            position: position("progress.through", progress.through)?,
            digest: digest("progress.digest", &progress.digest)?,
            height: progress.height,
            head: convert::head(progress.head)?,
        }),
        Some(Message::Heartbeat(heartbeat)) => Answer::Heartbeat(convert::head(heartbeat.head)?),
        Some(Message::Gap(notice)) => {
            let gap = notice.gap.ok_or_else(|| missing("gap.gap"))?;
            Answer::Gap(Gap {
                through: position("gap.through", notice.through)?,
                from: convert::pointer("gap.from", gap.from)?,
                to: convert::pointer("gap.to", gap.to)?,
                cause: gap.cause,
            })
        }
        Some(Message::Rewind(notice)) => Answer::Rewind(rewind(notice)?),
        Some(Message::Complete(complete)) => Answer::Complete(Complete {
            position: position("complete.through", complete.through)?,
            digest: digest("complete.digest", &complete.digest)?,
        }),
    }))
}

fn rewind(notice: pb::RewindNotice) -> Result<Rewind, Broken> {
    let start = notice.generation_start.ok_or_else(|| missing("rewind.generation_start"))?;
    let base = convert::pointer("rewind.base_pointer", start.base_pointer)?;
    Ok(Rewind {
        through: Position::end_of(Generation(start.generation), base.clone()),
        base: Position::end_of(Generation(start.base_generation), base),
        base_digest: digest("rewind.base_digest", &start.base_digest)?.unwrap_or_default(),
        reason: start.reason,
        actor: start.actor,
    })
}

fn position(field: &'static str, position: Option<pb::Position>) -> Result<Position, Broken> {
    Ok(position.ok_or_else(|| missing(field))?.try_into()?)
}

/// The zero digest stands before the first block; it names no content.
fn digest(field: &'static str, bytes: &bytes::Bytes) -> Result<Option<Digest>, Broken> {
    Ok(convert::digest(field, bytes)?.filter(|digest| *digest != Digest::ZERO))
}

fn missing(field: &'static str) -> ConvertError {
    ConvertError::new(field, "it is missing")
}

impl From<ConvertError> for Broken {
    fn from(error: ConvertError) -> Self {
        Self::Message(error.to_string())
    }
}

/// What a status means: an error for the caller, or (as `Err`) a reason to connect again.
pub(super) fn refusal(status: Status) -> Result<SubscribeError, Status> {
    use sluice_proto::reason;
    let message = || status.message().to_owned();
    let by_reason = match reason::of(&status) {
        Some(reason::OUT_OF_RANGE) => Some(SubscribeError::OutOfRange {
            oldest: details::position(&status, details::OLDEST),
            message: message(),
        }),
        Some(reason::DIVERGED) => {
            Some(SubscribeError::Diverged { head: details::head(&status), message: message() })
        }
        Some(reason::NOT_HERE) => Some(SubscribeError::NotHere { message: message() }),
        Some(reason::CORRUPT) => Some(SubscribeError::DataLoss {
            through: details::position(&status, details::THROUGH),
            message: message(),
        }),
        _ => None,
    };
    if let Some(error) = by_reason {
        return Ok(error);
    }
    match status.code() {
        Code::InvalidArgument => Ok(SubscribeError::Invalid { message: message() }),
        // A message beyond a limit comes again, however often it is asked for.
        Code::ResourceExhausted
        | Code::OutOfRange
        | Code::FailedPrecondition
        | Code::DataLoss
        | Code::NotFound
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Ok(SubscribeError::Refused(Box::new(status))),
        _ => Err(status),
    }
}
