//! A stream and its sink as the runtime and the destinations read them: checked, with defaults.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::de::DeserializeOwned;
use sluice_config::Then;
use sluice_model::{Filter, IngestorName, StartPosition, event::Encoding};

use crate::{dispatcher::BatchShape, retry::Retry};

/// A stream, checked.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// Its name: the key under `streams`.
    pub name: String,
    /// The sink deployment that runs it.
    pub sink: String,
    /// The ingestor it reads.
    pub ingestor: IngestorName,
    /// Where it starts as long as it has no checkpoint.
    pub start: StartPosition,
    /// What it delivers.
    pub filter: Arc<Filter>,
    /// How batches are cut.
    pub batch: BatchConfig,
    /// What happens when a delivery fails.
    pub retry: Retry,
    /// Least time between two writes of the checkpoint; zero writes it after every batch.
    pub checkpoint: Duration,
    /// How keys and values are written, where they are written as text.
    pub encoding: Encoding,
    /// The destination's own table, `streams.NAME.TYPE`.
    pub settings: toml::Table,
}

impl StreamConfig {
    /// Reads a stream of the file whose sink is of type `type_name`.
    pub fn from_section(
        name: &str,
        section: &sluice_config::Stream,
        type_name: &str,
    ) -> Result<Self, ConfigError> {
        let key = |last: &str| format!("streams.{name}.{last}");
        if let Some(unknown) = section.options.keys().find(|key| *key != type_name) {
            let reason = format!("unknown key; the sink {} is of type {type_name}", section.sink);
            return Err(ConfigError::new(key(unknown), reason));
        }
        let settings = match section.options.get(type_name) {
            None => toml::Table::new(),
            Some(toml::Value::Table(table)) => table.clone(),
            Some(_) => return Err(ConfigError::new(key(type_name), "it must be a table")),
        };
        let filter = Filter::compile(&section.filter)
            .map_err(|error| ConfigError::new(key("filter"), error.to_string()))?;
        let events = NonZeroUsize::new(section.batch.events)
            .ok_or_else(|| ConfigError::new(key("batch.events"), "it must be at least 1"))?;
        let bytes = section.batch.bytes.as_usize();
        if bytes == 0 || bytes > MAX_BATCH {
            let reason = format!("it must be between 1 and {MAX_BATCH} bytes");
            return Err(ConfigError::new(key("batch.bytes"), reason));
        }
        Ok(Self {
            name: name.to_owned(),
            sink: section.sink.clone(),
            ingestor: section.ingestor.clone(),
            start: section.from.clone(),
            filter: Arc::new(filter),
            batch: BatchConfig { events, bytes, wait: section.batch.wait.get() },
            retry: retry(&section.retry, &key("retry"))?,
            checkpoint: section.checkpoint.get(),
            encoding: section.encoding,
            settings,
        })
    }

    /// Reads the destination's own table; errors name the key in full.
    pub fn settings<T: DeserializeOwned>(&self, type_name: &str) -> Result<T, ConfigError> {
        Ok(sluice_config::section(&self.path(type_name), &self.settings)?)
    }

    /// The path of a key of the destination's own table, for errors.
    pub fn path(&self, type_name: &str) -> String {
        format!("streams.{}.{type_name}", self.name)
    }
}

/// Largest `batch.bytes`: two batches and a frame are kept in memory for each stream.
const MAX_BATCH: usize = 64 << 20;

/// Policies that lose events from a stream without an answer of its receiver need the dead-letter
/// journal; until that is there, they are refused rather than obeyed by dropping.
fn retry(section: &sluice_config::Retry, key: &str) -> Result<Retry, ConfigError> {
    let (first, max) = (section.first.get(), section.max.get());
    if first.is_zero() || max < first {
        let reason = "`first` must be above 0 and `max` not below it";
        return Err(ConfigError::new(key, reason));
    }
    match section.then {
        Then::Block => Ok(Retry { first, max, for_: section.lasting.get() }),
        Then::DeadLetter | Then::Skip => {
            let name = if section.then == Then::Skip { "skip" } else { "dead-letter" };
            let reason = format!(
                "{name:?} is not available in this version: events would be lost without a dead \
                 letter; write \"block\""
            );
            Err(ConfigError::new(format!("{key}.then"), reason))
        }
    }
}

