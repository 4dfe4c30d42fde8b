//! What the ingest loop needs of the coordinator and of the router, as traits, and the adapters
//! over their clients.

use std::{future::Future, pin::Pin, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use sluice_client::{
    append::{self, AppendError, Appender},
    coordination::{
        AuditEntry, Commit, CommitRecord, Control, ControlWatch, Coordination, CoordinationError,
        Journal, Lock, LostCause, Session, ingestor_lock,
    },
};
use sluice_frame::{Frame, StateDigest};
use sluice_model::{Epoch, Generation, Head, IngestorName, JournalId, Kind, Pointer};
use sluice_proto::{convert, reason, v1 as pb};
use sluice_service::Transport;

/// A future that owns what it needs.
pub type Owned<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Locks and commits.
///
/// # Contract
/// As `sluice_client::coordination`: at most one owner per name believes in its lock at a time,
/// up to pauses; epochs grow with every owner; commits are compare-and-swap under the lock.
#[async_trait]
pub trait Coordinator: Send + Sync {
    /// Waits for the ingestor's lock. Cancel safe: giving up gives the place in the queue up.
    async fn acquire(
        &self,
        ingestor: &IngestorName,
    ) -> Result<Arc<dyn Ownership>, CoordinationError>;
    /// The journal's id, minted by the first call.
    async fn ensure_journal(&self, ingestor: &IngestorName) -> Result<Journal, CoordinationError>;
    /// The last commit, linearizable.
    async fn latest(
        &self,
        ingestor: &IngestorName,
    ) -> Result<Option<CommitRecord>, CoordinationError>;
    /// What operators want of the ingestor: the present state first, then every change.
    fn control(&self, ingestor: &IngestorName) -> Box<dyn Controls>;
    /// Adds to the ingestor's trail.
    async fn audit(&self, entry: AuditEntry) -> Result<(), CoordinationError>;
    /// How many others wait for the ingestor's lock. Cancel safe.
    async fn waiters(&self, ingestor: &IngestorName) -> Result<usize, CoordinationError>;
}

/// The states of what operators want, in order.
#[async_trait]
pub trait Controls: Send {
    /// The present state at first, then each time it changed. Asks again by itself while nobody
    /// answers. Cancel safe.
    async fn next(&mut self) -> Result<Control, CoordinationError>;
}

/// A lock that is held.
#[async_trait]
pub trait Ownership: Send + Sync {
    /// The fencing number.
    fn epoch(&self) -> Epoch;
    /// Tells two acquisitions apart.
    fn nonce(&self) -> Bytes;
    /// False from the moment on that somebody else may own the lock; never true again.
    fn is_valid(&self) -> bool;
    /// Resolves when the lock is lost.
    fn lost(&self) -> Owned<LostCause>;
    /// Moves the commit.
    async fn commit(&self, commit: &Commit) -> Result<CommitRecord, CoordinationError>;
    /// Raises the epoch of this lock above a fence that an older life of the store left behind.
    async fn raise(&self, fence: Epoch) -> Result<Epoch, CoordinationError>;
    /// Tells how an action ended; gives what operators want now. Idempotent by the action's id.
    async fn finish_action(
        &self,
        ingestor: &IngestorName,
        id: u64,
        done: bool,
        message: &str,
    ) -> Result<Control, CoordinationError>;
    /// Gives the lock up.
    async fn release(&self) -> Result<(), CoordinationError>;
}

/// Journals to append to.
///
/// # Contract
/// As `sluice_client::append`: opening fences every earlier writer; blocks are acknowledged in
/// order, each when it is durable; the first refusal ends the writer.
#[async_trait]
pub trait Journals: Send + Sync {
    /// Makes a journal. Idempotent for one id.
    async fn create(&self, ingestor: &IngestorName, id: JournalId) -> Result<(), AppendError>;
    /// Opens a journal for writing.
    async fn open(&self, open: append::Open) -> Result<Opened, AppendError>;
    /// The lowest epoch that may open the journal.
    async fn fence(&self, ingestor: &IngestorName) -> Result<Epoch, AppendError>;
    /// What stands at a pointer in the history that leads to the head: a block or a gap. An error
    /// where retention has passed it.
    async fn block(
        &self,
        ingestor: &IngestorName,
        pointer: &Pointer,
        newest: Option<Generation>,
    ) -> Result<Option<StoredBlock>, AppendError>;
}

/// A block, or a gap, as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    /// A block or a gap.
    pub kind: Kind,
    /// Its place. `appended` is not told.
    pub head: Head,
    /// The block before; [`Pointer::ORIGIN`] for a gap, where it is not told.
    pub parent: Pointer,
    /// Per store, in order of first appearance.
    pub states: Vec<StateDigest>,
}

