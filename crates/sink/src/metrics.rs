//! What is counted: per batch, never per event.

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Meter},
};

use crate::{batch::Batch, status::State};

/// The instruments of one stream.
#[derive(Debug)]
pub(crate) struct Metrics {
    labels: [KeyValue; 2],
    batches: Counter<u64>,
    events: Counter<u64>,
    bytes: Counter<u64>,
    retries: Counter<u64>,
    checkpoint: Gauge<u64>,
    lag: Gauge<u64>,
    state: Gauge<u64>,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter, stream: &str, sink: &str) -> Self {
        let counter = |name: &'static str, what: &'static str| {
            meter.u64_counter(name).with_description(what).build()
        };
        let gauge = |name: &'static str, what: &'static str| {
            meter.u64_gauge(name).with_description(what).build()
        };
        Self {
            labels: [
                KeyValue::new("stream", stream.to_owned()),
                KeyValue::new("sink", sink.to_owned()),
            ],
            batches: counter("sluice_sink_batches", "Batches delivered"),
            events: counter("sluice_sink_events", "Events delivered"),
            bytes: counter("sluice_sink_bytes", "Bytes of changes delivered"),
            retries: counter("sluice_sink_retries", "Deliveries that failed and are repeated"),
            checkpoint: gauge("sluice_sink_checkpoint_height", "Height of the stored checkpoint"),
            lag: gauge("sluice_sink_lag_blocks", "Heights between the checkpoint and the head"),
            state: gauge(
                "sluice_sink_state",
                "1 waiting, 2 starting, 3 running, 4 retrying, 5 blocked, 6 gap, 7 stopped",
            ),
        }
    }

    pub(crate) fn delivered(&self, batch: &Batch) {
        self.batches.add(1, &self.labels);
        self.events.add(batch.event_count() as u64, &self.labels);
        self.bytes.add(batch.bytes() as u64, &self.labels);
    }

    pub(crate) fn retry(&self) {
        self.retries.add(1, &self.labels);
    }

    pub(crate) fn checkpoint(&self, height: u64, head: Option<u64>) {
        self.checkpoint.record(height, &self.labels);
        if let Some(head) = head {
            self.lag.record(head.saturating_sub(height), &self.labels);
        }
    }

    pub(crate) fn state(&self, state: State) {
        self.state.record(u64::from(number(state)), &self.labels);
    }
}

/// The number of a state, as in sink.proto.
pub(crate) const fn number(state: State) -> u8 {
    match state {
        State::Waiting => 1,
        State::Starting => 2,
        State::Running => 3,
        State::Retrying => 4,
        State::Blocked => 5,
        State::Gap => 6,
        State::Stopped => 7,
    }
}
