//! The spool: blocks that a standby captured beside its own source, on disk, until the journal is
//! seen to have the same.
//!
//! ```text
//!   <data_dir>/spool/<ingestor>/LOCK
//!                              /<number>.spool      records, see `record`
//! ```
//!
//! Frames are kept as they are encoded. A block is one run of frames in one segment and counts
//! from the moment on that it is synced whole. A segment is written by one process from its begin
//! on and never again after: what is torn or damaged in it is passed over when it is read, and it
//! goes, as a file, when no block in it is wanted any more. So nothing is ever rewritten. The files
//! together never exceed the limit, but for the few bytes that name a block which differs.

mod error;
mod handle;
mod index;
mod record;
mod segment;

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use sluice_frame::{BlockEnd, Frame, Header};
use sluice_model::{Generation, Pointer};

pub use error::SpoolError;
pub use handle::{Progress, SpoolHandle};
pub use index::Entry;

use index::{Index, Partial};
use record::Kind;
use segment::{Found, Records, Writer};

/// Most blocks in a spool: bounds the memory of the index, about 40 MB.
const MAX_BLOCKS: usize = 262_144;
/// Largest size at which a segment is closed. An eighth of the limit if that is less.
const MAX_SEGMENT: u64 = 64 << 20;

/// Which block: its history and its pointer.
pub type Place = (Generation, Pointer);

/// The spool of one ingestor.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    limit: u64,
    /// Bytes per segment, by number; the one that is written included.
    segments: BTreeMap<u64, u64>,
    writer: Option<Writer>,
    next_segment: u64,
    index: Index,
    /// Written whole, not synced.
    unsynced: Vec<(Place, Entry)>,
    unsynced_bytes: u64,
    partial: Option<Partial>,
    /// Records that could not be read when the spool was opened.
    damaged: u64,
    _lock: File,
}

/// A captured block, without its changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The header of its last frame.
    pub header: Header,
    /// The end of the block with its state digests; the block's own digest is not known here.
    pub end: BlockEnd,
    /// It differs from the journal's, and that was told.
    pub diverged: bool,
}

/// The frames of one block, read one by one; does not hold the spool.
#[derive(Debug)]
pub struct BlockReader {
    records: Records,
    left: u32,
}

impl BlockReader {
    /// The next frame, encoded; `None` after the last. Blocks the thread.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, SpoolError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.records.frame().map(Some)
    }
}

impl Spool {
    /// Opens or makes a spool and reads what is there. Blocks the thread, like everything here.
    pub fn open(dir: &Path, limit: u64) -> Result<Self, SpoolError> {
        fs::create_dir_all(dir).map_err(SpoolError::io("creating", dir))?;
        let lock = lock(dir)?;
        let mut spool = Self {
            dir: dir.to_owned(),
            limit,
            segments: BTreeMap::new(),
            writer: None,
            next_segment: 1,
            index: Index::default(),
            unsynced: Vec::new(),
            unsynced_bytes: 0,
            partial: None,
            damaged: 0,
            _lock: lock,
        };
        let listed = fs::read_dir(dir).map_err(SpoolError::io("listing", dir))?;
        let mut numbers = Vec::new();
        for entry in listed {
            let path = entry.map_err(SpoolError::io("listing", dir))?.path();
            numbers.extend(segment::number(&path));
        }
        numbers.sort_unstable();
        for number in numbers {
            spool.recover(number)?;
            spool.next_segment = number.saturating_add(1);
        }
        spool.sweep()?;
        Ok(spool)
    }

    /// Reads a segment that is there.
    fn recover(&mut self, number: u64) -> Result<(), SpoolError> {
        let Some(mut records) = Records::begin(&self.dir, number)? else {
            self.segments.insert(number, 0);
            return Ok(());
        };
        self.segments.insert(number, records.len());
        let mut partial: Option<Partial> = None;
        loop {
            let found = records.next()?;
            let Found::Record { kind, payload, offset } = found else {
                if found == Found::End {
                    return Ok(());
                }
                partial = None;
                self.damaged += 1;
                tracing::warn!(dir = %self.dir.display(), segment = number, ?found, "spool: passing over what cannot be read");
                if matches!(found, Found::Torn { .. }) {
                    return Ok(());
                }
                continue;
            };
            match kind {
                Kind::Diverged => self.recover_mark(&payload, number),
                Kind::Frame => {
                    let Ok(frame) = Frame::parse(payload) else {
                        partial = None;
                        self.damaged += 1;
                        continue;
                    };
                    partial = Partial::next(partial.take(), &frame.header, number, offset).ok();
                    if let Some((place, entry)) =
                        partial.as_ref().and_then(|partial| partial.complete(&frame.header))
                    {
                        self.index.insert(place, entry);
                        partial = None;
                    }
                }
            }
        }
    }

