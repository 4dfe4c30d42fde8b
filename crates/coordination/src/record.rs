//! The values in the store: JSON, so that an operator can read them with the store's own tools.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sluice_model::{
    Checkpoint, Digest, Durability, Epoch, Generation, IngestorName, JournalId, Pointer, Position,
    StartPosition,
};

use crate::error::Error;

/// Who holds or waits, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// The machine or pod.
    pub node: String,
    /// The process.
    pub pid: u32,
    /// Changes with every boot of the machine.
    pub boot_id: String,
    /// Where its API can be reached; empty if nowhere.
    pub address: String,
}

/// A candidate's key. The epoch is there from the winning transaction on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Candidate {
    pub(crate) member: Member,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<Epoch>,
}

/// What a session asked for, so that keepalives can tell what is no longer wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wish {
    pub(crate) lock: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Incarnation {
    pub(crate) incarnation: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalRecord {
    pub(crate) journal: JournalId,
}

/// A commit as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRecord {
    /// The journal that holds the block.
    pub journal: JournalId,
    /// The epoch of the owner that committed.
    pub epoch: Epoch,
    /// The history.
    pub generation: Generation,
    /// The block.
    #[serde(with = "pointer")]
    pub pointer: Pointer,
    /// The block of the commit before.
    #[serde(with = "pointer")]
    pub previous: Pointer,
    /// The block's digest.
    pub digest: Digest,
    /// What the block survives.
    pub durability: Durability,
    /// Counts the commits of the ingestor; rises by one with each.
    pub sequence: u64,
    /// When it was stored, milliseconds since 1970, on the coordinator's clock. For people.
    pub at: u64,
}

impl CommitRecord {
    /// The place after the committed block.
    pub fn position(&self) -> Position {
        Position::end_of(self.generation, self.pointer.clone())
    }
}

/// A stream's checkpoint as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamCheckpoint {
    /// Whose positions these are.
    pub ingestor: IngestorName,
    /// How far the stream is done.
    #[serde(with = "checkpoint")]
    pub checkpoint: Checkpoint,
    /// The filter as it was.
    pub filter: String,
    /// The reset epoch it was made under.
    pub reset_epoch: u64,
    /// Grows by one with each write since the last reset.
    pub version: u64,
    /// The epoch of the owner that wrote it.
    pub epoch: Epoch,
    /// When it was stored, milliseconds since 1970, on the coordinator's clock. A stream that
    /// stopped holds retention for a while from then.
    pub at: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reset {
    pub(crate) reset_epoch: u64,
    pub(crate) start: StartPosition,
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HoldRecord {
    #[serde(with = "position")]
    pub(crate) position: Position,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<u64>,
}

/// The value's bytes.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Bytes, Error> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Error::Record { key: String::new(), message: error.to_string() })
}

/// The value of a key.
pub(crate) fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value)
        .map_err(|error| Error::Record { key: key.to_owned(), message: error.to_string() })
}

pub(crate) mod pointer {
    use super::{Deserialize, Pointer};

    pub(crate) fn serialize<S: serde::Serializer>(p: &Pointer, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&text(p))
    }

    pub(crate) fn deserialize<'de, D>(d: D) -> Result<Pointer, D::Error>
    where
        D: serde::Deserializer<'de>,
    {
        parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }

    pub(super) fn text(pointer: &Pointer) -> String {
        pointer.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn parse(text: &str) -> Result<Pointer, String> {
        let wrong = || format!("{text:?} is not a pointer: an even number of hex digits");
        if !text.is_ascii() || !text.len().is_multiple_of(2) {
            return Err(wrong());
        }
        let bytes: Option<Vec<u8>> = (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
            .collect();
        Pointer::new(bytes.ok_or_else(wrong)?).map_err(|error| error.to_string())
    }
}

#[derive(Serialize, Deserialize)]
struct Place {
    generation: Generation,
    #[serde(with = "pointer")]
    pointer: Pointer,
    index: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
}

impl Place {
    fn new(position: &Position, digest: Option<Digest>) -> Self {
        let Position { generation, pointer, index } = position.clone();
        Self { generation, pointer, index, digest }
    }

    fn position(self) -> Position {
        Position { generation: self.generation, pointer: self.pointer, index: self.index }
    }
}

pub(crate) mod position {
    use super::{Deserialize, Place, Position, Serialize};

    pub(crate) fn serialize<S: serde::Serializer>(p: &Position, s: S) -> Result<S::Ok, S::Error> {
        Place::new(p, None).serialize(s)
    }

    pub(crate) fn deserialize<'de, D>(d: D) -> Result<Position, D::Error>
    where
        D: serde::Deserializer<'de>,
    {
        Place::deserialize(d).map(Place::position)
    }
}

mod checkpoint {
    use super::{Checkpoint, Deserialize, Place, Serialize};

    pub(super) fn serialize<S: serde::Serializer>(c: &Checkpoint, s: S) -> Result<S::Ok, S::Error> {
        Place::new(&c.position, c.digest).serialize(s)
    }

    pub(super) fn deserialize<'de, D>(d: D) -> Result<Checkpoint, D::Error>
    where
        D: serde::Deserializer<'de>,
    {
        let place = Place::deserialize(d)?;
        let digest = place.digest;
        Ok(Checkpoint { position: place.position(), digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        let commit = CommitRecord {
            journal: JournalId::from_array([7; 16]),
            epoch: Epoch::new(1, 9),
            generation: Generation(2),
            pointer: Pointer::from_height(9),
            previous: Pointer::ORIGIN,
            digest: Digest::from_array([3; 32]),
            durability: Durability::Fsynced,
            sequence: 4,
            at: 5,
        };
        let bytes = encode(&commit).unwrap();
        assert_eq!(decode::<CommitRecord>("k", &bytes).unwrap(), commit);
        let hold = HoldRecord { position: commit.position(), expires: None };
        assert_eq!(decode::<HoldRecord>("k", &encode(&hold).unwrap()).unwrap(), hold);
    }

    #[test]
    fn a_damaged_record_names_its_key() {
        let error = decode::<Incarnation>("/s/v1/incarnation", b"{").unwrap_err();
        assert!(error.to_string().contains("/s/v1/incarnation"), "{error}");
        assert!(pointer::parse("0g").is_err());
        assert!(pointer::parse("000").is_err());
    }
}
