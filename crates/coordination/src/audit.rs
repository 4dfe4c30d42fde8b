//! The trail of an ingestor: who owned it, what operators did, what befell it. Bounded, in order,
//! and written in the transaction of the change that an entry tells of.
//!
//! One key, the head, counts the entries; an entry is a key named by its number. Whoever adds one
//! compares the head as read, so numbers have no gaps and no two entries share one.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sluice_model::{Epoch, IngestorName};

use crate::{
    coordination::{Coordination, LIST_LIMIT, got, modified, pause},
    error::Error,
    keys::{KeyError, Keys, NONCE},
    kv::{Compare, Entry, Op, Txn},
    record::{self, Member},
};

pub(crate) const OWNED: &str = "owned";
pub(crate) const RELEASED: &str = "released";
pub(crate) const LOST: &str = "lost";
pub(crate) const INCARNATION_RAISED: &str = "incarnation-raised";
pub(crate) const PAUSED: &str = "paused";
pub(crate) const RESUMED: &str = "resumed";
pub(crate) const DIVERGED: &str = "diverged";
pub(crate) const ACTION_REQUESTED: &str = "action-requested";
pub(crate) const ACTION_CANCELLED: &str = "action-cancelled";
pub(crate) const ACTION_DONE: &str = "action-done";
pub(crate) const ACTION_FAILED: &str = "action-failed";

/// What only the recipe writes, with the change itself.
const OURS: [&str; 10] = [
    OWNED,
    RELEASED,
    LOST,
    INCARNATION_RAISED,
    PAUSED,
    RESUMED,
    ACTION_REQUESTED,
    ACTION_CANCELLED,
    ACTION_DONE,
    ACTION_FAILED,
];

/// Longest detail of an entry, in bytes; longer ones are cut.
const MAX_DETAIL: usize = 1024;
/// Longest kind and actor, in bytes.
const MAX_KIND: usize = 32;
const MAX_ACTOR: usize = 256;
/// Recent nonces kept in the head, to tell a repeated entry from another.
const RECENT: usize = 16;
/// Entries deleted at most by one transaction, when the bound was lowered.
const DELETE: u64 = 50;
/// Bytes of details in one answer, about.
const MAX_LISTED: usize = 2 << 20;
/// How often an entry is tried: the trail is one counter, and nothing is to be dropped.
const TRIES: u32 = 20;

/// An entry to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// A word in lower case.
    pub kind: String,
    /// Who did it, or whom it befell.
    pub actor: String,
    /// The owner's epoch; zero for what operators do.
    pub epoch: Epoch,
    /// In words.
    pub detail: String,
}

