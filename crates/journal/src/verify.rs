//! Reads a whole journal and checks everything it claims.

use std::{path::Path, sync::Arc};

use sluice_frame::{Digester, Frame, RouteInterner};
use sluice_model::{Digest, Head, JournalId, Kind, Position};

use crate::{
    Corruption, Report, VerifyProgress,
    codec::{origin, visible},
    error::{At, Fault},
    files::{Files, read_up_to},
    index::SegIndex,
    record::{Origin, RecordHead, seed},
    replay::{Replay, Source, changes, header, slot},
    segment::{Dir, RECORDS, SegmentHeader, mark, number_of},
    slot::Slot,
    survey::{Survey, survey},
};

/// A segment to verify.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) number: u32,
    /// Bytes that count; `None` to find out.
    pub(crate) len: Option<u64>,
}

/// The segments of a directory that nobody writes.
pub(crate) fn parts_of(files: &dyn Files, dir: &Dir, oldest: u32) -> Result<Vec<Part>, Fault> {
    let names = files.list(&dir.0).at("list", &dir.0)?;
    let numbers = names.iter().filter_map(|name| number_of(name));
    let numbers: Vec<u32> = numbers.filter(|number| *number >= oldest).collect();
    let mut parts = Vec::new();
    for number in &numbers {
        let next = dir.segment(number + 1);
        let following = match files.open(&next) {
            Ok(file) => SegmentHeader::read(file.as_ref()).at("read", &next)?.ok(),
            Err(_) => None,
        };
        let len = following.map(|header| header.previous_len).filter(|len| *len > 0);
        parts.push(Part { number: *number, len });
    }
    Ok(parts)
}

/// Goes over the segments of one journal.
pub(crate) struct Verifier<'a> {
    pub(crate) files: &'a Arc<dyn Files>,
    pub(crate) dir: &'a Dir,
    pub(crate) id: JournalId,
    pub(crate) progress: &'a (dyn Fn(VerifyProgress) + Send + Sync),
}

/// The block whose digests are being computed.
struct Open {
    place: Position,
    next: u32,
    digester: Digester,
}

struct Pass {
    replay: Replay,
    open: Option<Open>,
    interner: RouteInterner,
    report: Report,
    first: bool,
}

impl Verifier<'_> {
    pub(crate) fn run(&self, parts: &[Part]) -> Result<Report, Fault> {
        let mut total = 0;
        for part in parts {
            total += part.len.map_or_else(|| self.file_len(part.number), Ok)?;
        }
        let mut pass = Pass {
            replay: Replay::new(origin()),
            open: None,
            interner: RouteInterner::default(),
            report: Report::default(),
            first: true,
        };
        for part in parts {
            self.segment(part, &mut pass)?;
            let blocks = pass.report.blocks;
            (self.progress)(VerifyProgress { bytes: pass.report.bytes, total, blocks });
        }
        let mut report = pass.report;
        report.aborted_parts = pass.replay.assembler.aborted;
        report.unknown_records = pass.replay.unknown;
        report.head = visible(&pass.replay.assembler.head);
        Ok(report)
    }

    fn file_len(&self, number: u32) -> Result<u64, Fault> {
        let path = self.dir.segment(number);
        self.files.open(&path).and_then(|file| file.len()).at("look at", &path)
    }

    fn segment(&self, part: &Part, pass: &mut Pass) -> Result<(), Fault> {
        let path = self.dir.segment(part.number);
        let name = path.display().to_string();
        let file = self.files.open(&path).at("open", &path)?;
        let len = part.len.map_or_else(|| file.len().at("look at", &path), Ok)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let bytes = read_up_to(file.as_ref(), 0, len).at("read", &path)?.freeze();
        pass.report.segments += 1;
        pass.report.bytes += bytes.len() as u64;
        let segment = SegmentHeader::parse(&bytes);
        let Some(segment) = segment.ok().filter(|h| h.id == self.id && h.number == part.number)
        else {
            let cause = "the header of the segment is damaged or of another journal".to_owned();
            pass.bad(&name, 0, cause, None);
            return Ok(());
        };
        pass.seam(&segment.base, &name);
        let origin = Origin { seed: seed(self.id), incarnation: segment.incarnation };
        let durable = part.len.or(mark(&bytes, segment.incarnation)).unwrap_or(0);
        let survey = survey(&bytes, origin, RECORDS, durable);
        pass.records(&survey, Source { number: part.number, file: &name, bytes: &bytes });
        Ok(())
    }
}

