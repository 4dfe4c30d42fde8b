//! The caller's half of an append: checks, digests and checksums, on the caller's task.

mod block;
mod pass;
mod resend;

use std::sync::{Arc, atomic::Ordering};

use async_trait::async_trait;
use sluice_frame::{Frame, Header, MAX_CHANGE, MAX_HEADER};
use sluice_model::{Digest, Epoch, Head, Kind, Pointer};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    AppendError, Receipt, Stored, Ticket, Writer,
    codec::visible,
    committer::{Append, Helper, Job, commits_here},
    embedded::Policy,
    late::Late,
    record::Prepared,
    shared::{Log, ROOM_UNIT},
    slot::units,
};
use block::{Block, Course, Finished};
use pass::Passed;

/// A writer of the embedded journal.
#[derive(Debug)]
pub(crate) struct EmbeddedWriter {
    log: Arc<Log>,
    id: u32,
    epoch: Epoch,
    resets: u64,
    /// The head with everything queued counted in; without its digest while `late` knows that.
    head: Head,
    late: Option<Arc<Late>>,
    block: Option<Block>,
}

impl EmbeddedWriter {
    pub(crate) fn new(log: Arc<Log>, id: u32, epoch: Epoch, head: Head) -> Self {
        let resets = log.resets.load(Ordering::Acquire);
        Self { log, id, epoch, resets, head, late: None, block: None }
    }

    /// Refuses what cannot succeed any more, and starts over after blocks were refused.
    fn check_alive(&mut self) -> Result<(), AppendError> {
        if self.log.closed.load(Ordering::Acquire) {
            return Err(AppendError::Closed);
        }
        let state = self.log.state.read();
        if self.log.writer.load(Ordering::Acquire) != self.id {
            return Err(AppendError::Fenced { fence: state.fence });
        }
        if let Some(reason) = &state.poisoned {
            return Err(AppendError::Poisoned { reason: reason.clone() });
        }
        let resets = self.log.resets.load(Ordering::Acquire);
        if resets != self.resets {
            self.resets = resets;
            self.head = state.head.clone();
            if self.block.take().is_some() {
                // Its earlier parts were refused behind the caller's back.
                let reason = state.append_refused.clone();
                let reason = reason.unwrap_or_else(|| "an earlier part was refused".to_owned());
                return Err(AppendError::DiskFull { reason });
            }
        }
        Ok(())
    }

    /// Completes the head, on which whatever comes builds.
    fn settle(&mut self) -> Result<(), AppendError> {
        let Some(late) = self.late.take() else { return Ok(()) };
        self.log.queue.queue_lone();
        self.head.digest = late.outcome().map_err(AppendError::Frame)?.digest();
        Ok(())
    }

    /// Units of the slot for a block's digests if the block is one frame, comes alone and says
    /// nothing about them itself: then they are computed while it is written.
    fn slot(&self, header: &Header, course: Course) -> Option<u8> {
        let end = header.end.as_ref().filter(|end| end.digest == Digest::ZERO)?;
        let single = header.part == 0 && header.kind == Kind::Block && course == Course::New;
        let alone = self.log.state.read().head.position() == self.head.position();
        let synced = self.log.options.policy == Policy::Fsync;
        (single && alone && synced).then(|| units(header, end)).flatten()
    }

    async fn take(&mut self, frame: Frame) -> Result<Option<Ticket>, AppendError> {
        self.settle()?;
        self.check_alive()?;
        self.check_frame(&frame)?;
        let mut block = match self.block.take() {
            Some(block) if frame.header.part > 0 => block,
            _ if frame.header.part > 0 => {
                return Err(invalid(&frame.header, "the block has to begin with part 0"));
            }
            _ => {
                let block = self.begin(&frame.header)?;
                if block.course == Course::New && frame.header.kind == Kind::Generation {
                    self.check_base(&frame.header)?;
                }
                block
            }
        };
        let new = block.course == Course::New;
        let slot = self.slot(&frame.header, block.course);
        let passed = match slot {
            Some(slot) => {
                if !commits_here() {
                    self.log.queue.announce_lone();
                }
                block.add_late(frame, slot)?
            }
            None => block.add(frame)?,
        };
        if passed.frame.header.end.is_none() {
            if new {
                self.enqueue(passed, None).await?;
            }
            self.block = Some(block);
            return Ok(None);
        }
        let Finished { course, last } = block.finish(passed)?;
        if course == Course::Resend {
            return self.compare(last.frame.header).await.map(|r| Some(Ticket::ready(Ok(r))));
        }
        let header = &last.frame.header;
        let digest = header.end.as_ref().map(|end| end.digest).unwrap_or_default();
        let receipt = Receipt {
            generation: header.generation,
            pointer: header.pointer.clone(),
            digest,
            durability: self.log.durability(),
            duplicate: false,
            unverifiable: false,
        };
        let head = Head {
            generation: header.generation,
            pointer: header.pointer.clone(),
            height: header.height,
            digest,
            time: header.time,
            appended: 0,
        };
        let ticket = self.enqueue(last, Some(receipt)).await?;
        self.head = head;
        Ok(ticket)
    }

    fn check_frame(&self, frame: &Frame) -> Result<(), AppendError> {
        let header = &frame.header;
        if header.ingestor != self.log.ingestor {
            let reason =
                format!("it is of {}, the journal of {}", header.ingestor, self.log.ingestor);
            return Err(AppendError::Invalid { pointer: header.pointer.clone(), reason });
        }
        if frame.changes.len() > MAX_CHANGE {
            return Err(invalid(header, "its changes exceed the largest frame"));
        }
        if header.runs.iter().any(|run| run.skip != 0) {
            return Err(invalid(header, "changes were left out of it"));
        }
        if header.pointer.is_origin() && header.kind != Kind::Generation {
            return Err(invalid(header, "the empty pointer stands before every block"));
        }
        Ok(())
    }

