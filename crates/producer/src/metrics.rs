//! The numbers of the producer.

use std::sync::Arc;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Meter},
};
use sluice_model::IngestorName;

use crate::status::State;

/// Instruments, shared by all ingestors of a process.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Instruments>);

#[derive(Debug)]
struct Instruments {
    blocks: Counter<u64>,
    changes: Counter<u64>,
    bytes: Counter<u64>,
    lag: Gauge<u64>,
    state: Gauge<u64>,
    restarts: Counter<u64>,
    commits: Counter<u64>,
    conflicts: Counter<u64>,
}

impl Metrics {
    /// Makes the instruments.
    pub fn new(meter: &Meter) -> Self {
        let counter = |name, what| meter.u64_counter(name).with_description(what).build();
        let gauge = |name, what| meter.u64_gauge(name).with_description(what).build();
        Self(Arc::new(Instruments {
            blocks: counter("sluice_ingestor_blocks", "Blocks that became durable"),
            changes: counter("sluice_ingestor_changes", "Changes in durable blocks"),
            bytes: counter("sluice_ingestor_bytes", "Bytes of changes in durable blocks"),
            lag: gauge(
                "sluice_ingestor_source_lag_blocks",
                "Blocks that the source has and the journal does not",
            ),
            state: gauge("sluice_ingestor_state", "1 for the state that the ingestor is in"),
            restarts: counter("sluice_ingestor_restarts", "Ended attempts to ingest, by reason"),
            commits: counter("sluice_ingestor_commits", "Moves of the committed position"),
            conflicts: counter(
                "sluice_ingestor_commit_conflicts",
                "Commits that did not follow the stored one",
            ),
        }))
    }

    pub(crate) fn acked(&self, ingestor: &IngestorName, changes: u64, bytes: u64) {
        let labels = [label(ingestor)];
        self.0.blocks.add(1, &labels);
        self.0.changes.add(changes, &labels);
        self.0.bytes.add(bytes, &labels);
    }

    pub(crate) fn lag(&self, ingestor: &IngestorName, blocks: u64) {
        self.0.lag.record(blocks, &[label(ingestor)]);
    }

    pub(crate) fn state(&self, ingestor: &IngestorName, from: State, to: State) {
        for (state, value) in [(from, 0), (to, 1)] {
            self.0.state.record(value, &[label(ingestor), KeyValue::new("state", state.word())]);
        }
    }

    pub(crate) fn restart(&self, ingestor: &IngestorName, reason: &'static str) {
        self.0.restarts.add(1, &[label(ingestor), KeyValue::new("reason", reason)]);
    }

    pub(crate) fn commit(&self, ingestor: &IngestorName) {
        self.0.commits.add(1, &[label(ingestor)]);
    }

    pub(crate) fn conflict(&self, ingestor: &IngestorName) {
        self.0.conflicts.add(1, &[label(ingestor)]);
    }
}

fn label(ingestor: &IngestorName) -> KeyValue {
    KeyValue::new("ingestor", ingestor.to_string())
}