/// An entry as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Rises by one with each entry of the ingestor.
    pub sequence: u64,
    /// Milliseconds since 1970, on the coordinator's clock. For people; the order is `sequence`.
    pub at: u64,
    /// A word in lower case.
    pub kind: String,
    /// Who did it, or whom it befell.
    pub actor: String,
    /// The owner's epoch; zero for what operators do.
    pub epoch: Epoch,
    /// In words.
    pub detail: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Head {
    /// Of the last entry.
    sequence: u64,
    /// Of the oldest entry that is kept.
    oldest: u64,
    /// The owner whose end is not in the trail yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
    /// Nonces and numbers of the last recorded entries.
    recent: VecDeque<(u64, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    epoch: Epoch,
    name: String,
}

/// A trail as read, and what is to be added.
pub(crate) struct Trail {
    keys: Keys,
    ingestor: IngestorName,
    kept: u64,
    at: u64,
    stored: Compare,
    head: Head,
    added: Vec<AuditEntry>,
}

impl Trail {
    /// Adds an entry. A nonce tells a repetition, which adds nothing; the number is the entry's.
    pub(crate) fn add(&mut self, note: Note, nonce: Option<u64>) -> Result<u64, Error> {
        if let Some(nonce) = nonce {
            if let Some((_, number)) = self.head.recent.iter().find(|(seen, _)| *seen == nonce) {
                return Ok(*number);
            }
            self.head.recent.push_back((nonce, self.head.sequence + 1));
            if self.head.recent.len() > RECENT {
                self.head.recent.pop_front();
            }
        }
        self.head.sequence += 1;
        self.added.push(AuditEntry {
            sequence: self.head.sequence,
            at: self.at,
            kind: note.kind,
            actor: note.actor,
            epoch: note.epoch,
            detail: cut(&note.detail),
        });
        Ok(self.head.sequence)
    }

    /// A new owner; also the end of the one before, if that went without a word.
    pub(crate) fn owned(&mut self, member: &Member, epoch: Epoch) -> Result<(), Error> {
        if let Some(before) = self.head.owner.take() {
            let detail = format!("went without a release; {epoch} follows");
            self.add(note(LOST, before.name, before.epoch, detail), None)?;
        }
        let name = name(member);
        self.head.owner = Some(Owner { epoch, name: name.clone() });
        let at = if member.address.is_empty() { "no address" } else { member.address.as_str() };
        let detail = format!("process {} at {at}", member.pid);
        self.add(note(OWNED, name, epoch, detail), None).map(drop)
    }

    pub(crate) fn released(&mut self, member: &Member, epoch: Epoch) -> Result<(), Error> {
        self.head.owner = None;
        self.add(note(RELEASED, name(member), epoch, String::new()), None).map(drop)
    }

    pub(crate) fn raised(
        &mut self,
        member: &Member,
        epoch: Epoch,
        fence: Epoch,
    ) -> Result<(), Error> {
        let name = name(member);
        self.head.owner = Some(Owner { epoch, name: name.clone() });
        let detail = format!("the store went backwards: a journal was fenced at {fence}");
        self.add(note(INCARNATION_RAISED, name, epoch, detail), None).map(drop)
    }

    /// The condition and the steps that write what was added.
    pub(crate) fn write(&mut self) -> Result<(Compare, Vec<Op>), Error> {
        let mut steps = Vec::new();
        for entry in &self.added {
            let key = self.keys.audit_entry(&self.ingestor, entry.sequence);
            steps.push(Op::Put { key, value: record::encode(entry)?, lease: None });
        }
        self.head.oldest = self.head.oldest.max(1);
        let gone = (self.head.sequence.saturating_sub(self.kept) + 1).max(self.head.oldest);
        for sequence in self.head.oldest..gone.min(self.head.oldest + DELETE) {
            steps.push(Op::Delete(self.keys.audit_entry(&self.ingestor, sequence)));
            self.head.oldest = sequence + 1;
        }
        let (key, value) = (self.keys.audit(&self.ingestor), record::encode(&self.head)?);
        steps.push(Op::Put { key, value, lease: None });
        Ok((self.stored.clone(), steps))
    }

    /// After the write took effect: the same, as log lines.
    pub(crate) fn log(&self) {
        for entry in &self.added {
            tracing::info!(
                target: "sluice::audit",
                ingestor = %self.ingestor,
                sequence = entry.sequence,
                kind = entry.kind,
                actor = entry.actor,
                epoch = %entry.epoch,
                detail = entry.detail,
                "audit"
            );
        }
    }
}

impl Coordination {
    /// A trail, of what its head's key was read as.
    pub(crate) fn trail(
        &self,
        ingestor: &IngestorName,
        head: Option<Entry>,
    ) -> Result<Trail, Error> {
        let key = self.keys.audit(ingestor);
        let stored = modified(&key, head.as_ref());
        let head = head.map(|entry| record::decode(&key, &entry.value)).transpose()?;
        Ok(Trail {
            keys: self.keys.clone(),
            ingestor: ingestor.clone(),
            kept: self.audit_entries,
            at: self.clock.millis(),
            stored,
            head: head.unwrap_or_default(),
            added: Vec::new(),
        })
    }

    /// Adds an entry and returns its number. Idempotent by nonce, as long as no sixteen others
    /// came between. Draws on the write budget; what fails was not recorded.
    ///
    /// Errors: [`Error::Invalid`] for a kind that is not a word, or one that only the coordinator
    /// writes, with the change it tells of; [`Error::Busy`].
    pub async fn record_audit(
        &self,
        ingestor: &IngestorName,
        nonce: &Bytes,
        note: &Note,
    ) -> Result<u64, Error> {
        check(note)?;
        let nonce = stamp(nonce)?;
        self.budget.turn().await?;
        for tries in 1..=TRIES {
            match self.try_record(ingestor, nonce, note).await {
                Ok(Some(sequence)) => return Ok(sequence),
                Ok(None) => {}
                Err(error) if error.is_unknown() && tries < TRIES => {}
                Err(error) => return Err(error),
            }
            pause(tries.min(4)).await;
        }
        Err(Error::Contended(format!("the trail of {ingestor}")))
    }

    async fn try_record(
        &self,
        ingestor: &IngestorName,
        nonce: u64,
        note: &Note,
    ) -> Result<Option<u64>, Error> {
        let (_, head) = self.kv.get(&self.keys.audit(ingestor)).await?;
        let mut trail = self.trail(ingestor, head)?;
        let sequence = trail.add(note.clone(), Some(nonce))?;
        if trail.added.is_empty() {
            return Ok(Some(sequence));
        }
        let (unchanged, then) = trail.write()?;
        let txn = Txn { when: vec![unchanged], then, otherwise: vec![] };
        let written = self.kv.txn(txn).await?.succeeded;
        if written {
            trail.log();
        }
        Ok(written.then_some(sequence))
    }

    /// The entries after a number, in order; of more than `limit` the newest. As many as fit into
    /// an answer of about 2 MiB.
    pub async fn list_audit(
        &self,
        ingestor: &IngestorName,
        after: u64,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, Error> {
        let prefix = self.keys.audit_entries(ingestor);
        let range = self.kv.range(&prefix, LIST_LIMIT).await?;
        let mut entries = VecDeque::new();
        let mut bytes = 0;
        for stored in range.entries.iter().rev().take(limit) {
            let entry: AuditEntry = record::decode(&stored.key, &stored.value)?;
            bytes += stored.value.len();
            if entry.sequence <= after || bytes > MAX_LISTED {
                break;
            }
            entries.push_front(entry);
        }
        Ok(entries.into())
    }

    /// The trail's head as read, for a lock that is an ingestor's. A trail that cannot be read
    /// never keeps anybody from owning or releasing a lock.
    pub(crate) fn trail_of_lock(
        &self,
        ingestor: Option<&IngestorName>,
        head: Option<Entry>,
    ) -> Option<Trail> {
        match self.trail(ingestor?, head) {
            Ok(trail) => Some(trail),
            Err(error) => {
                tracing::error!(target: "sluice::audit", %error, "not in the trail");
                None
            }
        }
    }
}

/// The ingestor whose lock this is.
pub(crate) fn ingestor_of(lock: &str) -> Option<IngestorName> {
    lock.strip_prefix("ingestor/")?.parse().ok()
}

/// What a head's key was found to be, if it was asked for.
pub(crate) fn head_of(answer: Option<crate::kv::Answer>) -> Result<Option<Entry>, Error> {
    answer.map_or(Ok(None), |answer| got(Some(answer)))
}

/// The part of a nonce that is kept.
pub(crate) fn stamp(nonce: &Bytes) -> Result<u64, Error> {
    if !NONCE.contains(&nonce.len()) {
        return Err(KeyError::Nonce(nonce.len()).into());
    }
    Ok(nonce.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
}

/// A text as long as the trail keeps it; what was cut off shows.
pub(crate) fn cut(text: &str) -> String {
    if text.len() <= MAX_DETAIL {
        return text.to_owned();
    }
    let mut end = MAX_DETAIL - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or_default())
}

fn note(kind: &str, actor: String, epoch: Epoch, detail: String) -> Note {
    Note { kind: kind.to_owned(), actor, epoch, detail }
}

fn name(member: &Member) -> String {
    match member.node.as_str() {
        "" => format!("process {}", member.pid),
        node => node.to_owned(),
    }
}

fn check(note: &Note) -> Result<(), Error> {
    let Note { kind, actor, .. } = note;
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if kind.is_empty() || kind.len() > MAX_KIND || !kind.chars().all(word) {
        return Err(Error::Invalid(format!(
            "the audit kind {kind:?} is not a word of at most {MAX_KIND} of a-z, 0-9 and -"
        )));
    }
    if OURS.contains(&kind.as_str()) {
        let message = format!("{kind:?} is recorded by the coordinator, with the change itself");
        return Err(Error::Invalid(message));
    }
    if actor.len() > MAX_ACTOR {
        let (len, max) = (actor.len(), MAX_ACTOR);
        return Err(KeyError::TooLong { what: "actor", len, max }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_detail_is_cut_between_characters_and_shows_it() {
        assert_eq!(cut("short"), "short");
        let long = "ä".repeat(MAX_DETAIL);
        let kept = cut(&long);
        assert!(kept.len() <= MAX_DETAIL && kept.ends_with('…'), "{}", kept.len());
        assert_eq!(cut(&kept), kept);
    }

    #[test]
    fn only_words_that_are_not_the_coordinators_own() {
        let with = |kind: &str| check(&note(kind, String::new(), Epoch::ZERO, String::new()));
        for good in ["blocked", "gap", "a-1"] {
            with(good).unwrap();
        }
        for bad in ["", "Blocked", "a b", "owned", "action-done", &"x".repeat(33)] {
            assert!(matches!(with(bad), Err(Error::Invalid(_))), "{bad}");
        }
    }
}
