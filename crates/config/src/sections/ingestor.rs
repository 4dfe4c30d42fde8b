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
