//! Loads the journal of one ingestor from its directory: headers and summaries of the sealed
//! segments, every record of the newest one.

mod settle;

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use bytes::Bytes;
use sluice_model::{Epoch, Head, JournalId};

use crate::{
    control::{Control, ControlFile, NoControl},
    error::{At, Fault, JournalError},
    files::{File, Files, put, read_up_to},
    index::{
        SegIndex, Summary,
        codec::{SUMMARY_LEN, Subject, decode_summary},
    },
    record::{Origin, seed},
    replay::{Replay, Source},
    segment::{Dir, RECORDS, SegmentHeader, mark, number_of},
    survey::{Survey, survey},
};

use settle::{Refused, with_slots};

/// A segment that takes no more records.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    pub(crate) number: u32,
    pub(crate) incarnation: u64,
    /// Bytes of the file that count.
    pub(crate) len: u64,
    /// Bytes of the file.
    pub(crate) file_len: u64,
    /// A write or a sync of the file failed, or may have in an earlier process: once it is
    /// retired it is not used again.
    pub(crate) spoiled: bool,
    pub(crate) summary: Summary,
}

/// The newest segment, if it still takes records.
#[derive(Debug)]
pub(crate) struct Newest {
    pub(crate) file: Arc<dyn File>,
    pub(crate) incarnation: u64,
    pub(crate) len: u64,
    pub(crate) file_len: u64,
    pub(crate) index: SegIndex,
}

/// What a directory holds.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) control: Control,
    pub(crate) control_file: ControlFile,
    pub(crate) sealed: VecDeque<Arc<Meta>>,
    pub(crate) newest: Option<Newest>,
    pub(crate) replay: Replay,
}

/// A directory being loaded.
#[derive(Debug)]
pub(crate) struct Loader<'a> {
    pub(crate) files: &'a Arc<dyn Files>,
    pub(crate) dir: &'a Dir,
}

/// Sealed segments, how the last of them ends, and where the log stands.
type Segments = (VecDeque<Arc<Meta>>, Ending, Replay);

/// How the newest segment ends.
#[derive(Debug)]
enum Ending {
    /// There is no segment that takes records.
    Sealed,
    Takes(Newest),
    /// Its end could not be made durable where it is.
    Refused(Refused),
}

/// What was read of a segment.
#[derive(Debug)]
struct Scan {
    index: SegIndex,
    replay: Replay,
    survey: Survey,
    bytes: Bytes,
}

/// A segment file with its header, as far as it can be read.
#[derive(Debug)]
struct Opened {
    number: u32,
    path: PathBuf,
    file: Arc<dyn File>,
    file_len: u64,
    header: Option<SegmentHeader>,
}