impl Pass {
    fn bad(&mut self, file: &str, offset: u64, cause: String, through: Option<Position>) {
        self.report.corruptions.push(Corruption {
            after: self.replay.assembler.head.position(),
            through,
            digest: None,
            file: file.to_owned(),
            offset,
            cause,
        });
    }

    /// The segment's base must be where the one before ended; the first one decides where to
    /// begin.
    fn seam(&mut self, base: &Head, file: &str) {
        let head = &self.replay.assembler.head;
        let follows = head.position() == base.position() && head.digest == base.digest;
        if !self.first && !follows {
            let cause = "the segment does not follow the one before".to_owned();
            self.bad(file, 0, cause, Some(base.position()));
        }
        if self.first || !follows {
            self.replay.assembler.head = base.clone();
        }
        self.first = false;
    }

    fn records(&mut self, survey: &Survey, source: Source<'_>) {
        self.report.records +=
            survey.found.iter().filter(|found| found.record.is_ok()).count() as u64;
        for found in &survey.found {
            match &found.record {
                Ok(record) => self.digests(record, source),
                Err(cause) => self.bad(source.file, found.offset, cause.clone(), None),
            }
        }
        let mut index = SegIndex::new(source.number, self.replay.assembler.head.clone());
        self.replay.run(&survey.found, source, &mut index);
        self.report.blocks += index.summary.blocks;
        self.report.changes += index.summary.changes;
        self.report.corruptions.append(&mut index.corruptions);
    }

    /// Checks a part's changes and, with the last one, the block's digests.
    fn digests(&mut self, record: &RecordHead, source: Source<'_>) {
        let Ok(header) = header(record, source.bytes, &mut self.interner) else { return };
        if header.kind != Kind::Block {
            return;
        }
        let frame = Frame { header, changes: changes(record, source.bytes) };
        let place = frame.header.end_of_block();
        if slot(record, source.bytes) == Slot::Damaged {
            let cause = "the digests stored with the block are damaged; they follow from it";
            self.bad(source.file, record.offset, cause.to_owned(), Some(place.clone()));
        }
        if let Err(error) = frame.verify() {
            self.bad(source.file, record.offset, error.to_string(), Some(place.clone()));
        }
        // Every record knows its parent's digest only at the block's end, so the digest of the
        // head before is used; the chain itself is checked by the assembler.
        let parent = self.parent_of(&frame);
        let continues = self
            .open
            .as_ref()
            .is_some_and(|open| open.place == place && open.next == frame.header.part);
        if frame.header.part == 0 {
            let h = &frame.header;
            let digester = Digester::new(parent, h.generation, h.pointer.clone(), h.height);
            self.open = Some(Open { place: place.clone(), next: 0, digester });
        } else if !continues {
            self.open = None;
        }
        let Some(mut open) = self.open.take() else { return };
        if open.digester.add(&frame).is_err() {
            return;
        }
        open.next += 1;
        let Some(end) = &frame.header.end else {
            self.open = Some(open);
            return;
        };
        let digests = open.digester.finish();
        if digests.states != end.states || digests.metadata != end.metadata_digest {
            let cause = "the block's state digests are not those of its changes".to_owned();
            self.bad(source.file, record.offset, cause, Some(place));
        } else if frame.header.part == 0 && digests.digest != end.digest {
            let cause = "the block's digest is not that of its content".to_owned();
            self.bad(source.file, record.offset, cause, Some(place));
        }
    }

    fn parent_of(&self, frame: &Frame) -> Digest {
        frame.header.end.as_ref().map_or(Digest::ZERO, |end| end.parent_digest)
    }
}

/// Verifies a journal's directory that no process works on.
///
/// # Errors
/// When files cannot be read, or there is no control record.
pub(crate) fn verify_dir(
    files: &Arc<dyn Files>,
    dir: &Path,
    progress: &(dyn Fn(VerifyProgress) + Send + Sync),
) -> Result<Report, crate::JournalError> {
    let dir = Dir(dir.into());
    let control = crate::inspect::control(files, &dir)?;
    let parts = parts_of(files.as_ref(), &dir, control.oldest)?;
    Ok(Verifier { files, dir: &dir, id: control.id, progress }.run(&parts)?)
}
