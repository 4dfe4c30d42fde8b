//! Controls, actions and the trail.

use sluice_model::{Digest, Epoch, Pointer};
use sluice_proto::{
    convert,
    v1::{self as pb, action::Kind},
};

use super::{Result, digest_bytes, malformed, position, position_message, required};
use crate::coordination::{
    audit::AuditEntry,
    control::{Action, ActionKind, ActionResult, Control, Paused},
};

pub(in super::super) fn control(message: &pb::IngestorControl) -> Result<Control> {
    let paused = message.paused.then(|| Paused {
        by: message.paused_by.clone(),
        reason: message.paused_reason.clone(),
        at: time(message.paused_at.as_ref()),
        alarm: message.alarm,
    });
    Ok(Control {
        ingestor: message.ingestor.parse().map_err(malformed)?,
        paused,
        action: message.action.as_ref().map(action).transpose()?,
        last: message.last.as_ref().map(result),
        version: message.version,
    })
}

fn action(message: &pb::Action) -> Result<Action> {
    let kind = match required(message.kind.as_ref(), "action.kind")? {
        Kind::Retry(_) => ActionKind::Retry,
        Kind::AcceptLoss(_) => ActionKind::AcceptLoss,
        Kind::HandOver(_) => ActionKind::HandOver,
        Kind::Skip(skip) => {
            let pointer = Pointer::new(skip.pointer.clone()).map_err(malformed)?;
            let through = match skip.through.as_ref() {
                [] => pointer.clone(),
                _ => Pointer::new(skip.through.clone()).map_err(malformed)?,
            };
            ActionKind::Skip { pointer, through }
        }
        Kind::Rewind(rewind) => {
            let digest = match rewind.digest.as_ref() {
                [] => None,
                bytes => Some(Digest::try_from(bytes).map_err(malformed)?),
            };
            ActionKind::Rewind { to: position(rewind.to.as_ref())?, digest }
        }
    };
    Ok(Action {
        id: message.id,
        actor: message.actor.clone(),
        reason: message.reason.clone(),
        requested: time(message.requested.as_ref()),
        kind,
    })
}

fn result(message: &pb::ActionResult) -> ActionResult {
    ActionResult {
        id: message.id,
        done: message.done,
        message: message.message.clone(),
        kind: message.kind.clone(),
        actor: message.actor.clone(),
        epoch: Epoch::from_u64(message.epoch),
        finished: time(message.finished.as_ref()),
        cancelled: message.cancelled,
    }
}

pub(in super::super) fn action_message(actor: &str, reason: &str, kind: &ActionKind) -> pb::Action {
    let kind = match kind {
        ActionKind::Retry => Kind::Retry(pb::action::Retry {}),
        ActionKind::Skip { pointer, through } => Kind::Skip(pb::action::Skip {
            pointer: pointer.to_bytes(),
            through: through.to_bytes(),
        }),
        ActionKind::Rewind { to, digest } => Kind::Rewind(pb::action::Rewind {
            to: Some(position_message(to)),
            digest: digest.as_ref().map(digest_bytes).unwrap_or_default(),
        }),
        ActionKind::AcceptLoss => Kind::AcceptLoss(pb::action::AcceptLoss {}),
        ActionKind::HandOver => Kind::HandOver(pb::action::HandOver {}),
    };
    pb::Action {
        id: 0,
        actor: actor.to_owned(),
        reason: reason.to_owned(),
        requested: None,
        kind: Some(kind),
    }
}

pub(in super::super) fn entry_message(entry: &AuditEntry) -> pb::AuditEntry {
    pb::AuditEntry {
        sequence: 0,
        at: None,
        ingestor: entry.ingestor.to_string(),
        kind: entry.kind.to_string(),
        actor: entry.actor.clone(),
        epoch: entry.epoch.as_u64(),
        detail: entry.detail.clone(),
    }
}

pub(in super::super) fn entry(message: &pb::AuditEntry) -> Result<AuditEntry> {
    Ok(AuditEntry {
        sequence: message.sequence,
        at: time(message.at.as_ref()),
        ingestor: message.ingestor.parse().map_err(malformed)?,
        kind: message.kind.parse().map_err(malformed)?,
        actor: message.actor.clone(),
        epoch: Epoch::from_u64(message.epoch),
        detail: message.detail.clone(),
    })
}

fn time(message: Option<&prost_types::Timestamp>) -> i64 {
    message.and_then(convert::nanos).unwrap_or_default()
}
