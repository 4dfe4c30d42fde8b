//! Sessions, locks, commits and checkpoints, as a client of the coordinator.
//!
//! A [`Session`] is this process's lease, renewed by a task of its own; every [`Lock`] of the
//! process lives under it. A lock comes with an [`Epoch`], which the protected resource compares:
//! the lock makes double work rare, the epoch makes it harmless.
//!
//! ```text
//! let coordination = Coordination::new(transport);
//! let session = coordination.session(SessionOptions::default()).await?;
//! let lock = session.acquire("ingestor/cosmoshub-4").await?;      // waits its turn
//! let writer = open(lock.epoch());                                 // fences everyone before
//! tokio::select! { _ = lock.lost() => stop(), _ = work(&lock) => {} }
//! lock.release().await?;
//! ```
//!
//! **Validity.** A lease counts as held from the moment a keepalive was *sent* (on the clock that
//! also runs while the machine sleeps) for as long as the store said, minus a margin. Past that
//! instant [`Lock::is_valid`] is false and stays false, whatever a later answer says.
//!
//! **Replicas.** Any coordinator behind the transport serves any call. A call that failed in
//! transit is repeated with the same nonce, so it keeps its place and takes effect once. After two
//! calls in a row that failed or are late, the next goes over a new connection, to the next
//! address if the transport knows several; what was streamed over the one before is asked for
//! again. A renewal does not wait for that: its tries overlap, and the first answer counts.

mod audit;
mod call;
mod clock;
mod coalesce;
mod control;
mod error;
mod lease;
mod link;
mod lock;
mod metrics;
mod session;
mod types;
mod wire;

pub use audit::{AuditEntry, AuditKind};
pub use coalesce::{CheckpointWriter, Coalesced, CommitWriter, Write};
pub use control::{Action, ActionKind, ActionResult, Control, ControlWatch, Paused};
pub use error::{CoordinationError, LostCause};
pub use lock::Lock;
pub use session::{Session, SessionOptions};
pub use types::{
    Commit, CommitRecord, Hold, Journal, LockStatus, Member, PutCheckpoint, StreamCheckpoint,
    StreamState,
};

use std::time::Duration;

use sluice_model::{Epoch, IngestorName, StartPosition};
use sluice_proto::v1 as pb;
use sluice_service::Transport;

use call::Caller;

/// The lock that guards an ingestor's journal and commits: `ingestor/<name>`.
pub fn ingestor_lock(ingestor: &IngestorName) -> String {
    format!("ingestor/{ingestor}")
}

/// The lock that guards an event stream's checkpoint: `stream/<name>`.
pub fn stream_lock(stream: &str) -> String {
    format!("stream/{stream}")
}

/// How long single calls and whole operations may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// One try.
    pub call: Duration,
    /// All tries of one operation together; then [`CoordinationError::Unavailable`].
    pub total: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { call: Duration::from_secs(3), total: Duration::from_secs(10) }
    }
}

/// A client of the coordinator. Cheap to clone; clones share the transport.
///
/// Every method repeats a call that failed in transit, within [`Patience`], and is cancel safe in
/// the sense that a dropped call may or may not have taken effect; repeating it is harmless.
#[derive(Clone, Debug)]
pub struct Coordination {
    caller: Caller,
}

impl Coordination {
    /// Over a transport, with the default patience. Does no I/O.
    pub fn new(transport: Transport) -> Self {
        Self::with_patience(transport, Patience::default())
    }

    /// Over a transport, with another patience.
    pub fn with_patience(transport: Transport, patience: Patience) -> Self {
        Self { caller: Caller::new(transport, patience) }
    }

    /// Makes a session and the task that keeps it alive. Fails if the first lease cannot be had;
    /// afterwards a lost lease is replaced by itself, while the locks under it are lost.
    pub async fn session(&self, options: SessionOptions) -> Result<Session, CoordinationError> {
        Session::start(self.caller.clone(), options).await
    }

