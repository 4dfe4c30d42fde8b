//! From the source's pieces to frames on their way to the router.

use std::{mem, sync::Arc};

use bytes::{Bytes, BytesMut};
use sluice_client::append::AppendError;
use sluice_frame::{BlockBuilder, BlockStart, Digester, Frame, StateDigest, canonicalize};
use sluice_model::{Digest, Epoch, Generation, IngestorName, Kind, Pointer, TopicRules};

use super::{
    attempt::source_failure,
    record::{self, Gap},
    window::{InFlight, Room, Sending, Window},
};
use crate::{
    policy::Failure,
    seam::{FrameSink, Journals},
    source::{Begin, Feed, Item, Piece},
    status::StatusCell,
    stores::Stores,
};

/// Why sending ended without a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The source has no more blocks.
    Finished,
    /// The process stops.
    Stopped,
    /// Operators want something.
    Interrupted,
}

pub(super) struct Intake<'a> {
    pub(super) ingestor: &'a IngestorName,
    pub(super) journals: &'a dyn Journals,
    pub(super) generation: Generation,
    pub(super) epoch: Epoch,
    pub(super) topics: &'a TopicRules,
    pub(super) stores: &'a mut Stores,
    pub(super) strict_stores: bool,
    pub(super) metadata_limit: usize,
    /// The last block sent.
    pub(super) tail: Pointer,
    pub(super) tail_height: Option<u64>,
    pub(super) frames: Box<dyn FrameSink>,
    pub(super) window: &'a Window,
    pub(super) status: &'a StatusCell,
    pub(super) current: Option<Current<'a>>,
    /// The block at hand is not wanted.
    pub(super) dropping: bool,
}

/// The block being sent.
pub(super) struct Current<'a> {
    begin: Begin,
    builder: BlockBuilder<'a>,
    parent: Pointer,
    /// Of a block that the journal has already: if it refuses it, people want to see both sides.
    digests: Option<Digester>,
    room: Room,
    offered: u32,
    bytes: u64,
    metadata: Option<(Arc<str>, BytesMut)>,
}

impl<'a> Intake<'a> {
    /// Sends what the feed gives until it ends.
    pub(super) async fn run(&mut self, feed: &mut Feed) -> Result<Sent, Failure> {
        loop {
            let item = match feed.next().await {
                Some(Ok(item)) => item,
                Some(Err(error)) => return Err(source_failure(&error)),
                // Not the end of the chain: somebody stopped obtaining blocks.
                None => return Err(self.failure("the source ended without saying why".to_owned())),
            };
            match item {
                Item::Begin(begin) => self.begin(begin).await?,
                Item::Changes(_) | Item::Metadata { .. } if self.dropping => {}
                Item::End { .. } if self.dropping => self.dropping = false,
                Item::Changes(piece) => self.changes(&piece).await?,
                Item::Metadata { type_url, value } => self.metadata(type_url, &value)?,
                Item::End { changes, traceparent } => self.end(changes, &traceparent).await?,
                Item::Abort => self.abort(),
                Item::Gap { from, to, cause } => self.gap(from, to, cause).await?,
                Item::Progress { source_height } => self.status.source_height(source_height),
                Item::Finished => return Ok(Sent::Finished),
            }
        }
    }

    fn failure(&self, cause: String) -> Failure {
        let pointer = self.current.as_ref().map(|current| current.begin.pointer.clone());
        Failure { pointer, cause, lasting: false, reason: "source" }
    }

    /// Forgets the unfinished block; the journal drops its parts when the next one begins.
    fn abort(&mut self) {
        (self.current, self.dropping) = (None, false);
        self.window.sending(None);
    }

    async fn begin(&mut self, begin: Begin) -> Result<(), Failure> {
        self.abort();
        let room = self.window.room().await;
        let parent = self.parent(&begin)?;
        let (pointer, again) = (begin.pointer.clone(), begin.pointer <= self.tail);
        self.window.sending(Some(Sending {
            pointer: pointer.clone(),
            parent: parent.clone(),
            states: Vec::new(),
        }));
        let generation = match again {
            true => match self.history_of(&pointer, parent.is_origin()).await? {
                Some(generation) => generation,
                None => {
                    self.abort();
                    self.dropping = true;
                    return Ok(());
                }
            },
            false => self.generation,
        };
        let digests = || Digester::new(Digest::ZERO, generation, pointer.clone(), begin.height);
        let digests = again.then(digests);
        let start = BlockStart {
            ingestor: self.ingestor.clone(),
            generation,
            pointer,
            parent: parent.clone(),
            height: begin.height,
            time: begin.time,
            epoch: self.epoch,
        };
        self.current = Some(Current {
            begin,
            builder: BlockBuilder::new(start, self.topics),
            parent,
            digests,
            room,
            offered: 0,
            bytes: 0,
            metadata: None,
        });
        Ok(())
    }

