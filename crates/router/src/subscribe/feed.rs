use std::{collections::VecDeque, sync::Arc, time::Instant};

use sluice_frame::Splicer;
use sluice_journal::{GapNotice, GenerationNotice, Item, Started, Stored, Through};
use sluice_model::{Digest, END_OF_BLOCK, Head, IngestorName, Position};
use sluice_proto::{
    convert,
    reason::{self, status},
    v1 as pb,
};
use tonic::{Code, Status};

use super::{Request, cut};
use crate::{config::RouterOptions, error};

type Message = pb::subscribe_response::Message;

/// Decides what a subscriber is sent for what a reader saw. Pure: the moment comes from outside.
///
/// Promises: a block whose last message was a frame without end is closed by progress before
/// anything else is said; progress never passes a match that was not sent; while nothing matches,
/// progress comes in steps bounded in blocks and in time.
pub(super) struct Feed {
    ingestor: IngestorName,
    splicer: Splicer,
    until: Option<u64>,
    max_frame: Option<u64>,
    /// A start inside a block: changes up to here are not sent.
    start: Option<Position>,
    progress_interval: std::time::Duration,
    progress_gap: std::time::Duration,
    progress_blocks: u32,
    /// Everything up to here was decided; may be ahead of what was said.
    passed: Point,
    /// Progress that was not sent yet.
    unsaid: bool,
    unsaid_blocks: u32,
    /// A frame of this block was sent, its end was not.
    open: Option<Point>,
    said_at: Instant,
    head: Option<Head>,
    out: VecDeque<Message>,
    end: End,
}

/// A position and what is known of its block.
#[derive(Clone, Debug, Default)]
struct Point {
    position: Position,
    digest: Option<Digest>,
    height: u64,
}

/// Whether more will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Yes.
    Open,
    /// No: the last height was passed by a stretch without a match, and where exactly it ended has
    /// to be looked up.
    Passed,
    /// No: everything is said.
    Complete,
}

impl Feed {
    pub(super) fn new(
        request: &Request,
        started: &Started,
        options: &RouterOptions,
        now: Instant,
    ) -> Self {
        let inside = !started.after.is_end_of_block();
        let mut feed = Self {
            ingestor: request.ingestor.clone(),
            splicer: Splicer::new(Arc::clone(&request.filter), request.metadata),
            until: request.until,
            max_frame: request.max_frame,
            start: inside.then(|| started.after.clone()),
            progress_interval: options.progress_interval,
            progress_gap: options.progress_gap,
            progress_blocks: options.progress_blocks,
            passed: Point {
                position: started.after.clone(),
                digest: None,
                height: started.after.pointer.height().unwrap_or_default(),
            },
            unsaid: false,
            unsaid_blocks: 0,
            // Who starts inside a block has its begin and waits for its end.
            open: inside.then(|| Point {
                position: Position { index: END_OF_BLOCK, ..started.after.clone() },
                digest: None,
                height: started.after.pointer.height().unwrap_or_default(),
            }),
            said_at: now,
            head: started.head.clone(),
            out: VecDeque::new(),
            end: End::Open,
        };
        feed.out.push_back(Message::Started(pb::Started {
            after: Some((&started.after).into()),
            head: started.head.as_ref().map(Into::into),
            filter: request.filter.hash(),
        }));
        if !inside && let Some(height) = started.after.pointer.height() {
            feed.complete_at(height);
        }
        feed
    }

    /// The next message to send.
    pub(super) fn pop(&mut self) -> Option<Message> {
        self.out.pop_front()
    }

    pub(super) const fn end(&self) -> End {
        self.end
    }

    /// When unsaid progress is to be sent although nothing more comes.
    pub(super) fn due(&self) -> Option<Instant> {
        self.unsaid.then(|| self.said_at + self.progress_gap)
    }

    /// Says what is unsaid.
    pub(super) fn flush(&mut self, now: Instant) {
        if !self.unsaid {
            return;
        }
        let Point { position, digest, height } = &self.passed;
        self.out.push_back(Message::Progress(pb::Progress {
            through: Some(position.into()),
            digest: digest.as_ref().map(convert::digest_bytes).unwrap_or_default(),
            height: *height,
            head: self.head.as_ref().map(Into::into),
        }));
        self.said(now);
    }

    /// Takes the reader's next item. An error ends the stream, after what is in the queue.
    pub(super) fn item(&mut self, item: Item, now: Instant) -> Result<(), Status> {
        match item {
            Item::Entry(stored) => self.entry(&stored, now)?,
            Item::Through(through) => self.through(through, now),
            Item::Gap(gap) => self.gap(gap, now),
            Item::Generation(generation) => self.generation(generation, now),
            Item::Corrupt(corruption) => {
                self.flush(now);
                return Err(error::corrupt(&self.ingestor, &corruption));
            }
        }
        Ok(())
    }

    /// Ends a bounded read that a stretch without a match carried past its last height. `last` is
    /// the end of the last block at or below it.
    pub(super) fn complete(&mut self, last: Position) {
        if last > self.passed.position {
            self.passed = Point { position: last, ..Point::default() };
        }
        let Point { position, digest, .. } = &self.passed;
        self.out.push_back(Message::Complete(pb::Complete {
            through: Some(position.into()),
            digest: digest.as_ref().map(convert::digest_bytes).unwrap_or_default(),
        }));
        self.unsaid = false;
        self.end = End::Complete;
    }