    /// The id of the ingestor's journal; mints it on the first call. Idempotent.
    pub async fn ensure_journal(
        &self,
        ingestor: &IngestorName,
    ) -> Result<Journal, CoordinationError> {
        let request = pb::EnsureJournalRequest { ingestor: ingestor.to_string() };
        let response = self
            .caller
            .call("EnsureJournal", |mut client| {
                let request = request.clone();
                async move { client.ensure_journal(request).await }
            })
            .await?;
        wire::journal(&response)
    }

    /// The last commit of the ingestor; `None` before the first. Linearizable.
    pub async fn latest(
        &self,
        ingestor: &IngestorName,
    ) -> Result<Option<CommitRecord>, CoordinationError> {
        let request = pb::LatestRequest { ingestor: ingestor.to_string() };
        let response = self
            .caller
            .call("Latest", |mut client| {
                let request = request.clone();
                async move { client.latest(request).await }
            })
            .await?;
        response.commit.as_ref().map(wire::commit_record).transpose()
    }

    /// Moves the commit of the lock's ingestor. Repeating a commit that took effect succeeds.
    ///
    /// Errors: [`CoordinationError::LostOwnership`] if the lock is no longer held (also when it is
    /// past its deadline here, without a call); [`CoordinationError::PositionConflict`] if
    /// `previous` is not the last commit or the new position is not after it.
    pub async fn commit(
        &self,
        lock: &Lock,
        commit: &Commit,
    ) -> Result<CommitRecord, CoordinationError> {
        let result = self.try_commit(lock, commit).await;
        self.caller.metrics().committed(&commit.ingestor, &result);
        result
    }

    async fn try_commit(
        &self,
        lock: &Lock,
        commit: &Commit,
    ) -> Result<CommitRecord, CoordinationError> {
        lock.check()?;
        let request = wire::commit_request(lock, commit);
        let answer = self
            .caller
            .call("Commit", |mut client| {
                let request = request.clone();
                async move { client.commit(request).await }
            })
            .await;
        match answer {
            Ok(response) => wire::commit_record(&wire::required(response.commit, "commit")?),
            Err(CoordinationError::Refused { reason, .. }) if reason == wire::CONFLICT => {
                Err(CoordinationError::PositionConflict {
                    ingestor: commit.ingestor.clone(),
                    stored: self.latest(&commit.ingestor).await?.map(Box::new),
                })
            }
            Err(error) => Err(error.of_lock(lock.name())),
        }
    }

    /// Raises the store's incarnation past a fence that refused this lock's current epoch, which
    /// happens after the store was restored from a backup. The lock goes on under the epoch that
    /// is returned (and that [`Lock::epoch`] reports from then on), which is above the fence.
    pub async fn raise_incarnation(
        &self,
        lock: &Lock,
        fence: Epoch,
    ) -> Result<Epoch, CoordinationError> {
        lock.check()?;
        let (session, nonce) = lock.credentials();
        let request = pb::RaiseIncarnationRequest {
            lock: lock.name().to_owned(),
            session,
            nonce,
            fence: fence.as_u64(),
        };
        let response = self
            .caller
            .call("RaiseIncarnation", |mut client| {
                let request = request.clone();
                async move { client.raise_incarnation(request).await }
            })
            .await
            .map_err(|error| error.of_lock(lock.name()))?;
        let epoch = Epoch::from_u64(response.epoch);
        lock.raise(epoch);
        Ok(epoch)
    }

    /// Where a stream stands: its checkpoint, if there is one since the last reset, and the reset
    /// epoch that the next checkpoint must name. Linearizable.
    pub async fn get_checkpoint(&self, stream: &str) -> Result<StreamState, CoordinationError> {
        let request = pb::GetCheckpointRequest { stream: stream.to_owned() };
        let response = self
            .caller
            .call("GetCheckpoint", |mut client| {
                let request = request.clone();
                async move { client.get_checkpoint(request).await }
            })
            .await?;
        wire::stream_state(&response)
    }