/// A journal opened for writing.
pub struct Opened {
    /// Where frames go.
    pub frames: Box<dyn FrameSink>,
    /// Where acknowledgements come from.
    pub acks: Box<dyn AckSource>,
    /// The last durable block.
    pub head: Option<Head>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("head", &self.head).finish_non_exhaustive()
    }
}

/// Takes frames in order.
#[async_trait]
pub trait FrameSink: Send {
    /// Queues a frame; waits while the window is full. [`AppendError::Ended`] means that the
    /// acknowledgements tell why.
    async fn send(&mut self, frame: &Frame) -> Result<(), AppendError>;
}

/// Gives acknowledgements in order.
#[async_trait]
pub trait AckSource: Send {
    /// The next one; `None` when the router ended the stream. Cancel safe.
    async fn next(&mut self) -> Result<Option<append::Ack>, AppendError>;
}

/// The coordinator behind its client.
#[derive(Clone, Debug)]
pub struct RemoteCoordinator {
    coordination: Coordination,
    session: Session,
}

impl RemoteCoordinator {
    /// Locks under this session.
    pub const fn new(coordination: Coordination, session: Session) -> Self {
        Self { coordination, session }
    }
}

struct RemoteLock {
    coordination: Coordination,
    lock: Lock,
}

#[async_trait]
impl Coordinator for RemoteCoordinator {
    async fn acquire(
        &self,
        ingestor: &IngestorName,
    ) -> Result<Arc<dyn Ownership>, CoordinationError> {
        let lock = self.session.acquire(&ingestor_lock(ingestor)).await?;
        Ok(Arc::new(RemoteLock { coordination: self.coordination.clone(), lock }))
    }

    async fn ensure_journal(&self, ingestor: &IngestorName) -> Result<Journal, CoordinationError> {
        self.coordination.ensure_journal(ingestor).await
    }

    async fn latest(
        &self,
        ingestor: &IngestorName,
    ) -> Result<Option<CommitRecord>, CoordinationError> {
        self.coordination.latest(ingestor).await
    }

    fn control(&self, ingestor: &IngestorName) -> Box<dyn Controls> {
        Box::new(self.coordination.watch_control(ingestor))
    }

    async fn audit(&self, entry: AuditEntry) -> Result<(), CoordinationError> {
        self.coordination.audit(&entry).await.map(drop)
    }

    async fn waiters(&self, ingestor: &IngestorName) -> Result<usize, CoordinationError> {
        let name = ingestor_lock(ingestor);
        let locks = self.coordination.locks(&name).await?;
        Ok(locks.iter().find(|lock| lock.lock == name).map_or(0, |lock| lock.waiters.len()))
    }
}

#[async_trait]
impl Controls for ControlWatch {
    async fn next(&mut self) -> Result<Control, CoordinationError> {
        Self::next(self).await
    }
}

#[async_trait]
impl Ownership for RemoteLock {
    fn epoch(&self) -> Epoch {
        self.lock.epoch()
    }

    fn nonce(&self) -> Bytes {
        self.lock.credentials().1
    }

    fn is_valid(&self) -> bool {
        self.lock.is_valid()
    }

    fn lost(&self) -> Owned<LostCause> {
        Box::pin(self.lock.lost())
    }

    async fn commit(&self, commit: &Commit) -> Result<CommitRecord, CoordinationError> {
        self.coordination.commit(&self.lock, commit).await
    }

    async fn raise(&self, fence: Epoch) -> Result<Epoch, CoordinationError> {
        self.coordination.raise_incarnation(&self.lock, fence).await
    }

