//! The services, built from one configuration: each alone, or all in this process.
//!
//! The all-in-one is a fold: coordinator, router, producer, sinks, each given the routes of those
//! before it as its transports. No service knows which of the two it is.

mod audit;
mod check;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sluice_client::coordination::{Coordination, Member, SessionOptions};
use sluice_config::{Config, Durability};
use sluice_coordinator::{Coordinator, CoordinatorOptions};
use sluice_journal::{Embedded, Options, Policy, Retention};
use sluice_model::{IngestorName, Position};
use sluice_producer::{ProducerOptions, ProducerService, feeds::Dial};
use sluice_router::{Holds, RouterOptions, RouterService};
use sluice_service::{BoxError, Listen, Service, TlsFiles, Transport, transport};
use sluice_sink::{SinkConfig, SinkOptions, SinkService};
use sluice_sink_file::FileFactory;
use sluice_sink_webhook::WebhookFactory;

use crate::{
    cmd::config::SHOW_ALL,
    exit::{Exit, Failure},
};
pub(crate) use audit::{Account, Audit};
pub(crate) use check::check;

/// How long services get to drain.
pub(crate) const GRACE: Duration = Duration::from_secs(20);

/// Ways to the services that others need.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    coordinator: Transport,
    router: Transport,
}

/// Every service of a process, in the order of their dependencies.
pub(crate) struct All {
    pub(crate) services: Vec<Box<dyn Service>>,
    /// A way to the producer from inside.
    pub(crate) producer: Transport,
    /// A way to the sinks from inside.
    pub(crate) sinks: Transport,
    /// Filled at the end of the drain.
    pub(crate) account: Account,
}

/// The peers that `[connect]` names.
pub(crate) fn connect(config: &Config) -> Result<Peers, Failure> {
    let tls = certificates(config);
    let to = |url: &str| match &tls {
        Some(tls) if url.starts_with("https://") => transport::remote_tls(url, tls),
        _ => transport::remote(url),
    };
    Ok(Peers { coordinator: to(&config.connect.coordinator)?, router: to(&config.connect.router)? })
}

/// Where a process listens.
pub(crate) fn listen(config: &Config) -> Listen {
    let tls = certificates(config);
    Listen { api: config.listen.api, admin: config.listen.admin, tls }
}

/// The certificates that `[security.tls]` names.
pub(crate) fn certificates(config: &Config) -> Option<TlsFiles> {
    config.security.tls.as_ref().map(tls_files)
}

fn tls_files(tls: &sluice_config::Tls) -> TlsFiles {
    TlsFiles { cert: tls.cert.clone(), key: tls.key.clone(), client_ca: tls.client_ca.clone() }
}

/// Everything in this process, over in-process transports.
pub(crate) async fn all(config: &Config) -> Result<All, Failure> {
    let coordinator = coordinator(config).await?;
    let coordination = transport::local(coordinator.routes());
    let router = router(config, coordination.clone()).await?;
    let peers = Peers { coordinator: coordination, router: transport::local(router.routes()) };
    let producer = producer(config, &peers)?;
    let own = transport::local(producer.routes());
    let sinks = sinks(config, &[], &peers)?;
    let deliveries = transport::local(sinks.routes());
    let audit = Audit::new(peers.router, own.clone(), deliveries.clone());
    let account = audit.account();
    // Stopped from the last to the first: intake and delivery end before the audit looks.
    let services: Vec<Box<dyn Service>> = vec![
        Box::new(coordinator),
        Box::new(router),
        Box::new(audit),
        Box::new(producer),
        Box::new(sinks),
    ];
    Ok(All { services, producer: own, sinks: deliveries, account })
}

/// The coordinator.
pub(crate) async fn coordinator(config: &Config) -> Result<Coordinator, Failure> {
    let wrong = |error: sluice_coordinator::BuildError| {
        Failure::new(Exit::Failed, error.to_string()).fix(SHOW_ALL)
    };
    let options =
        CoordinatorOptions::from_config(&config.coordinator, &config.data_dir).map_err(wrong)?;
    Coordinator::build(options).await.map_err(wrong)
}

/// The router over the embedded journal.
pub(crate) async fn router(
    config: &Config,
    coordinator: Transport,
) -> Result<RouterService, Failure> {
    let (dir, options) = (config.journal_dir(), journal_options(config));
    let shown = dir.display().to_string();
    let opened = tokio::task::spawn_blocking(move || Embedded::open_dir(&dir, options)).await;
    let journal = opened.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?.map_err(
        |error| {
            Failure::new(Exit::Failed, error.to_string())
                .fix(format!("sluice journal verify --dir {shown}"))
        },
    )?;
    let holds: Arc<dyn Holds> = Arc::new(CoordinatorHolds(Coordination::new(coordinator)));
    Ok(RouterService::new(journal, RouterOptions::default(), Some(holds)))
}

