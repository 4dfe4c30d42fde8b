use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ByteSize, HumanDuration};

/// The router's journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// What keeps it.
    pub backend: JournalBackend,
    /// Where; `data_dir`/journal if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Recent frames kept in memory for live subscribers.
    pub tail_cache: ByteSize,
    /// Size of one segment file.
    pub segment_bytes: ByteSize,
    /// What is kept.
    pub retention: Retention,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            backend: JournalBackend::Embedded,
            dir: None,
            durability: Durability::Fsync,
            tail_cache: ByteSize::mib(64),
            segment_bytes: ByteSize::mib(64),
            retention: Retention::default(),
        }
    }
}

/// What keeps a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JournalBackend {
    /// Segment files on this machine.
    #[default]
    Embedded,
}

/// What retention keeps; an absent limit keeps everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// At most this many bytes per ingestor, whatever readers hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ByteSize>,
    /// At least blocks younger than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<HumanDuration>,
    /// At least this many blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<u64>,
    /// At most this much is kept for slow streams. Not done by this version, and therefore
    /// refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_for_streams: Option<ByteSize>,
}

/// What an acknowledgement means: `fsync`, `interval:50ms` or `none`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Durability {
    /// Synced to the disk before the acknowledgement.
    #[default]
    Fsync,
    /// Synced this often; a power cut takes what is younger.
    Interval(HumanDuration),
    /// Left to the operating system.
    None,
}

impl FromStr for Durability {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "fsync" => Ok(Self::Fsync),
            None if text == "none" => Ok(Self::None),
            Some(("interval", every)) => match every.parse() {
                Ok(every) if every != HumanDuration::default() => Ok(Self::Interval(every)),
                Ok(_) => Err("an interval of 0 is fsync; write that".to_owned()),
                Err(error) => Err(error),
            },
            None if text == "replicated" => Err("replicated needs a replicated journal, which \
                 this version does not have; write fsync, interval:50ms or none"
                .to_owned()),
            _ => Err(format!("{text:?} is not a durability; write fsync, interval:50ms or none")),
        }
    }
}

impl TryFrom<String> for Durability {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Durability> for String {
    fn from(durability: Durability) -> Self {
        durability.to_string()
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fsync => f.write_str("fsync"),
            Self::Interval(every) => write!(f, "interval:{every}"),
            Self::None => f.write_str("none"),
        }
    }
}