    async fn finish_action(
        &self,
        ingestor: &IngestorName,
        id: u64,
        done: bool,
        message: &str,
    ) -> Result<Control, CoordinationError> {
        self.lock.finish_action(ingestor, id, done, message).await
    }

    async fn release(&self) -> Result<(), CoordinationError> {
        self.lock.release().await
    }
}

fn stored_block(block: pb::StoredBlock) -> Result<StoredBlock, convert::ConvertError> {
    let kind = if block.kind() == pb::Kind::Gap { Kind::Gap } else { Kind::Block };
    let state = |state: &pb::StateDigest| {
        let digest = convert::digest("block.states.digest", &state.digest)?.unwrap_or_default();
        Ok(StateDigest { store: state.store_key.clone(), digest })
    };
    Ok(StoredBlock {
        kind,
        states: block.states.iter().map(state).collect::<Result<_, convert::ConvertError>>()?,
        parent: convert::pointer("block.parent", block.parent)?,
        head: Head {
            generation: Generation(block.generation),
            pointer: convert::pointer("block.pointer", block.pointer)?,
            height: block.height,
            digest: convert::digest("block.digest", &block.digest)?.unwrap_or_default(),
            time: block.time.as_ref().and_then(convert::nanos),
            appended: 0,
        },
    })
}

/// The router behind its client.
#[derive(Clone, Debug)]
pub struct RemoteJournals {
    transport: Transport,
}

impl RemoteJournals {
    /// The router at this transport.
    pub const fn new(transport: Transport) -> Self {
        Self { transport }
    }

    fn client(&self) -> pb::router_client::RouterClient<Transport> {
        pb::router_client::RouterClient::new(self.transport.clone())
    }
}

#[async_trait]
impl Journals for RemoteJournals {
    async fn create(&self, ingestor: &IngestorName, id: JournalId) -> Result<(), AppendError> {
        let request = pb::CreateRequest {
            ingestor: ingestor.to_string(),
            journal_id: Bytes::copy_from_slice(id.as_bytes()),
        };
        self.client().create(request).await?;
        Ok(())
    }

    async fn open(&self, open: append::Open) -> Result<Opened, AppendError> {
        let (appender, head) = Appender::open(self.transport.clone(), open).await?;
        let (frames, acks) = appender.split();
        Ok(Opened { frames: Box::new(frames), acks: Box::new(acks), head })
    }

    async fn fence(&self, ingestor: &IngestorName) -> Result<Epoch, AppendError> {
        let request = pb::HeadRequest { ingestor: ingestor.to_string() };
        let journal = self.client().head(request).await?.into_inner().journal.unwrap_or_default();
        Ok(Epoch::from_u64(journal.fence_epoch))
    }

    async fn block(
        &self,
        ingestor: &IngestorName,
        pointer: &Pointer,
        newest: Option<Generation>,
    ) -> Result<Option<StoredBlock>, AppendError> {
        let request = pb::BlockRequest {
            ingestor: ingestor.to_string(),
            pointer: pointer.to_bytes(),
            generation: newest.map(|newest| newest.0),
        };
        let block = self.client().block(request).await?.into_inner().block;
        let read = block.map(stored_block).transpose();
        read.map_err(|error| AppendError::Unknown(Box::new(error.into())))
    }
}

#[async_trait]
impl FrameSink for append::Frames {
    async fn send(&mut self, frame: &Frame) -> Result<(), AppendError> {
        Self::send(self, frame).await
    }
}

#[async_trait]
impl AckSource for append::Acks {
    async fn next(&mut self) -> Result<Option<append::Ack>, AppendError> {
        Self::next(self).await
    }
}

/// The word for a refusal.
pub fn refusal_reason(error: &AppendError) -> &'static str {
    match error {
        AppendError::Fenced(_) => reason::FENCED,
        AppendError::WrongParent { .. } => reason::WRONG_PARENT,
        AppendError::Divergent { .. } => reason::DIVERGENT,
        AppendError::NotHere(_) => reason::NOT_HERE,
        AppendError::DiskFull(_) => reason::DISK_FULL,
        AppendError::Poisoned(_) => reason::POISONED,
        AppendError::Invalid(_) | AppendError::Refused(_) => reason::INVALID,
        AppendError::Unknown(_) | AppendError::Ended => reason::STOPPING,
    }
}
