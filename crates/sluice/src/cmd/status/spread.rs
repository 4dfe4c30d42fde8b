//! The status of services at addresses of their own. A configuration names coordinator, router
//! and producer; where the sinks are is known to the coordinator, by the locks of their streams.

use std::collections::{BTreeMap, BTreeSet};

use sluice_config::Config;
use sluice_proto::v1 as pb;

use super::{
    Health, Line, captured, counted, held, ingestor, journal, journals, locks, service, stream,
};
use crate::{
    cmd::{
        ingestors::{self, reachable},
        streams,
    },
    connect::{Access, Peer, Server},
    exit::Failure,
};

/// Processes with streams that are asked, at most.
const MOST: usize = 64;

/// Asks every service at its own address.
pub(super) async fn look(access: &Access, config: &Config) -> Result<Vec<Line>, Failure> {
    let coordinator = access.at(Peer::Coordinator)?;
    let router = access.at(Peer::Router)?;
    let producer = access.at(Peer::Producer)?;
    let (locks, journals, captures) =
        tokio::join!(locks(&coordinator), journals(&router), ingestors::list(&producer));
    let start = |name: &str| access.start(name);
    let mut lines = Vec::new();
    let held = locks.as_deref().map(held);
    lines.extend(service(&coordinator, "coordinator", &start("coordinator"), held));
    lines.extend(service(&router, "router", &start("router"), counted(&journals, "journals")));
    lines.extend(service(&producer, "producer", &start("producer"), captured(&captures)));
    let mut inner: Vec<Line> = Vec::new();
    inner.extend(journals.iter().flatten().map(|own| journal(&router, own)));
    inner.extend(captures.iter().flatten().map(|own| ingestor(&producer, own)));
    // Without a coordinator nobody can say who runs the streams.
    if let Ok(locks) = &locks {
        let owners = owners(locks);
        let told = sinks(access, &owners, &mut lines).await?;
        inner.extend(told.into_values().map(|(_, line)| line));
        let known: BTreeSet<String> = inner
            .iter()
            .filter(|line| line.what == "stream")
            .map(|line| line.name.clone())
            .collect();
        for (name, section) in &config.streams {
            if !known.contains(name) {
                let run = start(&format!("sink {}", section.sink));
                inner.push(unheard(name, owners.get(name), run));
            }
        }
    }
    lines.extend(inner);
    Ok(lines)
}

/// Who holds the lock of each stream.
fn owners(locks: &[pb::LockStatus]) -> BTreeMap<String, pb::Member> {
    let mut owners = BTreeMap::new();
    for lock in locks {
        // `stream/<name>`, or `stream/<name>/<volume>`.
        let stream = lock.lock.strip_prefix("stream/").and_then(|rest| rest.split('/').next());
        if let (Some(stream), Some(owner)) = (stream, &lock.owner) {
            owners.insert(stream.to_owned(), owner.clone());
        }
    }
    owners
}

/// Asks every process that holds the lock of a stream. Its streams by name; where two replicas
/// tell of one, the one that works on it counts.
async fn sinks(
    access: &Access,
    owners: &BTreeMap<String, pb::Member>,
    lines: &mut Vec<Line>,
) -> Result<BTreeMap<String, (pb::StreamState, Line)>, Failure> {
    let addresses: BTreeSet<&str> =
        owners.values().map(|owner| owner.address.as_str()).filter(|at| reachable(at)).collect();
    let mut servers: Vec<Server> = Vec::new();
    for address in addresses.into_iter().take(MOST) {
        servers.push(access.server(address)?);
    }
    let mut told: BTreeMap<String, (pb::StreamState, Line)> = BTreeMap::new();
    for server in &servers {
        let deliveries = streams::list(server).await;
        let run = access.start("sink NAME");
        lines.extend(service(server, "sinks", &run, counted(&deliveries, "streams")));
        for own in deliveries.iter().flatten() {
            let waits = |state| state == pb::StreamState::Waiting;
            let better = told.get(&own.name).is_none_or(|(state, _)| waits(*state));
            if better {
                told.insert(own.name.clone(), (own.state(), stream(server, own)));
            }
        }
    }
    Ok(told)
}

/// A configured stream that no process told about.
fn unheard(name: &str, owner: Option<&pb::Member>, run: String) -> Line {
    let (health, text) = match owner {
        Some(owner) if !reachable(&owner.address) => (
            Health::Ok,
            format!("runs on {} (pid {}), which has no connect.advertise", owner.node, owner.pid),
        ),
        Some(owner) => {
            (Health::Down, format!("{} (pid {}) does not answer", owner.node, owner.pid))
        }
        None => (Health::Down, "no process runs it".to_owned()),
    };
    let json = serde_json::Value::Null;
    Line { what: "stream", name: name.to_owned(), health, text, run, json }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(name: &str, address: &str) -> pb::LockStatus {
        let owner = pb::Member { node: "n".into(), address: address.into(), ..Default::default() };
        pb::LockStatus { lock: name.into(), owner: Some(owner), ..Default::default() }
    }

    #[test]
    fn the_owner_of_a_stream_is_the_owner_of_its_lock() {
        let free = pb::LockStatus { lock: "stream/free".into(), ..Default::default() };
        let all =
            [lock("stream/a", "x"), lock("stream/b/volume", "y"), lock("ingestor/c", "z"), free];
        let owners = owners(&all);
        let found: Vec<_> = owners.iter().map(|(name, own)| (&**name, &*own.address)).collect();
        assert_eq!(found, [("a", "x"), ("b", "y")]);
    }

    #[test]
    fn a_stream_that_nobody_runs_is_down() {
        assert_eq!(unheard("s", None, "sluice sink x".into()).health, Health::Down);
        let hidden = lock("stream/s", "http://0.0.0.0:1").owner;
        assert_eq!(unheard("s", hidden.as_ref(), String::new()).health, Health::Ok);
        let gone = lock("stream/s", "http://10.0.0.7:1").owner;
        assert_eq!(unheard("s", gone.as_ref(), String::new()).health, Health::Down);
    }
}
