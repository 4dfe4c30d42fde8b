//! The feeds beside the owner's: whether the replicas that wait capture too, and how far.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sluice_proto::v1 as pb;

use super::{
    reachable,
    survey::{Known, MOST, OWNER_PATIENCE, all},
};
use crate::{
    connect::{Access, Server},
    exit::Exit,
    output::{bytes, count},
};

/// What a replica that waits for an ingestor says of its own feed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Feed {
    /// It only waits: `feeds = "beside"` is not set there.
    Idle,
    /// It answered.
    Told(Box<pb::SpoolStateResponse>),
    /// It could not be asked.
    Silent(String),
}

/// Asks every replica that waits, at the address that it told.
pub(super) async fn ask(access: &Access, all_known: &mut BTreeMap<String, Known>) {
    let mut waiting: Vec<(String, String)> = Vec::new();
    for known in all_known.values() {
        let waiters = known.lock.iter().flat_map(|lock| &lock.waiters);
        let addresses = waiters.map(|waiter| waiter.address.clone()).filter(|at| reachable(at));
        waiting.extend(addresses.map(|address| (known.name.clone(), address)));
    }
    let questions = waiting.into_iter().take(MOST).filter_map(|(name, address)| {
        // An address that needs certificates that we do not have is one that cannot be asked.
        let server = access.server(&address).ok()?;
        Some(async move {
            let feed = state(&server, &name).await;
            (name, address, feed)
        })
    });
    for (name, address, feed) in all(questions).await {
        if let Some(known) = all_known.get_mut(&name) {
            known.feeds.insert(address, feed);
        }
    }
}

async fn state(server: &Server, ingestor: &str) -> Feed {
    let mut client = pb::spool_client::SpoolClient::new(server.transport());
    let request = pb::SpoolStateRequest { ingestor: ingestor.to_owned() };
    match tokio::time::timeout(OWNER_PATIENCE, server.ask(client.spool_state(request))).await {
        Ok(Ok(state)) => Feed::Told(Box::new(state)),
        Ok(Err(failure)) if failure.exit() == Exit::NotFound => Feed::Idle,
        Ok(Err(failure)) => Feed::Silent(failure.message().to_owned()),
        Err(_) => Feed::Silent(format!("no answer within {OWNER_PATIENCE:?}")),
    }
}

/// How far a feed is. A replica that begins behind the journal's head counts as having captured up
/// to there, whatever its source has.
fn height(state: &pb::SpoolStateResponse) -> u64 {
    match state.source_height {
        0 => state.reached_height,
        source => state.reached_height.min(source),
    }
}

/// All feeds beside the owner's in a few words, for a row: how far each is, and what is wrong.
pub(super) fn cell(known: &Known) -> String {
    let words: Vec<String> = known.feeds.values().filter_map(|feed| brief(known, feed)).collect();
    words.join(", ")
}

fn brief(known: &Known, feed: &Feed) -> Option<String> {
    let state = match feed {
        Feed::Idle => return None,
        Feed::Silent(_) => return Some("silent".to_owned()),
        Feed::Told(state) if !state.beside => return Some("off".to_owned()),
        Feed::Told(state) => state,
    };
    let own = height(state);
    let mut wrong = Vec::new();
    if behind(known, own) > 0 {
        wrong.push(format!("{} behind", count(behind(known, own))));
    }
    if state.diverged > 0 {
        wrong.push(format!("{} differ", count(state.diverged)));
    }
    if !state.cause.is_empty() {
        wrong.push("stuck".to_owned());
    }
    let wrong = if wrong.is_empty() { String::new() } else { format!(" ({})", wrong.join(", ")) };
    Some(format!("{own}{wrong}"))
}

/// Blocks that the journal has and the feed has not.
fn behind(known: &Known, height: u64) -> u64 {
    known.head().map_or(0, |head| head.height).saturating_sub(height)
}

