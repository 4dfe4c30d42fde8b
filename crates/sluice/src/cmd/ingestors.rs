//! `sluice ingestors`: who captures what, how far, and what operators may do about it.
//!
//! A row is put together from what the coordinator, the router and the producers say, so that it
//! is complete although one of them is down: what could not be asked is said.

mod audit;
mod consent;
mod feeds;
mod operate;
mod show;
mod survey;
mod target;
mod verify;
mod wait;

use sluice_model::{IngestorName, Pointer};
use sluice_proto::v1 as pb;

use crate::{
    cli::IngestorsCommand,
    connect::{Access, Peer, Server},
    exit::{Exit, Failure, Outcome},
    output::Out,
};
pub(crate) use show::{height, lag, state, to_json, word};
use survey::{Known, survey};

/// Where the services are that know something of ingestors.
#[derive(Clone, Debug)]
struct Peers {
    coordinator: Server,
    router: Server,
    producer: Server,
}

impl Peers {
    fn of(access: &Access) -> Result<Self, Failure> {
        Ok(Self {
            coordinator: access.at(Peer::Coordinator)?,
            router: access.at(Peer::Router)?,
            producer: access.at(Peer::Producer)?,
        })
    }
}

pub(crate) async fn run(access: &Access, out: &mut Out, command: &IngestorsCommand) -> Outcome {
    use IngestorsCommand as Command;
    let peers = Peers::of(access)?;
    let operator = |act| operate::Operator { access, peers: &peers, act };
    match command {
        Command::List => {
            let all = survey(access, &peers, None).await?;
            let rows: Vec<_> = all.iter().map(show::row).collect();
            out.rows(&show::COLUMNS, &rows)?;
            show::remarks(&all);
            Ok(Exit::Ok)
        }
        Command::Get { ingestor, audit } => {
            let known = one(access, &peers, ingestor).await?;
            let trail = audit::of(&peers.coordinator, ingestor, *audit).await;
            show::get(out, &known, &trail)?;
            Ok(Exit::Ok)
        }
        Command::Pause { act, reason } => operator(act).set_paused(out, true, reason).await,
        Command::Resume { act, reason } => operator(act).set_paused(out, false, reason).await,
        Command::Retry { act, reason } => operator(act).retry(out, reason).await,
        Command::Skip { act, reason, through, at } => {
            operator(act).skip(out, reason, *through, *at).await
        }
        Command::Rewind { act, to, reason } => operator(act).rewind(out, to, reason).await,
        Command::AcceptLoss { act, reason } => operator(act).accept_loss(out, reason).await,
        Command::HandOver { act, reason } => operator(act).hand_over(out, reason).await,
        Command::CancelAction { act, id, reason } => operator(act).cancel(out, *id, reason).await,
        Command::Audit { ingestor, limit } => {
            audit::run(out, &peers, ingestor.as_ref(), *limit).await
        }
        Command::Verify(args) => verify::run(access, &peers.router, out, args).await,
    }
}

/// Everything known of one ingestor; fails if nobody knows it.
async fn one(access: &Access, peers: &Peers, ingestor: &IngestorName) -> Result<Known, Failure> {
    let found = survey(access, peers, Some(ingestor)).await?;
    found.into_iter().next().ok_or_else(|| {
        let message = format!("there is no ingestor {ingestor} at {}", peers.coordinator.url());
        Failure::new(Exit::NotFound, message)
            .fix(format!("sluice ingestors list --server {}", peers.coordinator.url()))
    })
}

/// Every ingestor of the producer at this address.
pub(crate) async fn list(server: &Server) -> Result<Vec<pb::IngestorStatus>, Failure> {
    let mut producer = server.producer();
    Ok(server.ask(producer.list_ingestors(pb::ListIngestorsRequest {})).await?.ingestors)
}

/// A pointer as people read it; empty for none.
pub(crate) fn pointer(bytes: &bytes::Bytes) -> String {
    match Pointer::new(bytes.clone()) {
        Ok(pointer) if !pointer.is_origin() => pointer.to_string(),
        _ => String::new(),
    }
}

/// A member as people read it.
fn member(member: &pb::Member) -> String {
    format!("{} (pid {})", member.node, member.pid)
}

/// True for an address that means something to others; a process that does not know where it is
/// reached tells the one it listens on.
pub(crate) fn reachable(address: &str) -> bool {
    let host = address.split_once("://").map_or("", |(_, host)| host);
    let socket = host.trim_end_matches('/').parse::<std::net::SocketAddr>();
    !host.is_empty()
        && socket.map_or(true, |socket| !socket.ip().is_unspecified() && socket.port() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_mean_something_to_others_are_asked() {
        for (address, asked) in [
            ("http://10.0.0.7:7400", true),
            ("https://sinks.local:7400/", true),
            ("http://0.0.0.0:7400", false),
            ("http://127.0.0.1:0", false),
            ("", false),
        ] {
            assert_eq!(reachable(address), asked, "{address}");
        }
    }
}
