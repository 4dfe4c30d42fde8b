use std::collections::BTreeMap;

use sluice_model::Epoch;

use crate::{
    coordination::{Coordination, LIST_LIMIT},
    error::Error,
    kv::{Entry, Revision},
    record::{self, Candidate, Member},
};

/// Who has a lock and who waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockStatus {
    /// Its name.
    pub lock: String,
    /// The owner's epoch; `None` while nobody has won.
    pub epoch: Option<Epoch>,
    /// The first in the queue.
    pub owner: Option<Member>,
    /// The others, in the order of their turn.
    pub waiters: Vec<Member>,
}

impl Coordination {
    /// Owners and waiters of the locks whose names begin with `prefix`, by name.
    pub async fn locks(&self, prefix: &str) -> Result<Vec<LockStatus>, Error> {
        let candidates = self.kv.range(&self.keys.locks(), LIST_LIMIT).await?;
        let mut queues: BTreeMap<String, Vec<(Revision, &Entry)>> = BTreeMap::new();
        for entry in &candidates.entries {
            if let Some(lock) = self.keys.lock_of(&entry.key)
                && lock.starts_with(prefix)
            {
                queues.entry(lock).or_default().push((entry.create_revision, entry));
            }
        }
        queues.into_iter().map(|(lock, queue)| status(lock, queue)).collect()
    }
}

fn status(lock: String, mut queue: Vec<(Revision, &Entry)>) -> Result<LockStatus, Error> {
    queue.sort_by_key(|(created, _)| *created);
    let candidates: Vec<Candidate> = queue
        .iter()
        .map(|(_, entry)| record::decode(&entry.key, &entry.value))
        .collect::<Result<_, _>>()?;
    let mut candidates = candidates.into_iter();
    let owner = candidates.next();
    Ok(LockStatus {
        lock,
        epoch: owner.as_ref().and_then(|owner| owner.epoch),
        owner: owner.map(|owner| owner.member),
        waiters: candidates.map(|waiter| waiter.member).collect(),
    })
}
