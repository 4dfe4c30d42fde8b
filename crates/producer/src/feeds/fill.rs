//! A source with what it lacks fetched from elsewhere: from this process's own spool, then from
//! the replicas that capture beside.

use std::{collections::VecDeque, fmt, sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use sluice_frame::Frame;
use sluice_model::{Digest, Generation, Head, Pointer};
use tokio::sync::Mutex;

use super::{
    Shared,
    incoming::{Asked, Incoming},
    peers::{Answer, Frames, PeerError},
};
use crate::{
    source::{
        Ack, Again, Begin, Feed, FeedWriter, Item, Piece, Refusal, Source, SourceError, Verdict,
    },
    spool::BlockReader,
};

/// Most missing blocks that one error or record of a gap may name and that are asked for.
const MAX_GAP: u64 = 100_000;

/// The source of an owner that does not give up at a block that its own node lacks.
///
/// Blocks between the own ones come in their place, each checked, as if the own source had given
/// them. What nobody has stays the source's own error; after `gap_after` it becomes a recorded
/// gap.
pub struct Filling {
    shared: Arc<Shared>,
    inner: Arc<Mutex<Box<dyn Source>>>,
    complete: bool,
    missing: Arc<Mutex<Option<Missing>>>,
}

/// The block that nobody has, and since when that is known here.
#[derive(Debug)]
struct Missing {
    pointer: Pointer,
    since: Instant,
}

impl Filling {
    /// Around this source.
    pub(super) fn new(shared: Arc<Shared>, source: Box<dyn Source>) -> Self {
        let complete = source.first_block_is_complete();
        Self { shared, inner: Arc::new(Mutex::new(source)), complete, missing: Arc::default() }
    }
}

impl Filling {
    /// The feed with its gaps filled, behind this block.
    fn filled(&self, feed: Feed, generation: Generation, tail: Pointer) -> Feed {
        if self.shared.is_standing_by() {
            // What this feed lacks is not to be taken from the one it is compared with.
            return feed;
        }
        let forward = Forward {
            shared: self.shared.clone(),
            inner: self.inner.clone(),
            missing: self.missing.clone(),
            generation,
            tail,
            begun: None,
            ending: None,
        };
        Feed::spawn_until_closed(move |writer| forward.run(feed, writer))
    }
}

#[async_trait]
impl Source for Filling {
    async fn blocks(&mut self, after: Option<&Head>) -> Result<Feed, SourceError> {
        let feed = self.inner.lock().await.blocks(after).await?;
        let generation = after.map_or(Generation(0), |head| head.generation);
        let tail = after.map(|head| head.pointer.clone()).unwrap_or_default();
        Ok(self.filled(feed, generation, tail))
    }

    async fn again(
        &mut self,
        head: &Head,
        from: &Pointer,
        at: &Pointer,
    ) -> Result<Option<Again>, SourceError> {
        let again = self.inner.lock().await.again(head, from, at).await?;
        Ok(again.map(|Again { feed, first, made_anew }| {
            let feed = self.filled(feed, head.generation, from.clone());
            Again { feed, first, made_anew }
        }))
    }

    fn first_block_is_complete(&self) -> bool {
        self.complete
    }

    async fn durable(&mut self, ack: &Ack) -> Result<(), SourceError> {
        self.inner.lock().await.durable(ack).await
    }

    async fn refused(&mut self, refusal: &Refusal) -> Verdict {
        self.inner.lock().await.refused(refusal).await
    }
}

impl fmt::Debug for Filling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filling").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// Passes one feed on.
struct Forward {
    shared: Arc<Shared>,
    inner: Arc<Mutex<Box<dyn Source>>>,
    missing: Arc<Mutex<Option<Missing>>>,
    generation: Generation,
    /// The last block that was passed on whole.
    tail: Pointer,
    /// The block that is being passed on.
    begun: Option<Pointer>,
    /// The end of a block from elsewhere, until nothing more comes behind it.
    ending: Option<Item>,
}

/// How far missing blocks could be filled.
enum Filled {
    /// All of them.
    Whole,
    /// Not from this one on, and why.
    Until(Pointer, String),
}

impl Forward {
    async fn run(mut self, mut feed: Feed, writer: FeedWriter) -> Result<(), SourceError> {
        let ended = tokio::select! {
            biased;
            () = writer.closed() => Ok(()),
            ended = self.forward(&mut feed, &writer) => ended,
        };
        feed.close().await;
        ended
    }

    async fn forward(&mut self, feed: &mut Feed, writer: &FeedWriter) -> Result<(), SourceError> {
        loop {
            let last = match feed.next().await {
                // Its reader knows what an end without a word means.
                None => return Ok(()),
                Some(Ok(Item::Gap { from, to, cause })) => {
                    self.recorded(from, to, cause, writer).await?;
                    continue;
                }
                Some(Ok(item)) => {
                    self.pass(item, writer).await?;
                    continue;
                }
                Some(Err(SourceError::Gap { from, to, cause })) => {
                    self.lacking(from, to, cause, writer).await?
                }
                Some(Err(SourceError::Block { pointer, cause })) => {
                    self.unreadable(pointer, cause, writer).await?
                }
                Some(Err(error)) => return Err(error),
            };
            // The source ended with its error; it goes on behind what it lacked.
            let head = self.head_at(last);
            let next = self.inner.lock().await.blocks(Some(&head)).await?;
            std::mem::replace(feed, next).close().await;
        }
    }

    /// Passes on what the source gave.
    async fn pass(&mut self, item: Item, writer: &FeedWriter) -> Result<(), SourceError> {
        match &item {
            Item::Begin(begin) => self.begun = Some(begin.pointer.clone()),
            Item::Abort => self.begun = None,
            Item::End { .. } => {
                if let Some(pointer) = self.begun.take() {
                    self.tail = pointer;
                }
            }
            _ => {}
        }
        writer.send(item).await
    }

    /// The source was told to record what it lacks; that is the last resort.
    async fn recorded(
        &mut self,
        from: Pointer,
        to: Pointer,
        cause: String,
        writer: &FeedWriter,
    ) -> Result<(), SourceError> {
        if let Filled::Until(from, told) = self.fill(&from, &to, writer).await? {
            let cause = format!("{cause}; {told}");
            writer.send(Item::Gap { from, to: to.clone(), cause }).await?;
        }
        self.tail = to;
        Ok(())
    }

    /// The source lacks blocks: they come from elsewhere, or become a gap after a while. Gives the
    /// block to go on behind.
    async fn lacking(
        &mut self,
        from: Pointer,
        to: Pointer,
        cause: String,
        writer: &FeedWriter,
    ) -> Result<Pointer, SourceError> {
        let (from, told) = match self.fill(&from, &to, writer).await? {
            Filled::Whole => return Ok(to),
            Filled::Until(from, told) => (from, told),
        };
        let cause = format!("{cause}; {told}");
        let since = self.missing_since(&from).await;
        let Some(after) = self.shared.options.gap_after.filter(|after| since.elapsed() >= *after)
        else {
            return Err(SourceError::Gap { from, to, cause });
        };
        let cause = format!("{cause}; missing in every feed for {} s", after.as_secs());
        self.abort(writer).await?;
        writer.send(Item::Gap { from, to: to.clone(), cause }).await?;
        self.tail = to.clone();
        Ok(to)
    }

    /// A block that the source has and cannot read may be had elsewhere; it is never given up.
    async fn unreadable(
        &mut self,
        pointer: Pointer,
        cause: String,
        writer: &FeedWriter,
    ) -> Result<Pointer, SourceError> {
        match self.fill(&pointer, &pointer, writer).await? {
            Filled::Whole => Ok(pointer),
            Filled::Until(_, told) => {
                Err(SourceError::Block { pointer, cause: format!("{cause}; {told}") })
            }
        }
    }

    async fn missing_since(&self, pointer: &Pointer) -> Instant {
        let mut missing = self.missing.lock().await;
        match missing.as_ref().filter(|known| known.pointer == *pointer) {
            Some(known) => known.since,
            None => {
                missing.insert(Missing { pointer: pointer.clone(), since: Instant::now() }).since
            }
        }
    }

    /// Fetches the blocks from `from` to `to`, as far as they are to be had.
    async fn fill(
        &mut self,
        from: &Pointer,
        to: &Pointer,
        writer: &FeedWriter,
    ) -> Result<Filled, SourceError> {
        self.abort(writer).await?;
        for pointer in pointers(from, to) {
            if let Err(told) = self.fill_one(&pointer, writer).await? {
                self.shared.metrics.fill(&self.shared.ingestor, "missing");
                return Ok(Filled::Until(pointer, told));
            }
            self.tail = pointer;
        }
        if self.tail == *to {
            return Ok(Filled::Whole);
        }
        let told = format!("more than {MAX_GAP} blocks are not asked for at once");
        let next = self.tail.height().map_or_else(|| to.clone(), |at| Pointer::from_height(at + 1));
        Ok(Filled::Until(next, told))
    }

    async fn abort(&mut self, writer: &FeedWriter) -> Result<(), SourceError> {
        match self.begun.take() {
            Some(_) => writer.send(Item::Abort).await,
            None => Ok(()),
        }
    }

    /// Fetches one block; what was tried, if nobody has it. The outer error is the reader's going.
    async fn fill_one(
        &mut self,
        pointer: &Pointer,
        writer: &FeedWriter,
    ) -> Result<Result<(), String>, SourceError> {
        let shared = self.shared.clone();
        let place = (self.generation, pointer.clone());
        let mut tried = VecDeque::new();
        if shared.options.beside
            && let Ok(Some(reader)) = shared.spool.read(place.clone()).await
        {
            match self.copy(pointer, &mut OwnFrames(Some(reader)), writer).await? {
                Ok(()) => {
                    self.filled(pointer, "the own spool");
                    return Ok(Ok(()));
                }
                Err(cause) => tried.push_back(format!("the own spool: {cause}")),
            }
        }
        let peers = shared.seams.peers.standbys(&shared.ingestor).await;
        if peers.is_empty() {
            tried.push_back("no other replica waits for the ingestor".to_owned());
        }
        for peer in peers {
            let asked = peer.digests(&shared.ingestor, &place, shared.options.timing.fill).await;
            let cause = match asked {
                Ok(Answer::Captured(_)) => match peer.fetch(&shared.ingestor, &place).await {
                    Err(error) => error.to_string(),
                    Ok(mut frames) => match self.copy(pointer, frames.as_mut(), writer).await? {
                        Ok(()) => {
                            shared.supplied(pointer.clone(), peer.name().to_owned());
                            self.filled(pointer, peer.name());
                            return Ok(Ok(()));
                        }
                        Err(cause) => {
                            shared.metrics.fill(&shared.ingestor, "refused");
                            tracing::warn!(ingestor = %shared.ingestor, block = %pointer, peer = peer.name(), cause, "a block from another replica is refused");
                            format!("what it sent is refused: {cause}")
                        }
                    },
                },
                Ok(Answer::Pending) => "it has not got so far".to_owned(),
                Ok(Answer::Passed) => "it does not have it".to_owned(),
                Err(error) => error.to_string(),
            };
            tried.push_back(format!("{}: {cause}", peer.name()));
        }
        Ok(Err(format!("asked for it elsewhere: {}", Vec::from(tried).join("; "))))
    }

    fn filled(&self, pointer: &Pointer, from: &str) {
        self.shared.metrics.fill(&self.shared.ingestor, "filled");
        tracing::info!(ingestor = %self.shared.ingestor, block = %pointer, from, "a missing block was filled");
        self.shared.note("fill", Some(format!("block {pointer} was filled from {from}")));
    }

    /// Passes a block on while it is checked. One that turns out wrong is taken back.
    async fn copy(
        &mut self,
        pointer: &Pointer,
        frames: &mut dyn Frames,
        writer: &FeedWriter,
    ) -> Result<Result<(), String>, SourceError> {
        let mut incoming = Incoming::new(Asked {
            ingestor: self.shared.ingestor.clone(),
            place: (self.generation, pointer.clone()),
            parent: self.tail.clone(),
            limit: self.shared.options.spool_bytes,
        });
        loop {
            let taken = match frames.next().await {
                Err(error) => Err(error.to_string()),
                Ok(None) if incoming.is_complete() => {
                    self.end(writer).await?;
                    return Ok(Ok(()));
                }
                Ok(None) => Err("it ended in the middle of the block".to_owned()),
                Ok(Some(bytes)) => incoming.take(bytes),
            };
            match taken {
                Ok(frame) => self.give(frame, writer).await?,
                Err(cause) => {
                    self.ending = None;
                    self.abort(writer).await?;
                    return Ok(Err(cause));
                }
            }
        }
    }

    /// Passes on a frame that was checked.
    async fn give(&mut self, frame: Frame, writer: &FeedWriter) -> Result<(), SourceError> {
        let Frame { header, changes } = frame;
        if header.part == 0 {
            self.begun = Some(header.pointer.clone());
            let begin = Begin {
                height: header.height,
                pointer: header.pointer,
                parent: Some(header.parent),
                time: header.time,
            };
            writer.send(Item::Begin(begin)).await?;
        }
        if !changes.is_empty() {
            writer.send(Item::Changes(Piece::new(changes))).await?;
        }
        if let Some(metadata) = header.metadata {
            let (type_url, value) = (metadata.type_url.into(), metadata.value);
            writer.send(Item::Metadata { type_url, value }).await?;
        }
        self.ending = header
            .end
            .map(|end| Item::End { changes: Some(end.changes), traceparent: end.traceparent });
        Ok(())
    }

    /// Passes on the end of a block from elsewhere.
    async fn end(&mut self, writer: &FeedWriter) -> Result<(), SourceError> {
        self.begun = None;
        match self.ending.take() {
            Some(end) => writer.send(end).await,
            None => Ok(()),
        }
    }

    /// Where the source is to go on.
    fn head_at(&self, pointer: Pointer) -> Head {
        Head {
            generation: self.generation,
            height: pointer.height().unwrap_or_default(),
            pointer,
            digest: Digest::ZERO,
            time: None,
            appended: 0,
        }
    }
}

/// The pointers from one to another, as far as they can be counted.
fn pointers(from: &Pointer, to: &Pointer) -> impl Iterator<Item = Pointer> + Send + use<> {
    let heights = from.height().zip(to.height());
    let single = heights.is_none().then(|| from.clone());
    let counted = heights.map(|(from, to)| from..=to.min(from.saturating_add(MAX_GAP - 1)));
    counted.into_iter().flatten().map(Pointer::from_height).chain(single)
}

/// A block of the own spool.
struct OwnFrames(Option<BlockReader>);

#[async_trait]
impl Frames for OwnFrames {
    async fn next(&mut self) -> Result<Option<Bytes>, PeerError> {
        let Some(mut reader) = self.0.take() else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || {
            let next = reader.next_frame();
            (reader, next)
        });
        let (reader, next) = read.await.map_err(|_| PeerError("the process stops".to_owned()))?;
        self.0 = Some(reader);
        next.map_err(|error| PeerError(error.to_string()))
    }
}
