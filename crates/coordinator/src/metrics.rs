//! What operators see of a coordinator.

use std::time::Duration;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram},
};
use sluice_coordination::Error;

use sluice_coordination::WriteBudget;

/// The instruments, made once.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    writes: Counter<u64>,
    refusals: Counter<u64>,
    keepalive: Histogram<f64>,
    lock_wait: Histogram<f64>,
    revision: Gauge<u64>,
    size: Gauge<u64>,
    granted: Gauge<u64>,
    refused: Gauge<u64>,
    held_back: Gauge<f64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = sluice_telemetry::meter();
        Self {
            writes: meter
                .u64_counter("sluice.coordinator.writes")
                .with_description("Commits, checkpoints and holds written, by kind.")
                .build(),
            refusals: meter
                .u64_counter("sluice.coordinator.refusals")
                .with_description("Calls that failed, by call and cause.")
                .build(),
            keepalive: meter
                .f64_histogram("sluice.coordinator.keepalive.duration")
                .with_unit("s")
                .with_description("Time the store took to renew a lease.")
                .build(),
            lock_wait: meter
                .f64_histogram("sluice.coordinator.lock.wait")
                .with_unit("s")
                .with_description("Time from asking for a lock to owning it.")
                .build(),
            revision: meter
                .u64_gauge("sluice.coordinator.store.revision")
                .with_description("Revision of the store.")
                .build(),
            size: meter
                .u64_gauge("sluice.coordinator.store.size")
                .with_unit("By")
                .with_description("Size of the store on disk.")
                .build(),
            granted: meter
                .u64_gauge("sluice.coordinator.budget.granted")
                .with_description("Writes that the budget let through since the start.")
                .build(),
            refused: meter
                .u64_gauge("sluice.coordinator.budget.refused")
                .with_description("Writes that the budget refused since the start.")
                .build(),
            held_back: meter
                .f64_gauge("sluice.coordinator.budget.held_back")
                .with_unit("s")
                .with_description("Time that writes were held back by the budget, in total.")
                .build(),
        }
    }

    pub(crate) fn written(&self, kind: &'static str) {
        self.writes.add(1, &[KeyValue::new("kind", kind)]);
    }

    pub(crate) fn failed(&self, call: &'static str, error: &Error) {
        let cause = cause(error);
        self.refusals.add(1, &[KeyValue::new("call", call), KeyValue::new("cause", cause)]);
    }

    pub(crate) fn renewed(&self, took: Duration) {
        self.keepalive.record(took.as_secs_f64(), &[]);
    }

    pub(crate) fn acquired(&self, waited: Duration) {
        self.lock_wait.record(waited.as_secs_f64(), &[]);
    }

    pub(crate) fn store(&self, revision: u64, size: u64) {
        self.revision.record(revision, &[]);
        self.size.record(size, &[]);
    }

    pub(crate) fn budget(&self, budget: &WriteBudget) {
        let (granted, refused, held_back) = budget.totals();
        self.granted.record(granted, &[]);
        self.refused.record(refused, &[]);
        self.held_back.record(held_back.as_secs_f64(), &[]);
    }
}

fn cause(error: &Error) -> &'static str {
    match error {
        Error::LostOwnership { .. } => "lost_ownership",
        Error::PositionConflict { .. } => "position_conflict",
        Error::CheckpointConflict { .. } => "checkpoint_conflict",
        Error::WrongJournal { .. } => "wrong_journal",
        Error::ActionWaits { .. } => "action_waits",
        Error::PausedBefore { .. } => "paused_before",
        Error::ActionEnded { .. } => "action_ended",
        Error::Fence { .. } => "fence",
        Error::SessionLost(_) => "session_lost",
        Error::Key(_) | Error::Invalid(_) => "invalid",
        Error::Busy(_) => "busy",
        Error::Contended(_) => "contended",
        Error::Record { .. } => "damaged",
        Error::Kv(_) => "store",
    }
}
