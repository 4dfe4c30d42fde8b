//! The state of an ingestor, as operators see it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use sluice_client::coordination::Control;
use sluice_model::{Epoch, Head, IngestorName, Pointer};
use sluice_proto::{convert, v1 as pb};

use crate::{control, ingest::Gap, metrics::Metrics, notes::Notes, policy::Policy, source::Ack};

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
    /// Data loss was detected; keeps the lock and waits for an operator.
    Halted,
    /// Keeps the lock and captures nothing, because an operator wants it so.
    Paused,
    /// The process stops.
    Stopped,
    /// The source has ended.
    Finished,
}

impl State {
    /// Every state, for metrics.
    pub const ALL: [Self; 8] = [
        Self::Standby,
        Self::Opening,
        Self::Active,
        Self::Blocked,
        Self::Halted,
        Self::Paused,
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
            Self::Paused => "paused",
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
            State::Paused => Self::Paused,
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
    /// The block that it does not get past.
    pub blocked: Option<Pointer>,
    /// Operators want it paused.
    pub paused: bool,
    /// The action that operators asked for and that is not done yet, in words.
    pub pending: String,
    /// The last missing stretch recorded by this process, and the height of its end.
    pub last_gap: Option<(Gap, u64)>,
    /// Blocks sent and not acknowledged.
    pub inflight: usize,
    /// When the commit was last moved here, nanoseconds since 1970; 0 if never.
    pub committed_at: i64,
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    i64::try_from(now).unwrap_or(i64::MAX)
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
        metrics.watch(&ingestor, &shared);
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
        let mut status = self.shared.lock();
        status.failures = policy.failures();
        status.blocked = policy.blocked().and_then(|blocked| blocked.pointer.clone());
    }

    /// What operators want.
    pub fn control(&self, wanted: &Control) {
        let mut status = self.shared.lock();
        status.paused = wanted.paused.is_some();
        status.pending = wanted.action.as_ref().map(control::describe).unwrap_or_default();
    }

    /// The lock was won after a wait.
    pub fn owned(&self, epoch: Epoch, waited: Duration) {
        self.metrics.waited(&self.ingestor, waited);
        self.epoch(epoch);
    }

    /// The epoch of the lock; zero without one.
    pub fn epoch(&self, epoch: Epoch) {
        self.shared.lock().epoch = epoch;
    }

    /// The journal was opened.
    pub fn opened(&self, head: Option<&Head>) {
        self.shared.lock().head = head.cloned();
    }

    /// A missing stretch was recorded.
    pub fn gap(&self, gap: &Gap, height: u64) {
        self.shared.lock().last_gap = Some((gap.clone(), height));
    }

    /// So many blocks are sent and not acknowledged.
    pub fn inflight(&self, blocks: usize) {
        self.shared.lock().inflight = blocks;
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
                appended: now(),
            });
        }
        self.metrics.lag(&self.ingestor, status.lag());
        let new = !ack.duplicate && !ack.unverifiable;
        let blocked = status.state == State::Blocked;
        drop(status);
        if blocked && new {
            self.state(State::Active, "");
        }
    }

    /// The source is known to have this height.
    pub fn source_height(&self, height: u64) {
        let mut status = self.shared.lock();
        status.source_height = status.source_height.max(height);
        self.metrics.lag(&self.ingestor, status.lag());
    }

    /// The stored commit, as far as it is known here.
    pub fn committed(&self, pointer: Pointer) {
        self.shared.lock().committed = pointer;
    }

    /// The commit moved.
    pub fn commit_moved(&self, pointer: Pointer) {
        self.metrics.commit(&self.ingestor);
        let mut status = self.shared.lock();
        (status.committed, status.committed_at) = (pointer, now());
    }

    /// As the API tells it.
    pub fn message(&self) -> pb::IngestorStatus {
        let status = self.get();
        let lag_blocks = status.lag();
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
            generation: status.head.as_ref().map_or(0, |head| head.generation.0),
            paused: status.paused,
            blocked_pointer: status.blocked.as_ref().map(Pointer::to_bytes).unwrap_or_default(),
            lag_blocks,
            committed_at: (status.committed_at > 0)
                .then(|| convert::timestamp(status.committed_at)),
            pending_action: status.pending,
            last_gap: status.last_gap.map(|(gap, height)| pb::RecordedGap {
                gap: Some(pb::Gap {
                    from: gap.from.to_bytes(),
                    to: gap.to.to_bytes(),
                    cause: gap.cause,
                }),
                height,
            }),
        }
    }
}

impl Status {
    /// Blocks that the source has and the journal does not.
    pub fn lag(&self) -> u64 {
        self.source_height.saturating_sub(self.head.as_ref().map_or(0, |head| head.height))
    }

    /// Seconds since the time of the newest durable block: its own, or else when it was appended.
    pub fn age(&self, now: i64) -> Option<f64> {
        let head = self.head.as_ref()?;
        let time = head.time.filter(|time| *time > 0).unwrap_or(head.appended);
        let nanos = u64::try_from(now.saturating_sub(time)).unwrap_or_default();
        (time > 0).then(|| Duration::from_nanos(nanos).as_secs_f64())
    }
}