/// The lines about the feed of the replica at an address.
pub(super) fn lines(known: &Known, address: &str) -> Vec<String> {
    let Some(feed) = known.feeds.get(address) else { return Vec::new() };
    let state = match feed {
        Feed::Idle => return vec!["none: it only waits".to_owned()],
        Feed::Silent(why) => return vec![format!("not known: {why}")],
        Feed::Told(state) => state,
    };
    let own = height(state);
    let mut lines = vec![match state.beside {
        true => format!(
            "at height {}, {} behind; {} blocks, {} of {} in its spool",
            count(own),
            count(behind(known, own)),
            count(state.blocks),
            bytes(state.bytes),
            bytes(state.limit),
        ),
        false => "it does not capture".to_owned(),
    }];
    if !state.cause.is_empty() {
        lines.push(state.cause.clone());
    }
    if state.diverged > 0 {
        let differ = count(state.diverged);
        lines.push(format!("{differ} blocks differ from the journal's and are kept"));
    }
    lines
}

/// The feed of the replica at an address under names that stay; null where there is none.
pub(super) fn to_json(known: &Known, address: &str) -> Value {
    let state = match known.feeds.get(address) {
        None | Some(Feed::Idle) => return Value::Null,
        Some(Feed::Silent(why)) => return json!({"capturing": Value::Null, "cause": why}),
        Some(Feed::Told(state)) => state,
    };
    let own = height(state);
    json!({
        "capturing": state.beside,
        "cause": state.cause,
        "height": own,
        "lag": behind(known, own),
        "sourceHeight": state.source_height,
        "spoolBlocks": state.blocks,
        "spoolBytes": state.bytes,
        "spoolLimit": state.limit,
        "diverged": state.diverged,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "http://10.0.0.7:7400";

    fn known(feed: Feed) -> Known {
        let head = Some(pb::Head { height: 100, ..Default::default() });
        Known {
            journal: Some(pb::JournalStatus { head, ..Default::default() }),
            feeds: BTreeMap::from([(AT.to_owned(), feed)]),
            ..Known::default()
        }
    }

    fn told(reached_height: u64, source_height: u64) -> pb::SpoolStateResponse {
        pb::SpoolStateResponse { beside: true, reached_height, source_height, ..Default::default() }
    }

    fn shown(state: pb::SpoolStateResponse) -> String {
        cell(&known(Feed::Told(Box::new(state))))
    }

    #[test]
    fn a_feed_is_as_far_as_its_source_and_not_as_far_as_the_journal() {
        assert_eq!(shown(told(100, 100)), "100");
        assert_eq!(shown(told(112, 115)), "112", "ahead of the owner is not behind");
        assert_eq!(shown(told(100, 40)), "40 (60 behind)", "its node stands still");
        assert_eq!(shown(told(90, 0)), "90 (10 behind)", "a source that tells no height");
    }

    #[test]
    fn what_is_wrong_with_a_feed_is_in_the_row_and_in_full_below() {
        let cause = "the spool is full".to_owned();
        let state = pb::SpoolStateResponse { cause, diverged: 2, ..told(100, 100) };
        assert_eq!(shown(state.clone()), "100 (2 differ, stuck)");
        let own = known(Feed::Told(Box::new(state)));
        assert_eq!(lines(&own, AT)[1], "the spool is full");
        assert!(lines(&own, AT)[2].starts_with("2 blocks differ"));
        let off = pb::SpoolStateResponse { beside: false, ..told(5, 5) };
        assert_eq!(shown(off), "off");
        let silent = known(Feed::Silent("gone".to_owned()));
        assert_eq!(
            (cell(&silent), to_json(&silent, AT)["cause"].as_str()),
            ("silent".into(), Some("gone"))
        );
        let idle = known(Feed::Idle);
        assert_eq!((cell(&idle), to_json(&idle, AT)), (String::new(), Value::Null));
    }
}
