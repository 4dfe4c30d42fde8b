//! How ingestors are shown: as rows, as JSON with names that stay, and in full.

mod fields;
mod long;

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sluice_model::{Epoch, Generation, Pointer, event::timestamp};
use sluice_proto::{convert, v1 as pb};

use super::{Known, feeds, member, pointer, target};
use crate::output::{Column, Row, col, count, note, wide};
pub(super) use fields::json;
pub(super) use long::get;

pub(super) const COLUMNS: [Column; 16] = [
    col("NAME"),
    col("STATE"),
    col("OWNER"),
    wide("ADDRESS"),
    col("STANDBYS"),
    col("FEEDS"),
    col("EPOCH"),
    wide("GENERATION"),
    col("HEIGHT"),
    col("COMMITTED"),
    col("LAG"),
    wide("LAST GAP"),
    wide("SOURCE"),
    wide("BLOCKS"),
    wide("FAILURES"),
    col("CAUSE"),
];

/// The state of a producer's ingestor in one word.
pub(crate) fn state(status: &pb::IngestorStatus) -> &'static str {
    word(status.state())
}

/// A state in one word.
pub(crate) const fn word(state: pb::IngestorState) -> &'static str {
    match state {
        pb::IngestorState::Unspecified => "unknown",
        pb::IngestorState::Standby => "standby",
        pb::IngestorState::Opening => "opening",
        pb::IngestorState::Active => "active",
        pb::IngestorState::Blocked => "blocked",
        pb::IngestorState::Halted => "halted",
        pb::IngestorState::Stopped => "stopped",
        pb::IngestorState::Finished => "finished",
        pb::IngestorState::Paused => "paused",
    }
}

/// The height of the last durable block; 0 before the first.
pub(crate) fn height(status: &pb::IngestorStatus) -> u64 {
    status.head.as_ref().map_or(0, |head| head.height)
}

/// Blocks that the source has and the journal does not.
pub(crate) fn lag(status: &pb::IngestorStatus) -> u64 {
    status.source_height.saturating_sub(height(status))
}

/// As `-o json` writes what one producer says.
pub(crate) fn to_json(status: &pb::IngestorStatus) -> Value {
    let name = status.ingestor.clone();
    json(&Known { name, status: Some(status.clone()), ..Known::default() })
}

/// The ingestor's state in one word. Where the owner cannot be asked that is `unknown`, and
/// `unowned` where there is none.
pub(super) fn state_of(known: &Known) -> &'static str {
    match (known.owned(), known.owner(), &known.status) {
        (Some(status), _, _) => state(status),
        (None, Some(_), _) => "unknown",
        (None, None, _) if known.locks_asked => "unowned",
        (None, None, Some(status)) => state(status),
        (None, None, None) => "unknown",
    }
}

/// Blocks that the source is known to have and the journal has not; `None` if nobody can tell.
fn lag_blocks(known: &Known) -> Option<u64> {
    let status = known.owned().or(known.status.as_ref())?;
    let height = known.head().map_or(0, |head| head.height);
    Some(status.source_height.saturating_sub(height))
}

/// How old the last captured block is, in seconds, while there are later ones.
fn lag_seconds(known: &Known) -> Option<u64> {
    if lag_blocks(known)? == 0 {
        return Some(0);
    }
    let head = known.head()?;
    let of_block = head.time.as_ref().or(head.appended.as_ref())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(now.saturating_sub(u64::try_from(of_block.seconds).unwrap_or(0)))
}

fn lag_text(known: &Known) -> String {
    match (lag_blocks(known), lag_seconds(known)) {
        (None, _) => String::new(),
        (Some(0), _) | (Some(_), None) => lag_blocks(known).map_or_else(String::new, count),
        (Some(blocks), Some(seconds)) => format!("{} ({})", count(blocks), age(seconds)),
    }
}

/// Seconds in the unit that people read.
fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn epoch(known: &Known) -> u64 {
    let lock = known.lock.as_ref().map_or(0, |lock| lock.epoch);
    let told = known.status.as_ref().map_or(0, |status| status.epoch);
    if lock > 0 { lock } else { told }
}

/// An epoch as people read it; empty for none.
pub(super) fn epoch_text(epoch: u64) -> String {
    if epoch > 0 { Epoch::from_u64(epoch).to_string() } else { String::new() }
}

fn generation(known: &Known) -> u32 {
    let told = known.owned().map_or(0, |status| status.generation);
    known.head().map_or(0, |head| head.generation).max(told)
}

fn committed(known: &Known) -> String {
    let told = known.owned().or(known.status.as_ref()).map(|own| own.committed_pointer.clone());
    let commit = known.commit.as_ref().map(|commit| commit.pointer.clone());
    commit.or(told).map(|bytes| pointer(&bytes)).unwrap_or_default()
}

fn standbys(known: &Known) -> &[pb::Member] {
    known.lock.as_ref().map_or(&[], |lock| &lock.waiters)
}

/// A moment as people and programs read it; empty for none.
pub(super) fn moment(time: Option<&prost_types::Timestamp>) -> String {
    time.and_then(convert::nanos).and_then(timestamp).unwrap_or_default()
}