    /// The history that a block is in that the journal has already: below the base of the present
    /// one it is in one before. `None` for one that is only `offered` and cannot be compared.
    async fn history_of(
        &mut self,
        pointer: &Pointer,
        offered: bool,
    ) -> Result<Option<Generation>, Failure> {
        if self.generation == Generation(0) && !offered {
            return Ok(Some(self.generation));
        }
        match self.journals.block(self.ingestor, pointer, None).await {
            Ok(Some(block)) if block.kind == Kind::Block || !offered => {
                Ok(Some(block.head.generation))
            }
            Err(error) if error.is_transient() => Err(Failure {
                pointer: Some(pointer.clone()),
                cause: error.to_string(),
                lasting: false,
                reason: "router",
            }),
            // A gap, nothing, or retention has passed it; the journal says so to who asks.
            Ok(_) | Err(_) => Ok((!offered).then_some(self.generation)),
        }
    }

    /// The parent of a block. A block above the tail must follow it; one at or below is sent
    /// again and the journal compares it.
    fn parent(&self, begin: &Begin) -> Result<Pointer, Failure> {
        let wrong = |cause| {
            let pointer = Some(begin.pointer.clone());
            Err(Failure { pointer, cause, lasting: false, reason: "source" })
        };
        let again = begin.pointer <= self.tail;
        match &begin.parent {
            Some(parent) if !again && *parent != self.tail => wrong(format!(
                "block {} has the parent {parent}, but the last block is {}",
                begin.pointer, self.tail
            )),
            Some(parent) => Ok(parent.clone()),
            None if again => wrong(format!(
                "block {} does not lie behind the last block {}",
                begin.pointer, self.tail
            )),
            None => match self.tail_height.filter(|tail| begin.height <= *tail) {
                Some(tail) => wrong(format!(
                    "block {} has the height {}, but the last block has {tail} already",
                    begin.pointer, begin.height
                )),
                None => Ok(self.tail.clone()),
            },
        }
    }

    async fn changes(&mut self, piece: &Piece) -> Result<(), Failure> {
        let kept = match self.stores.keep(&piece.bytes) {
            Ok(kept) => kept,
            Err(strict) => {
                // Other encoders may order fields or write defaults; what they mean is kept.
                let canonical = canonicalize(&piece.bytes)
                    .map_err(|error| self.failure(piece.explain(&error)))?;
                tracing::debug!(ingestor = %self.ingestor, %strict, "changes brought into canonical form");
                self.stores.keep(&canonical).map_err(|error| self.failure(error.to_string()))?
            }
        };
        let Some(current) = &mut self.current else {
            return Err(self.failure("the source gave changes outside of a block".to_owned()));
        };
        current.offered = current.offered.saturating_add(kept.offered);
        let mut added = Ok(());
        for slice in &kept.slices {
            added = current.builder.push_changes(slice);
            if added.is_err() {
                break;
            }
            current.bytes += slice.len() as u64;
            while let Some(frame) = current.builder.take() {
                current.digest(&frame);
                send(self.frames.as_mut(), &frame).await?;
            }
        }
        added.map_err(|error| self.failure(piece.explain(&error)))
    }

    fn metadata(&mut self, type_url: Arc<str>, value: &Bytes) -> Result<(), Failure> {
        let limit = self.metadata_limit;
        let Some(current) = &mut self.current else {
            return Err(self.failure("the source gave metadata outside of a block".to_owned()));
        };
        let (_, whole) = current.metadata.get_or_insert_with(|| (type_url, BytesMut::new()));
        if whole.len() + value.len() > limit {
            let cause = format!("the block's metadata is larger than {limit} bytes");
            return Err(self.failure(cause));
        }
        whole.extend_from_slice(value);
        Ok(())
    }

