//! The last look before the process ends: is everything that was acknowledged in the journal?

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use sluice_proto::v1 as pb;
use sluice_service::{BoxError, Service, Shutdown, Transport};
use tonic::{Response, Status, service::Routes};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a process did, told after the drain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Blocks that became durable.
    pub(crate) blocks: u64,
    /// Changes in them.
    pub(crate) changes: u64,
    /// Events that destinations accepted.
    pub(crate) events: u64,
    /// Blocks that were acknowledged and are not in the journal.
    pub(crate) lost: u64,
}

/// Where the tally is left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account(Arc<Mutex<Option<Tally>>>);

impl Account {
    /// The tally; `None` if the process did not get so far.
    pub(crate) fn get(&self) -> Option<Tally> {
        self.0.lock().clone()
    }
}

/// Stands between router and producer in the order of services: when it is stopped, intake and
/// delivery have ended and the journal is still there.
#[derive(Debug)]
pub(crate) struct Audit {
    router: Transport,
    producer: Transport,
    sinks: Transport,
    account: Account,
}

impl Audit {
    pub(crate) fn new(router: Transport, producer: Transport, sinks: Transport) -> Self {
        Self { router, producer, sinks, account: Account::default() }
    }

    pub(crate) fn account(&self) -> Account {
        self.account.clone()
    }

    async fn look(&self) -> Result<Tally, Status> {
        let mut router = pb::router_client::RouterClient::new(self.router.clone());
        let mut producer = pb::producer_client::ProducerClient::new(self.producer.clone());
        let mut sinks = pb::sink_client::SinkClient::new(self.sinks.clone());
        let captures = ask(producer.list_ingestors(pb::ListIngestorsRequest {})).await?.ingestors;
        let streams = ask(sinks.list_streams(pb::ListStreamsRequest {})).await?.streams;
        let journals = ask(router.list_journals(pb::ListJournalsRequest {})).await?.journals;
        Ok(tally(&captures, &streams, &journals))
    }
}

async fn ask<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer inside the process")),
    }
}

fn tally(
    captures: &[pb::IngestorStatus],
    streams: &[pb::StreamStatus],
    journals: &[pb::JournalStatus],
) -> Tally {
    let mut tally =
        Tally { events: streams.iter().map(|own| own.events).sum(), ..Tally::default() };
    for capture in captures {
        tally.blocks += capture.blocks;
        tally.changes += capture.changes;
        let Some(acked) = &capture.head else { continue };
        let journal = journals.iter().find(|journal| journal.ingestor == capture.ingestor);
        let head = journal.and_then(|journal| journal.head.as_ref());
        let there = head.is_some_and(|head| {
            (head.generation, &head.pointer) >= (acked.generation, &acked.pointer)
        });
        if !there {
            let height = head.map_or(0, |head| head.height);
            tally.lost += acked.height.saturating_sub(height).max(1);
        }
    }
    tally
}

#[async_trait]
impl Service for Audit {
    fn name(&self) -> &'static str {
        "audit"
    }

    fn routes(&self) -> Routes {
        Routes::default()
    }

    fn grpc_names(&self) -> Vec<&'static str> {
        Vec::new()
    }

    async fn run(self: Box<Self>, shutdown: Shutdown) -> Result<(), BoxError> {
        shutdown.token().cancelled().await;
        match self.look().await {
            Ok(tally) => *self.account.0.lock() = Some(tally),
            Err(error) => tracing::warn!(%error, "no account of the drain"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(height: u64) -> Option<pb::Head> {
        let pointer = height.to_be_bytes().to_vec().into();
        Some(pb::Head { pointer, height, ..Default::default() })
    }

    fn capture(height: u64) -> pb::IngestorStatus {
        let ingestor = "hub".to_owned();
        pb::IngestorStatus {
            ingestor,
            head: head(height),
            blocks: 7,
            changes: 9,
            ..Default::default()
        }
    }

    fn journal(height: u64) -> pb::JournalStatus {
        pb::JournalStatus { ingestor: "hub".into(), head: head(height), ..Default::default() }
    }

    #[test]
    fn what_was_acknowledged_and_is_not_there_is_lost() {
        let stream = pb::StreamStatus { events: 4, ..Default::default() };
        let sound = tally(&[capture(5)], std::slice::from_ref(&stream), &[journal(5)]);
        assert_eq!(sound, Tally { blocks: 7, changes: 9, events: 4, lost: 0 });
        assert_eq!(tally(&[capture(5)], &[], &[journal(3)]).lost, 2);
        assert_eq!(tally(&[capture(5)], &[], &[]).lost, 5);
        assert_eq!(tally(&[capture(5)], &[], &[journal(9)]).lost, 0, "the journal may be ahead");
    }
}
