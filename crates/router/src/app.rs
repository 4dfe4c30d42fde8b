use std::{fmt, sync::Arc};

use async_trait::async_trait;
use sluice_journal::Journal;
use sluice_proto::{MAX_MESSAGE, v1::router_server::RouterServer};
use sluice_service::{BoxError, Service, Shutdown, Unread};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use crate::{
    append::Writers, config::RouterOptions, grpc::Grpc, metrics::Metrics, retention,
    retention::Holds,
};

/// The service's name in gRPC's health and reflection.
pub const GRPC_NAME: &str = "sluice.v1.Router";

/// The method whose messages become part of the journal's cache as they come.
const APPEND: &str = "/sluice.v1.Router/Append";

/// What every call needs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) options: RouterOptions,
    pub(crate) writers: Writers,
    pub(crate) metrics: Metrics,
    /// Cancelled when the service stops: streams end with a typed refusal.
    pub(crate) stopping: CancellationToken,
    /// Streams that are open.
    pub(crate) streams: TaskTracker,
}

/// The router as a service: its routes, and the work beside the calls.
pub struct RouterService {
    shared: Arc<Shared>,
    holds: Option<Arc<dyn Holds>>,
}

impl RouterService {
    /// A router over these journals. `holds` tells what retention must keep; without it only the
    /// limit in bytes trims.
    pub fn new(
        journal: Arc<dyn Journal>,
        options: RouterOptions,
        holds: Option<Arc<dyn Holds>>,
    ) -> Self {
        let shared = Shared {
            journal,
            options,
            writers: Writers::default(),
            metrics: Metrics::new(&sluice_telemetry::meter()),
            stopping: CancellationToken::new(),
            streams: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared), holds }
    }

    async fn keep(&self, shutdown: &Shutdown) {
        let stop = shutdown.token();
        let mut tick = tokio::time::interval(self.shared.options.retention_interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => retention::round(&self.shared, self.holds.as_deref()).await,
            }
        }
    }
}

#[async_trait]
impl Service for RouterService {
    fn name(&self) -> &'static str {
        "router"
    }

    fn routes(&self) -> Routes {
        let server = RouterServer::new(Grpc::new(Arc::clone(&self.shared)))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Routes::new(Unread::new(server, APPEND))
    }

    fn grpc_names(&self) -> Vec<&'static str> {
        vec![GRPC_NAME]
    }

    /// Runs retention until the stop, then ends the streams (accepted blocks are acknowledged
    /// first, subscribers are told to come back) and closes the journals.
    async fn run(self: Box<Self>, shutdown: Shutdown) -> Result<(), BoxError> {
        self.keep(&shutdown).await;
        self.shared.stopping.cancel();
        self.shared.streams.close();
        if tokio::time::timeout(self.shared.options.drain, self.shared.streams.wait())
            .await
            .is_err()
        {
            tracing::warn!(open = self.shared.streams.len(), "streams did not end in time");
        }
        self.shared.journal.close().await;
        Ok(())
    }
}

impl fmt::Debug for RouterService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouterService")
            .field("shared", &self.shared)
            .field("holds", &self.holds.is_some())
            .finish()
    }
}
