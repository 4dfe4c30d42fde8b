//! Turns the records of a segment into its index, with what cannot be read in its place.

use bytes::Bytes;
use sluice_frame::{FrameError, Header, RouteInterner};
use sluice_model::{Epoch, Head, Position};

use crate::{
    Corruption,
    assembler::{Assembler, Broken, Outcome},
    index::SegIndex,
    record::RecordHead,
    slot::{Slot, complete},
    survey::Found,
};

/// Goes over the records of consecutive segments.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) assembler: Assembler,
    /// The first bad place since the last whole block.
    bad: Option<Bad>,
    interner: RouteInterner,
    /// The highest epoch of any record.
    pub(crate) fence: Epoch,
    /// The highest writer of any record.
    pub(crate) writer: u32,
    pub(crate) unknown: u64,
}

#[derive(Debug)]
struct Bad {
    file: String,
    offset: u64,
    cause: String,
}

/// A segment's bytes and name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) number: u32,
    pub(crate) file: &'a str,
    pub(crate) bytes: &'a Bytes,
}

impl Replay {
    pub(crate) fn new(base: Head) -> Self {
        Self {
            assembler: Assembler::new(base),
            bad: None,
            interner: RouteInterner::default(),
            fence: Epoch::ZERO,
            writer: 0,
            unknown: 0,
        }
    }

    /// Replays what was found in a segment.
    pub(crate) fn run(&mut self, found: &[Found], source: Source<'_>, index: &mut SegIndex) {
        for place in found {
            match &place.record {
                Err(cause) => self.note(source.file, place.offset, cause.clone()),
                Ok(record) => self.record(record, source, index),
            }
        }
    }

    fn note(&mut self, file: &str, offset: u64, cause: String) {
        self.assembler.abort();
        self.bad.get_or_insert_with(|| Bad { file: file.to_owned(), offset, cause });
    }

    fn record(&mut self, record: &RecordHead, source: Source<'_>, index: &mut SegIndex) {
        let header = match header(record, source.bytes, &mut self.interner) {
            Ok(header) => header,
            Err(FrameError::UnknownKind(_)) => {
                self.unknown += 1;
                return;
            }
            Err(error) => return self.note(source.file, record.offset, error.to_string()),
        };
        self.fence = self.fence.max(header.epoch);
        self.writer = self.writer.max(record.writer);
        let outcome = match self.assembler.push(record, &header, source.number) {
            Err(broken) => {
                if !self.report(&broken, record.offset, source.file, index) {
                    return;
                }
                self.assembler.push(record, &header, source.number)
            }
            other => other,
        };
        if let Ok(Outcome::Whole(drafts)) = outcome {
            // Bad bytes between blocks that are chained to each other were no part of the history.
            self.bad = None;
            index.push(drafts, self.assembler.head.clone());
        }
    }

    /// Records that blocks are missing before this one; false if it cannot come after the head.
    fn report(&mut self, broken: &Broken, at: u64, file: &str, index: &mut SegIndex) -> bool {
        let after = self.assembler.head.position();
        let through = Position::end_of(broken.generation, broken.parent.clone());
        let Bad { file, offset, cause } = self.bad.take().unwrap_or_else(|| Bad {
            file: file.to_owned(),
            offset: at,
            cause: "the block does not follow the one before".to_owned(),
        });
        let forward = through > after;
        index.push_corruption(Corruption {
            after: after.clone(),
            through: Some(if forward { through } else { after }),
            digest: forward.then_some(broken.parent_digest),
            file,
            offset,
            cause,
        });
        if forward {
            self.assembler.jump(broken);
        } else {
            self.assembler.abort();
        }
        forward
    }

    /// Notes that what follows the head is gone for good: nothing readable tells how far.
    pub(crate) fn lose(&mut self, witness: Option<&Head>, file: &str, index: &mut SegIndex) {
        let end = index.entries.last().map_or(0, |entry| entry.offset);
        let Bad { file, offset, cause } = self.bad.take().unwrap_or_else(|| Bad {
            file: file.to_owned(),
            offset: end,
            cause: "records that were there are missing".to_owned(),
        });
        let cause = match witness {
            Some(head) => format!("{cause}; the head was {} before", head.position()),
            None => cause,
        };
        self.assembler.abort();
        index.push_corruption(Corruption {
            after: self.assembler.head.position(),
            through: None,
            digest: None,
            file,
            offset,
            cause,
        });
    }

    /// Closes a segment: `next` is the head that what follows builds on, if that is known.
    pub(crate) fn finish(&mut self, next: Option<&Head>, file: &str, index: &mut SegIndex) {
        let after = self.assembler.head.position();
        let reached = next.is_some_and(|next| {
            next.position() == after && next.digest == self.assembler.head.digest
        });
        let bad = self.bad.take();
        if reached || (bad.is_none() && next.is_none()) {
            return;
        }
        let end = index.entries.last().map_or(0, |entry| entry.offset);
        let Bad { file, offset, cause } = bad.unwrap_or_else(|| Bad {
            file: file.to_owned(),
            offset: end,
            cause: "records that once followed are missing".to_owned(),
        });
        let lost = next.filter(|next| next.position() > after);
        index.push_corruption(Corruption {
            after,
            through: lost.map(Head::position),
            digest: lost.map(|head| head.digest),
            file,
            offset,
            cause,
        });
        if let Some(lost) = lost {
            self.assembler.abort();
            self.assembler.head = lost.clone();
            index.summary.last = lost.clone();
        }
    }
}

/// Reads a record's header, complete.
pub(crate) fn header(
    record: &RecordHead,
    bytes: &Bytes,
    interner: &mut RouteInterner,
) -> Result<Header, FrameError> {
    let parts = record.parts(&from(record, bytes));
    let header = Header::parse_interned(&parts.header, interner)?;
    complete(header, record.slot(&parts.slot), &parts.changes)
}

/// A record's changes.
pub(crate) fn changes(record: &RecordHead, bytes: &Bytes) -> Bytes {
    record.parts(&from(record, bytes)).changes
}

/// What a record's slot holds.
pub(crate) fn slot(record: &RecordHead, bytes: &Bytes) -> Slot {
    record.slot(&record.parts(&from(record, bytes)).slot)
}

/// The segment's bytes from a record on, all of which the survey has found there.
fn from(record: &RecordHead, bytes: &Bytes) -> Bytes {
    bytes.slice(usize::try_from(record.offset).unwrap_or(usize::MAX).min(bytes.len())..)
}
