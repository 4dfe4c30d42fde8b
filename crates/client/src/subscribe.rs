//! Filtered subscriptions that resume by themselves.
//!
//! [`Subscriber`] hides broken connections, restarts of the router and silent links: it asks again
//! from the last delivered position, drops what came twice, and checks on the way that positions
//! only rise and that blocks chain by digest where both ends of a link were seen. What it cannot
//! repair is a typed [`SubscribeError`].

mod error;
mod link;
mod tracker;
mod wire;

use std::time::Duration;

use sluice_frame::Frame;
use sluice_model::{
    Checkpoint, Digest, FilterSpec, Head, IngestorName, Pointer, Position, StartPosition,
};
use sluice_service::Transport;

pub use error::{Broken, SubscribeError};

use crate::backoff::Backoff;
use link::Link;
use tracker::Tracker;

/// Without any message for this long the connection counts as dead: three of the router's default
/// heartbeats.
pub const STALE_AFTER: Duration = Duration::from_secs(15);

/// What to subscribe to.
#[derive(Clone, Debug)]
pub struct SubscribeOptions {
    /// Whose changes.
    pub ingestor: IngestorName,
    /// Which of them.
    pub filter: FilterSpec,
    /// From where on.
    pub start: Start,
    /// The last height to deliver; the subscription ends after it. `None` goes on for ever.
    pub until: Option<u64>,
    /// Deliver the metadata of blocks too.
    pub metadata: bool,
    /// A connection without any message for this long is given up and made again. At least three
    /// heartbeats of the router.
    pub stale_after: Duration,
    /// How long to keep trying without any message before the last error is returned. `None`
    /// tries for ever.
    pub give_up_after: Option<Duration>,
    /// The waits between attempts.
    pub backoff: Backoff,
}

impl SubscribeOptions {
    /// Everything of an ingestor from here on, with the default times.
    pub fn new(ingestor: IngestorName, start: impl Into<Start>) -> Self {
        Self {
            ingestor,
            filter: FilterSpec::default(),
            start: start.into(),
            until: None,
            metadata: false,
            stale_after: STALE_AFTER,
            give_up_after: None,
            backoff: Backoff::default(),
        }
    }
}

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// As people write it.
    At(StartPosition),
    /// Strictly after a checkpoint. With a digest the router refuses if its block there is
    /// another one.
    After(Checkpoint),
}

impl From<StartPosition> for Start {
    fn from(start: StartPosition) -> Self {
        Self::At(start)
    }
}

impl From<Checkpoint> for Start {
    fn from(checkpoint: Checkpoint) -> Self {
        Self::After(checkpoint)
    }
}

/// One step of a subscription, in order of positions.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly every item is a frame")]
pub enum Item {
    /// Matching changes of one frame. With `end` the block is complete.
    Frame(Frame),
    /// Everything that matches up to here was delivered.
    Through(Through),
    /// Blocks that the source could not give.
    Gap(Gap),
    /// Another history begins; what follows belongs to it.
    Rewind(Rewind),
    /// Nothing else was to say; the router lives and this is its head.
    Heartbeat(Head),
    /// The bounded read is at its end. Nothing follows.
    Complete(Complete),
}

/// Progress over what the filter left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Through {
    /// The last position that is done.
    pub position: Position,
    /// The digest of its block; `None` while the journal has no block.
    pub digest: Option<Digest>,
    /// Its height.
    pub height: u64,
    /// The head of the journal at that moment.
    pub head: Option<Head>,
}

/// Blocks that are missing in the journal, in their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The end of the gap.
    pub through: Position,
    /// First missing block.
    pub from: Pointer,
    /// Last missing block.
    pub to: Pointer,
    /// Why, as recorded.
    pub cause: String,
}

/// The begin of another history, in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewind {
    /// The base in the new generation; what follows is after this.
    pub through: Position,
    /// The last block that both histories have, in its own generation.
    pub base: Position,
    /// Its digest.
    pub base_digest: Digest,
    /// Why, as recorded.
    pub reason: String,
    /// Who asked for it.
    pub actor: String,
}

