//! The producer's part of the configuration, as values.

use std::time::Duration;

use sluice_config::{Config, Feeds, HumanDuration, OnGap, OnRegress};
use sluice_model::{IngestorName, TopicRules};

use crate::{
    feeds::{Dial, FeedOptions},
    ingest::Limits,
    policy::Rules,
};

/// Lease times that the router may be silent, if the configuration does not say how long.
const SILENCE: u32 = 3;

/// What a producer captures.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// Its ingestors.
    pub ingestors: Vec<IngestorOptions>,
    /// How long the coordinator waits for a sign of life before others take over.
    pub lease_ttl: Duration,
    /// The machine or pod, for people.
    pub node: String,
    /// Where the API of this process can be reached; told to programs that ask a standby.
    pub address: String,
    /// How the addresses of other producers become connections.
    pub dial: Dial,
}

/// One ingestor.
#[derive(Clone, Debug)]
pub struct IngestorOptions {
    /// Its name.
    pub name: IngestorName,
    /// The kind of its source.
    pub source: String,
    /// The source's own table.
    pub table: toml::Table,
    /// Stores to capture: names and globs.
    pub stores: Vec<String>,
    /// What to do about missing blocks.
    pub on_gap: OnGap,
    /// What to do when the chain went back.
    pub on_regress: OnRegress,
    /// How several replicas work together.
    pub feeds: FeedOptions,
    /// Topic rules.
    pub topics: TopicRules,
    /// Bounds.
    pub limits: Limits,
    /// Retries.
    pub rules: Rules,
}

impl ProducerOptions {
    /// From the whole configuration. `node` and `address` say who and where this process is.
    pub fn new(config: &Config, node: impl Into<String>, address: impl Into<String>) -> Self {
        let lease_ttl = config.coordinator.lease_ttl.get();
        let ingestors = config.ingestors.iter().map(|(name, own)| IngestorOptions {
            name: name.clone(),
            source: own.source.kind.clone(),
            table: own.source.options.clone(),
            stores: own.stores.clone(),
            on_gap: own.on_gap,
            on_regress: own.on_regress,
            feeds: FeedOptions {
                beside: own.feeds == Feeds::Beside,
                agree: own.agree,
                gap_after: own.gap_after.map(HumanDuration::get),
                lag_limit: own.lag_limit,
                spool_bytes: own.spool_bytes.bytes(),
                spool_dir: config.data_dir.join("spool").join(name.encoded()),
                ..FeedOptions::default()
            },
            topics: TopicRules::new(own.topics.clone()),
            limits: Limits {
                blocks: own.window,
                bytes: own.window_bytes.bytes(),
                commit_every: own.commit_every.get(),
                ..Limits::default()
            },
            rules: Rules {
                silence: own.unfit_after.map_or(lease_ttl * SILENCE, HumanDuration::get),
                ..Rules::default()
            },
        });
        Self {
            ingestors: ingestors.collect(),
            lease_ttl,
            node: node.into(),
            address: address.into(),
            dial: Dial::default(),
        }
    }
}