impl Loader<'_> {
    /// Loads the journal; `None` if there is none.
    pub(crate) fn load(&self) -> Result<Option<Loaded>, JournalError> {
        let path = self.dir.control();
        let (mut control_file, mut control) = match ControlFile::load(Arc::clone(self.files), &path)
        {
            Ok(loaded) => loaded,
            Err(NoControl::Missing) if self.numbers()?.is_empty() => return Ok(None),
            Err(none) => return Err(none.error(&path)),
        };
        control_file.settle(&control)?;
        let (sealed, newest, replay) = loop {
            let segments = self.retained(&control)?;
            let (sealed, ending, replay) = self.segments(&segments, &mut control)?;
            match ending {
                Ending::Takes(newest) => break (sealed, Some(newest), replay),
                Ending::Sealed => break (sealed, None, replay),
                // What is moved is durable, so this comes round once.
                Ending::Refused(tail) => {
                    self.move_tail(&segments, &tail, &mut control, &mut control_file)?;
                }
            }
        };
        control.fence = control.fence.max(replay.fence);
        control.writer = control.writer.max(replay.writer);
        Ok(Some(Loaded { control, control_file, sealed, newest, replay }))
    }

    fn numbers(&self) -> Result<Vec<u32>, Fault> {
        let names = self.files.list(&self.dir.0).at("list", &self.dir.0)?;
        Ok(names.iter().filter_map(|name| number_of(name)).collect())
    }

    /// The segments that count.
    fn retained(&self, control: &Control) -> Result<Vec<Opened>, Fault> {
        let mut numbers = self.numbers()?;
        self.finish_trim(&mut numbers, control.oldest);
        let mut segments = numbers
            .iter()
            .map(|number| self.open(*number, control.id))
            .collect::<Result<Vec<_>, Fault>>()?;
        self.finish_roll(&mut segments, control.newest)?;
        Ok(segments)
    }

    /// Removes what a trim had retired when it was interrupted. Part of it only would be left
    /// otherwise, and blocks that begin in what is gone.
    fn finish_trim(&self, numbers: &mut Vec<u32>, oldest: u32) {
        for retired in numbers.extract_if(.., |number| *number < oldest) {
            self.files.remove(&self.dir.index(retired)).ok();
            let path = self.dir.segment(retired);
            if let Err(error) = self.files.remove(&path) {
                tracing::warn!(file = %path.display(), %error, "a retired segment is still there");
            }
        }
    }

    /// Removes a segment that was being taken into use when that was interrupted. Its name may be
    /// lost with the next loss of power; the control record names a segment before it holds any
    /// record, so there is nothing in it.
    fn finish_roll(&self, segments: &mut Vec<Opened>, newest: u32) -> Result<(), Fault> {
        let unnamed = segments.last().filter(|s| s.number > newest && s.header.is_some());
        let Some(segment) = unnamed else { return Ok(()) };
        let (_, survey) = self.read(segment, RECORDS, segment.file_len, 0)?;
        if survey.found.is_empty() && survey.torn.is_none() {
            self.files.remove(&segment.path).at("remove", &segment.path)?;
            segments.pop();
        }
        Ok(())
    }

    fn open(&self, number: u32, id: JournalId) -> Result<Opened, Fault> {
        let path = self.dir.segment(number);
        let file = self.files.open(&path).at("open", &path)?;
        let file_len = file.len().at("look at", &path)?;
        let header = SegmentHeader::read(file.as_ref()).at("read", &path)?.ok();
        let header = header.filter(|h| h.id == id && h.number == number);
        Ok(Opened { number, path, file, file_len, header })
    }

    fn segments(&self, segments: &[Opened], control: &mut Control) -> Result<Segments, Fault> {
        let mut sealed = VecDeque::new();
        let mut last = crate::codec::origin();
        for (at, segment) in segments.iter().enumerate() {
            let Some(next) = segments.get(at + 1) else { break };
            let meta = self.sealed(segments, segment, next, &last)?;
            last = meta.summary.last.clone();
            sealed.push_back(Arc::new(meta));
        }
        let Some(newest) = segments.last() else {
            // Nothing was written yet, or all of it is gone; the control record knows which.
            let mut replay = Replay::new(control.head.clone());
            replay.fence = Epoch::ZERO;
            return Ok((sealed, Ending::Sealed, replay));
        };
        let (ending, meta, replay) = self.newest(segments, newest, &last, control)?;
        sealed.extend(meta.map(Arc::new));
        Ok((sealed, ending, replay))
    }

    fn sealed(
        &self,
        segments: &[Opened],
        segment: &Opened,
        next: &Opened,
        last: &Head,
    ) -> Result<Meta, Fault> {
        let follows = next
            .header
            .as_ref()
            .filter(|h| next.number == segment.number + 1 && h.previous_len > 0);
        let len = follows.map_or(segment.file_len, |header| header.previous_len);
        let next_base = next.header.as_ref().map(|header| &header.base);
        if let Some(header) = &segment.header {
            let subject = subject(header, len);
            if let Some(summary) = self.summary(&subject)? {
                return Ok(meta(header, len, segment.file_len, summary));
            }
        }
        let durable = if follows.is_some() { len } else { 0 };
        let Scan { mut index, mut replay, survey, .. } =
            self.scan(segments, segment, last, (len, durable))?;
        replay.finish(next_base, &segment.path.display().to_string(), &mut index);
        self.note_counts(&mut index, &replay);
        let len = if follows.is_some() { len } else { survey.end };
        let summary = index.summary.clone();
        let Some(header) = &segment.header else {
            return Ok(unreadable(segment, summary));
        };
        self.save_index(&index, &subject(header, len));
        Ok(meta(header, len, segment.file_len, summary))
    }

    /// The summary in a segment's side index, if the whole file is there for this segment.
    fn summary(&self, subject: &Subject) -> Result<Option<Summary>, Fault> {
        let path = self.dir.index(subject.number);
        let file = match self.files.open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.at("open", &path)?,
        };
        let front = read_up_to(file.as_ref(), 0, SUMMARY_LEN).at("read", &path)?;
        Ok(decode_summary(&front).filter(|(found, _)| found == subject).map(|(_, summary)| summary))
    }

    /// Writes a side index; without one the segment is read again next time, so a failure costs
    /// time and nothing else.
    pub(crate) fn save_index(&self, index: &SegIndex, subject: &Subject) {
        let path = self.dir.index(subject.number);
        if let Err(error) = put(self.files.as_ref(), &path, &index.encode(subject)) {
            tracing::warn!(file = %path.display(), %error, "the side index was not written");
        }
    }

    fn note_counts(&self, index: &mut SegIndex, replay: &Replay) {
        index.summary.aborted_parts = replay.assembler.aborted;
        index.summary.unknown_records = replay.unknown;
    }

    /// Reads the records of a segment, and of those before it that hold the begin of a block that
    /// was unfinished when it was begun. `bounds` are the bytes that count and those known to be
    /// durable.
    fn scan(
        &self,
        segments: &[Opened],
        segment: &Opened,
        last: &Head,
        bounds: (u64, u64),
    ) -> Result<Scan, Fault> {
        let (len, durable) = bounds;
        let base = segment.header.as_ref().map_or(last, |header| &header.base);
        let mut replay = Replay::new(base.clone());
        if let Some((from, offset)) = segment.header.as_ref().and_then(|header| header.open) {
            self.replay_open(segments, (from, offset), segment.number, &mut replay)?;
        }
        let mut index = SegIndex::new(segment.number, base.clone());
        let (bytes, survey) = self.read(segment, RECORDS, len, durable)?;
        let file = segment.path.display().to_string();
        let source = Source { number: segment.number, file: &file, bytes: &bytes };
        replay.run(&survey.found, source, &mut index);
        Ok(Scan { index, replay, survey, bytes })
    }

    /// Goes over the begin of an unfinished block in earlier segments.
    fn replay_open(
        &self,
        segments: &[Opened],
        (from, offset): (u32, u64),
        until: u32,
        replay: &mut Replay,
    ) -> Result<(), Fault> {
        for earlier in segments.iter().filter(|s| (from..until).contains(&s.number)) {
            let begin = if earlier.number == from { offset } else { RECORDS };
            let next = segments.iter().find(|s| s.number == earlier.number + 1);
            let len = next.and_then(|n| n.header.as_ref()).map(|h| h.previous_len);
            let len = len.filter(|len| *len > 0).unwrap_or(earlier.file_len);
            let (bytes, survey) = self.read(earlier, begin, len, 0)?;
            let file = earlier.path.display().to_string();
            let source = Source { number: earlier.number, file: &file, bytes: &bytes };
            // Whole blocks of the earlier segments are in their own indexes.
            let mut ignored = SegIndex::new(earlier.number, replay.assembler.head.clone());
            replay.run(&survey.found, source, &mut ignored);
        }
        Ok(())
    }

    fn read(
        &self,
        segment: &Opened,
        from: u64,
        len: u64,
        durable: u64,
    ) -> Result<(Bytes, Survey), Fault> {
        let len = usize::try_from(len.min(segment.file_len)).unwrap_or(usize::MAX);
        let bytes = read_up_to(segment.file.as_ref(), 0, len).at("read", &segment.path)?.freeze();
        let Some(header) = &segment.header else {
            let cause = "the header of the segment is damaged".to_owned();
            let found = vec![crate::survey::Found { offset: 0, record: Err(cause) }];
            return Ok((bytes, Survey { found, end: RECORDS, torn: None, durable: 0 }));
        };
        let origin = Origin { seed: seed(header.id), incarnation: header.incarnation };
        let marked = mark(&bytes, header.incarnation).unwrap_or(0);
        let survey = survey(&bytes, origin, from, durable.max(marked));
        Ok((bytes, survey))
    }

    /// Reads the newest segment; gives it as sealed if it takes no more records.
    fn newest(
        &self,
        segments: &[Opened],
        segment: &Opened,
        last: &Head,
        control: &mut Control,
    ) -> Result<(Ending, Option<Meta>, Replay), Fault> {
        let known = control.newest == segment.number;
        let failed = known && control.sealed;
        let len = if failed { control.durable } else { segment.file_len };
        let durable = if known { control.durable } else { 0 };
        let Scan { mut index, mut replay, survey, bytes } =
            self.scan(segments, segment, last, (len, durable))?;
        if let Some((from, to)) = survey.torn {
            self.set_aside(segment, &bytes, (from, to));
            control.cut_bytes += to - from;
        }
        let (bytes, filled) = with_slots(&survey, bytes);
        if let Err(fault) = self.settle(segment, &survey, (&bytes, filled)) {
            let refused = Refused::new(fault, last.clone(), survey, bytes);
            return Ok((Ending::Refused(refused), None, replay));
        }
        let lost = control.head.position() > replay.assembler.head.position()
            || control.newest > segment.number;
        if lost || survey.ends_badly() {
            let witness = lost.then_some(&control.head);
            self.report_lost(&mut index, &mut replay, witness, segment);
        }
        self.note_counts(&mut index, &replay);
        let Some(header) = &segment.header else {
            return Ok((Ending::Sealed, Some(unreadable(segment, index.summary)), replay));
        };
        if failed || lost || survey.torn.is_some() || survey.ends_badly() {
            // Bytes behind the end could pass for records again, so the log goes on elsewhere.
            replay.assembler.abort();
            let len = survey.end.max(RECORDS);
            self.save_index(&index, &subject(header, len));
            let meta = meta(header, len, segment.file_len, index.summary);
            return Ok((Ending::Sealed, Some(meta), replay));
        }
        let newest = Newest {
            file: Arc::clone(&segment.file),
            incarnation: header.incarnation,
            len: survey.end,
            file_len: segment.file_len,
            index,
        };
        Ok((Ending::Takes(newest), None, replay))
    }

    /// Notes in the index that acknowledged blocks at the end are gone.
    fn report_lost(
        &self,
        index: &mut SegIndex,
        replay: &mut Replay,
        witness: Option<&Head>,
        segment: &Opened,
    ) {
        let file = segment.path.display().to_string();
        let known = replay.assembler.head.clone();
        replay.lose(witness, &file, index);
        if let Some(witness) = witness {
            tracing::error!(
                file, head = %known.position(), recorded = %witness.position(),
                "acknowledged blocks at the end of the journal are unreadable",
            );
        }
    }
}

