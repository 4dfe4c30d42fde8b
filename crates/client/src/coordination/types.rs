use std::time::Duration;

use sluice_model::{
    Checkpoint, Digest, Durability, Epoch, Generation, IngestorName, JournalId, Pointer, Position,
    StartPosition,
};

/// Who holds or waits, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The machine or pod.
    pub node: String,
    /// The process.
    pub pid: u32,
    /// Changes with every boot of the machine; empty if unknown.
    pub boot_id: String,
    /// Where its API can be reached; empty if nowhere.
    pub address: String,
}

impl Member {
    /// This process, on the machine that `node` names.
    pub fn here(node: impl Into<String>, address: impl Into<String>) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|text| text.trim().to_owned())
            .unwrap_or_default();
        Self { node: node.into(), pid: std::process::id(), boot_id, address: address.into() }
    }
}

/// An ingestor's journal, as the coordinator knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journal {
    /// The identity that a volume must hold.
    pub id: JournalId,
    /// True if the call that answered minted it: the journal is to be created.
    pub created: bool,
}

/// A commit as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRecord {
    /// The journal that holds the block.
    pub journal: JournalId,
    /// The epoch of the owner that committed.
    pub epoch: Epoch,
    /// The history.
    pub generation: Generation,
    /// The block.
    pub pointer: Pointer,
    /// Its digest.
    pub digest: Digest,
    /// What the block survives.
    pub durability: Durability,
    /// Counts the commits of the ingestor; rises by one with each.
    pub sequence: u64,
}

/// A commit to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Whose.
    pub ingestor: IngestorName,
    /// The pointer of the commit that this one follows; [`Pointer::ORIGIN`] for the first.
    pub previous: Pointer,
    /// The journal that holds the block.
    pub journal: JournalId,
    /// The history.
    pub generation: Generation,
    /// The block.
    pub pointer: Pointer,
    /// Its digest.
    pub digest: Digest,
    /// What the block survives.
    pub durability: Durability,
}

/// A stream's checkpoint as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamCheckpoint {
    /// How far the stream is done, and the digest of the block it stands in.
    pub checkpoint: Checkpoint,
    /// The filter as it was.
    pub filter: String,
    /// Grows by one with each write since the last reset.
    pub version: u64,
}

/// Where a stream stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamState {
    /// `None` before the first write since the last reset.
    pub checkpoint: Option<StreamCheckpoint>,
    /// Counts the resets of the stream.
    pub reset_epoch: u64,
    /// Where the last reset said to start; `None` without a reset.
    pub start: Option<StartPosition>,
}

impl StreamState {
    /// The version that the next write replaces.
    pub fn version(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.version)
    }
}

/// A checkpoint to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutCheckpoint {
    /// Whose.
    pub stream: String,
    /// The ingestor that the position is of.
    pub ingestor: IngestorName,
    /// The version this one replaces; 0 for the first since the last reset.
    pub previous_version: u64,
    /// How far the stream is done.
    pub checkpoint: Checkpoint,
    /// The filter this was made under.
    pub filter: String,
    /// The reset epoch this was made under.
    pub reset_epoch: u64,
}

/// Something that retention must keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Unique within the ingestor.
    pub name: String,
    /// Whose journal.
    pub ingestor: IngestorName,
    /// Everything after this is kept.
    pub position: Position,
    /// The hold ends by itself after this, if given.
    pub expires_in: Option<Duration>,
    /// True for a hold that a stream's checkpoint implies.
    pub implied: bool,
}

/// Who has a lock and who waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockStatus {
    /// Its name.
    pub lock: String,
    /// The owner's epoch; [`Epoch::ZERO`] while nobody has won.
    pub epoch: Epoch,
    /// The owner.
    pub owner: Option<Member>,
    /// In the order of their turn.
    pub waiters: Vec<Member>,
}
