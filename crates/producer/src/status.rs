//! The state of an ingestor, as operators see it.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use sluice_model::{Epoch, Head, IngestorName, Pointer};
use sluice_proto::v1 as pb;

use crate::{metrics::Metrics, notes::Notes, policy::Policy, source::Ack};

/// What an ingestor is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for the lock.
    #[default]
    Standby,
    /// Holds the lock, opens the journal.
    Opening,
    /// Captures.
    Active,
    /// Does not get past a block; tries again now and then.
    Blocked,
    /// Data loss or a fork was detected; waits for an operator.
    Halted,
    /// The process stops.
    Stopped,
    /// The source has ended.
    Finished,
}

impl State {
    /// Every state, for metrics.
    pub const ALL: [Self; 7] = [
        Self::Standby,
        Self::Opening,
        Self::Active,
        Self::Blocked,
        Self::Halted,
        Self::Stopped,
        Self::Finished,
    ];

    /// The state in one word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Opening => "opening",
            Self::Active => "active",
            Self::Blocked => "blocked",
            Self::Halted => "halted",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
        }
    }
}

impl From<State> for pb::IngestorState {
    fn from(state: State) -> Self {
        match state {
            State::Standby => Self::Standby,
            State::Opening => Self::Opening,
            State::Active => Self::Active,
            State::Blocked => Self::Blocked,
            State::Halted => Self::Halted,
            State::Stopped => Self::Stopped,
            State::Finished => Self::Finished,
        }
    }
}

/// A snapshot of an ingestor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// What it does.
    pub state: State,
    /// What stands in the way; empty if nothing.
    pub cause: String,
    /// The epoch of the lock; zero without one.
    pub epoch: Epoch,
    /// The last durable block known here.
    pub head: Option<Head>,
    /// The last committed block.
    pub committed: Pointer,
    /// The newest height the source is known to have; 0 if it cannot tell.
    pub source_height: u64,
    /// Blocks acknowledged in this process.
    pub blocks: u64,
    /// Changes in them.
    pub changes: u64,
    /// Failures in a row.
    pub failures: u32,
}

/// A status that the ingest loop writes and others read.
#[derive(Clone, Debug)]
pub struct StatusCell {
    ingestor: IngestorName,
    source: String,
    notes: Notes,
    metrics: Metrics,
    shared: Arc<Mutex<Status>>,
}

impl StatusCell {
    /// The status of an ingestor that does nothing yet.
    pub fn new(ingestor: IngestorName, source: &str, notes: Notes, metrics: Metrics) -> Self {
        let shared = Arc::default();
        Self { ingestor, source: source.to_owned(), notes, metrics, shared }
    }

    /// The status now.
    pub fn get(&self) -> Status {
        self.shared.lock().clone()
    }

    /// Where the numbers go.
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whose status it is.
    pub const fn ingestor(&self) -> &IngestorName {
        &self.ingestor
    }

    /// A new state and what is to be said about it.
    pub fn state(&self, state: State, cause: impl Into<String>) {
        let cause = cause.into();
        let mut status = self.shared.lock();
        if status.state != state {
            tracing::info!(ingestor = %self.ingestor, from = status.state.word(), to = state.word(), cause, "ingestor state");
            self.metrics.state(&self.ingestor, status.state, state);
        }
        (status.state, status.cause) = (state, cause);
    }

    /// The failures as the policy counts them; a blocked ingestor stays so until it progresses.
    pub fn failures(&self, policy: &Policy) {
        self.shared.lock().failures = policy.failures();
    }

    /// The lock was won.
    pub fn epoch(&self, epoch: Epoch) {
        self.shared.lock().epoch = epoch;
    }

    /// The journal was opened.
    pub fn opened(&self, head: Option<&Head>) {
        self.shared.lock().head = head.cloned();
    }

    /// A remark for operators, or none any more.
    pub fn note(&self, key: &'static str, remark: Option<String>) {
        self.notes.set(key, remark);
    }

    /// A block with this many changes and bytes is durable.
    pub fn acked(&self, ack: &Ack, changes: u64, bytes: u64) {
        self.metrics.acked(&self.ingestor, changes, bytes);
        let mut status = self.shared.lock();
        status.blocks += 1;
        status.changes += changes;
        drop(status);
        self.advanced(ack);
    }

    /// The journal's head moved.
    pub fn advanced(&self, ack: &Ack) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let mut status = self.shared.lock();
        let later = status
            .head
            .as_ref()
            .is_none_or(|head| (head.generation, &head.pointer) < (ack.generation, &ack.pointer));
        if later {
            status.head = Some(Head {
                generation: ack.generation,
                pointer: ack.pointer.clone(),
                height: ack.height,
                digest: ack.digest,
                time: ack.time,
                appended: i64::try_from(now).unwrap_or(i64::MAX),
            });
        }
        self.metrics.lag(&self.ingestor, status.lag());
        let blocked = status.state == State::Blocked;
        drop(status);
        if blocked {
            self.state(State::Active, "");
        }
    }

    /// The source is known to have this height.
    pub fn source_height(&self, height: u64) {
        let mut status = self.shared.lock();
        status.source_height = status.source_height.max(height);
        self.metrics.lag(&self.ingestor, status.lag());
    }

    /// The commit moved.
    pub fn committed(&self, pointer: Pointer) {
        self.shared.lock().committed = pointer;
    }

    /// As the API tells it.
    pub fn message(&self) -> pb::IngestorStatus {
        let status = self.get();
        pb::IngestorStatus {
            ingestor: self.ingestor.to_string(),
            source: self.source.clone(),
            state: pb::IngestorState::from(status.state).into(),
            cause: status.cause,
            epoch: status.epoch.as_u64(),
            head: status.head.as_ref().map(Into::into),
            committed_pointer: status.committed.to_bytes(),
            source_height: status.source_height,
            blocks: status.blocks,
            changes: status.changes,
            failures: status.failures,
            repairs: self.notes.list(),
        }
    }
}

impl Status {
    /// Blocks that the source has and the journal does not.
    pub fn lag(&self) -> u64 {
        self.source_height.saturating_sub(self.head.as_ref().map_or(0, |head| head.height))
    }
}
