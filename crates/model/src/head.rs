use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Digest, Generation, Pointer, Position};

/// The last durable block of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its history.
    pub generation: Generation,
    /// Its place.
    pub pointer: Pointer,
    /// Its height.
    pub height: u64,
    /// Its digest, which the next block names as its parent's.
    pub digest: Digest,
    /// Its own time, nanoseconds since 1970.
    pub time: Option<i64>,
    /// When it became durable, nanoseconds since 1970.
    pub appended: i64,
}

impl Head {
    /// The position after everything in the head.
    pub fn position(&self) -> Position {
        Position::end_of(self.generation, self.pointer.clone())
    }
}

/// The identity of a journal, minted once. A volume that holds another id does not hold this
/// journal, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JournalId([u8; 16]);

/// Why bytes or text are not a journal id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a journal id is 16 bytes (32 hex digits), not {0:?}")]
pub struct JournalIdError(String);

impl JournalId {
    /// The id of these bytes.
    pub const fn from_array(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TryFrom<&[u8]> for JournalId {
    type Error = JournalIdError;
    fn try_from(bytes: &[u8]) -> Result<Self, JournalIdError> {
        bytes.try_into().map(Self).map_err(|_| JournalIdError(hex::encode(bytes)))
    }
}

impl FromStr for JournalId {
    type Err = JournalIdError;
    fn from_str(text: &str) -> Result<Self, JournalIdError> {
        let bytes = hex::decode(text).map_err(|_| JournalIdError(text.to_owned()))?;
        Self::try_from(bytes.as_slice())
    }
}

impl TryFrom<String> for JournalId {
    type Error = JournalIdError;
    fn try_from(text: String) -> Result<Self, JournalIdError> {
        text.parse()
    }
}

impl From<JournalId> for String {
    fn from(id: JournalId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JournalId({self})")
    }
}

/// What an acknowledged block survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Power loss: it was synced to the disk before the acknowledgement.
    Fsynced,
    /// A crash of the process; power loss takes up to one interval.
    Interval,
    /// A crash of the process.
    None,
    /// The loss of a minority of the cluster that holds it.
    Replicated,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fsynced => "fsynced",
            Self::Interval => "interval",
            Self::None => "none",
            Self::Replicated => "replicated",
        })
    }
}
