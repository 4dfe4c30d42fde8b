//! What the parts of one open journal share: its committer, its writers, its readers.

use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64},
    },
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use sluice_frame::{Header, RouteInterner};
use sluice_model::{Durability, Epoch, Head, IngestorName, JournalId, Position};
use tokio::sync::{Semaphore, watch};

use crate::{
    Corruption, Options, ReadError, Stored,
    codec::visible,
    committer::{Core, Queue},
    embedded::Policy,
    error::{At, Fault},
    files::{File, Files},
    index::{Entry, SegIndex},
    record::{HEAD, Origin, Parts, RecordHead},
    recovery::{Loader, Meta},
    segment::Dir,
    slot::{Slot, complete},
    tail::{IndexCache, Tail},
};

/// Granularity in which room in the queue is counted, in bytes.
pub(crate) const ROOM_UNIT: u64 = 1024;
/// Damage that is remembered for the status.
const MAX_REMEMBERED: usize = 16;

/// The segment that takes records.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) incarnation: u64,
    pub(crate) len: u64,
    pub(crate) file_len: u64,
    pub(crate) index: SegIndex,
}

/// What readers look at. Changed by the committer only, in short critical sections.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) sealed: VecDeque<Arc<Meta>>,
    pub(crate) active: Option<Active>,
    pub(crate) head: Head,
    pub(crate) fence: Epoch,
    pub(crate) holder: String,
    pub(crate) append_refused: Option<String>,
    pub(crate) poisoned: Option<String>,
    pub(crate) aborted_parts: u64,
    pub(crate) cut_bytes: u64,
    pub(crate) unknown_records: u64,
    pub(crate) quarantined: u64,
    pub(crate) corruptions: VecDeque<Corruption>,
}

/// One journal.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) ingestor: IngestorName,
    pub(crate) id: JournalId,
    pub(crate) seed: u32,
    /// Names the journal in the cache of indexes.
    pub(crate) key: u64,
    pub(crate) dir: Dir,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) options: Arc<Options>,
    pub(crate) state: RwLock<State>,
    pub(crate) tail: Mutex<Tail>,
    pub(crate) indexes: Arc<Mutex<IndexCache>>,
    /// Counts what became visible; wakes readers.
    pub(crate) tick: watch::Sender<u64>,
    pub(crate) queue: Queue,
    /// For blocks that their tickets commit; gone once the journal is closed.
    pub(crate) core: OnceLock<Weak<Mutex<Core>>>,
    pub(crate) room: Arc<Semaphore>,
    /// The only writer that is not fenced; 0 before the first.
    pub(crate) writer: AtomicU32,
    /// Counts how often queued blocks were refused for lack of room.
    pub(crate) resets: AtomicU64,
    pub(crate) closed: AtomicBool,
    pub(crate) disk_reads: AtomicU64,
    pub(crate) readers: AtomicU64,
}

/// Where a reader stands: a segment and the number of the next entry in its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) segment: u32,
    pub(crate) entry: usize,
}

/// Why a stored frame could not be given.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// Its bytes are not what was written.
    Damaged(String),
    Io(Fault),
}

impl State {
    /// The head that the oldest retained block builds on.
    pub(crate) fn oldest(&self) -> Head {
        match (self.sealed.front(), &self.active) {
            (Some(meta), _) => meta.summary.base.clone(),
            (None, Some(active)) => active.index.summary.base.clone(),
            (None, None) => self.head.clone(),
        }
    }

    pub(crate) fn oldest_segment(&self) -> u32 {
        let active = self.active.as_ref().map(|active| active.index.number);
        self.sealed.front().map(|meta| meta.number).or(active).unwrap_or(0)
    }

    pub(crate) fn visible_head(&self) -> Option<Head> {
        visible(&self.head)
    }

    /// Remembers damage for people.
    pub(crate) fn quarantine(&mut self, corruption: Corruption) {
        if self.corruptions.contains(&corruption) {
            return;
        }
        self.quarantined += 1;
        self.corruptions.push_back(corruption);
        if self.corruptions.len() > MAX_REMEMBERED {
            self.corruptions.pop_front();
        }
    }
}

impl Log {
    pub(crate) fn durability(&self) -> Durability {
        match self.options.policy {
            Policy::Fsync => Durability::Fsynced,
            Policy::Interval(_) => Durability::Interval,
            Policy::None => Durability::None,
        }
    }

