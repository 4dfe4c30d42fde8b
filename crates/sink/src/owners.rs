//! Who may deliver, and where a stream stands: the seam to coordination.

use std::{fmt, str::FromStr};

use async_trait::async_trait;
use sluice_model::{Checkpoint, Epoch, IngestorName, Position, SequenceId, StartPosition};

/// Gives locks.
#[async_trait]
pub trait Owners: Send + Sync {
    /// Waits its turn for a lock. Dropping the future gives the place up.
    async fn acquire(&self, lock: &str) -> Result<Box<dyn Tenure>, OwnerError>;
}

/// A lock that is held, and what may be read and written under it.
///
/// Contract: `epoch` is above that of every earlier tenure of the lock. `is_valid` turns false
/// before anybody else can own the lock, and stays false. `put` is atomic and takes effect only
/// while the lock is held and the version matches; after an unknown outcome it can be repeated.
#[async_trait]
pub trait Tenure: Send + Sync {
    /// The fencing number.
    fn epoch(&self) -> Epoch;
    /// True while the lock is held as far as this process can know.
    fn is_valid(&self) -> bool;
    /// Resolves with the cause when the lock is lost. May be dropped and called again.
    async fn lost(&self) -> String;
    /// Where the stream stands. Linearizable.
    async fn state(&self, stream: &str) -> Result<StreamState, OwnerError>;
    /// Replaces the checkpoint of version `put.previous`; gives the new version.
    async fn put(&self, put: &Put) -> Result<u64, OwnerError>;
    /// Gives the lock up. Bounded; a failure is not reported, the lease ends then by itself.
    async fn release(&self);
}

/// Where a stream stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamState {
    /// The checkpoint and the text stored with it; `None` before the first since the last reset.
    pub checkpoint: Option<(Checkpoint, Under)>,
    /// The version that the next write replaces; 0 for none.
    pub version: u64,
    /// Counts the resets.
    pub reset_epoch: u64,
    /// Where the last reset said to start.
    pub start: Option<StartPosition>,
}

/// A checkpoint to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Whose.
    pub stream: String,
    /// The ingestor that the position is of.
    pub ingestor: IngestorName,
    /// The version it replaces.
    pub previous: u64,
    /// How far everything is done.
    pub checkpoint: Checkpoint,
    /// What it was made under.
    pub under: Under,
    /// The reset epoch it was made under.
    pub reset_epoch: u64,
}

/// What a checkpoint was made under: the filter, and the end of the last batch where that is
/// before the checkpoint. In between nothing matched that filter; the next batch begins at the
/// batch's end, so that its receiver does not take the stretch for a hole.
///
/// The coordinator keeps it as opaque text: the filter's hash, and ` after ` with an id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Under {
    /// The filter's hash.
    pub filter: String,
    /// The end of the last batch; `None` where that is the checkpoint itself.
    pub delivered: Option<Position>,
}

const AFTER: &str = " after ";

impl fmt::Display for Under {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.filter)?;
        match &self.delivered {
            Some(at) => write!(f, "{AFTER}{}", SequenceId::new(at.clone())),
            None => Ok(()),
        }
    }
}

impl FromStr for Under {
    type Err = sluice_model::SequenceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once(AFTER) {
            Some((filter, id)) => Self {
                filter: filter.to_owned(),
                delivered: Some(id.parse::<SequenceId>()?.into_position()),
            },
            None => Self { filter: text.to_owned(), delivered: None },
        })
    }
}

/// Why coordination did not do it.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// The lock is somebody else's now.
    #[error("the lock is lost: {0}")]
    Lost(String),
    /// Another checkpoint is stored than was replaced, or the stream was reset: read it again.
    #[error("{0}")]
    Conflict(String),
    /// No answer, or none that helps; to be tried again.
    #[error("{0}")]
    Unavailable(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::end_of;

    #[test]
    fn under_round_trips() {
        let plain = Under { filter: "00ff".to_owned(), delivered: None };
        assert_eq!(plain.to_string(), "00ff");
        assert_eq!("00ff".parse::<Under>().unwrap(), plain);
        let both = Under { delivered: Some(end_of(7)), ..plain };
        assert_eq!(both.to_string(), "00ff after 00000000000000000007-ffffffff");
        assert_eq!(both.to_string().parse::<Under>().unwrap(), both);
        assert!("00ff after 7".parse::<Under>().is_err());
    }
}