/// The end of a bounded read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complete {
    /// The last position of the read.
    pub position: Position,
    /// The digest of its block, where it is known.
    pub digest: Option<Digest>,
}

/// A subscription to one ingestor.
#[derive(Debug)]
pub struct Subscriber {
    link: Link,
    tracker: Tracker,
    head: Option<Head>,
    until: Option<u64>,
    complete: bool,
}

impl Subscriber {
    /// A subscription; the connection is made by the first [`next`](Self::next).
    pub fn new(transport: Transport, options: SubscribeOptions) -> Self {
        let tracker =
            Tracker::new(options.ingestor.clone(), options.start.clone(), options.metadata);
        let until = options.until;
        Self { link: Link::new(transport, options), tracker, head: None, until, complete: false }
    }

    /// The next item; `None` after [`Item::Complete`]. Waits while there is nothing.
    ///
    /// Broken connections are made again in here, with jittered waits, from the last delivered
    /// position.
    ///
    /// # Cancel safety
    /// Cancel safe: an item is either returned or delivered by a later call.
    ///
    /// # Errors
    /// What asking again cannot repair, see [`SubscribeError`]. The position is kept: the next
    /// call asks again from it.
    pub async fn next(&mut self) -> Result<Option<Item>, SubscribeError> {
        if self.complete {
            return Ok(None);
        }
        if self.until.is_some_and(|until| self.tracker.reached(until)) {
            return Ok(self.finish());
        }
        loop {
            let answer = self.link.next(&self.tracker).await?;
            match self.take(answer) {
                Ok(Some(item)) => return Ok(Some(item)),
                Ok(None) => {}
                Err(broken) => {
                    self.link.close();
                    return Err(broken.into());
                }
            }
        }
    }

    /// How far everything is delivered: where a new subscriber would go on. `None` before the
    /// first delivery of a subscription that did not start at a checkpoint.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.tracker.checkpoint()
    }

    /// The head of the journal as last heard.
    pub const fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Connections made so far; more than one means that it resumed.
    pub const fn connections(&self) -> u64 {
        self.link.connections()
    }

    /// Ends a bounded read whose end was delivered before the connection broke.
    fn finish(&mut self) -> Option<Item> {
        self.complete = true;
        self.link.close();
        let Checkpoint { position, digest } = self.tracker.checkpoint().unwrap_or_default();
        Some(Item::Complete(Complete { position, digest }))
    }

    fn take(&mut self, answer: wire::Answer) -> Result<Option<Item>, Broken> {
        Ok(match answer {
            wire::Answer::Started { after, head } => {
                self.note_head(head);
                self.tracker.started(&after)?;
                None
            }
            wire::Answer::Heartbeat(head) => {
                self.note_head(head.clone());
                head.map(Item::Heartbeat)
            }
            wire::Answer::Frame(frame) => self.tracker.frame(frame)?.map(Item::Frame),
            wire::Answer::Through(through) => {
                self.note_head(through.head.clone());
                let Through { position, digest, height, .. } = &through;
                self.tracker
                    .through(position.clone(), *digest, Some(*height))?
                    .then_some(Item::Through(through))
            }
            wire::Answer::Gap(gap) => self
                .tracker
                .through(gap.through.clone(), None, gap.to.height())?
                .then_some(Item::Gap(gap)),
            wire::Answer::Rewind(rewind) => {
                self.tracker.rewind(&rewind)?;
                Some(Item::Rewind(rewind))
            }
            wire::Answer::Complete(complete) => {
                self.tracker.through(complete.position.clone(), complete.digest, None)?;
                self.complete = true;
                self.link.close();
                Some(Item::Complete(complete))
            }
        })
    }

    fn note_head(&mut self, head: Option<Head>) {
        if head.is_some() {
            self.head = head;
        }
    }
}
