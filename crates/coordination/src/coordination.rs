use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use sluice_model::{Epoch, IngestorName, JournalId};

use crate::{
    budget::{BudgetOptions, WriteBudget},
    error::Error,
    keys::Keys,
    kv::{Answer, Compare, Entry, Kv, KvError, Op, Txn, TxnAnswer},
    record::{self, Candidate, JournalRecord},
};

/// Candidates of one lock, and keys of one listing, at most.
pub(crate) const LIST_LIMIT: usize = 10_000;
/// How often a write is begun anew after another one overtook it or its outcome was unknown.
pub(crate) const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// The time of day, milliseconds since 1970, as people are told it. Locks, epochs, commits,
/// checkpoints and the order of trails do not depend on it; only a hold that expires does.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl WallClock {
    /// A clock of the caller's own.
    pub fn new(millis: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(millis))
    }

    pub(crate) fn millis(&self) -> u64 {
        (self.0)()
    }
}

impl Default for WallClock {
    /// The machine's.
    fn default() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WallClock").field(&self.millis()).finish()
    }
}

/// How coordination is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// The prefix of every key, so that deployments can share a store.
    pub root: String,
    /// How many commits and checkpoints are written.
    pub budget: BudgetOptions,
    /// Entries that the trail of each ingestor keeps, 10 to 4,000; older ones are dropped.
    pub audit_entries: u64,
    /// What time it is, for people.
    pub clock: WallClock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            root: "/sluice".to_owned(),
            budget: BudgetOptions::default(),
            audit_entries: 1000,
            clock: WallClock::default(),
        }
    }
}

/// Names a candidate: what a caller proves its place or its ownership with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The lock.
    pub lock: String,
    /// The session it is under.
    pub session: u64,
    /// Made by the client, 8 to 64 bytes.
    pub nonce: Bytes,
}

/// The recipe over a store. Cheap to clone; clones share the write budget. Every method is cancel
/// safe in the sense that a dropped call may or may not have taken effect, and repeating it is
/// harmless.
#[derive(Clone)]
pub struct Coordination {
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) keys: Keys,
    pub(crate) budget: Arc<WriteBudget>,
    pub(crate) audit_entries: u64,
    pub(crate) clock: WallClock,
}

impl fmt::Debug for Coordination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordination").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Coordination {
    /// Over a store.
    pub fn new(kv: Arc<dyn Kv>, options: &Options) -> Self {
        Self {
            kv,
            keys: Keys::new(&options.root),
            budget: Arc::new(WriteBudget::new(options.budget)),
            audit_entries: options.audit_entries.clamp(10, 4000),
            clock: options.clock.clone(),
        }
    }

    /// The store, for compaction and metrics.
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.kv
    }

    /// The budget that commits and checkpoints draw on.
    pub fn budget(&self) -> &WriteBudget {
        &self.budget
    }

    /// The id of the ingestor's journal and whether this call minted it. `fresh` is the id to use
    /// if there is none yet. Of any number of racing calls, one mints.
    pub async fn ensure_journal(
        &self,
        ingestor: &IngestorName,
        fresh: JournalId,
    ) -> Result<(JournalId, bool), Error> {
        let key = self.keys.journal(ingestor);
        let value = record::encode(&JournalRecord { journal: fresh })?;
        let txn = Txn {
            when: vec![Compare::Absent(key.clone())],
            then: vec![Op::Put { key: key.clone(), value, lease: None }, Op::Get(key.clone())],
            otherwise: vec![Op::Get(key.clone())],
        };
        let mut answer = self.repeat(&txn).await?;
        let entry = got(answer.answers.pop())?.ok_or_else(|| missing(&key))?;
        let stored: JournalRecord = record::decode(&key, &entry.value)?;
        // A repeated try after an unknown outcome finds what the first one minted.
        Ok((stored.journal, stored.journal == fresh))
    }

    /// Runs an idempotent transaction, again if its outcome is unknown.
    pub(crate) async fn repeat(&self, txn: &Txn) -> Result<TxnAnswer, Error> {
        let mut tries = 1;
        loop {
            match self.kv.txn(txn.clone()).await {
                Err(KvError::Unknown(_)) if tries < TRIES => pause(tries).await,
                answer => return answer.map_err(Error::from),
            }
            tries += 1;
        }
    }

    /// The condition under which the caller still owns the lock; `own` is its candidate's key as
    /// just read.
    pub(crate) async fn owned(
        &self,
        ticket: &Ticket,
        epoch: Epoch,
        own: Option<&Entry>,
    ) -> Result<Compare, Error> {
        if let Some(entry) = own {
            let candidate: Candidate = record::decode(&entry.key, &entry.value)?;
            if candidate.epoch == Some(epoch) {
                return Ok(Compare::Modified(entry.key.clone(), entry.mod_revision));
            }
        }
        let current = self.current_epoch(&ticket.lock).await?;
        Err(Error::LostOwnership { lock: ticket.lock.clone(), epoch, current })
    }

    async fn current_epoch(&self, lock: &str) -> Result<Option<Epoch>, Error> {
        let range = self.kv.range(&self.keys.candidates(lock)?, LIST_LIMIT).await?;
        let Some(oldest) = range.entries.iter().min_by_key(|entry| entry.create_revision) else {
            return Ok(None);
        };
        Ok(record::decode::<Candidate>(&oldest.key, &oldest.value)?.epoch)
    }

    pub(crate) fn candidate_key(&self, ticket: &Ticket) -> Result<String, Error> {
        Ok(self.keys.candidate(&ticket.lock, ticket.session, &ticket.nonce)?)
    }
}

/// What a get found.
pub(crate) fn got(answer: Option<Answer>) -> Result<Option<Entry>, Error> {
    match answer {
        Some(Answer::Got(entry)) => Ok(entry),
        other => Err(Error::Kv(KvError::Invalid(format!("a get was answered with {other:?}")))),
    }
}

pub(crate) fn missing(key: &str) -> Error {
    Error::Record { key: key.to_owned(), message: "there is none".to_owned() }
}

/// The mod revision to compare with; 0 for a key that does not exist.
pub(crate) fn modified(key: &str, entry: Option<&Entry>) -> Compare {
    Compare::Modified(key.to_owned(), entry.map_or(0, |entry| entry.mod_revision))
}

pub(crate) async fn pause(tries: u32) {
    tokio::time::sleep(PAUSE.saturating_mul(tries)).await;
}
