//! Actions in words and as JSON, and the blocks that operators mean.

use serde_json::{Value, json};
use sluice_model::{IngestorName, Pointer};
use sluice_proto::v1 as pb;

use super::{pointer, show};
use crate::{
    cli::To,
    connect::Server,
    exit::{Exit, Failure},
    output::count,
};

/// The action in a word.
pub(super) fn kind(action: &pb::Action) -> &'static str {
    use pb::action::Kind;
    match &action.kind {
        Some(Kind::Retry(_)) => "retry",
        Some(Kind::Skip(_)) => "skip",
        Some(Kind::Rewind(_)) => "rewind",
        Some(Kind::AcceptLoss(_)) => "accept-loss",
        Some(Kind::HandOver(_)) => "hand-over",
        None => "unknown",
    }
}

/// The action with its number, who asked for it and why.
pub(super) fn describe(action: &pb::Action) -> String {
    use pb::action::Kind;
    let what = match &action.kind {
        Some(Kind::Skip(skip)) if skip.through.is_empty() => {
            format!(" of {}", pointer(&skip.pointer))
        }
        Some(Kind::Skip(skip)) => {
            format!(" of {} to {}", pointer(&skip.pointer), pointer(&skip.through))
        }
        Some(Kind::Rewind(rewind)) => {
            let to = rewind.to.clone().unwrap_or_default();
            format!(" to {}", show::place(to.generation, &to.pointer))
        }
        _ => String::new(),
    };
    let mut text = format!("{} {}{what}, asked for by {}", kind(action), action.id, action.actor);
    let when = show::moment(action.requested.as_ref());
    if !when.is_empty() {
        text.push_str(&format!(" at {when}"));
    }
    if !action.reason.is_empty() {
        text.push_str(&format!(" ({})", action.reason));
    }
    text
}

/// How an action ended, in words.
pub(super) fn ended(result: &pb::ActionResult) -> String {
    let how = match (result.done, result.cancelled) {
        (true, _) => "done",
        (false, true) => "withdrawn",
        (false, false) => "not done",
    };
    let message = match result.message.as_str() {
        "" => String::new(),
        message => format!(": {message}"),
    };
    format!("{} {} by {} {how}{message}", result.kind, result.id, result.actor)
}

pub(super) fn action_json(action: &pb::Action) -> Value {
    use pb::action::Kind;
    let mut all = json!({
        "id": action.id,
        "kind": kind(action),
        "actor": action.actor,
        "reason": action.reason,
        "requested": show::moment(action.requested.as_ref()),
    });
    let Some(fields) = all.as_object_mut() else { return all };
    match &action.kind {
        Some(Kind::Skip(skip)) => {
            fields.insert("pointer".into(), pointer(&skip.pointer).into());
            fields.insert("through".into(), pointer(&skip.through).into());
        }
        Some(Kind::Rewind(rewind)) => {
            let to = rewind.to.clone().unwrap_or_default();
            fields.insert("to".into(), pointer(&to.pointer).into());
            fields.insert("generation".into(), to.generation.into());
        }
        _ => {}
    }
    all
}

pub(super) fn result_json(result: &pb::ActionResult) -> Value {
    json!({
        "id": result.id,
        "kind": result.kind,
        "done": result.done,
        "cancelled": result.cancelled,
        "message": result.message,
        "actor": result.actor,
        "epoch": result.epoch,
        "finished": show::moment(result.finished.as_ref()),
    })
}

/// The block that a rewind goes to, as the journal has it.
pub(super) async fn block(
    router: &Server,
    ingestor: &IngestorName,
    to: &To,
) -> Result<pb::StoredBlock, Failure> {
    let (pointer, generation) = match to {
        To::Height(height) => (Pointer::from_height(*height), None),
        To::Id(id) => {
            let position = id.position();
            (position.pointer.clone(), Some(position.generation.0))
        }
    };
    let mut client = router.router();
    let request = pb::BlockRequest {
        ingestor: ingestor.to_string(),
        pointer: pointer.to_bytes(),
        generation,
    };
    let show = format!("sluice ingestors get {ingestor} --server {}", router.url());
    let found = router.ask(client.block(request)).await?.block;
    match found {
        Some(block) if block.kind() == pb::Kind::Gap => {
            let message = format!(
                "{pointer} is the end of a recorded gap; a history goes on from a block that is \
                 there"
            );
            Err(Failure::new(Exit::Refused, message).fix(show))
        }
        Some(block) => Ok(block),
        None => {
            let bounds = bounds(router, ingestor).await;
            let message = format!("the journal of {ingestor} has no block {pointer}{bounds}");
            Err(Failure::new(Exit::NotFound, message).fix(show))
        }
    }
}

/// What there is instead.
async fn bounds(router: &Server, ingestor: &IngestorName) -> String {
    match router.journal(ingestor).await {
        Ok(pb::JournalStatus { head: Some(head), oldest_height, .. }) => {
            format!("; it has {} to {}", count(oldest_height), count(head.height))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_says_everything_that_decides() {
        let position = pb::Position {
            generation: 1,
            pointer: Pointer::from_height(250).to_bytes(),
            index: u32::MAX,
        };
        let rewind = pb::action::Rewind { to: Some(position), ..Default::default() };
        let action = pb::Action {
            id: 3,
            actor: "alice@ops".into(),
            reason: "bad upgrade".into(),
            kind: Some(pb::action::Kind::Rewind(rewind)),
            ..Default::default()
        };
        assert_eq!(describe(&action), "rewind 3 to g1:250, asked for by alice@ops (bad upgrade)");
        assert_eq!(action_json(&action)["to"], "250");
        let result = pb::ActionResult {
            id: 3,
            kind: "rewind".into(),
            actor: "alice@ops".into(),
            message: "no such block".into(),
            ..Default::default()
        };
        assert_eq!(ended(&result), "rewind 3 by alice@ops not done: no such block");
        let withdrawn = pb::ActionResult { cancelled: true, ..result };
        assert!(ended(&withdrawn).contains("withdrawn"));
    }
}
