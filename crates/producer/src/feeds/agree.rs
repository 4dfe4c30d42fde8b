//! Journals that take only blocks that a second feed confirms (`agree = 2`).
//!
//! The last frame of a block is what makes it visible, so that is the one held back: everything
//! before it may already be on its way, and is forgotten by the journal if the last never comes.
//!
//! ```text
//!   ingest loop ─> [room: blocks and bytes] ─> asked about ahead ─> compared in order ─> journal
//! ```
//!
//! The blocks behind the one that is compared are asked about meanwhile, so that the way to the
//! other replica is paid once for many of them and not once for each. The line is worked off by
//! whoever waits for the journal's acknowledgements: it has no task of its own and ends with the
//! attempt.

mod gate;
mod line;

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use sluice_client::append::{Ack, AppendError, Open};
use sluice_frame::{BlockEnd, Digester, Frame};
use sluice_model::{Digest, Epoch, Generation, IngestorName, JournalId, Kind, Pointer};

use super::Shared;
use crate::{
    seam::{AckSource, FrameSink, Journals, Opened, StoredBlock},
    spool::Place,
};
use gate::{Gate, Unconfirmed};
use line::Line;

/// How far the comparison with the second feed looks ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Blocks that wait to be confirmed. With 1 every block is asked about by itself.
    pub blocks: usize,
    /// Bytes of frames that wait; one frame beyond it is let in, whatever its size.
    pub bytes: usize,
}

impl Default for Ahead {
    /// More blocks than are usually under way, and as many bytes as wait for a connection.
    fn default() -> Self {
        Self { blocks: 64, bytes: 8 << 20 }
    }
}

/// Journals behind the gate.
#[derive(Debug)]
pub struct Agreeing {
    shared: Arc<Shared>,
    inner: Arc<dyn Journals>,
}

impl Agreeing {
    /// In front of these journals.
    pub(super) fn new(shared: Arc<Shared>, inner: Arc<dyn Journals>) -> Self {
        Self { shared, inner }
    }
}

#[async_trait]
impl Journals for Agreeing {
    async fn create(&self, ingestor: &IngestorName, id: JournalId) -> Result<(), AppendError> {
        self.inner.create(ingestor, id).await
    }

    async fn open(&self, open: Open) -> Result<Opened, AppendError> {
        let Opened { frames, acks, head } = self.inner.open(open).await?;
        let tail = head.as_ref();
        let tail = tail.map_or_else(Place::default, |at| (at.generation, at.pointer.clone()));
        let (line, entries) = line::line(self.shared.options.ahead);
        let gate = Gate::new(self.shared.clone());
        let passing = Box::pin(entries.pass(frames, gate));
        Ok(Opened {
            frames: Box::new(Gated { line, tail, digester: None }),
            acks: Box::new(GatedAcks { inner: acks, passing: Mutex::new(Some(passing)) }),
            head,
        })
    }

    async fn fence(&self, ingestor: &IngestorName) -> Result<Epoch, AppendError> {
        self.inner.fence(ingestor).await
    }

    async fn block(
        &self,
        ingestor: &IngestorName,
        pointer: &Pointer,
        newest: Option<Generation>,
    ) -> Result<Option<StoredBlock>, AppendError> {
        self.inner.block(ingestor, pointer, newest).await
    }
}

/// Frames on their way into the line.
struct Gated {
    line: Line,
    /// The last block or record in the journal or in the line. The journal itself compares what
    /// is sent again.
    tail: Place,
    digester: Option<Digester>,
}

#[async_trait]
impl FrameSink for Gated {
    async fn send(&mut self, frame: &Frame) -> Result<(), AppendError> {
        let header = &frame.header;
        let place = (header.generation, header.pointer.clone());
        if header.kind != Kind::Block {
            // What an operator or the passing of time decided needs no second feed.
            self.line.put(frame, None).await?;
            self.tail = place;
            return Ok(());
        }
        if place <= self.tail {
            return self.line.put(frame, None).await;
        }
        if header.part == 0 {
            let (generation, pointer) = place.clone();
            self.digester = Some(Digester::new(Digest::ZERO, generation, pointer, header.height));
        }
        let invalid = |error: sluice_frame::FrameError| AppendError::Invalid(error.to_string());
        if let Some(digester) = &mut self.digester {
            digester.add(frame).map_err(invalid)?;
        }
        if header.end.is_some()
            && let Some(digester) = self.digester.take()
        {
            let mut end = BlockEnd::default();
            digester.finish().fill(Digest::ZERO, &mut end);
            let block = Unconfirmed { place: place.clone(), end };
            self.line.put(frame, Some(block)).await?;
            self.tail = place;
            return Ok(());
        }
        self.line.put(frame, None).await
    }
}

type Passing = Pin<Box<dyn Future<Output = AppendError> + Send>>;

/// Acknowledgements; whoever waits for them works the line off.
struct GatedAcks {
    inner: Box<dyn AckSource>,
    /// Until it has failed. The lock is never waited for: it only lets the future be shared.
    passing: Mutex<Option<Passing>>,
}

#[async_trait]
impl AckSource for GatedAcks {
    async fn next(&mut self) -> Result<Option<Ack>, AppendError> {
        let Self { inner, passing } = self;
        let passing = passing.get_mut();
        let mut next = pin!(inner.next());
        poll_fn(|context| {
            if let Some(line) = passing
                && let Poll::Ready(error) = line.as_mut().poll(context)
            {
                *passing = None;
                // Where the stream has ended, the acknowledgements tell why.
                if !matches!(error, AppendError::Ended) {
                    return Poll::Ready(Err(error));
                }
            }
            next.as_mut().poll(context)
        })
        .await
    }
}

impl std::fmt::Debug for dyn Journals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Journals")
    }
}

#[cfg(test)]
mod tests;
