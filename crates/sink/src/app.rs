//! The sink service: which streams it serves, and their run from start to stop.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use sluice_client::coordination::{Coordination, Session, SessionOptions};
use sluice_config::Config;
use sluice_proto::v1::sink_server::SinkServer;
use sluice_service::{BoxError, Service, Shutdown, Transport};
use tonic::service::Routes;

use crate::{
    client::{CoordinatorOwners, RouterJournal},
    config::{ConfigError, SinkConfig, StreamConfig},
    dispatcher::DispatcherFactory,
    grpc::SinkGrpc,
    metrics::Metrics,
    status::Status,
    stream::Stream,
};

/// Wait between two tries to get a first session.
const SESSION_RETRY: Duration = Duration::from_secs(1);

/// The destinations that this program knows, by type name.
#[derive(Clone, Default)]
pub struct Registry {
    factories: BTreeMap<&'static str, Arc<dyn DispatcherFactory>>,
}

impl Registry {
    /// Adds a type; a later one of the same name takes its place.
    #[must_use]
    pub fn with(mut self, factory: impl DispatcherFactory + 'static) -> Self {
        self.factories.insert(factory.type_name(), Arc::new(factory));
        self
    }

    /// The factory of a sink's type. The error lists the known ones.
    pub fn get(&self, sink: &SinkConfig) -> Result<Arc<dyn DispatcherFactory>, ConfigError> {
        self.factories.get(sink.type_name.as_str()).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.factories.keys().copied().collect();
            let reason = format!(
                "there is no sink of type {:?}; this program has: {}",
                sink.type_name,
                known.join(", ")
            );
            ConfigError::new(format!("{}.type", sink.path()), reason)
        })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.factories.keys()).finish()
    }
}

/// Everything a sink service needs from outside.
#[derive(Debug)]
pub struct SinkOptions {
    /// The sink deployments it serves; empty serves every stream (as `sluice run` does).
    pub sinks: Vec<String>,
    /// The destinations it knows.
    pub registry: Registry,
    /// The router.
    pub router: Transport,
    /// The coordinator.
    pub coordination: Coordination,
    /// The session to make, if `shared` is none.
    pub session: SessionOptions,
    /// The process's session, where it has one already.
    pub shared: Option<Session>,
}

/// A stream as gRPC shows it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) config: Arc<StreamConfig>,
    pub(crate) type_name: &'static str,
    pub(crate) destination: String,
    pub(crate) status: Arc<Status>,
}

/// A sink service.
#[derive(Debug)]
pub struct SinkService {
    options: SinkOptions,
    planned: Vec<Planned>,
    served: Arc<[Served]>,
}

/// A stream whose configuration was checked.
struct Planned {
    config: Arc<StreamConfig>,
    sink: Arc<SinkConfig>,
    factory: Arc<dyn DispatcherFactory>,
    status: Arc<Status>,
}

impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Planned").field(&self.config.name).finish()
    }
}

impl SinkService {
    /// Checks every stream that it is to serve, its destination included. Without I/O but for
    /// secrets, which are read.
    pub fn new(config: &Config, options: SinkOptions) -> Result<Self, ConfigError> {
        let mut planned = Vec::new();
        let mut served = Vec::new();
        let ours = |sink: &String| options.sinks.is_empty() || options.sinks.contains(sink);
        for (name, section) in config.sinks.iter().filter(|(name, _)| ours(name)) {
            // Also of those without a stream: a misspelt type shows before the first one is added.
            options.registry.get(&SinkConfig::from_section(name, section, &config.data_dir))?;
        }
        for (name, section) in &config.streams {
            if !ours(&section.sink) {
                continue;
            }
            let sink_section = config.sink_of(section);
            let sink = SinkConfig::from_section(&section.sink, &sink_section, &config.data_dir);
            let factory = options.registry.get(&sink)?;
            let type_name = factory.type_name();
            let stream = StreamConfig::from_section(name, section, type_name)?;
            check(factory.as_ref(), &stream, &sink)?;
            let meter = sluice_telemetry::meter();
            let status = Arc::new(Status::new(Metrics::new(&meter, name, &section.sink)));
            let destination = factory.destination(&stream, &sink);
            let (config, sink) = (Arc::new(stream), Arc::new(sink));
            served.push(Served {
                config: Arc::clone(&config),
                type_name,
                destination,
                status: Arc::clone(&status),
            });
            planned.push(Planned { config, sink, factory, status });
        }
        Ok(Self { options, planned, served: served.into() })
    }

    /// The names of the streams it serves.
    pub fn streams(&self) -> impl Iterator<Item = &str> {
        self.served.iter().map(|served| served.config.name.as_str())
    }

    /// The status of one of its streams.
    pub fn status(&self, stream: &str) -> Option<Arc<Status>> {
        let served = self.served.iter().find(|served| served.config.name == stream)?;
        Some(Arc::clone(&served.status))
    }
}

fn check(
    factory: &dyn DispatcherFactory,
    stream: &StreamConfig,
    sink: &SinkConfig,
) -> Result<(), ConfigError> {
    factory.lock_name(stream, sink)?;
    factory.shape(stream)?;
    factory.build(stream, sink).map(drop)
}

#[async_trait]
impl Service for SinkService {
    fn name(&self) -> &'static str {
        "sink"
    }

    fn routes(&self) -> Routes {
        Routes::new(SinkServer::new(SinkGrpc { streams: Arc::clone(&self.served) }))
    }

    fn grpc_names(&self) -> Vec<&'static str> {
        vec![sluice_proto::v1::sink_server::SERVICE_NAME]
    }

    /// Runs the streams until the shutdown; each then brings in its batch, flushes, stores its
    /// checkpoint and gives its lock back, within three quarters of the grace.
    async fn run(self: Box<Self>, shutdown: Shutdown) -> Result<(), BoxError> {
        if self.planned.is_empty() {
            shutdown.token().cancelled().await;
            return Ok(());
        }
        let Some(session) = self.session(&shutdown).await else { return Ok(()) };
        let owners =
            Arc::new(CoordinatorOwners::new(self.options.coordination.clone(), session.clone()));
        let journal = Arc::new(RouterJournal::new(self.options.router.clone()));
        let mut tasks = tokio::task::JoinSet::new();
        for Planned { config, sink, factory, status } in self.planned {
            let stream = Stream {
                config,
                sink,
                factory,
                journal: journal.clone(),
                owners: owners.clone(),
                status,
                grace: shutdown.grace().mul_f64(0.75),
            };
            tasks.spawn(stream.run(shutdown.token()));
        }
        while let Some(ended) = tasks.join_next().await {
            // A stream ends only with the shutdown; anything else is a defect to be seen.
            ended?;
        }
        if self.options.shared.is_none() {
            session.close().await;
        }
        Ok(())
    }
}

impl SinkService {
    /// The process's session; `None` if it is told to stop before there is one.
    async fn session(&self, shutdown: &Shutdown) -> Option<Session> {
        if let Some(session) = &self.options.shared {
            return Some(session.clone());
        }
        let stop = shutdown.token();
        loop {
            let made = tokio::select! {
                () = stop.cancelled() => return None,
                made = self.options.coordination.session(self.options.session.clone()) => made,
            };
            match made {
                Ok(session) => return Some(session),
                Err(error) => tracing::warn!(%error, "no session of the coordinator yet"),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(SESSION_RETRY) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