    /// Decides what a block is by its first part.
    fn begin(&self, header: &Header) -> Result<Block, AppendError> {
        if matches!(header.kind, Kind::Epoch | Kind::Snapshot) {
            return Err(invalid(header, "records of its kind are not appended"));
        }
        let generation = if header.kind == Kind::Generation {
            if self.is_resend(header) {
                return Ok(Block::new(header, Course::Resend, &self.head));
            }
            sluice_model::Generation(self.head.generation.0.saturating_add(1))
        } else {
            self.head.generation
        };
        if header.generation > generation
            || (header.kind == Kind::Generation && header.generation < generation)
        {
            return Err(AppendError::WrongGeneration {
                expected: generation,
                got: header.generation,
            });
        }
        if self.is_resend(header) {
            return Ok(Block::new(header, Course::Resend, &self.head));
        }
        self.check_length(header)?;
        if header.parent != self.head.pointer {
            return Err(AppendError::WrongParent {
                pointer: header.pointer.clone(),
                expected: self.head.pointer.clone(),
                got: header.parent.clone(),
                head: visible(&self.head).map(Box::new),
            });
        }
        Ok(Block::new(header, Course::New, &self.head))
    }

    fn is_resend(&self, header: &Header) -> bool {
        (header.generation, &header.pointer) <= (self.head.generation, &self.head.pointer)
    }

    /// Pointers of one journal have one length, or their order would mean nothing.
    fn check_length(&self, header: &Header) -> Result<(), AppendError> {
        let len = |pointer: &Pointer| pointer.as_bytes().len();
        let known = len(&self.head.pointer);
        if header.kind != Kind::Generation && known > 0 && len(&header.pointer) != known {
            return Err(invalid(header, "its pointer has another length than those before it"));
        }
        Ok(())
    }

    /// Hands a frame to the committer; waits for room in the queue.
    async fn enqueue(
        &mut self,
        passed: Passed,
        receipt: Option<Receipt>,
    ) -> Result<Option<Ticket>, AppendError> {
        let Passed { frame: Frame { mut header, changes }, changes_crc, slot } = passed;
        header.epoch = self.epoch;
        let cacheable = changes.len() <= self.log.options.tail_cache_bytes / 2;
        let part = Prepared { slot, ..Prepared::new(&header, changes, changes_crc) };
        if part.header.len() > MAX_HEADER {
            return Err(invalid(&header, "its header exceeds the largest header"));
        }
        let room = Some(self.room(part.len()).await?);
        let ticket = |receipt| {
            let (sender, ticket) = Ticket::new();
            ((sender, receipt), ticket)
        };
        let (reply, ticket) = receipt.map(ticket).unzip();
        let late = (slot > 0).then(|| {
            let (header, changes) = (part.header.clone(), part.changes.clone());
            Arc::new(Late::new(header, changes, cacheable))
        });
        let (header, cached) = match &late {
            Some(_) => (Arc::new(header), None),
            None => kept(&part, cacheable)?,
        };
        let (writer, resets, of) = (self.id, self.resets, late.clone());
        let append = Append { writer, resets, part, header, cached, late: of, reply, room };
        let queue = &self.log.queue;
        let queued = match &late {
            Some(_) => queue.put_lone(Box::new(append)),
            None => queue.put(Job::Append(Box::new(append))),
        };
        if !queued {
            return Err(AppendError::Closed);
        }
        self.late.clone_from(&late);
        let helping = |ticket: Ticket| match late {
            Some(late) => ticket.helping(Arc::new(Helper::new(Arc::clone(&self.log), late))),
            None => ticket,
        };
        Ok(ticket.map(helping))
    }

    /// Waits until so many bytes may be queued.
    async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, AppendError> {
        let units = u32::try_from(bytes.div_ceil(ROOM_UNIT)).unwrap_or(u32::MAX);
        let units = units.min(self.log.options.queue_room());
        let room = Arc::clone(&self.log.room).acquire_many_owned(units).await;
        room.map_err(|_| AppendError::Closed)
    }
}

/// What the journal keeps of a frame in memory. The header is read again from the encoded bytes:
/// the given one may share the memory of the changes, and is kept longer than they are.
fn kept(
    part: &Prepared,
    cacheable: bool,
) -> Result<(Arc<Header>, Option<Arc<Stored>>), AppendError> {
    let header = Header::parse(&part.header).map_err(|error| AppendError::Frame(error.into()))?;
    let (header, changes) = (Arc::new(header), &part.changes);
    let cached = cacheable
        .then(|| Arc::new(Stored { header: Arc::clone(&header), changes: changes.clone() }));
    Ok((header, cached))
}

fn invalid(header: &Header, reason: &str) -> AppendError {
    AppendError::Invalid { pointer: header.pointer.clone(), reason: reason.to_owned() }
}

#[async_trait]
impl Writer for EmbeddedWriter {
    async fn append(&mut self, frame: Frame) -> Result<Option<Ticket>, AppendError> {
        let result = self.take(frame).await;
        if result.is_err() {
            self.block = None;
        }
        result
    }

    fn writer_id(&self) -> u64 {
        u64::from(self.id)
    }
}