    /// Moves a stream's checkpoint and returns its new version. Repeating a write that took effect
    /// succeeds.
    ///
    /// Errors: as [`Self::commit`], with [`CoordinationError::CheckpointConflict`] if
    /// `previous_version` is not the stored one, the reset epoch is not the current one, or the
    /// position went backwards without a reset.
    pub async fn put_checkpoint(
        &self,
        lock: &Lock,
        put: &PutCheckpoint,
    ) -> Result<u64, CoordinationError> {
        lock.check()?;
        let request = wire::checkpoint_request(lock, put);
        let answer = self
            .caller
            .call("PutCheckpoint", |mut client| {
                let request = request.clone();
                async move { client.put_checkpoint(request).await }
            })
            .await;
        match answer {
            Ok(response) => Ok(response.version),
            Err(CoordinationError::Refused { reason, .. }) if reason == wire::CONFLICT => {
                Err(CoordinationError::CheckpointConflict {
                    stream: put.stream.clone(),
                    stored: Box::new(self.get_checkpoint(&put.stream).await?),
                })
            }
            Err(error) => Err(error.of_lock(lock.name())),
        }
    }

    /// Starts a stream over from `start`: the stored checkpoint is ignored from now on and its
    /// owner's next write is refused. Returns the new reset epoch.
    pub async fn reset_stream(
        &self,
        stream: &str,
        start: &StartPosition,
    ) -> Result<u64, CoordinationError> {
        let state = self.get_checkpoint(stream).await?;
        let request = pb::ResetStreamRequest {
            stream: stream.to_owned(),
            start: start.to_string(),
            previous_reset_epoch: state.reset_epoch,
        };
        let response = self
            .caller
            .call("ResetStream", |mut client| {
                let request = request.clone();
                async move { client.reset_stream(request).await }
            })
            .await?;
        Ok(response.reset_epoch)
    }

    /// What retention must keep of an ingestor: holds put by hand and those that the checkpoints
    /// of its streams imply.
    pub async fn holds(&self, ingestor: &IngestorName) -> Result<Vec<Hold>, CoordinationError> {
        let request = pb::ListHoldsRequest { ingestor: ingestor.to_string() };
        let response = self
            .caller
            .call("ListHolds", |mut client| {
                let request = request.clone();
                async move { client.list_holds(request).await }
            })
            .await?;
        response.holds.iter().map(wire::hold).collect()
    }

    /// Puts or moves a hold.
    pub async fn put_hold(&self, hold: &Hold) -> Result<(), CoordinationError> {
        let request = pb::PutHoldRequest { hold: Some(wire::hold_message(hold)) };
        self.caller
            .call("PutHold", |mut client| {
                let request = request.clone();
                async move { client.put_hold(request).await }
            })
            .await?;
        Ok(())
    }

    /// Ends a hold. Idempotent.
    pub async fn delete_hold(
        &self,
        ingestor: &IngestorName,
        name: &str,
    ) -> Result<(), CoordinationError> {
        let request =
            pb::DeleteHoldRequest { name: name.to_owned(), ingestor: ingestor.to_string() };
        self.caller
            .call("DeleteHold", |mut client| {
                let request = request.clone();
                async move { client.delete_hold(request).await }
            })
            .await?;
        Ok(())
    }

    /// Owners and waiters of the locks whose names begin with `prefix`.
    pub async fn locks(&self, prefix: &str) -> Result<Vec<LockStatus>, CoordinationError> {
        let request = pb::ListLocksRequest { prefix: prefix.to_owned() };
        let response = self
            .caller
            .call("ListLocks", |mut client| {
                let request = request.clone();
                async move { client.list_locks(request).await }
            })
            .await?;
        Ok(response.locks.iter().map(wire::lock_status).collect())
    }
}
