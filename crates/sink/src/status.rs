//! What a stream is doing, for people and for gRPC.

use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use sluice_model::{Epoch, Head, Position};

use crate::{
    batch::{Batch, Reached},
    metrics::Metrics,
};

/// What a stream is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Another process holds the lock.
    #[default]
    Waiting,
    /// The lock is held; reading the checkpoint, opening the feed.
    Starting,
    /// Delivering, or nothing to deliver.
    Running,
    /// The destination or the feed failed; it is tried again.
    Retrying,
    /// The same, for longer than the retry time, or until a person acts.
    Blocked,
    /// The journal cannot continue the checkpoint; waits for a person.
    Gap,
    /// Shut down.
    Stopped,
}

/// A moment's view of a stream.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What it is doing.
    pub state: State,
    /// What stands in the way, and the command that shows or fixes it; empty if nothing does.
    pub cause: String,
    /// As stored.
    pub checkpoint: Option<Position>,
    /// Its height.
    pub checkpoint_height: u64,
    /// The journal's head as last heard.
    pub head: Option<Head>,
    /// Batches delivered by this process.
    pub batches: u64,
    /// Events delivered by this process.
    pub events: u64,
    /// Bytes of changes delivered by this process.
    pub bytes: u64,
    /// Deliveries that failed in this process.
    pub retries: u64,
    /// When a batch was last delivered, nanoseconds since 1970.
    pub last_delivery: Option<i64>,
    /// The last failure; stays after a success.
    pub last_error: String,
    /// The epoch of the lock; zero while it is not held.
    pub epoch: Epoch,
}

/// The one writer is the stream's task; readers take snapshots.
#[derive(Debug)]
pub struct Status {
    snapshot: Mutex<Snapshot>,
    metrics: Metrics,
}

impl Status {
    pub(crate) fn new(metrics: Metrics) -> Self {
        let snapshot = Snapshot { cause: WAITING.to_owned(), ..Snapshot::default() };
        Self { snapshot: Mutex::new(snapshot), metrics }
    }

    /// A moment's view.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.lock().clone()
    }

    pub(crate) fn waiting(&self) {
        self.set(State::Waiting, WAITING);
        self.snapshot.lock().epoch = Epoch::ZERO;
    }

    pub(crate) fn starting(&self, epoch: Epoch) {
        self.snapshot.lock().epoch = epoch;
        self.set(State::Starting, "");
    }

    pub(crate) fn running(&self) {
        self.set(State::Running, "");
    }

    pub(crate) fn set(&self, state: State, cause: &str) {
        let mut snapshot = self.snapshot.lock();
        snapshot.state = state;
        cause.clone_into(&mut snapshot.cause);
        if matches!(state, State::Retrying | State::Blocked | State::Gap) {
            cause.clone_into(&mut snapshot.last_error);
        }
        self.metrics.state(state);
    }

    pub(crate) fn failed(&self, state: State, cause: &str) {
        self.snapshot.lock().retries += 1;
        self.metrics.retry();
        self.set(state, cause);
    }

    pub(crate) fn delivered(&self, batch: &Batch) {
        {
            let mut snapshot = self.snapshot.lock();
            snapshot.batches += 1;
            snapshot.events += batch.event_count() as u64;
            snapshot.bytes += batch.bytes() as u64;
            snapshot.last_delivery = Some(now_nanos());
        }
        self.metrics.delivered(batch);
        self.running();
    }

    pub(crate) fn checkpoint(&self, reached: &Reached) {
        let head = {
            let mut snapshot = self.snapshot.lock();
            snapshot.checkpoint = Some(reached.at.position.clone());
            snapshot.checkpoint_height = reached.height;
            snapshot.head.as_ref().map(|head| head.height)
        };
        self.metrics.checkpoint(reached.height, head);
    }

    pub(crate) fn head(&self, head: Head) {
        let checkpoint = {
            let mut snapshot = self.snapshot.lock();
            let height = snapshot.checkpoint.is_some().then_some(snapshot.checkpoint_height);
            let told = (head.height, height);
            snapshot.head = Some(head);
            told
        };
        if let (head, Some(checkpoint)) = checkpoint {
            self.metrics.checkpoint(checkpoint, Some(head));
        }
    }
}

const WAITING: &str =
    "another replica holds the stream's lock, or none has won it yet; `sluice status` shows who";

fn now_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
