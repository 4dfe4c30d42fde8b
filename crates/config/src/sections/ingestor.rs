use serde::{Deserialize, Serialize};
use sluice_model::TopicRule;

use crate::{ByteSize, HumanDuration};

/// A named capture of one chain or app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingestor {
    /// Where its blocks come from.
    pub source: Source,
    /// Which stores are captured: names or globs, `!` negates.
    #[serde(default = "every_store")]
    pub stores: Vec<String>,
    /// What happens when the source lacks a block.
    #[serde(default)]
    pub on_gap: OnGap,
    /// What happens when the source gives another block than the journal has.
    #[serde(default)]
    pub on_regress: OnRegress,
    /// Whether replicas that do not own the ingestor capture beside their own source.
    #[serde(default)]
    pub feeds: Feeds,
    /// How many feeds must have given the same block before it is appended: 1 compares afterwards.
    #[serde(default = "agree")]
    pub agree: u8,
    /// How long a block may be missing in every feed until a gap is recorded. Absent: for ever.
    #[serde(default)]
    pub gap_after: Option<HumanDuration>,
    /// How long the router may owe the owner an answer until the lock goes to a replica that
    /// waits for it; one that is alone keeps it. Absent: three times `coordinator.lease_ttl`.
    /// `0s`: for ever.
    #[serde(default)]
    pub unfit_after: Option<HumanDuration>,
    /// An owner whose source is so many blocks behind a replica's hands over. 0: never.
    #[serde(default)]
    pub lag_limit: u64,
    /// Bytes on disk for blocks captured beside.
    #[serde(default = "spool_bytes")]
    pub spool_bytes: ByteSize,
    /// Labels given at capture; the first match wins.
    #[serde(default)]
    pub topics: Vec<TopicRule>,
    /// Blocks appended before the first of them is acknowledged, at most.
    #[serde(default = "window")]
    pub window: usize,
    /// Bytes of the same, at most.
    #[serde(default = "window_bytes")]
    pub window_bytes: ByteSize,
    /// How often the commit is written, at most.
    #[serde(default = "commit_every")]
    pub commit_every: HumanDuration,
}

/// A source: its type, and the table that only the type understands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Names the type in the registry of sources.
    #[serde(rename = "type")]
    pub kind: String,
    /// Everything else.
    #[serde(flatten)]
    pub options: toml::Table,
}

/// What to do about a block that the source cannot give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGap {
    /// Stop there, visibly, until the block or an operator comes.
    #[default]
    Halt,
    /// Write a record of the gap and go on behind it.
    Record,
}

/// What to do when the chain went back: the source gives a block at or below the head that the
/// journal has with other content, as a node does that was rolled back or restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRegress {
    /// Refuse it, visibly, until the source or an operator puts it right.
    #[default]
    Block,
    /// Begin a new history at the last block that both have.
    Generation,
}

/// Who captures an ingestor that has several replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feeds {
    /// The owner alone; the others wait for their turn.
    #[default]
    Owner,
    /// Every replica from its own source; only the owner appends, the others compare.
    Beside,
}

const fn agree() -> u8 {
    1
}

const fn spool_bytes() -> ByteSize {
    ByteSize::mib(1024)
}

fn every_store() -> Vec<String> {
    vec!["*".to_owned()]
}

const fn window() -> usize {
    16
}

const fn window_bytes() -> ByteSize {
    ByteSize::mib(32)
}

const fn commit_every() -> HumanDuration {
    HumanDuration::secs(1)
}