    fn entry(&mut self, stored: &Stored, now: Instant) -> Result<(), Status> {
        let header = &stored.header;
        if self.until.is_some_and(|until| header.height > until) {
            // Blocks between what was passed and this one do not exist, or they would have come.
            self.end = End::Passed;
            return Ok(());
        }
        let block = header.end_of_block();
        self.close_before(&block, now);
        let wire = self.splice(stored);
        let sent = wire.is_some();
        if let Some(wire) = wire {
            let bytes = wire.len() as u64;
            if let Some(max) = self.max_frame.filter(|max| bytes > *max) {
                self.flush(now);
                return Err(self.too_large(stored, bytes, max));
            }
            self.out.push_back(Message::Frame(wire));
            self.said(now);
            self.open =
                Some(Point { position: block.clone(), digest: None, height: header.height });
        }
        if let Some(end) = &header.end {
            let digest = Some(end.digest);
            self.passed = Point { position: block, digest, height: header.height };
            if sent {
                self.open = None;
            } else {
                self.pass(now);
            }
            self.complete_at(header.height);
        }
        Ok(())
    }

    fn splice(&mut self, stored: &Stored) -> Option<sluice_frame::WireFrame> {
        let header = &stored.header;
        if let Some(start) = &self.start {
            if (header.generation, &header.pointer) == (start.generation, &start.pointer) {
                let (header, changes) = cut::after_index(header, &stored.changes, start.index);
                return self.splicer.splice(&header, &changes);
            }
            self.start = None;
        }
        self.splicer.splice(header, &stored.changes)
    }

    fn through(&mut self, through: Through, now: Instant) {
        self.head = through.head.or(self.head.take());
        if self.until.is_some_and(|until| through.height > until) {
            self.end = End::Passed;
            return;
        }
        let digest = Some(through.digest).filter(|digest| *digest != Digest::ZERO);
        self.passed = Point { position: through.position, digest, height: through.height };
        self.pass(now);
        self.complete_at(through.height);
    }

    fn gap(&mut self, gap: GapNotice, now: Instant) {
        self.close_before(&gap.through, now);
        let height = gap.to.height().unwrap_or(self.passed.height);
        self.out.push_back(Message::Gap(pb::GapNotice {
            through: Some((&gap.through).into()),
            gap: Some(pb::Gap {
                from: gap.from.to_bytes(),
                to: gap.to.to_bytes(),
                cause: gap.cause,
            }),
        }));
        self.said(now);
        self.passed = Point { position: gap.through, digest: Some(gap.digest), height };
        self.complete_at(height);
    }

    fn generation(&mut self, notice: GenerationNotice, now: Instant) {
        self.close_before(&notice.through, now);
        let height = notice.base.pointer.height().unwrap_or_default();
        self.out.push_back(Message::Rewind(pb::RewindNotice {
            generation_start: Some(pb::GenerationStart {
                generation: notice.through.generation.0,
                base_generation: notice.base.generation.0,
                base_pointer: notice.base.pointer.to_bytes(),
                base_digest: convert::digest_bytes(&notice.base_digest),
                reason: notice.reason,
                actor: notice.actor,
            }),
        }));
        self.said(now);
        let digest = Some(notice.base_digest);
        self.passed = Point { position: notice.through, digest, height };
    }

    /// A block, or a stretch of them, ended without a frame that says so.
    fn pass(&mut self, now: Instant) {
        self.unsaid = true;
        self.unsaid_blocks = self.unsaid_blocks.saturating_add(1);
        let due = self.open.is_some()
            || self.unsaid_blocks >= self.progress_blocks
            || now.saturating_duration_since(self.said_at) >= self.progress_interval;
        if due {
            self.flush(now);
        }
        self.open = None;
    }

    /// Closes a block whose end the reader passed over without a word. Its digest is not known
    /// here; that it is complete is, because something behind it came.
    fn close_before(&mut self, next: &Position, now: Instant) {
        if self.open.as_ref().is_some_and(|open| open.position != *next)
            && let Some(open) = self.open.take()
        {
            self.passed = open;
            self.unsaid = true;
            self.flush(now);
        }
    }

    /// Something was queued that covers all earlier progress.
    fn said(&mut self, now: Instant) {
        self.unsaid = false;
        self.unsaid_blocks = 0;
        self.said_at = now;
    }

    fn complete_at(&mut self, height: u64) {
        if self.until.is_some_and(|until| height >= until) {
            self.complete(self.passed.position.clone());
        }
    }

    fn too_large(&self, stored: &Stored, bytes: u64, max: u64) -> Status {
        let header = &stored.header;
        let message = format!(
            "{}: block {} part {} has {bytes} bytes for this filter, max_frame_bytes is {max}; \
             subscribe again with a larger one",
            self.ingestor, header.pointer, header.part
        );
        status(Code::ResourceExhausted, reason::TOO_LARGE, message)
    }
}

#[cfg(test)]
mod tests;
