use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use sluice_frame::{BlockEnd, Digester, Frame, Header, Metadata, Record};
use sluice_model::{Digest, Generation, Head, Kind, Pointer};

use super::{
    invalid,
    pass::{Passed, pass},
};
use crate::AppendError;

/// What becomes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// It is appended.
    New,
    /// It lies at or below the head and is compared with what is stored.
    Resend,
}

/// A block whose frames are coming in.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) course: Course,
    kind: Kind,
    generation: Generation,
    pointer: Pointer,
    parent: Pointer,
    height: u64,
    time: Option<i64>,
    parent_digest: Digest,
    parts: u32,
    changes: u32,
    type_url: Option<String>,
    digester: Digester,
}

/// A block whose last part has come; its `end` is complete.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) course: Course,
    pub(super) last: Passed,
}

impl Block {
    /// A block that begins with this header on top of `head`.
    pub(super) fn new(header: &Header, course: Course, head: &Head) -> Self {
        let (generation, pointer) = (header.generation, header.pointer.clone());
        Self {
            course,
            kind: header.kind,
            generation,
            pointer: pointer.clone(),
            parent: header.parent.clone(),
            height: header.height,
            time: header.time,
            parent_digest: head.digest,
            parts: 0,
            changes: 0,
            type_url: None,
            digester: Digester::new(head.digest, generation, pointer, header.height),
        }
    }

    /// Verifies the next part and takes it into the digests.
    pub(super) fn add(&mut self, frame: Frame) -> Result<Passed, AppendError> {
        self.continues(&frame.header)?;
        let digester = (frame.header.kind == Kind::Block).then_some(&mut self.digester);
        let passed = pass(frame, digester);
        let passed = passed.map_err(|error| AppendError::Frame(Arc::new(error)))?;
        if passed.frame.header.kind != Kind::Block {
            self.add_record(&passed.frame)?;
        }
        self.parts += 1;
        self.changes = passed.frame.header.next_index();
        Ok(passed)
    }

    /// Verifies the only part. Its digests come later.
    pub(super) fn add_late(&mut self, frame: Frame, slot: u8) -> Result<Passed, AppendError> {
        self.continues(&frame.header)?;
        let passed = pass(frame, None);
        let passed = passed.map_err(|error| AppendError::Frame(Arc::new(error)))?;
        self.parts = 1;
        self.changes = passed.frame.header.next_index();
        Ok(Passed { slot, ..passed })
    }

    /// Checks that this is the next part of the same block.
    fn continues(&mut self, header: &Header) -> Result<(), AppendError> {
        if header.part != self.parts || header.first_index != self.changes {
            return Err(invalid(header, "its part or first index does not continue the block"));
        }
        let same = header.kind == self.kind
            && header.generation == self.generation
            && header.pointer == self.pointer
            && header.parent == self.parent
            && header.height == self.height
            && header.time == self.time;
        if !same {
            return Err(invalid(header, "its place or time differs from the block's first part"));
        }
        if let Some(metadata) = &header.metadata {
            let known = self.type_url.get_or_insert_with(|| metadata.type_url.clone());
            if *known != metadata.type_url {
                return Err(invalid(header, "its metadata is of another type than the block's"));
            }
        }
        if header.kind == Kind::Block && header.record.is_some() {
            return Err(invalid(header, "a block carries no control record"));
        }
        Ok(())
    }

    /// Checks a control record, and takes what it says into the digest.
    fn add_record(&mut self, frame: &Frame) -> Result<(), AppendError> {
        let header = &frame.header;
        if header.end.is_none() || !frame.changes.is_empty() || header.metadata.is_some() {
            return Err(invalid(
                header,
                "a control record is one frame with an end and nothing else",
            ));
        }
        match (&header.record, header.kind) {
            (Some(Record::Gap { from, to, cause }), Kind::Gap) => {
                if *to != header.pointer || from > to || *from <= header.parent {
                    return Err(invalid(
                        header,
                        "a gap lies behind its parent and ends at its pointer",
                    ));
                }
                let value = gap_content(from, to, cause);
                let mut said = Header::new(
                    Kind::Gap,
                    header.ingestor.clone(),
                    header.pointer.clone(),
                    header.height,
                );
                said.metadata = Some(Metadata { type_url: GAP_TYPE.to_owned(), value });
                let said = Frame { header: said, changes: Bytes::new() };
                let added = self.digester.add(&said);
                added.map_err(|error| AppendError::Frame(Arc::new(error)))
            }
            (Some(Record::GenerationStart { generation, base_pointer, .. }), Kind::Generation) => {
                if *generation != header.generation || *base_pointer != header.pointer {
                    return Err(invalid(header, "the record names another place than its header"));
                }
                Ok(())
            }
            _ => Err(invalid(header, "the record is not of the header's kind")),
        }
    }

    /// Completes the last part with what the bytes give; refuses claims that they do not bear out.
    pub(super) fn finish(self, mut last: Passed) -> Result<Finished, AppendError> {
        let header = &mut last.frame.header;
        let Some(given) = header.end.take() else {
            return Err(invalid(header, "the block's end is missing"));
        };
        let mut end = BlockEnd {
            parts: self.parts,
            changes: self.changes,
            traceparent: given.traceparent.clone(),
            ..BlockEnd::default()
        };
        match &header.record {
            Some(Record::GenerationStart { base_digest, .. }) => {
                end.digest = *base_digest;
                end.parent_digest = self.parent_digest;
            }
            _ if last.slot > 0 => end.parent_digest = self.parent_digest,
            _ => self.digester.finish().fill(self.parent_digest, &mut end),
        }
        if given.parts != end.parts || given.changes != end.changes {
            return Err(invalid(header, "its end counts other parts or changes than came"));
        }
        if self.course == Course::New {
            claimed(&self.pointer, "digest", end.digest, given.digest)?;
            claimed(&self.pointer, "parent digest", end.parent_digest, given.parent_digest)?;
        }
        header.end = Some(end);
        Ok(Finished { course: self.course, last })
    }
}

/// What the digest of a gap covers as its metadata.
const GAP_TYPE: &str = "sluice.v1.Gap";

fn gap_content(from: &Pointer, to: &Pointer, cause: &str) -> Bytes {
    let mut out = BytesMut::new();
    for field in [from.as_bytes(), to.as_bytes(), cause.as_bytes()] {
        out.put_u64_le(field.len() as u64);
        out.put_slice(field);
    }
    out.freeze()
}

fn claimed(
    pointer: &Pointer,
    what: &'static str,
    expected: Digest,
    got: Digest,
) -> Result<(), AppendError> {
    if got == Digest::ZERO || got == expected {
        return Ok(());
    }
    Err(AppendError::WrongDigest { pointer: pointer.clone(), what, expected, got })
}
