//! What operators want of an ingestor: a durable record that is changed by compare-and-swap,
//! watched by whoever owns the ingestor and whoever waits for it, and audited with every change.

mod change;
mod watch;

use serde::{Deserialize, Serialize};
use sluice_model::{Digest, Epoch, Pointer, Position};

use crate::record;

pub use change::{Finish, Request};
pub use watch::ControlWatch;

/// The state of an ingestor's control. Absent in the store, it is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Control {
    /// Who paused the ingestor; `None` while it is to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
    /// The action that waits to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// How the last action ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<ActionResult>,
    /// Rises by one with every change.
    pub version: u64,
}

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, milliseconds since 1970, on the coordinator's clock. For people.
    pub at: u64,
    /// Two feeds differ; no person asked for it.
    #[serde(default)]
    pub alarm: bool,
}

/// Something the owner is to do once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Rises by one with each action of the ingestor.
    pub id: u64,
    /// Who asked for it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When, milliseconds since 1970, on the coordinator's clock. For people.
    pub requested: u64,
    /// What.
    pub kind: ActionKind,
    /// Tells a repeated request from another one.
    nonce: u64,
}

/// What an owner can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActionKind {
    /// Forget the failures and try the blocked block again at once.
    Retry,
    /// Write a gap over the blocks from the first to the last of these, and go on behind it.
    Skip {
        /// The blocked block.
        #[serde(with = "record::pointer")]
        pointer: Pointer,
        /// The last one left out; the same for just one.
        #[serde(with = "record::pointer")]
        through: Pointer,
    },
    /// A new generation from a block that the journal has.
    Rewind {
        /// The block.
        #[serde(with = "record::position")]
        to: Position,
        /// If given, the block must have it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
    },
    /// Take the journal's head as the truth.
    AcceptLoss,
    /// Drain, commit, release the lock, and queue again after a pause.
    HandOver,
}

impl ActionKind {
    /// The word for it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip { .. } => "skip",
            Self::Rewind { .. } => "rewind",
            Self::AcceptLoss => "accept-loss",
            Self::HandOver => "hand-over",
        }
    }

    /// What it is about, for people.
    fn text(&self) -> String {
        match self {
            Self::Skip { pointer, through } if pointer == through => format!("skip {pointer}"),
            Self::Skip { pointer, through } => format!("skip {pointer} through {through}"),
            Self::Rewind { to, .. } => {
                format!("rewind to {} of generation {}", to.pointer, to.generation)
            }
            other => other.name().to_owned(),
        }
    }
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionResult {
    /// The action's.
    pub id: u64,
    /// False if it was refused, failed, or was withdrawn.
    pub done: bool,
    /// What came of it.
    pub message: String,
    /// The action's word.
    pub kind: String,
    /// Who had asked for it.
    pub actor: String,
    /// Of the owner that ended it; zero if it was withdrawn.
    pub epoch: Epoch,
    /// When, milliseconds since 1970, on the coordinator's clock. For people.
    pub finished: u64,
    /// True if it was withdrawn.
    #[serde(default)]
    pub cancelled: bool,
    /// Of the request.
    nonce: u64,
}

#[cfg(test)]
mod tests {
    use sluice_model::Generation;

    use super::*;

    #[test]
    fn control_comes_back_from_the_store() {
        let kinds = [
            ActionKind::Retry,
            ActionKind::Skip { pointer: Pointer::from_height(7), through: Pointer::from_height(9) },
            ActionKind::Rewind {
                to: Position::end_of(Generation(2), Pointer::from_height(5)),
                digest: Some(Digest::from_array([4; 32])),
            },
            ActionKind::AcceptLoss,
            ActionKind::HandOver,
        ];
        for kind in kinds {
            let action = Action {
                id: 3,
                actor: "ops".to_owned(),
                reason: "why".to_owned(),
                requested: 9,
                kind,
                nonce: u64::MAX,
            };
            let control = Control { action: Some(action), version: 4, ..Control::default() };
            let bytes = record::encode(&control).unwrap();
            assert_eq!(record::decode::<Control>("k", &bytes).unwrap(), control);
        }
        assert_eq!(record::decode::<Control>("k", b"{}").unwrap(), Control::default());
    }
}
