use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

/// A point in the store's history: grows by one with every transaction that changes something.
pub type Revision = u64;

/// The identity of a lease, chosen by the caller: not zero, below 2^63.
pub type LeaseId = u64;

/// Most operations (or compares) that one transaction may carry, etcd's default limit.
pub const MAX_TXN_OPS: usize = 128;

/// One key as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// When the key came into being; deleting and putting it again gives a new one.
    pub create_revision: Revision,
    /// When the value was last put.
    pub mod_revision: Revision,
    /// The lease that the key dies with, if any.
    pub lease: Option<LeaseId>,
}

/// Keys with a common prefix, as of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The revision of the whole store at the time of reading.
    pub revision: Revision,
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// True if the limit cut entries off.
    pub more: bool,
}

/// A condition of a transaction, on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key was created by this revision and not deleted since.
    Created(String, Revision),
    /// The key was last put by this revision; 0 for a key that does not exist.
    Modified(String, Revision),
    /// The key exists with exactly this value.
    Value(String, Bytes),
    /// The key does not exist.
    Absent(String),
}

/// A step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key, bound to a lease or not. An existing key keeps its create revision and changes
    /// its lease to the given one.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Bytes,
        /// The lease to die with.
        lease: Option<LeaseId>,
    },
    /// Removes a key if it exists.
    Delete(String),
    /// Reads one key.
    Get(String),
    /// Reads every key with a prefix, at most so many.
    Range(String, usize),
}

/// What a transaction's step found or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The key was put.
    Put,
    /// The key was deleted (true) or did not exist.
    Deleted(bool),
    /// What [`Op::Get`] found.
    Got(Option<Entry>),
    /// What [`Op::Range`] found, in the order of keys.
    Listed(Vec<Entry>),
}

/// Conditions and what to do if all hold, or else. A step must not touch a key that another
/// putting or deleting step of the same branch touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold; none holds always.
    pub when: Vec<Compare>,
    /// Done if they do.
    pub then: Vec<Op>,
    /// Done if not.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// A transaction that only reads, atomically.
    pub fn read(ops: Vec<Op>) -> Self {
        Self { then: ops, ..Self::default() }
    }
}

/// The result of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnAnswer {
    /// True if the conditions held.
    pub succeeded: bool,
    /// The revision of the store after it; its own, if it changed something.
    pub revision: Revision,
    /// One answer per step of the branch that ran.
    pub answers: Vec<Answer>,
}

/// A change of one key, as watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: String,
    /// The revision that changed it.
    pub revision: Revision,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was put.
    Put(Bytes),
    /// It was deleted, by hand or with its lease.
    Deleted,
}

/// Events in the order of revisions, a whole revision at a time, for ever; after an error the
/// stream ends. Dropping it ends the watch.
pub type Watch = BoxStream<'static, Result<Vec<Event>, KvError>>;

/// What a store of keys can answer instead of success.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KvError {
    /// The request did not take effect; the store cannot be reached or has no leader.
    #[error("the key-value store is not available: {0}")]
    Unavailable(String),
    /// The request may or may not have taken effect, or may yet. Read before deciding.
    #[error("the outcome of a write to the key-value store is unknown: {0}")]
    Unknown(String),
    /// The lease does not exist: it ended, or never was.
    #[error("the lease {0:x} does not exist")]
    LeaseNotFound(LeaseId),
    /// History before this revision is gone; read anew and watch from there.
    #[error("the history before revision {oldest} is compacted")]
    Compacted {
        /// The oldest revision that can be watched from.
        oldest: Revision,
    },
    /// The store is full: compact, defragment, or raise its quota.
    #[error("the key-value store is out of space: {0}")]
    NoSpace(String),
    /// The request is not one, or the store refuses it for good.
    #[error("the key-value store refuses the request: {0}")]
    Invalid(String),
    /// The store's files cannot be used.
    #[error("the key-value store at {path} failed: {message}")]
    Storage {
        /// The file or directory.
        path: String,
        /// What happened and what to do.
        message: String,
    },
}

/// A small transactional store of keys with leases and watches.
///
/// Every read and write is **linearizable**: it sees every write acknowledged before it began.
/// An acknowledged write survives a crash of the store; nothing is visible to anyone before that.
///
/// A write that fails with [`KvError::Unavailable`] did not take effect; one that fails with
/// [`KvError::Unknown`] may have, or may still. Dropping a future leaves the outcome unknown too.
///
/// The behaviour that callers rely on is in the `conformance` module (a feature of this crate); it
/// is what etcd does.
#[async_trait]
pub trait Kv: Send + Sync + 'static {
    /// One key, with the store's revision at the time of reading.
    async fn get(&self, key: &str) -> Result<(Revision, Option<Entry>), KvError> {
        let answer = self.txn(Txn::read(vec![Op::Get(key.to_owned())])).await?;
        match answer.answers.into_iter().next() {
            Some(Answer::Got(entry)) => Ok((answer.revision, entry)),
            other => Err(KvError::Invalid(format!("a get was answered with {other:?}"))),
        }
    }

    /// Keys with a prefix, at most `limit`, in the order of keys.
    async fn range(&self, prefix: &str, limit: usize) -> Result<Range, KvError>;

    /// Checks the conditions and runs one of the branches, atomically.
    /// [`KvError::LeaseNotFound`] if a put names a lease that ended; nothing is changed then.
    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, KvError>;

    /// Makes a lease that lives for `ttl` (the store may round it up) and returns its duration.
    /// Idempotent: a lease that exists is renewed instead and its own duration is returned.
    async fn grant(&self, lease: LeaseId, ttl: Duration) -> Result<Duration, KvError>;

    /// Renews a lease once and returns what is left of it from the moment the store renewed it.
    /// **Zero means that it ended.** Never answered from memory.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, KvError>;

    /// Ends a lease and deletes its keys, in one revision. Idempotent.
    async fn revoke(&self, lease: LeaseId) -> Result<(), KvError>;

    /// What is left of a lease, in the store's resolution; `None` if it does not exist.
    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, KvError>;

    /// Watches one key from a revision on, inclusively. Ends with [`KvError::Compacted`] if that
    /// is gone, and with [`KvError::Unavailable`] if the store loses its leader: a watch that
    /// hangs silently is not allowed.
    async fn watch(&self, key: &str, from: Revision) -> Result<Watch, KvError>;

    /// Forgets the history before a revision. Idempotent.
    async fn compact(&self, revision: Revision) -> Result<(), KvError>;

    /// The revision of the store, and its size on disk in bytes. For metrics and compaction.
    async fn status(&self) -> Result<(Revision, u64), KvError>;
}