    fn recover_mark(&mut self, payload: &[u8], segment: u64) {
        if let Some((generation, pointer)) = payload.split_first_chunk::<4>()
            && let Ok(pointer) = Pointer::new(pointer.to_vec())
        {
            let place = (Generation(u32::from_le_bytes(*generation)), pointer);
            self.index.mark(&place, segment);
        }
    }

    /// Adds a frame. A block's frames come in order; part 0 begins a block and forgets an
    /// unfinished one. The block is visible after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`SpoolError::Full`]: the same frame may be given again later. [`SpoolError::TooLarge`]:
    /// the block is forgotten. Any other error forgets everything that is not synced.
    pub fn append(&mut self, frame: &Frame) -> Result<(), SpoolError> {
        let header = &frame.header;
        let expected = self.partial.as_ref().map_or(0, |partial| partial.parts);
        if header.part != 0 && header.part != expected {
            let pointer = header.pointer.clone();
            self.partial = None;
            return Err(SpoolError::Order { pointer, expected, got: header.part });
        }
        if header.part == 0 {
            self.partial = None;
        }
        let bytes = frame.encode();
        self.reserve(header, (record::HEAD + bytes.len()) as u64)?;
        let (number, offset) = self.write(Kind::Frame, &bytes)?;
        let partial = Partial::next(self.partial.take(), header, number, offset)?;
        match partial.complete(header) {
            Some(block) => self.unsynced.push(block),
            None => self.partial = Some(partial),
        }
        Ok(())
    }

    /// Makes room for a record, or says that there is none.
    fn reserve(&mut self, header: &Header, bytes: u64) -> Result<(), SpoolError> {
        let idle = self.partial.is_none() && self.unsynced.is_empty();
        let target = (self.limit / 8).min(MAX_SEGMENT);
        let used = self.writer.as_ref().map_or(0, |writer| writer.len);
        // Only between blocks: a block stays in one segment.
        if self.partial.is_none() && used + bytes > target && used > segment::BEGIN {
            self.seal()?;
        }
        let fits = |own: &Self| {
            let begin = own.writer.as_ref().map_or(segment::BEGIN, |_| 0);
            own.bytes() + begin + bytes <= own.limit
        };
        if !fits(self) && idle {
            self.seal()?;
        }
        if fits(self) && self.index.len() + self.unsynced.len() < MAX_BLOCKS {
            return Ok(());
        }
        if self.index.is_empty() && self.unsynced.is_empty() {
            self.partial = None;
            self.seal()?;
            let pointer = header.pointer.clone();
            return Err(SpoolError::TooLarge { pointer, limit: self.limit });
        }
        Err(SpoolError::Full { bytes: self.bytes(), limit: self.limit })
    }

    /// Ends the segment that is written; what is in it is synced.
    fn seal(&mut self) -> Result<(), SpoolError> {
        self.sync()?;
        if self.partial.is_none() {
            self.writer = None;
        }
        self.sweep()
    }