/// What stands in the way: the owner's words, who paused it, what waits to be done, and what
/// could not be asked.
pub(super) fn causes(known: &Known) -> Vec<String> {
    let mut causes = Vec::new();
    let told = known.owned().or(known.status.as_ref().filter(|_| known.owner().is_none()));
    causes.extend(told.map(|own| own.cause.clone()).filter(|cause| !cause.is_empty()));
    if let Some(control) = &known.control {
        let told = causes.first().is_some_and(|cause| cause.contains(&control.paused_by));
        if control.paused && !(matches!(state_of(known), "paused" | "halted") && told) {
            causes.push(paused(control));
        }
        causes.extend(
            control
                .action
                .as_ref()
                .map(|action| format!("waits to be done: {}", target::describe(action))),
        );
    }
    causes
}

/// Who paused it, and why.
pub(super) fn paused(control: &pb::IngestorControl) -> String {
    let why = match control.paused_reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    let word = if control.alarm { "halted" } else { "paused" };
    format!("{word} by {}{why}", control.paused_by)
}

fn last_gap(known: &Known) -> String {
    let gap = known.owned().and_then(|own| own.last_gap.as_ref()?.gap.as_ref());
    gap.map_or_else(String::new, |gap| format!("{} to {}", pointer(&gap.from), pointer(&gap.to)))
}

pub(super) fn row(known: &Known) -> Row {
    let status = known.status.clone().unwrap_or_default();
    let mut causes = causes(known);
    if !known.not_asked.is_empty() {
        causes.push("not everything could be asked".to_owned());
    }
    Row {
        name: known.name.clone(),
        cells: vec![
            known.name.clone(),
            state_of(known).to_owned(),
            known.owner().map(member).unwrap_or_default(),
            known.owner().map(|owner| owner.address.clone()).unwrap_or_default(),
            standbys(known).len().to_string(),
            feeds::cell(known),
            epoch_text(epoch(known)),
            generation(known).to_string(),
            known.head().map_or_else(String::new, |head| head.height.to_string()),
            committed(known),
            lag_text(known),
            last_gap(known),
            status.source,
            status.blocks.to_string(),
            status.failures.to_string(),
            causes.join("; "),
        ],
        json: json(known),
    }
}

/// What could not be asked, once, beside the table.
pub(super) fn remarks(all: &[Known]) {
    let mut said: Vec<String> = Vec::new();
    for known in all {
        for what in &known.not_asked {
            let of_all = ["coordinator:", "router:"].iter().any(|all| what.starts_with(all));
            let text = if of_all { what.clone() } else { format!("{}: {what}", known.name) };
            if !said.contains(&text) {
                note(format!("could not ask {text}"));
                said.push(text);
            }
        }
    }
}

/// A place as people read it.
pub(super) fn place(generation: u32, bytes: &bytes::Bytes) -> String {
    let pointer = Pointer::new(bytes.clone()).unwrap_or_default();
    sluice_model::Position::end_of(Generation(generation), pointer).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(state: pb::IngestorState) -> Known {
        let status = pb::IngestorStatus {
            ingestor: "hub".into(),
            state: state.into(),
            source_height: 12,
            head: Some(pb::Head { height: 9, ..Default::default() }),
            ..Default::default()
        };
        Known { name: "hub".into(), status: Some(status), ..Known::default() }
    }

    #[test]
    fn the_state_is_the_owners_or_says_why_not() {
        let owner = pb::Member { node: "n".into(), ..Default::default() };
        let lock = pb::LockStatus { owner: Some(owner), ..Default::default() };
        let mut own = known(pb::IngestorState::Paused);
        assert_eq!(state_of(&own), "paused");
        own.lock = Some(lock.clone());
        assert_eq!(state_of(&own), "paused");
        let mut standby = known(pb::IngestorState::Standby);
        assert_eq!(state_of(&standby), "standby", "a producer alone can tell no more");
        standby.locks_asked = true;
        assert_eq!(state_of(&standby), "unowned");
        standby.lock = Some(lock);
        assert_eq!(state_of(&standby), "unknown", "a standby does not speak for the owner");
    }

    #[test]
    fn the_lag_counts_from_the_journal() {
        let mut own = known(pb::IngestorState::Active);
        assert_eq!(lag_blocks(&own), Some(3));
        let head = Some(pb::Head { height: 12, ..Default::default() });
        own.journal = Some(pb::JournalStatus { head, ..Default::default() });
        assert_eq!((lag_blocks(&own), lag_seconds(&own)), (Some(0), Some(0)));
        own.status = None;
        assert_eq!((lag_blocks(&own), lag_text(&own)), (None, String::new()));
        assert_eq!((age(119), age(3600), age(90_000)), ("119s".into(), "60m".into(), "25h".into()));
    }

    #[test]
    fn what_waits_is_a_cause() {
        let mut own = known(pb::IngestorState::Active);
        let action = pb::Action {
            id: 4,
            actor: "alice".into(),
            kind: Some(pb::action::Kind::HandOver(pb::action::HandOver {})),
            ..Default::default()
        };
        own.control = Some(pb::IngestorControl {
            paused: true,
            paused_by: "bob".into(),
            paused_reason: "upgrade".into(),
            action: Some(action),
            ..Default::default()
        });
        let said = causes(&own);
        assert_eq!(said[0], "paused by bob: upgrade");
        assert!(said[1].starts_with("waits to be done: hand-over 4"), "{said:?}");
        let written = json(&own);
        assert_eq!((&written["paused"], &written["pausedBy"]), (&true.into(), &"bob".into()));
        assert_eq!(written["action"]["kind"], "hand-over");
    }
}
