//! What an earlier process left behind counts only once it is certain to be on the disk.
//!
//! That process may have been killed before its last sync, or after it was told that the sync had
//! failed. Systems keep showing bytes that they could not write, take them for written, and say
//! nothing of it to whoever syncs later; when memory runs short they forget them, and the disk's
//! old bytes come back. So the end of the newest segment, from its last durable byte on, is
//! written once more from what was read and checked: into the same file, which makes the system
//! write it, and if the file refuses, into the next segment. A file that refused is not asked
//! again.

use bytes::{Bytes, BytesMut};
use sluice_frame::RouteInterner;
use sluice_model::Head;

use super::{Loader, Opened, Scan};
use crate::{
    control::{Control, ControlFile},
    error::{At, Fault},
    files::{put, write_all},
    record::{HEAD, RecordHead, seed},
    replay::{header, slot},
    segment::{RECORDS, RESERVE, SegmentHeader},
    slot::Slot,
    survey::Survey,
};

/// Most bytes of a torn tail that are kept aside.
const MAX_CUT: u64 = 64 << 20;
/// Most files with torn tails.
const MAX_CUTS: usize = 4;

/// The end of a segment, which could not be made durable where it is.
#[derive(Debug)]
pub(super) struct Refused {
    fault: Fault,
    /// The head before the segment, as far as the segments before it tell.
    last: Head,
    survey: Survey,
    bytes: Bytes,
}

impl Refused {
    pub(super) const fn new(fault: Fault, last: Head, survey: Survey, bytes: Bytes) -> Self {
        Self { fault, last, survey, bytes }
    }

    /// The last durable byte.
    fn from(&self) -> u64 {
        self.survey.durable.max(RECORDS)
    }

    /// The records behind it as they are written to another segment.
    fn records(&self, incarnation: u64, seed: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let records = self.survey.found.iter().filter(|found| found.offset >= self.from());
        for record in records.filter_map(|found| found.record.as_ref().ok()) {
            let offset = RECORDS + out.len() as u64;
            let moved = RecordHead { incarnation, offset, durable: RECORDS, ..record.clone() };
            out.extend_from_slice(&moved.encode(seed));
            let body = (record.offset + HEAD as u64, record.offset + record.len());
            out.extend_from_slice(part(&self.bytes, body));
            // The last record's padding may lie behind the end of the file.
            out.resize(usize::try_from(offset + record.len() - RECORDS).unwrap_or(usize::MAX), 0);
        }
        out
    }
}

impl Loader<'_> {
    /// Makes the end of the newest segment durable where it is, and everything behind `from`.
    pub(super) fn settle(
        &self,
        segment: &Opened,
        survey: &Survey,
        (bytes, from): (&[u8], u64),
    ) -> Result<(), Fault> {
        let from = survey.durable.min(from).max(RECORDS);
        if survey.end <= from {
            return Ok(());
        }
        let tail = part(bytes, (from, survey.end));
        write_all(segment.file.as_ref(), tail, from).at("write", &segment.path)?;
        segment.file.sync().at("sync", &segment.path)
    }

    /// Begins the next segment with what the newest one refused. From then on that one ends at
    /// its last durable byte.
    pub(super) fn move_tail(
        &self,
        segments: &[Opened],
        refused: &Refused,
        control: &mut Control,
        control_file: &mut ControlFile,
    ) -> Result<(), Fault> {
        // Without a segment nothing is refused.
        let Some(old) = segments.last() else { return Ok(()) };
        let (from, number) = (refused.from(), old.number + 1);
        tracing::error!(
            file = %old.path.display(), offset = from, fault = %refused.fault, next = number,
            "the end of the segment cannot be made durable and goes to the next one",
        );
        let Scan { replay, .. } = self.scan(segments, old, &refused.last, (from, from))?;
        let incarnation = control.incarnations;
        control.incarnations += 1;
        control_file.write(control)?;
        let header = SegmentHeader {
            id: control.id,
            number,
            incarnation,
            previous_len: from,
            base: replay.assembler.head.clone(),
            open: replay.assembler.open(),
        };
        let mut content = header.encode();
        content.extend_from_slice(&refused.records(incarnation, seed(control.id)));
        let len = content.len() as u64;
        let path = self.dir.next();
        let file = self.files.create(&path).at("create", &path)?;
        file.allocate(len + RESERVE).at("allocate", &path)?;
        self.dir.publish(self.files.as_ref(), (&path, file.as_ref()), number, &content)?;
        (control.newest, control.durable, control.sealed) = (number, len, false);
        control_file.write(control)
    }

    /// Keeps a copy of what an interrupted write left. Nothing of it was acknowledged.
    pub(super) fn set_aside(&self, segment: &Opened, bytes: &[u8], torn: (u64, u64)) {
        let (from, to) = torn;
        let path = self.dir.cut(segment.number, from);
        let copy = || -> std::io::Result<()> {
            put(self.files.as_ref(), &path, part(bytes, (from, to.min(from + MAX_CUT))))?;
            let mut cuts = self.files.list(&self.dir.0)?;
            cuts.retain(|name| name.ends_with(".cut"));
            let surplus = cuts.len().saturating_sub(MAX_CUTS);
            cuts.iter().take(surplus).try_for_each(|name| self.files.remove(&self.dir.0.join(name)))
        };
        let kept = copy();
        tracing::warn!(
            file = %segment.path.display(), offset = from, bytes = to - from, ?kept,
            "cut an interrupted write, which nobody was acknowledged",
        );
    }
}

/// Fills the slots that the last process left empty or half filled; gives the segment's bytes with
/// them, and where the first of them begins.
pub(super) fn with_slots(survey: &Survey, bytes: Bytes) -> (Bytes, u64) {
    let mut interner = RouteInterner::default();
    let mut fills = Vec::new();
    for record in survey.found.iter().filter_map(|found| found.record.as_ref().ok()) {
        if matches!(slot(record, &bytes), Slot::None | Slot::Filled(_)) {
            continue;
        }
        let header = header(record, &bytes, &mut interner).ok();
        let end = header.and_then(|header| header.end);
        fills.extend(end.and_then(|end| record.fill(&end)));
    }
    let Some(first) = fills.first().map(|fill| fill.at) else { return (bytes, u64::MAX) };
    let mut filled = BytesMut::from(bytes);
    for fill in &fills {
        let begin = usize::try_from(fill.at).unwrap_or(usize::MAX);
        let place = filled.get_mut(begin..begin.saturating_add(fill.bytes.len()));
        place.into_iter().for_each(|place| place.copy_from_slice(&fill.bytes));
    }
    (filled.freeze(), first)
}

/// The bytes from one place to another, as far as there are any.
fn part(bytes: &[u8], (from, to): (u64, u64)) -> &[u8] {
    let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
    bytes.get(at(from)..at(to)).unwrap_or_default()
}