    fn write(&mut self, kind: Kind, payload: &[u8]) -> Result<(u64, u64), SpoolError> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let number = self.next_segment;
                self.next_segment = number.saturating_add(1);
                self.segments.insert(number, segment::BEGIN);
                Writer::create(&self.dir, number)?
            }
        };
        let offset = match writer.put(kind, payload) {
            Ok(offset) => offset,
            Err(error) => {
                self.forget_unsynced();
                return Err(error);
            }
        };
        let (number, end) = (writer.number, writer.len);
        self.segments.insert(number, end);
        self.unsynced_bytes += end - offset;
        self.writer = Some(writer);
        Ok((number, offset))
    }

    /// Makes durable and visible what is whole. After an error the segment is never written or
    /// synced again, and what was not synced is forgotten.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        if let Some(writer) = self.writer.as_ref().filter(|_| self.unsynced_bytes > 0)
            && let Err(error) = writer.sync()
        {
            self.writer = None;
            self.forget_unsynced();
            return Err(error);
        }
        self.unsynced_bytes = 0;
        for (place, entry) in self.unsynced.drain(..) {
            self.index.insert(place, entry);
        }
        Ok(())
    }

    fn forget_unsynced(&mut self) {
        self.unsynced.clear();
        self.unsynced_bytes = 0;
        self.partial = None;
    }

    /// Forgets the unfinished block.
    pub fn abort(&mut self) {
        self.partial = None;
    }

    /// Bytes written and not synced.
    pub const fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes
    }

    /// Lets a block go.
    pub fn remove(&mut self, place: &Place) -> Result<(), SpoolError> {
        self.index.remove(place);
        self.sweep()
    }

    /// Lets go everything for which `gone` is true.
    pub fn remove_where(&mut self, gone: impl Fn(&Place) -> bool) -> Result<(), SpoolError> {
        self.index.remove_where(gone);
        self.sweep()
    }

    /// Lets the oldest blocks go that are known to be durable in the journal: a segment's worth.
    /// False if there are none.
    pub fn make_room(&mut self, durable: &Place) -> Result<bool, SpoolError> {
        let before = self.bytes();
        for number in self.segments.keys().copied().collect::<Vec<_>>() {
            if self.index.last_of(number).is_none_or(|last| last <= *durable) {
                self.index.remove_segment(number);
                let writing = self.writer.as_ref().is_some_and(|writer| writer.number == number);
                if writing && self.partial.is_none() && self.unsynced.is_empty() {
                    self.writer = None;
                }
                self.sweep()?;
            }
            if self.bytes() < before {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Remembers that a block differs from the journal's, also across restarts.
    pub fn mark_diverged(&mut self, place: &Place) -> Result<(), SpoolError> {
        let mut payload = place.0.0.to_le_bytes().to_vec();
        payload.extend_from_slice(place.1.as_bytes());
        let (segment, _) = self.write(Kind::Diverged, &payload)?;
        self.sync()?;
        self.index.mark(place, segment);
        Ok(())
    }

    /// A block that is there.
    pub fn get(&self, place: &Place) -> Option<&Entry> {
        self.index.get(place)
    }

    /// What is known of a block that is there, from its last frame.
    pub fn captured(&self, place: &Place) -> Result<Option<Captured>, SpoolError> {
        let Some(entry) = self.index.get(place) else { return Ok(None) };
        let mut records = Records::open(&self.dir, entry.segment, entry.last)?;
        let header = Frame::parse(records.frame()?)?.header;
        let Some(end) = header.end.clone() else {
            let path = segment::path(&self.dir, entry.segment);
            let cause = "the last frame does not end the block".to_owned();
            return Err(SpoolError::Damaged { path, offset: entry.last, cause });
        };
        Ok(Some(Captured { header, end, diverged: entry.diverged }))
    }

    /// The frames of a block that is there.
    pub fn read(&self, place: &Place) -> Result<Option<BlockReader>, SpoolError> {
        let Some(entry) = self.index.get(place) else { return Ok(None) };
        let records = Records::open(&self.dir, entry.segment, entry.offset)?;
        Ok(Some(BlockReader { records, left: entry.parts }))
    }

    /// The lowest block.
    pub fn first(&self) -> Option<(&Place, &Entry)> {
        self.index.first()
    }

    /// The highest block.
    pub fn last(&self) -> Option<(&Place, &Entry)> {
        self.index.last()
    }

    /// Blocks.
    pub fn blocks(&self) -> usize {
        self.index.len()
    }

    /// Blocks that are kept because they differ.
    pub fn diverged(&self) -> usize {
        self.index.diverged()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    /// Bytes that all files may have.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Records that could not be read when the spool was opened.
    pub const fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Deletes the segments in which nothing is wanted any more.
    fn sweep(&mut self) -> Result<(), SpoolError> {
        let writing = self.writer.as_ref().map(|writer| writer.number);
        let busy = |number: &u64| {
            self.index.needs(*number)
                || writing == Some(*number)
                || self.unsynced.iter().any(|(_, entry)| entry.segment == *number)
        };
        let gone: Vec<u64> = self.segments.keys().filter(|n| !busy(n)).copied().collect();
        for number in gone {
            let path = segment::path(&self.dir, number);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SpoolError::io("deleting", &path)(error));
                }
                _ => drop(self.segments.remove(&number)),
            }
        }
        Ok(())
    }
}

/// One process at a time: the lock goes with the file.
fn lock(dir: &Path) -> Result<File, SpoolError> {
    let path = dir.join("LOCK");
    let file = File::create(&path).map_err(SpoolError::io("creating", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::InUse { path }),
        Err(TryLockError::Error(error)) => Err(SpoolError::io("locking", &path)(error)),
    }
}

#[cfg(test)]
mod tests;
