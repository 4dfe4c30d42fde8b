//! Looking at a journal's files without changing anything: for people, and for tools that work
//! on a directory that no process has open.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use sluice_frame::{Frame, RouteInterner};
use sluice_model::{Epoch, Head, IngestorName, JournalId};

use crate::{
    JournalError, Report, VerifyProgress,
    codec::visible,
    control::{Control, ControlFile},
    error::At,
    files::{Files, RealFiles, read_up_to},
    record::{Origin, seed},
    replay::{changes, header},
    segment::{Dir, RECORDS, SegmentHeader, mark, number_of},
    survey::survey,
};

/// A journal found in a directory.
#[derive(Clone, Debug)]
pub struct Found {
    /// Whose.
    pub ingestor: IngestorName,
    /// Its identity.
    pub id: JournalId,
    /// Its directory.
    pub dir: PathBuf,
    /// The lowest epoch that may open it.
    pub fence: Epoch,
    /// The last writer.
    pub writer_id: u64,
    /// The head when the control record was written; the journal may be ahead.
    pub recorded_head: Option<Head>,
}

/// A segment file.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its number.
    pub number: u32,
    /// The file.
    pub file: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
    /// What its header says, or what is wrong with it.
    pub header: Result<SegmentInfo, String>,
}

/// What a segment's header says.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    /// Differs each time that a file is taken into use.
    pub incarnation: u64,
    /// The head that its first block builds on.
    pub base: Option<Head>,
    /// Bytes of the segment before that count.
    pub previous_len: u64,
}

/// A record, or something that should be one.
#[derive(Clone, Debug)]
pub struct Record {
    /// Byte offset in the file.
    pub offset: u64,
    /// The writer that wrote it.
    pub writer_id: u64,
    /// When, in nanoseconds since 1970.
    pub appended: i64,
    /// Its frame, or what is wrong with it.
    pub frame: Result<Frame, String>,
}

/// Every journal below a data directory.
///
/// # Errors
/// When directories cannot be listed; a journal that cannot be read is an error of its own entry.
pub fn journals(dir: &Path) -> Result<Vec<Result<Found, JournalError>>, JournalError> {
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let mut found = Vec::new();
    for name in files.list(dir).at("list", dir)? {
        let dir = Dir(dir.join(name).into());
        let names = match files.list(&dir.0) {
            Ok(names) => names,
            Err(_) => continue,
        };
        if !names.iter().any(|name| name == "control" || number_of(name).is_some()) {
            continue;
        }
        found.push(control(&files, &dir).map(|control| Found {
            ingestor: control.ingestor,
            id: control.id,
            dir: dir.0.to_path_buf(),
            fence: control.fence,
            writer_id: u64::from(control.writer),
            recorded_head: visible(&control.head),
        }));
    }
    Ok(found)
}

/// The segments of one journal, by number.
///
/// # Errors
/// When files cannot be read.
pub fn segments(journal: &Path) -> Result<Vec<Segment>, JournalError> {
    let (files, dir) = (RealFiles, Dir(journal.into()));
    let mut segments = Vec::new();
    for number in files.list(journal).at("list", journal)?.iter().filter_map(|n| number_of(n)) {
        let path = dir.segment(number);
        let file = files.open(&path).at("open", &path)?;
        let header = SegmentHeader::read(file.as_ref()).at("read", &path)?;
        let info = |header: SegmentHeader| SegmentInfo {
            incarnation: header.incarnation,
            base: visible(&header.base),
            previous_len: header.previous_len,
        };
        segments.push(Segment {
            number,
            bytes: file.len().at("look at", &path)?,
            file: path,
            header: header.map(info).map_err(str::to_owned),
        });
    }
    Ok(segments)
}

/// Goes over the records of one segment that count; `visit` says whether to go on. What a failed
/// sync left behind, and the next segment holds again, is passed over.
///
/// # Errors
/// When files cannot be read, or the segment's header is damaged.
pub fn records(
    journal: &Path,
    number: u32,
    mut visit: impl FnMut(Record) -> bool,
) -> Result<(), JournalError> {
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let dir = Dir(journal.into());
    let id = control(&files, &dir)?.id;
    let path = dir.segment(number);
    let file = files.open(&path).at("open", &path)?;
    let len = usize::try_from(file.len().at("look at", &path)?).unwrap_or(usize::MAX);
    let bytes = read_up_to(file.as_ref(), 0, len).at("read", &path)?.freeze();
    let segment = SegmentHeader::parse(&bytes)
        .map_err(|reason| JournalError::Invalid(format!("{}: {reason}", path.display())))?;
    let origin = Origin { seed: seed(id), incarnation: segment.incarnation };
    let durable = mark(&bytes, segment.incarnation).unwrap_or(0);
    let counts = counted(&dir, number).unwrap_or(u64::MAX);
    let mut interner = RouteInterner::default();
    for found in survey(&bytes, origin, RECORDS, durable).found {
        if found.offset >= counts {
            break;
        }
        let (writer_id, appended, frame) = match found.record {
            Ok(record) => {
                let changes = changes(&record, &bytes);
                let header = header(&record, &bytes, &mut interner);
                let frame = header.map(|header| Frame { header, changes });
                (u64::from(record.writer), record.appended, frame.map_err(|e| e.to_string()))
            }
            Err(cause) => (0, 0, Err(cause)),
        };
        if !visit(Record { offset: found.offset, writer_id, appended, frame }) {
            break;
        }
    }
    Ok(())
}

/// Bytes of a segment that count, if the next segment says so.
fn counted(dir: &Dir, number: u32) -> Option<u64> {
    let next = RealFiles.open(&dir.segment(number.checked_add(1)?)).ok()?;
    let header = SegmentHeader::read(next.as_ref()).ok()?.ok()?;
    (header.previous_len > 0).then_some(header.previous_len)
}

/// Verifies one journal's directory that no process works on.
///
/// # Errors
/// When files cannot be read; what is wrong inside is in the report.
pub fn verify(
    journal: &Path,
    progress: &(dyn Fn(VerifyProgress) + Send + Sync),
) -> Result<Report, JournalError> {
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    crate::verify::verify_dir(&files, journal, progress)
}

pub(crate) fn control(files: &Arc<dyn Files>, dir: &Dir) -> Result<Control, JournalError> {
    let path = dir.control();
    let loaded = ControlFile::load(Arc::clone(files), &path);
    loaded.map(|(_, control)| control).map_err(|none| none.error(&path))
}