/// How batches of events are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    /// Most events.
    pub events: NonZeroUsize,
    /// Most bytes of changes.
    pub bytes: usize,
    /// Longest wait of the first event.
    pub wait: Duration,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            events: NonZeroUsize::new(50).unwrap_or(NonZeroUsize::MIN),
            bytes: 1 << 20,
            wait: Duration::from_millis(500),
        }
    }
}

impl BatchConfig {
    /// As the shape of batches that are cut by events.
    pub const fn events_shape(&self) -> BatchShape {
        BatchShape::Events { count: self.events, bytes: self.bytes, wait: self.wait }
    }

    /// As the shape of batches that are cut at ends of blocks.
    pub const fn blocks_shape(&self) -> BatchShape {
        BatchShape::Blocks { bytes: self.bytes, wait: self.wait }
    }
}

/// A sink deployment.
#[derive(Clone, Debug, Default)]
pub struct SinkConfig {
    /// Its name: the key under `sinks`.
    pub name: String,
    /// Its destinations' type.
    pub type_name: String,
    /// Where this process keeps its files by default.
    pub data_dir: PathBuf,
    /// Everything else in `sinks.NAME`.
    pub settings: toml::Table,
}

impl SinkConfig {
    /// Reads a sink of the file.
    pub fn from_section(name: &str, section: &sluice_config::Sink, data_dir: &Path) -> Self {
        Self {
            name: name.to_owned(),
            type_name: section.kind.clone(),
            data_dir: data_dir.to_owned(),
            settings: section.options.clone(),
        }
    }

    /// Reads the sink's table; errors name the key in full.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        Ok(sluice_config::section(&self.path(), &self.settings)?)
    }

    /// The path of the sink's table, for errors.
    pub fn path(&self) -> String {
        format!("sinks.{}", self.name)
    }
}

/// A setting that cannot be used: which, and why.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct ConfigError {
    key: String,
    reason: String,
}

impl From<sluice_config::ConfigError> for ConfigError {
    fn from(error: sluice_config::ConfigError) -> Self {
        match error {
            sluice_config::ConfigError::Key { key, reason } => Self { key, reason },
            other => Self::new("configuration", other.to_string()),
        }
    }
}

impl ConfigError {
    /// An error of the setting at `key`, the full path.
    pub fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: reason.into() }
    }

    /// The full path of the setting.
    pub fn key(&self) -> &str {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(text: &str) -> Result<StreamConfig, ConfigError> {
        let table: toml::Table = text.parse().unwrap();
        let section = sluice_config::section("streams.s", &table)?;
        StreamConfig::from_section("s", &section, "webhook")
    }

    #[test]
    fn reads_a_stream() {
        let config = stream(
            r#"
            sink = "web"
            ingestor = "hub"
            from = "height:7"
            filter = { stores = ["bank"] }
            webhook = { url = "http://x" }
            batch = { events = 9, bytes = "2KiB", wait = "1s" }
            retry = { first = "1s", max = "2s", for = "3s", then = "block" }
            "#,
        )
        .unwrap();
        assert_eq!((config.batch.events.get(), config.batch.bytes), (9, 2048));
        assert_eq!(config.retry.for_, Duration::from_secs(3));
        assert!(config.settings.contains_key("url"));
        assert_eq!(config.path("webhook"), "streams.s.webhook");
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_its_key() {
        let base = "sink = \"web\"\ningestor = \"hub\"\n";
        for (text, key, says) in [
            ("retry = { then = \"skip\" }", "streams.s.retry.then", "write \"block\""),
            ("retry = { then = \"dead-letter\" }", "streams.s.retry.then", "dead-letter"),
            ("retry = { first = \"9s\", max = \"1s\" }", "streams.s.retry", "`max`"),
            ("batch = { events = 0 }", "streams.s.batch.events", "at least 1"),
            ("batch = { bytes = \"1GiB\" }", "streams.s.batch.bytes", "between"),
            ("filter = { topics = \"(\" }", "streams.s.filter", "topics"),
            ("webhok = { url = \"x\" }", "streams.s.webhok", "type webhook"),
            ("webhook = 7", "streams.s.webhook", "table"),
        ] {
            let error = stream(&format!("{base}{text}")).unwrap_err();
            assert_eq!(error.key(), key, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
