use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sluice_model::{IngestorName, Position};

use crate::{
    checkpoint::state_of,
    coordination::{Coordination, LIST_LIMIT},
    error::Error,
    kv::{Compare, Entry, KvError, Op, Range, Txn},
    record::{self, HoldRecord},
};

/// How long the checkpoint of a stream that nobody runs keeps its hold, counted from its last
/// write.
pub const STOPPED_STREAM_HOLD: Duration = Duration::from_secs(24 * 3600);

/// Something that retention must keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Unique within the ingestor; `stream/<name>` for one that a checkpoint implies.
    pub name: String,
    /// Everything after this is kept.
    pub position: Position,
    /// What is left before the hold ends by itself; `None` for one that stays.
    pub expires_in: Option<Duration>,
    /// True for a hold that a stream's checkpoint implies.
    pub implied: bool,
}

impl Coordination {
    /// What retention must keep of an ingestor. A stream with an owner or a waiter holds as long
    /// as it has one; a stopped one for [`STOPPED_STREAM_HOLD`].
    pub async fn holds(&self, ingestor: &IngestorName) -> Result<Vec<Hold>, Error> {
        let now = self.clock.millis();
        let mut holds = self.explicit(ingestor, now).await?;
        holds.extend(self.implied(ingestor, now).await?);
        Ok(holds)
    }

    async fn explicit(&self, ingestor: &IngestorName, now: u64) -> Result<Vec<Hold>, Error> {
        let mut holds = Vec::new();
        for entry in self.all(&self.keys.holds(ingestor)).await?.entries {
            let Some(name) = self.keys.hold_of(ingestor, &entry.key) else { continue };
            let stored: HoldRecord = record::decode(&entry.key, &entry.value)?;
            let left = stored.expires.map(|at| Duration::from_millis(at.saturating_sub(now)));
            if left == Some(Duration::ZERO) {
                self.forget_hold(&entry).await?;
                continue;
            }
            let position = stored.position;
            holds.push(Hold { name, position, expires_in: left, implied: false });
        }
        Ok(holds)
    }

    /// Deletes a hold that ran out, unless somebody put it anew.
    async fn forget_hold(&self, entry: &Entry) -> Result<(), Error> {
        let txn = Txn {
            when: vec![Compare::Modified(entry.key.clone(), entry.mod_revision)],
            then: vec![Op::Delete(entry.key.clone())],
            otherwise: vec![],
        };
        match self.kv.txn(txn).await {
            Ok(_) | Err(KvError::Unknown(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn implied(&self, ingestor: &IngestorName, now: u64) -> Result<Vec<Hold>, Error> {
        let streams = self.all(&self.keys.streams()).await?;
        let locks = self.all(&self.keys.locks()).await?;
        let running: BTreeSet<String> =
            locks.entries.iter().filter_map(|entry| self.keys.lock_of(&entry.key)).collect();
        let by_key: BTreeMap<&str, &Entry> =
            streams.entries.iter().map(|entry| (entry.key.as_str(), entry)).collect();
        let mut holds = Vec::new();
        for (key, entry) in &by_key {
            let Some(name) = self.keys.stream_of(key) else { continue };
            let reset = self.keys.reset(&name)?;
            let state = state_of(Some(entry), by_key.get(reset.as_str()).copied())?;
            let Some(stored) = state.checkpoint.filter(|stored| &stored.ingestor == ingestor)
            else {
                continue;
            };
            let age = Duration::from_millis(now.saturating_sub(stored.at));
            let expires_in = if is_running(&running, &name) {
                None
            } else {
                Some(STOPPED_STREAM_HOLD.saturating_sub(age)).filter(|left| !left.is_zero())
            };
            if expires_in.is_none() && !is_running(&running, &name) {
                continue;
            }
            let position = stored.checkpoint.position;
            holds.push(Hold {
                name: format!("stream/{name}"),
                position,
                expires_in,
                implied: true,
            });
        }
        Ok(holds)
    }

    /// Every key of a prefix; an incomplete list would free what somebody still needs.
    async fn all(&self, prefix: &str) -> Result<Range, Error> {
        let range = self.kv.range(prefix, LIST_LIMIT).await?;
        if range.more {
            return Err(Error::Invalid(format!("more than {LIST_LIMIT} keys under {prefix}")));
        }
        Ok(range)
    }

    /// Puts or moves a hold.
    pub async fn put_hold(&self, ingestor: &IngestorName, hold: &Hold) -> Result<(), Error> {
        if hold.name.starts_with("stream/") {
            return Err(Error::Invalid(
                "a hold named stream/… is implied by a checkpoint".to_owned(),
            ));
        }
        self.budget.turn().await?;
        let lasts = hold.expires_in.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let expires = lasts.map(|millis| self.clock.millis().saturating_add(millis));
        let key = self.keys.hold(ingestor, &hold.name)?;
        let value = record::encode(&HoldRecord { position: hold.position.clone(), expires })?;
        self.repeat(&Txn::read(vec![Op::Put { key, value, lease: None }])).await?;
        Ok(())
    }

    /// Ends a hold. Idempotent.
    pub async fn delete_hold(&self, ingestor: &IngestorName, name: &str) -> Result<(), Error> {
        self.budget.turn().await?;
        let key = self.keys.hold(ingestor, name)?;
        self.repeat(&Txn::read(vec![Op::Delete(key)])).await?;
        Ok(())
    }
}

/// True if a lock of the stream has a candidate.
fn is_running(locks: &BTreeSet<String>, stream: &str) -> bool {
    let whole = format!("stream/{stream}");
    let parts = format!("{whole}/");
    locks.contains(&whole)
        || locks.range(parts.clone()..).next().is_some_and(|lock| lock.starts_with(&parts))
}
