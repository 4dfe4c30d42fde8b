//! The service: builds the ingest loops, serves the API, runs and drains.

use std::sync::Arc;

use async_trait::async_trait;
use opentelemetry::metrics::Meter;
use sluice_client::coordination::{Coordination, Member, Session, SessionOptions};
use sluice_service::{BoxError, Service, Shutdown, Transport};
use tokio::task::JoinSet;

use crate::{
    config::{IngestorOptions, ProducerOptions},
    contact::Contact,
    error::Error,
    feeds::{FeedMetrics, Feeds, RemoteOperator, RemotePeers, RemoteTails, Seams, SpoolApi},
    grpc::Api,
    ingest::{Ingest, Parts},
    metrics::Metrics,
    notes::Notes,
    seam::{Coordinator, Journals, RemoteCoordinator, RemoteJournals},
    source::{Registry, Source, SourceContext, capture::Doors},
    status::StatusCell,
    stores::Stores,
};

/// The producer of one process.
pub struct ProducerService {
    built: Vec<Built>,
    coordination: Coordination,
    journals: Arc<dyn Journals>,
    session: SessionOptions,
    holder: String,
    api: Api,
    spools: SpoolApi,
}

/// An ingestor that is ready to run.
struct Built {
    options: IngestorOptions,
    source: Box<dyn Source>,
    stores: Stores,
    status: StatusCell,
    feeds: Option<Feeds>,
}

impl ProducerService {
    /// Checks every ingestor's configuration and builds its source. Does no I/O.
    ///
    /// # Errors
    /// The first key that cannot be used.
    pub fn new(
        options: ProducerOptions,
        coordinator: Transport,
        router: Transport,
        registry: &Registry,
        meter: &Meter,
    ) -> Result<Self, Error> {
        let (metrics, doors) = (Metrics::new(meter), Doors::default());
        let coordination = Coordination::new(coordinator);
        let member = Member::here(options.node, options.address);
        let holder = format!("{} pid {}", member.node, member.pid);
        let (own, dial) = (member.address.clone(), options.dial);
        let seams = Seams {
            peers: Arc::new(RemotePeers::new(coordination.clone(), dial, own)),
            tails: Arc::new(RemoteTails::new(router.clone())),
            operator: Arc::new(RemoteOperator::new(coordination.clone(), holder.clone())),
        };
        let feeds = FeedMetrics::new(meter);
        let built = options
            .ingestors
            .into_iter()
            .map(|own| Ok(Built::new(own, registry, &doors, &metrics)?.with_feeds(&seams, &feeds)))
            .collect::<Result<Vec<_>, Error>>()?;
        let cells: Vec<_> = built.iter().map(|own| own.status.clone()).collect();
        let spools = built.iter().filter_map(|own| own.feeds.as_ref()?.spool());
        let spools = SpoolApi::new(spools);
        Ok(Self {
            api: Api::new(cells, doors, coordination.clone()),
            spools,
            built,
            coordination,
            journals: Arc::new(RemoteJournals::new(router)),
            session: SessionOptions { ttl: options.lease_ttl, member },
            holder,
        })
    }

    /// The status of every ingestor, for the process that runs the service.
    pub fn ingestors(&self) -> Vec<StatusCell> {
        self.built.iter().map(|own| own.status.clone()).collect()
    }

    /// A session, tried for until there is one or the stop comes.
    async fn open_session(&self, shutdown: &Shutdown) -> Option<Session> {
        let stop = shutdown.token();
        let mut backoff = sluice_client::backoff::Backoff::default();
        loop {
            let asked = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                asked = self.coordination.session(self.session.clone()) => asked,
            };
            match asked {
                Ok(session) => return Some(session),
                Err(error) => {
                    for own in &self.built {
                        own.status.state(crate::status::State::Standby, error.to_string());
                    }
                    tracing::warn!(%error, "no session at the coordinator yet");
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }
}

impl Built {
    fn new(
        options: IngestorOptions,
        registry: &Registry,
        doors: &Doors,
        metrics: &Metrics,
    ) -> Result<Self, Error> {
        let notes = Notes::default();
        let context = SourceContext {
            ingestor: options.name.clone(),
            on_gap: options.on_gap,
            notes: notes.clone(),
            doors: doors.clone(),
        };
        let source = registry.build(&options.source, &context, &options.table)?;
        let stores = Stores::new(&options.stores)
            .map_err(|source| Error::Stores { ingestor: options.name.clone(), source })?;
        let status = StatusCell::new(options.name.clone(), &options.source, notes, metrics.clone());
        Ok(Self { options, source, stores, status, feeds: None })
    }

    /// With what other replicas add, if the options ask for it.
    fn with_feeds(mut self, seams: &Seams, metrics: &FeedMetrics) -> Self {
        let (options, status) = (self.options.feeds.clone(), self.status.clone());
        self.feeds = Feeds::new(options, seams.clone(), status, metrics.clone());
        if let Some(feeds) = &self.feeds {
            self.source = feeds.source(self.source);
        }
        self
    }

    fn parts(
        self,
        coordinator: Arc<dyn Coordinator>,
        journals: &Arc<dyn Journals>,
        holder: String,
    ) -> Parts {
        let (options, feeds) = (&self.options, self.feeds);
        let (topics, metadata) = (options.topics.clone(), options.limits.metadata);
        let beside =
            feeds.as_ref().and_then(|feeds| feeds.beside(topics, self.stores.anew(), metadata));
        let contact = Contact::default();
        let journals = contact.around(journals.clone());
        let journals = match &feeds {
            Some(feeds) => feeds.journals(journals),
            None => journals,
        };
        Parts {
            ingestor: self.options.name,
            coordinator,
            journals,
            contact,
            beside,
            source: self.source,
            topics: self.options.topics,
            stores: self.stores,
            limits: self.options.limits,
            rules: self.options.rules,
            on_regress: self.options.on_regress,
            holder,
            status: self.status,
        }
    }
}

#[async_trait]
impl Service for ProducerService {
    fn name(&self) -> &'static str {
        "producer"
    }

    fn routes(&self) -> tonic::service::Routes {
        self.api.clone().routes().add_service(self.spools.clone().server())
    }

    fn grpc_names(&self) -> Vec<&'static str> {
        vec!["sluice.v1.Producer", "sluice.v1.Capture", "sluice.v1.Spool"]
    }

    async fn run(self: Box<Self>, shutdown: Shutdown) -> Result<(), BoxError> {
        let Some(session) = self.open_session(&shutdown).await else { return Ok(()) };
        let remote = RemoteCoordinator::new(self.coordination.clone(), session.clone());
        let coordinator: Arc<dyn Coordinator> = Arc::new(remote);
        let mut loops = JoinSet::new();
        for own in self.built {
            let parts = own.parts(coordinator.clone(), &self.journals, self.holder.clone());
            loops.spawn(Ingest::new(parts, shutdown.token()).run());
        }
        // The service lives until the stop, also when all its sources have ended.
        let mut broken = None;
        while let Some(ended) = loops.join_next().await {
            if let Err(error) = ended {
                // A loop that panicked must not look like one that is standing by.
                broken = Some(error);
                shutdown.stop();
            }
        }
        shutdown.token().cancelled().await;
        session.close().await;
        broken.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl std::fmt::Debug for ProducerService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProducerService")
            .field("ingestors", &self.built.len())
            .finish_non_exhaustive()
    }
}
