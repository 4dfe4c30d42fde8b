//! Controls, actions and the trail.

use bytes::Bytes;
use sluice_coordination::{
    Action, ActionKind, ActionResult, AuditEntry, Control, Note, control::Request,
};
use sluice_model::{Epoch, IngestorName, Pointer};
use sluice_proto::{
    convert::{self, ConvertError},
    v1::{self as pb, action::Kind},
};

use super::Result;

pub(crate) fn message(ingestor: &IngestorName, control: Control) -> pb::IngestorControl {
    let Control { paused, action, last, version } = control;
    let paused_at = paused.as_ref().map(|pause| time(pause.at));
    let alarm = paused.as_ref().is_some_and(|pause| pause.alarm);
    let (paused, paused_by, paused_reason) = match paused {
        Some(pause) => (true, pause.by, pause.reason),
        None => (false, String::new(), String::new()),
    };
    pb::IngestorControl {
        ingestor: ingestor.to_string(),
        paused,
        paused_by,
        paused_reason,
        action: action.map(action_message),
        last: last.map(result_message),
        version,
        paused_at,
        alarm,
    }
}

fn action_message(action: Action) -> pb::Action {
    let kind = match action.kind {
        ActionKind::Retry => Kind::Retry(pb::action::Retry {}),
        ActionKind::Skip { pointer, through } => Kind::Skip(pb::action::Skip {
            pointer: pointer.to_bytes(),
            through: through.to_bytes(),
        }),
        ActionKind::Rewind { to, digest } => Kind::Rewind(pb::action::Rewind {
            to: Some((&to).into()),
            digest: digest.as_ref().map(convert::digest_bytes).unwrap_or_default(),
        }),
        ActionKind::AcceptLoss => Kind::AcceptLoss(pb::action::AcceptLoss {}),
        ActionKind::HandOver => Kind::HandOver(pb::action::HandOver {}),
    };
    pb::Action {
        id: action.id,
        actor: action.actor,
        reason: action.reason,
        requested: Some(time(action.requested)),
        kind: Some(kind),
    }
}

fn result_message(result: ActionResult) -> pb::ActionResult {
    pb::ActionResult {
        id: result.id,
        done: result.done,
        message: result.message,
        kind: result.kind,
        actor: result.actor,
        epoch: result.epoch.as_u64(),
        finished: Some(time(result.finished)),
        cancelled: result.cancelled,
    }
}

pub(crate) fn request(request: pb::RequestActionRequest) -> Result<Request> {
    let action = request.action.ok_or_else(|| ConvertError::new("action", "it is missing"))?;
    let kind = match action.kind {
        None => return Err(ConvertError::new("action.kind", "it is missing or not known here")),
        Some(Kind::Retry(_)) => ActionKind::Retry,
        Some(Kind::AcceptLoss(_)) => ActionKind::AcceptLoss,
        Some(Kind::HandOver(_)) => ActionKind::HandOver,
        Some(Kind::Skip(skip)) => {
            let pointer = block("action.skip.pointer", skip.pointer)?;
            let through = match skip.through {
                none if none.is_empty() => pointer.clone(),
                through => block("action.skip.through", through)?,
            };
            ActionKind::Skip { pointer, through }
        }
        Some(Kind::Rewind(rewind)) => {
            let to = super::position("action.rewind.to", rewind.to)?;
            let digest = convert::digest("action.rewind.digest", &rewind.digest)?;
            ActionKind::Rewind { to, digest }
        }
    };
    let (nonce, actor, reason) = (request.nonce, action.actor, action.reason);
    Ok(Request { nonce, actor, reason, kind })
}

/// The pointer of a block, which the origin is not.
fn block(field: &'static str, bytes: Bytes) -> Result<Pointer> {
    if bytes.is_empty() {
        return Err(ConvertError::new(field, "it is missing"));
    }
    convert::pointer(field, bytes)
}

pub(crate) fn note(entry: pb::AuditEntry) -> Note {
    let pb::AuditEntry { kind, actor, epoch, detail, .. } = entry;
    Note { kind, actor, epoch: Epoch::from_u64(epoch), detail }
}

pub(crate) fn entry(ingestor: &IngestorName, entry: AuditEntry) -> pb::AuditEntry {
    pb::AuditEntry {
        sequence: entry.sequence,
        at: Some(time(entry.at)),
        ingestor: ingestor.to_string(),
        kind: entry.kind,
        actor: entry.actor,
        epoch: entry.epoch.as_u64(),
        detail: entry.detail,
    }
}

/// Milliseconds since 1970.
fn time(millis: u64) -> prost_types::Timestamp {
    convert::timestamp(i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(1_000_000))
}
