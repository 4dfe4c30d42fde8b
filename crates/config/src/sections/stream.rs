use serde::{Deserialize, Serialize};
use sluice_model::{FilterSpec, IngestorName, StartPosition, event::Encoding};

use crate::{ByteSize, HumanDuration};

/// A sink deployment: its type, and the table that only the type understands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sink {
    /// Names the type in the registry of sinks.
    #[serde(rename = "type")]
    pub kind: String,
    /// Everything else.
    #[serde(flatten)]
    pub options: toml::Table,
}

impl Sink {
    /// A deployment with the defaults of its type.
    pub fn of_type(kind: &str) -> Self {
        Self { kind: kind.to_owned(), options: toml::Table::new() }
    }
}

/// A stored subscription: filter, destination, batching, error handling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// The sink deployment that runs it.
    pub sink: String,
    /// The ingestor it reads.
    pub ingestor: IngestorName,
    /// Where it begins if it has no checkpoint.
    #[serde(default = "latest")]
    pub from: StartPosition,
    /// What it asks for.
    #[serde(default)]
    pub filter: FilterSpec,
    /// How batches are cut.
    #[serde(default)]
    pub batch: Batch,
    /// What happens when the destination refuses.
    #[serde(default)]
    pub retry: Retry,
    /// Least time between two writes of the checkpoint: what was delivered since the last one
    /// is delivered again after a crash. `0s` writes it after every batch.
    #[serde(default = "checkpoint")]
    pub checkpoint: HumanDuration,
    /// How keys and values are written as text.
    #[serde(default)]
    pub encoding: Encoding,
    /// The table of the sink's type, under the type's name.
    #[serde(flatten)]
    pub options: toml::Table,
}

const fn latest() -> StartPosition {
    StartPosition::Latest
}

const fn checkpoint() -> HumanDuration {
    HumanDuration::secs(1)
}

/// When a batch is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// With so many events.
    pub events: usize,
    /// With so many bytes of changes.
    pub bytes: ByteSize,
    /// When its first event has waited so long.
    pub wait: HumanDuration,
}

impl Default for Batch {
    fn default() -> Self {
        Self { events: 50, bytes: ByteSize::mib(1), wait: HumanDuration::millis(500) }
    }
}

/// How often and how long a refused batch is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Longest first pause; it doubles with each attempt.
    pub first: HumanDuration,
    /// Longest pause.
    pub max: HumanDuration,
    /// How long until `then`.
    #[serde(rename = "for")]
    pub lasting: HumanDuration,
    /// What then.
    pub then: Then,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first: HumanDuration::millis(250),
            max: HumanDuration::secs(30),
            lasting: HumanDuration::secs(300),
            then: Then::Block,
        }
    }
}

/// What happens when retrying has lasted its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// Shows as blocked and goes on trying.
    #[default]
    Block,
    /// Sets the batch aside.
    DeadLetter,
    /// Records that the batch was left out.
    Skip,
}