fn subject(header: &SegmentHeader, len: u64) -> Subject {
    Subject { id: header.id, number: header.number, incarnation: header.incarnation, len }
}

fn meta(header: &SegmentHeader, len: u64, file_len: u64, summary: Summary) -> Meta {
    let (number, incarnation, spoiled) = (header.number, header.incarnation, true);
    Meta { number, incarnation, len, file_len, spoiled, summary }
}

fn unreadable(segment: &Opened, summary: Summary) -> Meta {
    let (number, file_len) = (segment.number, segment.file_len);
    Meta { number, incarnation: 0, len: RECORDS, file_len, spoiled: true, summary }
}

impl Loader<'_> {
    /// Reads a sealed segment again because its side index cannot be used, and replaces that.
    pub(crate) fn rebuild(&self, meta: &Meta, id: JournalId) -> Result<SegIndex, Fault> {
        // What a block of this segment needs is never retired before it.
        let near = meta.summary.first_ref..=meta.number + 1;
        let numbers = self.numbers()?.into_iter().filter(|number| near.contains(number));
        let segments =
            numbers.map(|number| self.open(number, id)).collect::<Result<Vec<_>, Fault>>()?;
        let Some(segment) = segments.iter().find(|segment| segment.number == meta.number) else {
            return Ok(SegIndex::new(meta.number, meta.summary.base.clone()));
        };
        let Scan { mut index, mut replay, .. } =
            self.scan(&segments, segment, &meta.summary.base, (meta.len, meta.len))?;
        let (last, file) = (&meta.summary.last, segment.path.display().to_string());
        if replay.assembler.head.position() != last.position() {
            replay.finish(Some(last), &file, &mut index);
        } else if meta.summary.corruptions > index.summary.corruptions {
            // What was lost at the end of the log when the journal was loaded.
            replay.lose(None, &file, &mut index);
        }
        self.note_counts(&mut index, &replay);
        if let Some(header) = &segment.header {
            self.save_index(&index, &subject(header, meta.len));
        }
        Ok(index)
    }
}
