//! Makes whole blocks of records. One assembler serves the committer, recovery and verification,
//! so that they cannot disagree about what a block is.

use sluice_frame::Header;
use sluice_model::{Digest, Generation, Head, Kind, Pointer};

use crate::{
    index::{Draft, Entry},
    record::RecordHead,
};

/// What a record meant.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A part whose block is not complete, or a record that is no part of the history.
    Nothing,
    /// A whole block or control record became part of the history.
    Whole(Vec<Draft>),
}

/// A block that does not follow the head: something in between is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) generation: Generation,
    pub(crate) parent: Pointer,
    pub(crate) parent_digest: Digest,
}

#[derive(Debug)]
struct Pending {
    generation: Generation,
    pointer: Pointer,
    writer: u32,
    drafts: Vec<Draft>,
}

/// The head and the block that is being put together.
#[derive(Debug)]
pub(crate) struct Assembler {
    pub(crate) head: Head,
    pending: Option<Pending>,
    /// Parts whose block was given up.
    pub(crate) aborted: u64,
}

impl Assembler {
    pub(crate) const fn new(head: Head) -> Self {
        Self { head, pending: None, aborted: 0 }
    }

    /// Where the unfinished block begins.
    pub(crate) fn open(&self) -> Option<(u32, u64)> {
        let first = self.pending.as_ref()?.drafts.first()?;
        Some((first.entry.segment, first.entry.offset))
    }

    /// Gives the unfinished block up.
    pub(crate) fn abort(&mut self) {
        self.aborted += self.pending.take().map_or(0, |pending| pending.drafts.len() as u64);
    }

    /// Takes the head as given because what led to it cannot be read.
    pub(crate) fn jump(&mut self, broken: &Broken) {
        self.head.generation = broken.generation;
        self.head.pointer = broken.parent.clone();
        self.head.digest = broken.parent_digest;
    }

    /// Takes the next record. After `Broken` nothing has changed but that the unfinished block
    /// is kept: jump and push again, or abort.
    pub(crate) fn push(
        &mut self,
        record: &RecordHead,
        header: &Header,
        segment: u32,
    ) -> Result<Outcome, Broken> {
        let draft =
            || Draft { entry: Entry::new(record, header, segment), routes: header.routes.clone() };
        match header.kind {
            Kind::Epoch => {
                self.abort();
                Ok(Outcome::Nothing)
            }
            // Not part of the chain; readers of state ask for them by other means.
            Kind::Snapshot => Ok(Outcome::Nothing),
            Kind::Gap => {
                self.follows(header)?;
                self.abort();
                self.head = head_after(record, header);
                Ok(Outcome::Whole(vec![draft()]))
            }
            Kind::Generation => {
                self.begins_history(header)?;
                self.abort();
                self.head = head_after(record, header);
                Ok(Outcome::Whole(vec![draft()]))
            }
            Kind::Block => self.part(record, header, draft()),
        }
    }

    fn part(
        &mut self,
        record: &RecordHead,
        header: &Header,
        draft: Draft,
    ) -> Result<Outcome, Broken> {
        if header.part > 0 && !self.continues(record, header) {
            self.abort();
            self.aborted += 1;
            return Ok(Outcome::Nothing);
        }
        let complete = header.end.as_ref().is_some_and(|end| end.parts == header.part + 1);
        if complete {
            self.follows(header)?;
        }
        if header.part == 0 {
            self.abort();
            self.pending = Some(Pending {
                generation: header.generation,
                pointer: header.pointer.clone(),
                writer: record.writer,
                drafts: Vec::new(),
            });
        }
        let Some(pending) = &mut self.pending else { return Ok(Outcome::Nothing) };
        pending.drafts.push(draft);
        if complete {
            let drafts = self.pending.take().map(|pending| pending.drafts).unwrap_or_default();
            self.head = head_after(record, header);
            return Ok(Outcome::Whole(drafts));
        }
        if header.end.is_some() {
            // It says that it ends with another part than this one.
            self.abort();
        }
        Ok(Outcome::Nothing)
    }

    /// True if this is the next part of the unfinished block, by the same writer.
    fn continues(&self, record: &RecordHead, header: &Header) -> bool {
        self.pending.as_ref().is_some_and(|pending| {
            pending.drafts.len() == header.part as usize
                && pending.writer == record.writer
                && pending.generation == header.generation
                && pending.pointer == header.pointer
        })
    }

    fn follows(&self, header: &Header) -> Result<(), Broken> {
        let parent_digest = header.end.as_ref().map_or(Digest::ZERO, |end| end.parent_digest);
        let follows = header.generation == self.head.generation
            && header.parent == self.head.pointer
            && parent_digest == self.head.digest;
        let (generation, parent) = (header.generation, header.parent.clone());
        if follows { Ok(()) } else { Err(Broken { generation, parent, parent_digest }) }
    }

    fn begins_history(&self, header: &Header) -> Result<(), Broken> {
        let parent_digest = header.end.as_ref().map_or(Digest::ZERO, |end| end.parent_digest);
        if header.generation > self.head.generation
            && header.parent == self.head.pointer
            && parent_digest == self.head.digest
        {
            return Ok(());
        }
        // Generations are numbered without gaps, so the one before is known.
        let generation = Generation(header.generation.0.saturating_sub(1));
        Err(Broken { generation, parent: header.parent.clone(), parent_digest })
    }
}

/// The head that a block or control record leaves behind.
pub(crate) fn head_after(record: &RecordHead, header: &Header) -> Head {
    Head {
        generation: header.generation,
        pointer: header.pointer.clone(),
        height: header.height,
        digest: header.end.as_ref().map_or(Digest::ZERO, |end| end.digest),
        time: header.time,
        appended: record.appended,
    }
}
