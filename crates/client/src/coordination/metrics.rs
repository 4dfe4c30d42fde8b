use std::time::Duration;

use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Gauge, Histogram, UpDownCounter},
};
use sluice_model::{Epoch, IngestorName};

use super::{CoordinationError, LostCause};

/// What operators see of this process's sessions and locks. The instruments are the process's:
/// every client records into the same.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    holder: UpDownCounter<i64>,
    epoch: Gauge<u64>,
    wait: Histogram<f64>,
    lost: Counter<u64>,
    remaining: Gauge<f64>,
    keepalive: Histogram<f64>,
    commits: Counter<u64>,
    conflicts: Counter<u64>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let meter = global::meter("sluice");
        Self {
            holder: meter
                .i64_up_down_counter("sluice.lock.holder")
                .with_description("1 while this process holds the lock as far as it can know.")
                .build(),
            epoch: meter
                .u64_gauge("sluice.lock.epoch")
                .with_description("Epoch under which this process last held the lock.")
                .build(),
            wait: meter
                .f64_histogram("sluice.lock.wait")
                .with_unit("s")
                .with_description("Time from asking for a lock to owning it.")
                .build(),
            lost: meter
                .u64_counter("sluice.lock.lost")
                .with_description("Locks that ended without being given up, by cause.")
                .build(),
            remaining: meter
                .f64_gauge("sluice.session.remaining")
                .with_unit("s")
                .with_description("Time before the session's deadline, after which no lock holds.")
                .build(),
            keepalive: meter
                .f64_histogram("sluice.session.keepalive.duration")
                .with_unit("s")
                .with_description("Time from sending a keepalive to its answer.")
                .build(),
            commits: meter
                .u64_counter("sluice.commits")
                .with_description("Commits that were stored.")
                .build(),
            conflicts: meter
                .u64_counter("sluice.commit.conflicts")
                .with_description("Commits that were refused, by kind.")
                .build(),
        }
    }

    pub(super) fn owned(&self, lock: &str, epoch: Epoch, waited: Duration) {
        self.holder.add(1, &[name(lock)]);
        self.wait.record(waited.as_secs_f64(), &[]);
        self.raised(lock, epoch);
    }

    pub(super) fn raised(&self, lock: &str, epoch: Epoch) {
        self.epoch.record(epoch.as_u64(), &[name(lock)]);
    }

    /// Must follow [`Self::owned`] once.
    pub(super) fn ended(&self, lock: &str, cause: &LostCause) {
        self.holder.add(-1, &[name(lock)]);
        let cause = match cause {
            LostCause::Released => return,
            LostCause::Deadline => "deadline",
            LostCause::SessionLost => "session",
            LostCause::KeyGone(_) => "key",
        };
        self.lost.add(1, &[name(lock), KeyValue::new("cause", cause)]);
    }

    pub(super) fn remaining(&self, remaining: Duration) {
        self.remaining.record(remaining.as_secs_f64(), &[]);
    }

    pub(super) fn renewed(&self, took: Duration) {
        self.keepalive.record(took.as_secs_f64(), &[]);
    }

    pub(super) fn committed<T>(
        &self,
        ingestor: &IngestorName,
        result: &Result<T, CoordinationError>,
    ) {
        let ingestor = KeyValue::new("ingestor", ingestor.to_string());
        let kind = match result {
            Ok(_) => return self.commits.add(1, &[ingestor]),
            Err(CoordinationError::LostOwnership { .. }) => "lost_ownership",
            Err(CoordinationError::PositionConflict { .. }) => "position",
            Err(CoordinationError::Unavailable { .. }) => "unavailable",
            Err(_) => "refused",
        };
        self.conflicts.add(1, &[ingestor, KeyValue::new("kind", kind)]);
    }
}

fn name(lock: &str) -> KeyValue {
    KeyValue::new("lock", lock.to_owned())
}
