use std::sync::Arc;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Meter},
};
use sluice_model::IngestorName;

/// The numbers of the second feed, shared by all ingestors of a process.
#[derive(Clone, Debug)]
pub struct FeedMetrics(Arc<Instruments>);

#[derive(Debug)]
struct Instruments {
    compared: Counter<u64>,
    diverged: Gauge<u64>,
    spool_bytes: Gauge<u64>,
    spool_blocks: Gauge<u64>,
    fills: Counter<u64>,
    waits: Gauge<u64>,
    hand_overs: Counter<u64>,
}

impl FeedMetrics {
    /// Makes the instruments.
    pub fn new(meter: &Meter) -> Self {
        let counter = |name, what| meter.u64_counter(name).with_description(what).build();
        let gauge = |name, what| meter.u64_gauge(name).with_description(what).build();
        Self(Arc::new(Instruments {
            compared: counter(
                "sluice_feed_compared",
                "Blocks compared with the journal, by result",
            ),
            diverged: gauge(
                "sluice_feed_diverged",
                "Blocks in the spool that the journal has otherwise",
            ),
            spool_bytes: gauge("sluice_feed_spool_bytes", "Bytes of the spool on disk"),
            spool_blocks: gauge("sluice_feed_spool_blocks", "Blocks in the spool"),
            fills: counter(
                "sluice_feed_fills",
                "Missing blocks asked of other replicas, by result",
            ),
            waits: gauge("sluice_feed_agree_waiting", "1 while a block waits for a second feed"),
            hand_overs: counter(
                "sluice_feed_hand_overs",
                "Hand-overs asked for because the owner's source lags",
            ),
        }))
    }

    pub(super) fn compared(&self, ingestor: &IngestorName, result: &'static str) {
        self.0.compared.add(1, &[label(ingestor), KeyValue::new("result", result)]);
    }

    pub(super) fn spool(&self, ingestor: &IngestorName, bytes: u64, blocks: u64, diverged: u64) {
        let labels = [label(ingestor)];
        self.0.spool_bytes.record(bytes, &labels);
        self.0.spool_blocks.record(blocks, &labels);
        self.0.diverged.record(diverged, &labels);
    }

    pub(super) fn fill(&self, ingestor: &IngestorName, result: &'static str) {
        self.0.fills.add(1, &[label(ingestor), KeyValue::new("result", result)]);
    }

    pub(super) fn waiting(&self, ingestor: &IngestorName, waits: bool) {
        self.0.waits.record(u64::from(waits), &[label(ingestor)]);
    }

    pub(super) fn hand_over(&self, ingestor: &IngestorName) {
        self.0.hand_overs.add(1, &[label(ingestor)]);
    }
}

fn label(ingestor: &IngestorName) -> KeyValue {
    KeyValue::new("ingestor", ingestor.to_string())
}
