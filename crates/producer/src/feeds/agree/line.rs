//! Frames in their order, from the ingest loop to the journal, with room for a bounded number.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use sluice_client::append::AppendError;
use sluice_frame::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    Ahead,
    gate::{Gate, Said, Unconfirmed},
};
use crate::seam::FrameSink;

/// What a frame takes beside its changes and its metadata, about.
const HEAD: usize = 512;
/// Frames between the two ends.
const BETWEEN: usize = 4;

/// The end where frames are put in.
pub(super) struct Line {
    queue: mpsc::Sender<Held>,
    bytes: Arc<Semaphore>,
    blocks: Arc<Semaphore>,
    most: usize,
}

/// The other end.
pub(super) struct Entries(mpsc::Receiver<Held>);

/// A frame in the line. Its share of the room is free when the journal has taken it.
struct Held {
    frame: Frame,
    /// For the last frame of a block that needs a second feed.
    block: Option<Unconfirmed>,
    _bytes: OwnedSemaphorePermit,
    _block: Option<OwnedSemaphorePermit>,
}

/// A line with this much room.
pub(super) fn line(room: Ahead) -> (Line, Entries) {
    let (queue, entries) = mpsc::channel(BETWEEN);
    let most = room.bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
    let blocks = room.blocks.clamp(1, Semaphore::MAX_PERMITS);
    let (bytes, blocks) = (Arc::new(Semaphore::new(most)), Arc::new(Semaphore::new(blocks)));
    (Line { queue, bytes, blocks, most }, Entries(entries))
}

impl Line {
    /// Puts a frame in; waits for room. Cancel safe: a call that is given up has put nothing in.
    pub(super) async fn put(
        &self,
        frame: &Frame,
        block: Option<Unconfirmed>,
    ) -> Result<(), AppendError> {
        let metadata = frame.header.metadata.as_ref().map_or(0, |own| own.value.len());
        let bytes = HEAD.saturating_add(frame.changes.len()).saturating_add(metadata);
        let share = u32::try_from(bytes.min(self.most)).unwrap_or(u32::MAX);
        let held = async {
            let turn = match &block {
                Some(_) => Some(self.blocks.clone().acquire_owned().await.ok()?),
                None => None,
            };
            let share = self.bytes.clone().acquire_many_owned(share).await.ok()?;
            Some((share, turn, self.queue.reserve().await.ok()?))
        };
        let held = tokio::select! {
            biased;
            () = self.queue.closed() => None,
            held = held => held,
        };
        let (share, turn, place) = held.ok_or(AppendError::Ended)?;
        place.send(Held { frame: frame.clone(), block, _bytes: share, _block: turn });
        Ok(())
    }
}

type Asked = BoxFuture<'static, Vec<Said>>;

impl Entries {
    /// Lets the frames through to the journal, each block when a second feed has it. Ends with
    /// the journal's error.
    pub(super) async fn pass(
        mut self,
        mut journal: Box<dyn FrameSink>,
        mut gate: Gate,
    ) -> AppendError {
        let mut held: VecDeque<Held> = VecDeque::new();
        let mut asked: FuturesOrdered<Asked> = FuturesOrdered::new();
        loop {
            tokio::select! {
                biased;
                Some(said) = asked.next() => {
                    let Some(Held { frame, block, _bytes, _block }) = held.pop_front() else {
                        continue;
                    };
                    if let Some(block) = block
                        && gate.confirmed(&block, said).await
                    {
                        // What was said of the blocks behind it is as old as that wait.
                        asked = held.iter().map(|held| ask(&gate, held)).collect();
                    }
                    if let Err(error) = journal.send(&frame).await {
                        return error;
                    }
                }
                Some(next) = self.0.recv() => {
                    asked.push_back(ask(&gate, &next));
                    held.push_back(next);
                }
                // Nobody puts anything in any more, and all of it is through.
                else => std::future::pending().await,
            }
        }
    }
}

fn ask(gate: &Gate, held: &Held) -> Asked {
    match &held.block {
        Some(block) => Box::pin(gate.ask(block.place.clone())),
        None => Box::pin(std::future::ready(Vec::new())),
    }
}
