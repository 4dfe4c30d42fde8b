use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use sluice_model::{Generation, Pointer};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Commit, Coordination, CoordinationError, Lock, PutCheckpoint};

/// Where coalesced values go. Called with one value at a time, in the order they were offered,
/// never again after an error.
#[async_trait]
pub trait Write<T>: Send + 'static {
    /// What can go wrong.
    type Error: Send + Sync + 'static;

    /// Writes a value that replaces every one offered before it.
    async fn write(&mut self, value: T) -> Result<(), Self::Error>;
}

/// Keeps the newest of many values and writes it at most once per interval, and at once on
/// [`Coalesced::flush`]: commits and checkpoints move with every block, the store is asked once a
/// second. Dropping it stops the writing without a last write.
pub struct Coalesced<T, E> {
    shared: Arc<Shared<T, E>>,
    _stop: DropGuard,
}

struct Shared<T, E> {
    slot: Mutex<Slot<T, E>>,
    changed: Notify,
    settled: Notify,
    failed: CancellationToken,
}

struct Slot<T, E> {
    pending: Option<T>,
    writing: bool,
    hurry: bool,
    error: Option<Arc<E>>,
}

impl<T, E> fmt::Debug for Coalesced<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = self.shared.slot.lock();
        f.debug_struct("Coalesced")
            .field("pending", &slot.pending.is_some())
            .field("failed", &slot.error.is_some())
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static, E: Send + Sync + 'static> Coalesced<T, E> {
    /// Starts the writing task. `every` is the least time between two writes begun.
    pub fn spawn(every: Duration, writer: impl Write<T, Error = E>) -> Self {
        let shared = Arc::new(Shared {
            slot: Mutex::new(Slot { pending: None, writing: false, hurry: false, error: None }),
            changed: Notify::new(),
            settled: Notify::new(),
            failed: CancellationToken::new(),
        });
        let stop = CancellationToken::new();
        let (task, stopped) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = task.run(every, writer) => {}
            }
        });
        Self { shared, _stop: stop.drop_guard() }
    }

    /// Offers a value; it replaces one that was not written yet. Never waits. After a failure it
    /// is dropped; the failure is what [`Self::failed`] and [`Self::flush`] return.
    pub fn offer(&self, value: T) {
        let mut slot = self.shared.slot.lock();
        if slot.error.is_none() {
            slot.pending = Some(value);
            drop(slot);
            self.shared.changed.notify_one();
        }
    }

    /// Writes what is pending without waiting for the interval, and waits until nothing is
    /// pending or in flight. For hand-over and stop.
    pub async fn flush(&self) -> Result<(), Arc<E>> {
        loop {
            let settled = self.shared.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            {
                let mut slot = self.shared.slot.lock();
                if let Some(error) = &slot.error {
                    return Err(Arc::clone(error));
                }
                if slot.pending.is_none() && !slot.writing {
                    return Ok(());
                }
                slot.hurry = true;
            }
            self.shared.changed.notify_one();
            settled.await;
        }
    }

    /// Resolves when a write failed; nothing is written after that. Cancel safe.
    pub async fn failed(&self) -> Arc<E> {
        loop {
            self.shared.failed.cancelled().await;
            if let Some(error) = &self.shared.slot.lock().error {
                return Arc::clone(error);
            }
        }
    }
}

impl<T: Send, E: Send + Sync> Shared<T, E> {
    async fn run(&self, every: Duration, mut writer: impl Write<T, Error = E>) {
        loop {
            let value = self.next().await;
            let begun = tokio::time::Instant::now();
            let result = writer.write(value).await;
            {
                let mut slot = self.slot.lock();
                slot.writing = false;
                if let Err(error) = result {
                    slot.error = Some(Arc::new(error));
                    slot.pending = None;
                    self.failed.cancel();
                }
            }
            self.settled.notify_waiters();
            if self.failed.is_cancelled() {
                return;
            }
            self.pause(begun + every).await;
        }
    }

    async fn next(&self) -> T {
        loop {
            if let Some(value) = self.take() {
                return value;
            }
            self.changed.notified().await;
        }
    }

    fn take(&self) -> Option<T> {
        let mut slot = self.slot.lock();
        slot.hurry = false;
        let value = slot.pending.take();
        slot.writing = value.is_some();
        value
    }

    /// Sleeps, unless somebody flushes.
    async fn pause(&self, until: tokio::time::Instant) {
        loop {
            if self.slot.lock().hurry {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = self.changed.notified() => {}
            }
        }
    }
}

/// Writes commits, each following the one before.
#[derive(Debug)]
pub struct CommitWriter {
    coordination: Coordination,
    lock: Lock,
    previous: Pointer,
    generation: Option<Generation>,
}

impl CommitWriter {
    /// For the owner of an ingestor whose last commit is at `previous`
    /// ([`Pointer::ORIGIN`] if there is none). The `previous` of offered commits is overwritten.
    pub fn new(coordination: Coordination, lock: Lock, previous: Pointer) -> Self {
        Self { coordination, lock, previous, generation: None }
    }
}

#[async_trait]
impl Write<Commit> for CommitWriter {
    type Error = CoordinationError;

    async fn write(&mut self, mut commit: Commit) -> Result<(), CoordinationError> {
        if self.generation == Some(commit.generation) && self.previous == commit.pointer {
            // Offered twice, as on a hand-over while nothing moves.
            return Ok(());
        }
        commit.previous = self.previous.clone();
        let stored = self.coordination.commit(&self.lock, &commit).await?;
        self.previous = stored.pointer;
        self.generation = Some(stored.generation);
        Ok(())
    }
}

/// Writes checkpoints, each replacing the one before.
#[derive(Debug)]
pub struct CheckpointWriter {
    coordination: Coordination,
    lock: Lock,
    version: u64,
}

impl CheckpointWriter {
    /// For the owner of a stream whose stored version is `version` (0 if there is none). The
    /// `previous_version` of offered checkpoints is overwritten.
    pub fn new(coordination: Coordination, lock: Lock, version: u64) -> Self {
        Self { coordination, lock, version }
    }
}

#[async_trait]
impl Write<PutCheckpoint> for CheckpointWriter {
    type Error = CoordinationError;

    async fn write(&mut self, mut put: PutCheckpoint) -> Result<(), CoordinationError> {
        put.previous_version = self.version;
        self.version = self.coordination.put_checkpoint(&self.lock, &put).await?;
        Ok(())
    }
}
