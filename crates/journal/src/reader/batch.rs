//! Getting the frames of a walk: from the tail cache where they are, from the disk otherwise, and
//! then neighbours in one read.

use std::sync::Arc;

use sluice_frame::RouteInterner;
use sluice_model::Position;
use tokio::sync::Semaphore;

use super::{Done, EmbeddedReader, FETCH_BYTES, Step, Walk, notice};
use crate::{
    Item, ReadError, Stored,
    error::Fault,
    files::{File, read_up_to},
    index::Entry,
    record::Origin,
    shared::{Log, Unreadable, parse},
};

/// Unwanted bytes between two wanted frames that are read along rather than read around.
const READ_ALONG: u64 = 16 << 10;

/// Reads from the disk at the same time, over all readers of the process: enough to keep a disk's
/// queue filled. Each takes a thread that keeps memory at hand for the next.
static DISK_READS: Semaphore = Semaphore::const_new(8);

type Fetched = Vec<Result<Arc<Stored>, Unreadable>>;

impl EmbeddedReader {
    /// Makes items of a walk. Changes nothing that a second try would miss.
    pub(super) async fn collect(&mut self, walk: &Walk) -> Result<Vec<Item>, ReadError> {
        let wanted: Vec<&Entry> = walk.steps.iter().filter_map(|(step, _)| step.entry()).collect();
        let mut frames: Vec<Option<Arc<Stored>>> = {
            let tail = self.log.tail.lock();
            wanted.iter().map(|entry| tail.get((entry.segment, entry.offset))).collect()
        };
        let missing: Vec<Entry> = wanted
            .iter()
            .zip(&frames)
            .filter(|(_, frame)| frame.is_none())
            .map(|(entry, _)| (*entry).clone())
            .collect();
        let mut read = self.read_all(missing).await?.into_iter();
        let results = frames
            .iter_mut()
            .map(|frame| match frame.take() {
                Some(frame) => Ok(frame),
                None => read
                    .next()
                    .unwrap_or_else(|| Err(Unreadable::Damaged("it was not read".to_owned()))),
            })
            .collect();
        self.assemble(walk, results)
    }

    /// Reads frames from the disk, off the runtime's threads.
    async fn read_all(&mut self, entries: Vec<Entry>) -> Result<Fetched, ReadError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let log = Arc::clone(&self.log);
        let (file, headers_only) = (self.file.clone(), self.select.headers_only);
        let turn = DISK_READS.acquire().await.map_err(|_| ReadError::Closed)?;
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut reads = Reads { log: &log, file, interner: RouteInterner::default() };
            let fetched = reads.all(&entries, headers_only);
            (fetched, reads.file)
        });
        let (fetched, file) = read.await.map_err(|_| ReadError::Closed)?;
        self.file = file;
        Ok(fetched)
    }

    fn assemble(&mut self, walk: &Walk, frames: Fetched) -> Result<Vec<Item>, ReadError> {
        let mut frames = frames.into_iter();
        let mut items: Vec<(Option<Position>, Item)> = Vec::new();
        let mut damaged = self.damaged.clone();
        let mut told = self.told.clone();
        for (step, before) in &walk.steps {
            let entry = match step {
                Step::Frame(entry) | Step::Notice(entry) => entry,
                Step::End(done) => {
                    if damaged.as_ref() != Some(&done.position) {
                        told = done.position.clone();
                        items.push((None, self.through(done)));
                    }
                    continue;
                }
                Step::Damage(corruption) => {
                    let through = corruption.through.clone();
                    told = through.unwrap_or_else(|| corruption.after.clone());
                    items.push((None, Item::Corrupt(corruption.clone())));
                    continue;
                }
            };
            let frame = frames.next().unwrap_or_else(|| Err(Unreadable::Damaged(String::new())));
            let block = entry.position();
            if damaged.as_ref() == Some(&block) {
                continue;
            }
            match missing_is_damage(frame) {
                Ok(frame) if matches!(step, Step::Notice(_)) => {
                    told = block.clone();
                    items.extend(notice(entry, &frame).map(|item| (None, item)));
                }
                Ok(frame) => {
                    if entry.last {
                        told = block.clone();
                    }
                    items.push((Some(block), Item::Entry(self.view(frame))));
                }
                Err(Unreadable::Io(fault)) => return Err(self.io(fault)),
                Err(Unreadable::Damaged(cause)) => {
                    self.still_there()?;
                    // Nothing of a damaged block is worth having.
                    items.retain(|(of, _)| of.as_ref() != Some(&block));
                    let after = block_before(before, entry);
                    items.push((None, Item::Corrupt(self.log.damage(entry, after, cause))));
                    told = block.clone();
                    damaged = Some(block);
                }
            }
        }
        self.damaged = damaged;
        self.told = told;
        Ok(items.into_iter().map(|(_, item)| item).collect())
    }

    fn view(&self, frame: Arc<Stored>) -> Arc<Stored> {
        if !self.select.headers_only || frame.changes.is_empty() {
            return frame;
        }
        Arc::new(Stored { header: Arc::clone(&frame.header), changes: bytes::Bytes::new() })
    }

    /// A segment that was recycled under the reader is not damage. Retention keeps the segments
    /// that a block begins in for as long as the one whose index has it, so that one decides.
    fn still_there(&self) -> Result<(), ReadError> {
        let state = self.log.state.read();
        if self.cursor.segment >= state.oldest_segment() {
            return Ok(());
        }
        Err(ReadError::OutOfRange { oldest: state.oldest().position() })
    }

    fn io(&self, fault: Fault) -> ReadError {
        match self.still_there() {
            Ok(()) => fault.into(),
            Err(gone) => gone,
        }
    }
}

