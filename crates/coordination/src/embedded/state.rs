//! The map and its rules. Pure: no time, no files.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::kv::{
    Answer, Compare, Entry, Event, EventKind, KvError, LeaseId, MAX_TXN_OPS, Op, Range, Revision,
    Txn, TxnAnswer,
};

/// What the log says: replaying mutations in order gives the same state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    /// Everything below this revision happened; only in a snapshot, first.
    Base(Revision),
    /// A key as it is; only in a snapshot.
    Entry(Entry),
    /// A lease was granted.
    Grant(LeaseId, u64),
    /// A lease and its keys went, as this revision (which is not used up if there were none).
    Revoke(LeaseId, Revision),
    /// A transaction changed keys, as this revision.
    Commit(Revision, Vec<Change>),
}

/// One changed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Put { key: String, value: Bytes, lease: Option<LeaseId> },
    Delete { key: String },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lease {
    ttl_millis: u64,
    keys: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    revision: Revision,
    entries: BTreeMap<String, Entry>,
    leases: BTreeMap<LeaseId, Lease>,
}

impl State {
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Every lease and how long it lives, in milliseconds.
    pub(super) fn leases(&self) -> impl Iterator<Item = (LeaseId, u64)> + '_ {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl_millis))
    }

    pub(super) fn ttl_millis(&self, lease: LeaseId) -> Option<u64> {
        self.leases.get(&lease).map(|lease| lease.ttl_millis)
    }

    pub(super) fn range(&self, prefix: &str, limit: usize) -> Range {
        let mut entries = self.list(prefix, limit.saturating_add(1));
        let more = entries.len() > limit;
        entries.truncate(limit);
        Range { revision: self.revision, entries, more }
    }

    fn list(&self, prefix: &str, limit: usize) -> Vec<Entry> {
        self.entries
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    /// Runs a transaction. The mutation, if it changed anything, is already applied.
    pub(super) fn txn(&mut self, txn: &Txn) -> Result<(TxnAnswer, Option<Mutation>), KvError> {
        let succeeded = txn.when.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        self.check(txn, ops)?;
        let revision = self.revision + 1;
        let mut changes = Vec::new();
        let answers = ops.iter().map(|op| self.step(op, revision, &mut changes)).collect();
        if !changes.is_empty() {
            self.revision = revision;
        }
        let mutation = (!changes.is_empty()).then_some(Mutation::Commit(revision, changes));
        Ok((TxnAnswer { succeeded, revision: self.revision, answers }, mutation))
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Created(key, revision) => {
                self.entries.get(key).map_or(0, |entry| entry.create_revision) == *revision
            }
            Compare::Modified(key, revision) => {
                self.entries.get(key).map_or(0, |entry| entry.mod_revision) == *revision
            }
            Compare::Value(key, value) => {
                self.entries.get(key).is_some_and(|entry| entry.value == value)
            }
            Compare::Absent(key) => !self.entries.contains_key(key),
        }
    }

    /// Refuses a transaction before any of it is done.
    fn check(&self, txn: &Txn, ops: &[Op]) -> Result<(), KvError> {
        if [txn.when.len(), txn.then.len(), txn.otherwise.len()].iter().any(|&n| n > MAX_TXN_OPS) {
            return Err(KvError::Invalid(format!("more than {MAX_TXN_OPS} operations at once")));
        }
        let mut touched = BTreeSet::new();
        for op in ops {
            let (Op::Put { key, .. } | Op::Delete(key)) = op else { continue };
            if key.is_empty() {
                return Err(KvError::Invalid("an empty key".to_owned()));
            }
            if !touched.insert(key) {
                return Err(KvError::Invalid(format!("the key {key:?} is changed twice")));
            }
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.contains_key(lease)
            {
                return Err(KvError::LeaseNotFound(*lease));
            }
        }
        Ok(())
    }

    fn step(&mut self, op: &Op, revision: Revision, changes: &mut Vec<Change>) -> Answer {
        match op {
            Op::Get(key) => Answer::Got(self.entries.get(key).cloned()),
            Op::Range(prefix, limit) => Answer::Listed(self.list(prefix, *limit)),
            Op::Put { key, value, lease } => {
                let (key, value, lease) = (key.clone(), value.clone(), *lease);
                let change = Change::Put { key, value, lease };
                self.change(&change, revision);
                changes.push(change);
                Answer::Put
            }
            Op::Delete(key) => {
                let existed = self.entries.contains_key(key);
                if existed {
                    let change = Change::Delete { key: key.clone() };
                    self.change(&change, revision);
                    changes.push(change);
                }
                Answer::Deleted(existed)
            }
        }
    }

    fn change(&mut self, change: &Change, revision: Revision) {
        match change {
            Change::Put { key, value, lease } => {
                let before = self.entries.get(key);
                let entry = Entry {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: before.map_or(revision, |entry| entry.create_revision),
                    mod_revision: revision,
                    lease: *lease,
                };
                self.unbind(key);
                self.insert(entry);
            }
            Change::Delete { key } => {
                self.unbind(key);
                self.entries.remove(key);
            }
        }
    }

    fn unbind(&mut self, key: &str) {
        let lease = self.entries.get(key).and_then(|entry| entry.lease);
        if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
            lease.keys.remove(key);
        }
    }

    fn insert(&mut self, entry: Entry) {
        if let Some(lease) = entry.lease {
            self.leases.entry(lease).or_default().keys.insert(entry.key.clone());
        }
        self.entries.insert(entry.key.clone(), entry);
    }

    /// Makes a lease; `None` if it exists.
    pub(super) fn grant(&mut self, lease: LeaseId, ttl_millis: u64) -> Option<Mutation> {
        if self.leases.contains_key(&lease) {
            return None;
        }
        self.leases.insert(lease, Lease { ttl_millis, keys: BTreeSet::new() });
        Some(Mutation::Grant(lease, ttl_millis))
    }

    /// Ends a lease; `None` if it does not exist.
    pub(super) fn revoke(&mut self, lease: LeaseId) -> Option<(Mutation, Vec<Event>)> {
        let keys = self.leases.remove(&lease)?.keys;
        let revision = self.revision + 1;
        let events = keys.into_iter().filter_map(|key| {
            let key = self.entries.remove(&key)?.key;
            Some(Event { key, revision, kind: EventKind::Deleted })
        });
        let events: Vec<_> = events.collect();
        if !events.is_empty() {
            self.revision = revision;
        }
        Some((Mutation::Revoke(lease, revision), events))
    }

    /// Does again what the log says was done.
    pub(super) fn replay(&mut self, mutation: Mutation) -> Result<(), String> {
        match mutation {
            Mutation::Base(revision) => self.revision = revision,
            Mutation::Entry(entry) => self.insert(entry),
            Mutation::Grant(lease, ttl_millis) => {
                self.leases.entry(lease).or_default().ttl_millis = ttl_millis;
            }
            Mutation::Revoke(lease, revision) => {
                self.follows(revision)?;
                self.revoke(lease);
            }
            Mutation::Commit(revision, changes) => {
                self.follows(revision)?;
                for change in &changes {
                    self.change(change, revision);
                }
                self.revision = revision;
            }
        }
        Ok(())
    }

    fn follows(&self, revision: Revision) -> Result<(), String> {
        if revision == self.revision + 1 {
            return Ok(());
        }
        Err(format!("revision {revision} follows revision {}", self.revision))
    }

    /// The mutations that make this state from nothing.
    pub(super) fn snapshot(&self) -> Vec<Mutation> {
        std::iter::once(Mutation::Base(self.revision))
            .chain(self.leases().map(|(id, ttl)| Mutation::Grant(id, ttl)))
            .chain(self.entries.values().cloned().map(Mutation::Entry))
            .collect()
    }
}

/// What watchers see of a mutation.
pub(super) fn events(mutation: &Mutation) -> Vec<Event> {
    let Mutation::Commit(revision, changes) = mutation else { return Vec::new() };
    let event = |change: &Change| match change {
        Change::Put { key, value, .. } => {
            Event { key: key.clone(), revision: *revision, kind: EventKind::Put(value.clone()) }
        }
        Change::Delete { key } => {
            Event { key: key.clone(), revision: *revision, kind: EventKind::Deleted }
        }
    };
    changes.iter().map(event).collect()
}

#[cfg(test)]
mod tests;