    async fn end(&mut self, counted: Option<u32>, traceparent: &str) -> Result<(), Failure> {
        let Some(mut current) = self.current.take() else {
            return Err(self.failure("the source ended a block that was not begun".to_owned()));
        };
        let pointer = current.begin.pointer.clone();
        let wrong = |cause, lasting| {
            Err(Failure { pointer: Some(pointer.clone()), cause, lasting, reason: "source" })
        };
        if let Some(counted) = counted.filter(|counted| *counted != current.offered) {
            let offered = current.offered;
            return wrong(format!("{counted} changes were announced, {offered} came"), false);
        }
        let missing = self.stores.missing();
        if self.strict_stores
            && self.tail.is_origin()
            && let Some(missing) = missing
        {
            return wrong(missing, true);
        }
        self.status.note("stores", missing);
        if let Some((type_url, value)) = current.metadata.take() {
            current.builder.set_metadata(&type_url, value.freeze());
        }
        let changes = u64::from(current.builder.changes());
        let own = sluice_telemetry::current_traceparent();
        let traceparent = if traceparent.is_empty() { own.as_str() } else { traceparent };
        let frames = current.builder.finish(traceparent);
        let states = digests_of(current.digests, &frames);
        // Counted as under way before its last frame is: the acknowledgement may be quick.
        let last = frames.len().saturating_sub(1);
        let mut flying = Some(InFlight {
            pointer: pointer.clone(),
            parent: current.parent,
            height: current.begin.height,
            time: current.begin.time,
            changes,
            bytes: current.bytes,
            states,
            gap: None,
            room: current.room,
        });
        for (i, frame) in frames.iter().enumerate() {
            if i == last
                && let Some(flying) = mem::take(&mut flying)
            {
                self.window.sent(flying);
                self.status.inflight(self.window.flying());
            }
            send(self.frames.as_mut(), frame).await?;
        }
        self.advance(pointer, current.begin.height);
        Ok(())
    }

    async fn gap(&mut self, from: Pointer, to: Pointer, cause: String) -> Result<(), Failure> {
        self.abort();
        let room = self.window.room().await;
        let height = to.height().or(self.tail_height).unwrap_or_default();
        tracing::warn!(ingestor = %self.ingestor, %from, %to, cause, "recording a gap");
        let gap = Gap { from, to: to.clone(), cause };
        let parent = self.tail.clone();
        let place = (parent.clone(), height);
        let frame = record::gap(self.ingestor, self.generation, place, &gap, self.epoch);
        self.window.sent(InFlight {
            pointer: to.clone(),
            parent,
            height,
            time: None,
            changes: 0,
            bytes: 0,
            states: Vec::new(),
            gap: Some(gap),
            room,
        });
        send(self.frames.as_mut(), &frame).await?;
        self.advance(to, height);
        Ok(())
    }

    fn advance(&mut self, pointer: Pointer, height: u64) {
        if pointer > self.tail {
            (self.tail, self.tail_height) = (pointer, Some(height));
        }
    }
}

impl Current<'_> {
    fn digest(&mut self, frame: &Frame) {
        // Frames of our own builder; should one not add up, there is no digest to show.
        if let Some(digests) = &mut self.digests
            && digests.add(frame).is_err()
        {
            self.digests = None;
        }
    }
}

/// The state digests of a block with its last frames.
fn digests_of<'f>(
    digests: Option<Digester>,
    last: impl IntoIterator<Item = &'f Frame>,
) -> Vec<StateDigest> {
    let Some(mut digests) = digests else { return Vec::new() };
    let added = last.into_iter().try_for_each(|frame| digests.add(frame));
    if added.is_ok() { digests.finish().states } else { Vec::new() }
}

/// Queues a frame. When the stream has ended, the acknowledgements say why; until they have,
/// there is nothing to do here.
async fn send(frames: &mut dyn FrameSink, frame: &Frame) -> Result<(), Failure> {
    match frames.send(frame).await {
        Ok(()) => Ok(()),
        Err(AppendError::Ended) => std::future::pending().await,
        Err(error) => Err(Failure {
            pointer: Some(frame.header.pointer.clone()),
            cause: error.to_string(),
            lasting: false,
            reason: "router",
        }),
    }
}