    /// Wakes every reader.
    pub(crate) fn announce(&self) {
        self.tick.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Looks at a segment's index; `None` if the segment is no longer there.
    pub(crate) fn with_index<R>(
        &self,
        segment: u32,
        look: impl FnOnce(&SegIndex) -> R,
    ) -> Result<Option<R>, ReadError> {
        let meta = {
            let state = self.state.read();
            if let Some(active) = state.active.as_ref().filter(|a| a.index.number == segment) {
                return Ok(Some(look(&active.index)));
            }
            let at = state.sealed.binary_search_by_key(&segment, |meta| meta.number);
            at.ok().and_then(|at| state.sealed.get(at)).map(Arc::clone)
        };
        let Some(meta) = meta else { return Ok(None) };
        Ok(Some(look(self.index_of(&meta)?.as_ref())))
    }

    fn index_of(&self, meta: &Meta) -> Result<Arc<SegIndex>, ReadError> {
        if let Some(index) = self.indexes.lock().get(self.key, meta.number) {
            return Ok(index);
        }
        let index = Arc::new(self.load_index(meta)?);
        self.indexes.lock().insert(self.key, Arc::clone(&index));
        Ok(index)
    }

    fn load_index(&self, meta: &Meta) -> Result<SegIndex, Fault> {
        let path = self.dir.index(meta.number);
        let read = || {
            let file = self.files.open(&path)?;
            let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
            crate::files::read_up_to(file.as_ref(), 0, len)
        };
        let stored = read().ok().and_then(|bytes| SegIndex::decode(&bytes));
        match stored.filter(|(subject, _)| self.is_subject(subject, meta)) {
            Some((_, index)) => Ok(index),
            None => {
                tracing::warn!(file = %path.display(), "the side index is missing or damaged");
                let loader = Loader { files: &self.files, dir: &self.dir };
                loader.rebuild(meta, self.id)
            }
        }
    }

    fn is_subject(&self, subject: &crate::index::codec::Subject, meta: &Meta) -> bool {
        subject.id == self.id
            && subject.number == meta.number
            && subject.incarnation == meta.incarnation
            && subject.len == meta.len
    }

    /// The incarnation of a segment, if it is still there.
    pub(crate) fn incarnation(&self, segment: u32) -> Option<u64> {
        let state = self.state.read();
        if let Some(active) = state.active.as_ref().filter(|a| a.index.number == segment) {
            return Some(active.incarnation);
        }
        let at = state.sealed.binary_search_by_key(&segment, |meta| meta.number).ok()?;
        state.sealed.get(at).map(|meta| meta.incarnation)
    }

    /// The number of the segment behind one, with the head it builds on.
    pub(crate) fn next_segment(&self, segment: u32) -> Option<(u32, Head)> {
        let state = self.state.read();
        let at = state.sealed.partition_point(|meta| meta.number <= segment);
        if let Some(meta) = state.sealed.get(at) {
            return Some((meta.number, meta.summary.base.clone()));
        }
        let active = state.active.as_ref().filter(|a| a.index.number > segment)?;
        Some((active.index.number, active.index.summary.base.clone()))
    }

    /// Opens a segment for reading.
    pub(crate) fn segment_file(&self, segment: u32) -> Result<Arc<dyn File>, Fault> {
        let path = self.dir.segment(segment);
        self.files.open(&path).at("open", &path)
    }

    /// Reads a frame from its segment and checks everything that is read.
    pub(crate) fn fetch(
        &self,
        entry: &Entry,
        file: &dyn File,
        incarnation: u64,
        headers_only: bool,
    ) -> Result<Arc<Stored>, Unreadable> {
        if headers_only && let Some(stored) = self.fetch_front(entry, file, incarnation)? {
            return Ok(stored);
        }
        let len = usize::try_from(entry.len()).unwrap_or(usize::MAX);
        let bytes = self.fetch_bytes(file, entry, (entry.offset, len))?;
        let origin = Origin { seed: self.seed, incarnation };
        parse(&bytes, entry, origin, &mut RouteInterner::default())
    }

    /// Reads a frame without its changes; `None` if its header is complete only with them.
    fn fetch_front(
        &self,
        entry: &Entry,
        file: &dyn File,
        incarnation: u64,
    ) -> Result<Option<Arc<Stored>>, Unreadable> {
        let len = HEAD + entry.header_len as usize;
        let bytes = self.fetch_bytes(file, entry, (entry.offset, len))?;
        let front = Front::parse(&bytes, entry, Origin { seed: self.seed, incarnation })?;
        let slot = match front.head.slot {
            0 => Slot::None,
            _ => front.head.slot(&self.fetch_bytes(file, entry, front.head.slot_place())?),
        };
        if matches!(slot, Slot::Empty | Slot::Damaged) {
            return Ok(None);
        }
        front.with(slot, Bytes::new(), &mut RouteInterner::default()).map(Some)
    }

    fn fetch_bytes(
        &self,
        file: &dyn File,
        entry: &Entry,
        (offset, len): (u64, usize),
    ) -> Result<Bytes, Unreadable> {
        self.disk_reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = || self.dir.segment(entry.segment);
        let bytes = crate::files::read_up_to(file, offset, len).map_err(|source| Fault {
            action: "read",
            file: path(),
            source: Arc::new(source),
        });
        bytes.map(bytes::BytesMut::freeze).map_err(Unreadable::Io)
    }

    /// The stored header of a block's last part, from memory or disk.
    pub(crate) fn header_of(&self, entry: &Entry) -> Result<Arc<Header>, ReadError> {
        if let Some(stored) = self.tail.lock().get((entry.segment, entry.offset)) {
            return Ok(Arc::clone(&stored.header));
        }
        let file = self.segment_file(entry.segment)?;
        let incarnation = self.incarnation(entry.segment).unwrap_or(0);
        match self.fetch(entry, file.as_ref(), incarnation, true) {
            Ok(stored) => Ok(Arc::clone(&stored.header)),
            Err(Unreadable::Io(fault)) => Err(fault.into()),
            Err(Unreadable::Damaged(cause)) => {
                Err(ReadError::Corrupt(Box::new(self.damage(entry, None, cause))))
            }
        }
    }

    /// Describes a block that cannot be read, and remembers it.
    pub(crate) fn damage(
        &self,
        entry: &Entry,
        after: Option<Position>,
        cause: String,
    ) -> Corruption {
        let corruption = Corruption {
            after: after.unwrap_or_else(|| Position { index: 0, ..entry.position() }),
            through: Some(entry.position()),
            digest: entry.last.then_some(entry.digest),
            file: self.dir.segment(entry.segment).display().to_string(),
            offset: entry.offset,
            cause,
        };
        tracing::error!(ingestor = %self.ingestor, %corruption, "quarantined");
        self.state.write().quarantine(corruption.clone());
        corruption
    }
}

/// Takes a frame out of a record's bytes.
pub(crate) fn parse(
    bytes: &Bytes,
    entry: &Entry,
    origin: Origin,
    interner: &mut RouteInterner,
) -> Result<Arc<Stored>, Unreadable> {
    let front = Front::parse(bytes, entry, origin)?;
    let Parts { changes, slot, .. } = front.head.parts(bytes);
    if changes.len() < front.head.changes_len as usize {
        return Err(damaged(CUT_OFF));
    }
    if crc32c::crc32c(&changes) != front.head.changes_crc {
        return Err(damaged("the checksum of the record's changes is wrong"));
    }
    let slot = front.head.slot(&slot);
    front.with(slot, changes, interner)
}

/// What stands before a record's changes.
struct Front {
    head: RecordHead,
    header: Bytes,
}

const CUT_OFF: &str = "the record is cut off by the end of the file";

fn damaged(cause: &str) -> Unreadable {
    Unreadable::Damaged(cause.to_owned())
}

impl Front {
    fn parse(bytes: &Bytes, entry: &Entry, origin: Origin) -> Result<Self, Unreadable> {
        let head = RecordHead::parse(bytes, origin, entry.offset)
            .filter(|head| entry.is_of(head))
            .ok_or_else(|| damaged("there is no valid record head"))?;
        if bytes.len() < HEAD + entry.header_len as usize {
            return Err(damaged(CUT_OFF));
        }
        let header = head.parts(bytes).header;
        if crc32c::crc32c(&header) != head.header_crc {
            return Err(damaged("the checksum of the record's header is wrong"));
        }
        Ok(Self { head, header })
    }

    fn with(
        self,
        slot: Slot,
        changes: Bytes,
        interner: &mut RouteInterner,
    ) -> Result<Arc<Stored>, Unreadable> {
        let header = Header::parse_interned(&self.header, interner)
            .and_then(|header| complete(header, slot, &changes))
            .map_err(|error| Unreadable::Damaged(error.to_string()))?;
        Ok(Arc::new(Stored { header: Arc::new(header), changes }))
    }
}
