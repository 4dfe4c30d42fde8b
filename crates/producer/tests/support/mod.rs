//! What every test of the producer stands on: a real coordinator, router and journal in this
//! process, and a producer among them.
#![allow(dead_code, reason = "every test takes of it what it needs")]

use std::{sync::Arc, time::Duration};

use sluice_coordinator::{Coordinator, CoordinatorOptions, StoreOptions};
use sluice_journal::{Embedded, Options};
use sluice_model::IngestorName;
use sluice_producer::{
    ProducerOptions, ProducerService, Registry,
    status::{State, Status, StatusCell},
};
use sluice_router::{RouterOptions, RouterService};
use sluice_service::{Service, Shutdown, Transport, transport};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use tonic::service::Routes;

/// Longer than anything takes that works.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The ingestor of every test.
pub(crate) fn name() -> IngestorName {
    "chain".parse().unwrap()
}

/// The services that a producer needs. They run as long as this lives.
pub(crate) struct Services {
    pub(crate) coordinator: Transport,
    pub(crate) router: Transport,
    /// The router's calls, to be served at another place too.
    pub(crate) routes: Routes,
    pub(crate) journal: Arc<Embedded>,
    pub(crate) shutdown: Shutdown,
    pub(crate) dir: TempDir,
}

impl Services {
    pub(crate) async fn start(router: RouterOptions) -> Self {
        let dir = TempDir::new().unwrap();
        let shutdown = Shutdown::new(Duration::from_secs(5));
        let coordinator =
            Coordinator::build(CoordinatorOptions::new(StoreOptions::Memory)).await.unwrap();
        let options = Options { segment_bytes: 16 << 20, ..Options::default() };
        let journal = Embedded::open_dir(&dir.path().join("journal"), options).unwrap();
        let router = RouterService::new(journal.clone(), router, None);
        let (coordinator_at, routes) = (transport::local(coordinator.routes()), router.routes());
        for service in [Box::new(coordinator) as Box<dyn Service>, Box::new(router)] {
            let shutdown = shutdown.clone();
            tokio::spawn(async move { service.run(shutdown).await.unwrap() });
        }
        let router = transport::local(routes.clone());
        Self { coordinator: coordinator_at, router, routes, journal, shutdown, dir }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

/// A producer of one ingestor.
pub(crate) struct Producer {
    pub(crate) api: Transport,
    pub(crate) ingestor: StatusCell,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Producer {
    pub(crate) fn start(
        options: ProducerOptions,
        coordinator: &Transport,
        router: &Transport,
    ) -> Self {
        let (registry, meter) = (Registry::default(), opentelemetry::global::meter("test"));
        let service =
            ProducerService::new(options, coordinator.clone(), router.clone(), &registry, &meter);
        let service = service.unwrap();
        let ingestor = service.ingestors().remove(0);
        let api = transport::local(service.routes());
        let shutdown = Shutdown::new(Duration::from_secs(5));
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { Box::new(service).run(stop).await.unwrap() });
        Self { api, ingestor, shutdown, task }
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) {
        let wait = async {
            while !holds(&self.ingestor.get()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(SOON, wait).await.is_err() {
            panic!("not {what}: {:?}", self.ingestor.get());
        }
    }

    pub(crate) async fn state(&self, state: State) {
        self.until(state.word(), |status| status.state == state).await;
    }

    pub(crate) async fn stop(self) {
        self.shutdown.stop();
        timeout(SOON, self.task).await.expect("the producer stops").unwrap();
    }

    /// Ends without a word, as a machine does that loses its power; the lease runs out.
    pub(crate) fn kill(self) {
        self.task.abort();
    }
}