/// A segment file that is gone although it is retained will not come back by trying again.
fn missing_is_damage(frame: Result<Arc<Stored>, Unreadable>) -> Result<Arc<Stored>, Unreadable> {
    match frame {
        Err(Unreadable::Io(fault)) if fault.source.kind() == std::io::ErrorKind::NotFound => {
            Err(Unreadable::Damaged("the segment file is missing".to_owned()))
        }
        other => other,
    }
}

/// The last position before a block, where the walk passed it.
fn block_before(before: &Done, entry: &Entry) -> Option<Position> {
    (before.position < entry.position()).then(|| before.position.clone())
}

impl Step {
    fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Frame(entry) | Self::Notice(entry) => Some(entry),
            Self::End(_) | Self::Damage(_) => None,
        }
    }
}

/// Reads on a thread that may block.
struct Reads<'a> {
    log: &'a Log,
    file: Option<(u32, u64, Arc<dyn File>)>,
    interner: RouteInterner,
}

impl Reads<'_> {
    fn all(&mut self, entries: &[Entry], headers_only: bool) -> Fetched {
        let mut fetched = Vec::with_capacity(entries.len());
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let count = if headers_only { 1 } else { neighbours(rest) };
            let (group, after) = rest.split_at(count.max(1).min(rest.len()));
            rest = after;
            match self.open(first.segment) {
                Err(fault) => {
                    fetched.extend(group.iter().map(|_| Err(Unreadable::Io(fault.clone()))));
                }
                Ok((incarnation, file)) if group.len() == 1 => {
                    fetched.push(self.log.fetch(first, file.as_ref(), incarnation, headers_only));
                }
                Ok((incarnation, file)) => {
                    self.group(group, file.as_ref(), incarnation, &mut fetched);
                }
            }
        }
        fetched
    }

    fn open(&mut self, segment: u32) -> Result<(u64, Arc<dyn File>), Fault> {
        let incarnation = self.log.incarnation(segment).unwrap_or(0);
        if let Some((number, of, file)) = &self.file
            && (*number, *of) == (segment, incarnation)
        {
            return Ok((incarnation, Arc::clone(file)));
        }
        let file = self.log.segment_file(segment)?;
        self.file = Some((segment, incarnation, Arc::clone(&file)));
        Ok((incarnation, file))
    }

    /// Neighbours in one read; they share its memory.
    fn group(&mut self, group: &[Entry], file: &dyn File, incarnation: u64, out: &mut Fetched) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return };
        let len = usize::try_from(end(last) - first.offset).unwrap_or(usize::MAX);
        self.log.disk_reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = self.log.dir.segment(first.segment);
        let bytes = match read_up_to(file, first.offset, len) {
            Ok(bytes) => bytes.freeze(),
            Err(source) => {
                let fault = Fault { action: "read", file: path, source: Arc::new(source) };
                out.extend(group.iter().map(|_| Err(Unreadable::Io(fault.clone()))));
                return;
            }
        };
        let origin = Origin { seed: self.log.seed, incarnation };
        for entry in group {
            let begin = usize::try_from(entry.offset - first.offset).unwrap_or(usize::MAX);
            let own = usize::try_from(entry.len()).unwrap_or(usize::MAX);
            let range = begin.min(bytes.len())..begin.saturating_add(own).min(bytes.len());
            out.push(parse(&bytes.slice(range), entry, origin, &mut self.interner));
        }
    }
}

fn end(entry: &Entry) -> u64 {
    entry.offset + entry.len()
}

/// How many of the first entries lie close enough together for one read.
fn neighbours(entries: &[Entry]) -> usize {
    let Some(first) = entries.first() else { return 0 };
    let mut count = 1;
    for pair in entries.windows(2) {
        let [one, other] = pair else { break };
        let close = other.segment == first.segment
            && other.offset >= end(one)
            && other.offset - end(one) <= READ_ALONG
            && end(other) - first.offset <= FETCH_BYTES as u64;
        if !close {
            break;
        }
        count += 1;
    }
    count
}
