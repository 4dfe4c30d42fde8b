//! One ingestor as JSON, under names that stay.

use serde_json::{Value, json};
use sluice_proto::v1 as pb;

use super::{
    super::{Known, feeds, pointer, target},
    committed, epoch, generation, lag_blocks, lag_seconds, moment, standbys, state_of,
};

/// As `-o json` writes it.
pub(in crate::cmd::ingestors) fn json(known: &Known) -> Value {
    let status = known.owned().or(known.status.as_ref());
    let said = |text: String| if text.is_empty() { Value::Null } else { Value::from(text) };
    let head = known.head();
    let gap = status.and_then(|own| own.last_gap.clone());
    let control = known.control.clone().unwrap_or_default();
    let standbys: Vec<Value> = standbys(known).iter().map(|own| standby_json(known, own)).collect();
    json!({
        "ingestor": known.name,
        "source": status.map(|own| own.source.clone()),
        "state": state_of(known),
        "cause": status.map_or("", |own| own.cause.as_str()),
        "owner": known.owner().map(member_json),
        "epoch": epoch(known),
        "generation": generation(known),
        "height": head.map_or(0, |head| head.height),
        "head": head.map(|head| pointer(&head.pointer)),
        "headDigest": head.map(|head| hex::encode(&head.digest)),
        "headTime": said(moment(head.and_then(|head| head.time.as_ref()))),
        "committed": committed(known),
        "committedGeneration": known.commit.as_ref().map(|commit| commit.generation),
        "committedAt": said(moment(status.and_then(|own| own.committed_at.as_ref()))),
        "sourceHeight": status.map_or(0, |own| own.source_height),
        "lag": lag_blocks(known),
        "lagSeconds": lag_seconds(known),
        "blockedAt": status.map(|own| pointer(&own.blocked_pointer)).filter(|at| !at.is_empty()),
        "lastGap": gap.and_then(|own| own.gap.map(|gap| json!({
            "from": pointer(&gap.from),
            "to": pointer(&gap.to),
            "cause": gap.cause,
            "height": own.height,
        }))),
        "standbys": standbys,
        "paused": control.paused || status.is_some_and(|own| own.paused),
        "pausedBy": said(control.paused_by),
        "pausedReason": said(control.paused_reason),
        "alarm": control.alarm,
        "action": control.action.as_ref().map(target::action_json),
        "lastAction": control.last.as_ref().map(target::result_json),
        "blocks": status.map_or(0, |own| own.blocks),
        "changes": status.map_or(0, |own| own.changes),
        "failures": status.map_or(0, |own| own.failures),
        "repairs": status.map_or(&[][..], |own| &own.repairs),
        "notAsked": known.not_asked,
    })
}

fn standby_json(known: &Known, member: &pb::Member) -> Value {
    let mut standby = member_json(member);
    if let Some(standby) = standby.as_object_mut() {
        standby.insert("feed".to_owned(), feeds::to_json(known, &member.address));
    }
    standby
}

fn member_json(member: &pb::Member) -> Value {
    json!({"node": member.node, "pid": member.pid, "address": member.address})
}
