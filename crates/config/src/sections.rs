//! The sections of the file, as types.

mod ingestor;
mod journal;
mod services;
mod stream;

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use sluice_model::IngestorName;

pub use ingestor::{Feeds, Ingestor, OnGap, OnRegress, Source};
pub use journal::{Durability, Journal, JournalBackend, Retention};
pub use services::{Connect, Coordinator, Etcd, Listen, Security, Store, Telemetry, Tls};
pub use stream::{Batch, Retry, Sink, Stream, Then};

/// The whole configuration. Every field has a default, so that `sluice run` works without a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of the installation, for people and metrics.
    pub cluster: String,
    /// Where everything that must survive a restart lives.
    pub data_dir: PathBuf,
    /// Addresses this process listens on.
    pub listen: Listen,
    /// Addresses of the other services; not needed by `sluice run`.
    pub connect: Connect,
    /// Captures, by the name that is their lock and their order.
    pub ingestors: BTreeMap<IngestorName, Ingestor>,
    /// The journal of the router.
    pub journal: Journal,
    /// Sink deployments, by name.
    pub sinks: BTreeMap<String, Sink>,
    /// Event streams, by name.
    pub streams: BTreeMap<String, Stream>,
    /// The coordinator and its store.
    pub coordinator: Coordinator,
    /// Logs, traces, metrics.
    pub telemetry: Telemetry,
    /// TLS and tokens.
    pub security: Security,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: "local".to_owned(),
            data_dir: "data".into(),
            listen: Listen::default(),
            connect: Connect::default(),
            ingestors: BTreeMap::new(),
            journal: Journal::default(),
            sinks: BTreeMap::new(),
            streams: BTreeMap::new(),
            coordinator: Coordinator::default(),
            telemetry: Telemetry::default(),
            security: Security::default(),
        }
    }
}

impl Config {
    /// The journal's directory.
    pub fn journal_dir(&self) -> PathBuf {
        self.journal.dir.clone().unwrap_or_else(|| self.data_dir.join("journal"))
    }

    /// The directory of the embedded coordination store.
    pub fn coordination_dir(&self) -> PathBuf {
        self.data_dir.join("coordination")
    }

    /// The sink deployment that a stream runs on, with its name; one that is not declared takes
    /// its name as its type.
    pub fn sink_of(&self, stream: &Stream) -> Sink {
        self.sinks.get(&stream.sink).cloned().unwrap_or_else(|| Sink::of_type(&stream.sink))
    }
}
