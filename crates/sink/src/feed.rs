//! What a stream reads: the seam to a router's subscription.

use std::sync::Arc;

use async_trait::async_trait;
use sluice_frame::Frame;
use sluice_model::{Checkpoint, Digest, Filter, Head, IngestorName, Position, StartPosition};

use crate::batch::MarkKind;

/// Opens subscriptions.
#[async_trait]
pub trait Journal: Send + Sync {
    /// The checkpoint that a start stands for now: what matches strictly after it is what the
    /// start means. Asked once in a stream's life; the answer is stored.
    async fn locate(
        &self,
        ingestor: &IngestorName,
        start: &StartPosition,
    ) -> Result<Checkpoint, FeedError>;

    /// Opens a subscription that delivers what matches strictly after a checkpoint. Without I/O:
    /// whether the journal has the place shows with the first item.
    fn subscribe(&self, request: FeedRequest) -> Box<dyn Feed>;
}

/// What to read.
#[derive(Clone, Debug)]
pub struct FeedRequest {
    /// Whose journal.
    pub ingestor: IngestorName,
    /// Which changes.
    pub filter: Arc<Filter>,
    /// Strictly after this; refused as diverged if the journal has another block there.
    pub after: Checkpoint,
    /// The blocks' metadata too.
    pub metadata: bool,
}

/// An open subscription.
///
/// Contract: items come in order of position, each block's matches complete before anything
/// after it. It mends broken connections by itself from the last item it gave, so nothing comes
/// twice and nothing is left out. `next` waits as long as nothing happens; it may be dropped
/// only together with the feed.
#[async_trait]
pub trait Feed: Send {
    /// The next item.
    async fn next(&mut self) -> Result<Item, FeedError>;
}

/// One item of a feed.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are frames; a box would cost each of them"
)]
pub enum Item {
    /// Matching changes of one frame of a block.
    Frame(Frame),
    /// Everything that matches up to here has come.
    Through {
        /// Up to here.
        at: Checkpoint,
        /// Its height.
        height: u64,
        /// The journal's head at that moment.
        head: Option<Head>,
    },
    /// A gap or a rewind. `through` is the place that it brings the reader to, if it has one.
    Mark {
        /// What it is.
        what: MarkKind,
        /// A gap's end.
        through: Option<Position>,
    },
    /// The journal's head, when nothing else was there to send.
    Heartbeat(Head),
}

/// Why a feed cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// Stored blocks are unreadable.
    #[error("{0}")]
    DataLoss(String),
    /// The place is older than what the journal keeps.
    #[error("the journal no longer has what follows {at}: its oldest block is {oldest}")]
    OutOfRange {
        /// The place asked for.
        at: String,
        /// What the journal still has.
        oldest: String,
    },
    /// The journal has another history than the checkpoint.
    #[error("the journal's history is not the one of the checkpoint {at}: {detail}")]
    Diverged {
        /// The place asked for.
        at: String,
        /// What the journal says.
        detail: String,
    },
    /// What came is not what was promised: a frame that does not verify, or out of order.
    #[error("the feed is broken at {at}: {detail}")]
    Corrupt {
        /// The last good place.
        at: String,
        /// What is wrong.
        detail: String,
    },
    /// The ingestor has no block: nothing was ever captured. To be asked again.
    #[error("{0}")]
    NotYet(String),
    /// Not reachable, refused for now: to be tried again.
    #[error("{0}")]
    Unavailable(String),
}

impl FeedError {
    /// True if only a person can help: the stream stops and shows the gap.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::OutOfRange { .. } | Self::Diverged { .. } | Self::DataLoss(_))
    }
}

/// The digest of a block, if it is one: frames carry zero where they do not know it.
pub(crate) fn known(digest: Digest) -> Option<Digest> {
    (digest != Digest::ZERO).then_some(digest)
}
