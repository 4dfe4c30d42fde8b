//! The numbers of the producer.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter},
};
use parking_lot::Mutex;
use sluice_model::{Epoch, IngestorName};

use crate::status::{State, Status, now};

/// Bounds of the waits for a lock, in seconds.
const WAITS: [f64; 9] = [0.01, 0.1, 1.0, 5.0, 10.0, 30.0, 60.0, 600.0, 3600.0];

/// Instruments, shared by all ingestors of a process.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Instruments>);

/// What is read when somebody asks for the numbers.
type Cells = Arc<Mutex<Vec<(IngestorName, Weak<Mutex<Status>>)>>>;

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
    waits: Histogram<f64>,
    cells: Cells,
}

impl Metrics {
    /// Makes the instruments.
    pub fn new(meter: &Meter) -> Self {
        let counter = |name, what| meter.u64_counter(name).with_description(what).build();
        let gauge = |name, what| meter.u64_gauge(name).with_description(what).build();
        let cells = Cells::default();
        observe(meter, &cells);
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
            waits: meter
                .f64_histogram("sluice_ingestor_lock_wait_seconds")
                .with_description("From queueing for the lock to owning it")
                .with_boundaries(WAITS.to_vec())
                .build(),
            cells,
        }))
    }

    /// Shows this ingestor's state from now on, for as long as it is there.
    pub(crate) fn watch(&self, ingestor: &IngestorName, status: &Arc<Mutex<Status>>) {
        let mut cells = self.0.cells.lock();
        cells.retain(|(_, cell)| cell.strong_count() > 0);
        cells.push((ingestor.clone(), Arc::downgrade(status)));
    }

    pub(crate) fn waited(&self, ingestor: &IngestorName, wait: Duration) {
        self.0.waits.record(wait.as_secs_f64(), &[label(ingestor)]);
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

/// Numbers that are only worked out when somebody looks: they also change while nothing happens.
fn observe(meter: &Meter, cells: &Cells) {
    type Read<T> = fn(&Status) -> Option<T>;
    let numbers: [(&str, &str, Read<u64>); 5] = [
        ("sluice_ingestor_holder", "1 while this process holds the ingestor's lock", |status| {
            Some(u64::from(status.epoch != Epoch::ZERO))
        }),
        ("sluice_ingestor_epoch", "The epoch of the lock; 0 without it", |status| {
            Some(status.epoch.as_u64())
        }),
        ("sluice_ingestor_inflight", "Blocks sent and not acknowledged", |status| {
            Some(status.inflight as u64)
        }),
        ("sluice_ingestor_generation", "The history that is written", |status| {
            status.head.as_ref().map(|head| u64::from(head.generation.0))
        }),
        ("sluice_ingestor_paused", "1 while operators want it paused", |status| {
            Some(u64::from(status.paused))
        }),
    ];
    for (name, what, read) in numbers {
        let cells = cells.clone();
        let gauge = meter.u64_observable_gauge(name).with_description(what);
        gauge.with_callback(move |gauge| each(&cells, read, |n, l| gauge.observe(n, l))).build();
    }
    let seconds: [(&str, &str, Read<f64>); 2] = [
        (
            "sluice_ingestor_lag_seconds",
            "Since the newest durable block's own time, or its append",
            |status| status.age(now()),
        ),
        (
            "sluice_ingestor_last_commit_timestamp_seconds",
            "When this process last moved the commit, since 1970",
            |status| {
                let nanos = u64::try_from(status.committed_at).ok().filter(|nanos| *nanos > 0)?;
                Some(Duration::from_nanos(nanos).as_secs_f64())
            },
        ),
    ];
    for (name, what, read) in seconds {
        let cells = cells.clone();
        let gauge = meter.f64_observable_gauge(name).with_description(what);
        gauge.with_callback(move |gauge| each(&cells, read, |n, l| gauge.observe(n, l))).build();
    }
}

fn each<T>(cells: &Cells, read: impl Fn(&Status) -> Option<T>, show: impl Fn(T, &[KeyValue])) {
    for (ingestor, status) in cells.lock().iter() {
        if let Some(number) = status.upgrade().and_then(|status| read(&status.lock())) {
            show(number, &[label(ingestor)]);
        }
    }
}

fn label(ingestor: &IngestorName) -> KeyValue {
    KeyValue::new("ingestor", ingestor.to_string())
}
