//! The conditions that a demo waits for, asked from the services themselves.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use sluice_model::IngestorName;

use super::plan::{INGESTOR, Plan};
use crate::{
    cmd::{ingestors, streams},
    connect::Server,
    exit::{Exit, Failure},
};

/// How long a demo may stand still.
const STANDSTILL: Duration = Duration::from_secs(90);
/// How often the services are asked.
const LOOK: Duration = Duration::from_millis(10);

/// The services of a demo as its driver sees them.
#[derive(Debug)]
pub(crate) struct Watch {
    ingestor: IngestorName,
    router: Server,
    producer: Server,
    sinks: Vec<(&'static str, Server)>,
}

impl Watch {
    pub(crate) fn new(plan: &Plan) -> Result<Self, Failure> {
        let server = |name: &str| Server::new(&format!("http://{}", plan.api(name)));
        let mut sinks = Vec::new();
        for planned in
            plan.processes.iter().filter(|planned| matches!(planned.name, "lake" | "hooks" | "run"))
        {
            sinks.push((planned.name, server(planned.name)?));
        }
        let ingestor = INGESTOR
            .parse()
            .map_err(|error| Failure::new(Exit::Failed, format!("{INGESTOR}: {error}")))?;
        Ok(Self { ingestor, router: server("router")?, producer: server("producer")?, sinks })
    }

    /// Waits until a service has done its part up to a height: delivered, or made durable.
    pub(crate) async fn until(
        &self,
        name: &str,
        height: u64,
        durable: &AtomicU64,
    ) -> Result<(), Failure> {
        let sink = self.sinks.iter().find(|(own, _)| *own == name && *own != "run");
        self.wait(
            durable,
            async || match sink {
                Some((_, server)) => delivered(server).await,
                None => self.durable().await,
            },
            height,
        )
        .await
    }

    /// The stored checkpoint of a stream, as a sequence id; empty while there is none.
    pub(crate) async fn checkpoint(&self, stream: &str) -> String {
        for (_, server) in &self.sinks {
            let all = streams::list(server).await.unwrap_or_default();
            if let Some(own) = all.iter().find(|own| own.name == stream) {
                return streams::checkpoint(own);
            }
        }
        String::new()
    }

    /// Waits until every stream has its checkpoint at the last height.
    pub(crate) async fn until_done(&self, last: u64, durable: &AtomicU64) -> Result<(), Failure> {
        self.wait(
            durable,
            async || {
                let mut lowest = self.durable().await;
                for (_, server) in &self.sinks {
                    lowest = lowest.min(delivered(server).await);
                }
                lowest
            },
            last,
        )
        .await
    }

    /// Looks until the height is reached; keeps the durable height up to date for the node. Fails
    /// when nothing has moved for long.
    async fn wait(
        &self,
        durable: &AtomicU64,
        reached: impl AsyncFn() -> Option<u64>,
        height: u64,
    ) -> Result<(), Failure> {
        let (mut seen, mut since) = ((0, 0), Instant::now());
        loop {
            let now = self.durable().await.unwrap_or(0);
            durable.fetch_max(now, Ordering::Relaxed);
            let own = reached().await.unwrap_or(0);
            if own >= height {
                return Ok(());
            }
            if (now, own) > seen {
                (seen, since) = ((now, own), Instant::now());
            }
            if since.elapsed() > STANDSTILL {
                return Err(self.standstill(height, seen).await);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The height of the journal's head; `None` while the router does not answer.
    async fn durable(&self) -> Option<u64> {
        let journal = self.router.journal(&self.ingestor).await.ok()?;
        Some(journal.head.map_or(0, |head| head.height))
    }

    /// What the services say when nothing moves.
    async fn standstill(&self, height: u64, seen: (u64, u64)) -> Failure {
        let mut text = format!(
            "nothing moved for {STANDSTILL:?}: waited for height {height}, the journal is at {}, \
             the slowest is at {}",
            seen.0, seen.1
        );
        for own in ingestors::list(&self.producer).await.unwrap_or_default() {
            text.push_str(&format!(
                "\ningestor {}: {} {}",
                own.ingestor,
                ingestors::state(&own),
                own.cause
            ));
        }
        for (_, server) in &self.sinks {
            for own in streams::list(server).await.unwrap_or_default() {
                text.push_str(&format!(
                    "\nstream {}: {} {}",
                    own.name,
                    streams::state(&own),
                    own.cause
                ));
            }
        }
        Failure::new(Exit::Failed, text)
    }
}

/// The lowest checkpoint of a sink's streams; `None` while it does not answer.
async fn delivered(server: &Server) -> Option<u64> {
    let all = streams::list(server).await.ok()?;
    all.iter().map(|own| own.checkpoint_height).min()
}