/// The router with the coordinator that `[connect]` names.
pub(crate) async fn router_alone(config: &Config) -> Result<RouterService, Failure> {
    router(config, connect(config)?.coordinator).await
}

fn journal_options(config: &Config) -> Options {
    let journal = &config.journal;
    Options {
        segment_bytes: journal.segment_bytes.bytes(),
        tail_cache_bytes: journal.tail_cache.as_usize(),
        policy: match journal.durability {
            Durability::Fsync => Policy::Fsync,
            Durability::Interval(every) => Policy::Interval(every.get()),
            Durability::None => Policy::None,
        },
        retention: Retention {
            bytes: journal.retention.bytes.map(|limit| limit.bytes()),
            age: journal.retention.age.map(|limit| limit.get()),
            blocks: journal.retention.blocks,
        },
        ..Options::default()
    }
}

/// Asks the coordinator what readers still need.
#[derive(Debug)]
struct CoordinatorHolds(Coordination);

#[async_trait]
impl Holds for CoordinatorHolds {
    async fn holds(&self, ingestor: &IngestorName) -> Result<Vec<Position>, BoxError> {
        let holds = self.0.holds(ingestor).await?;
        Ok(holds.into_iter().map(|hold| hold.position).collect())
    }
}

/// The producer of the configured ingestors.
pub(crate) fn producer(config: &Config, peers: &Peers) -> Result<ProducerService, Failure> {
    let mut options = ProducerOptions::new(config, node_name(), advertised(config));
    if let Some(tls) = certificates(config) {
        options.dial = Dial::new(move |url| {
            let secure = url.starts_with("https://");
            let link =
                if secure { transport::remote_tls(url, &tls) } else { transport::remote(url) };
            link.map_err(|error| error.to_string())
        });
    }
    ProducerService::new(
        options,
        peers.coordinator.clone(),
        peers.router.clone(),
        &sluice_producer::Registry::default(),
        &sluice_telemetry::meter(),
    )
    .map_err(|error| Failure::usage(error.to_string()).fix(SHOW_ALL))
}

/// The sinks of these names; of all streams if none is named.
pub(crate) fn sinks(
    config: &Config,
    names: &[String],
    peers: &Peers,
) -> Result<SinkService, Failure> {
    let wrong = |error: String| Failure::usage(error).fix(SHOW_ALL);
    let own: Vec<SinkConfig> = sink_names(config)
        .into_iter()
        .filter(|name| names.is_empty() || names.contains(name))
        .map(|name| sink_config(config, &name))
        .collect();
    if let Some(name) = names.iter().find(|name| !own.iter().any(|sink| sink.name == **name)) {
        let known = sink_names(config).join(", ");
        let message =
            format!("no stream and no [sinks.{name}] names the sink {name:?}; known: {known}");
        return Err(Failure::new(Exit::NotFound, message).fix(SHOW_ALL));
    }
    let files = FileFactory::open(&own).map_err(|error| wrong(error.to_string()))?;
    let registry = sluice_sink::Registry::default().with(files).with(WebhookFactory);
    let member = Member::here(node_name(), advertised(config));
    let options = SinkOptions {
        sinks: names.to_vec(),
        registry,
        router: peers.router.clone(),
        coordination: Coordination::new(peers.coordinator.clone()),
        session: SessionOptions { ttl: config.coordinator.lease_ttl.get(), member },
        shared: None,
    };
    SinkService::new(config, options).map_err(|error| wrong(error.to_string()))
}

/// Every sink deployment: the declared ones, and those that streams name.
pub(crate) fn sink_names(config: &Config) -> Vec<String> {
    let named = config.streams.values().map(|stream| stream.sink.clone());
    let mut names: Vec<String> = config.sinks.keys().cloned().chain(named).collect();
    names.sort();
    names.dedup();
    names
}

/// A sink as its destination type reads it; an undeclared one has its name as its type.
fn sink_config(config: &Config, name: &str) -> SinkConfig {
    let section = config.sinks.get(name).cloned();
    let section = section.unwrap_or_else(|| sluice_config::Sink::of_type(name));
    SinkConfig::from_section(name, &section, &config.data_dir)
}

/// The machine or pod, for people.
pub(crate) fn node_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "unknown".to_owned(),
        name => name.to_owned(),
    }
}

/// Where others reach this process.
fn advertised(config: &Config) -> String {
    if config.connect.advertise.is_empty() {
        let scheme = if config.security.tls.is_some() { "https" } else { "http" };
        return format!("{scheme}://{}", config.listen.api);
    }
    config.connect.advertise.clone()
}
