//! The committer: what alone writes the files of a journal.
//!
//! Its thread takes whatever is queued, writes it in one go, syncs once, and only then lets the
//! assembler make whole blocks visible and acknowledges them. Opens, trims and the close go through
//! the same queue, so fencing is a matter of order: what an older writer queued behind an open is
//! refused.
//!
//! A block that comes alone is committed by whoever waits for it, where that thread may wait for
//! the disk: waking a thread and being woken by it takes a good part of the time of a sync.
//! Meanwhile the committer's thread computes the block's digests, which are stored when the block
//! already is ([`crate::slot`]). Elsewhere the two change places. While such blocks come
//! in rapid succession, neither sleeps ([`crate::hover`]).

mod failure;
mod lone;
mod open;
mod publish;
mod queue;
mod roll;
mod spare;

use std::{
    collections::VecDeque,
    io::IoSlice,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use parking_lot::Mutex;
use sluice_model::{Generation, Head, Pointer};
use tokio::sync::oneshot;

use crate::{
    AppendError, Receipt, Stored,
    assembler::Assembler,
    control::{Control, ControlFile},
    embedded::Policy,
    error::{At, Fault},
    files::File,
    record::{HEAD, Place, RecordHead},
    segment::{RESERVE, write_mark},
    shared::Log,
    slot::Fill,
    tail::Location,
};

use failure::refuse;
pub(crate) use lone::{Helper, commits_here};
pub(crate) use open::OpenJob;
pub(crate) use queue::{Append, Job, Queue, TrimJob};
use spare::Spare;

/// Written but unsynced bytes of an unfinished block after which it is synced anyway, so that the
/// last sync of a large block does not take for ever.
const SYNC_AFTER: u64 = 16 << 20;
/// How long the journal must be idle before the durable length is marked in the segment.
const MARK_AFTER: Duration = Duration::from_millis(100);

/// The segment being written.
#[derive(Debug)]
struct Writing {
    number: u32,
    incarnation: u64,
    file: Arc<dyn File>,
    path: PathBuf,
    len: u64,
    durable: u64,
    marked: u64,
    file_len: u64,
    /// Digests of acknowledged blocks, in the order of their slots, which they are not yet in.
    fills: Vec<Fill>,
    /// Something failed, or may have, that leaves unknown what the file holds.
    spoiled: bool,
}

/// Where the next frame must continue, with everything admitted counted in.
#[derive(Debug)]
struct Expected {
    generation: Generation,
    pointer: Pointer,
    /// The unfinished block and its next part.
    block: Option<(Pointer, u32)>,
}

/// Written records that are not yet durable.
#[derive(Debug)]
struct Written {
    head: RecordHead,
    job: Append,
}

/// The state of the thread.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) log: Arc<Log>,
    pub(crate) control: Control,
    control_file: ControlFile,
    pub(crate) assembler: Assembler,
    segment: Option<Writing>,
    writer: u32,
    poisoned: Option<String>,
    expected: Expected,
    unsynced: Vec<Written>,
    /// Frames of the unfinished block for the tail cache; `None` once it is too large for it.
    cached: Option<Vec<(Location, Arc<Stored>)>>,
    cached_bytes: usize,
    last_sync: Instant,
    next_incarnation: u64,
    spare: Spare,
}

/// What recovery hands over.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) control: Control,
    pub(crate) control_file: ControlFile,
    pub(crate) assembler: Assembler,
    /// The segment to go on in: its number, its file and the bytes in use.
    pub(crate) newest: Option<(u32, Arc<dyn File>, u64)>,
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl Core {
    pub(crate) fn new(log: Arc<Log>, recovered: Recovered) -> Self {
        let Recovered { control, control_file, assembler, newest } = recovered;
        let segment = newest.and_then(|(number, file, len)| {
            let state = log.state.read();
            let active = state.active.as_ref()?;
            let (incarnation, file_len) = (active.incarnation, active.file_len);
            // What failed in an earlier process nobody knows.
            let (durable, marked, fills, spoiled) = (len, len, Vec::new(), true);
            let path = log.dir.segment(number);
            Some(Writing {
                number,
                incarnation,
                file,
                path,
                len,
                durable,
                marked,
                file_len,
                fills,
                spoiled,
            })
        });
        let next_incarnation = control.incarnations;
        let expected = expected(&assembler.head);
        Self {
            log,
            control,
            control_file,
            assembler,
            segment,
            writer: 0,
            poisoned: None,
            expected,
            unsynced: Vec::new(),
            cached: Some(Vec::new()),
            cached_bytes: 0,
            last_sync: Instant::now(),
            next_incarnation,
            spare: Spare::default(),
        }
    }

    /// Works until the journal is closed; gives what to answer then.
    pub(crate) fn run(this: &Mutex<Self>, log: &Log) -> oneshot::Sender<()> {
        loop {
            let patience = this.lock().patience();
            let jobs = log.queue.take(patience);
            let mut core = this.lock();
            match jobs {
                None => core.idle(),
                Some(jobs) => {
                    if let Some(reply) = core.work(jobs) {
                        return reply;
                    }
                }
            }
        }
    }

    /// Does what was queued; gives what to answer if that was the end.
    fn work(&mut self, jobs: VecDeque<Job>) -> Option<oneshot::Sender<()>> {
        let mut group = Vec::new();
        for job in jobs {
            match job {
                Job::Append(append) => group.push(*append),
                Job::Open(open) => {
                    self.commit(std::mem::take(&mut group));
                    self.open(open);
                }
                Job::Trim(trim) => {
                    self.commit(std::mem::take(&mut group));
                    let TrimJob { holds, now, reply } = trim;
                    let result = self.trim(holds.as_deref(), now);
                    reply.send(result).ok();
                }
                Job::Close(reply) => {
                    self.commit(std::mem::take(&mut group));
                    self.close();
                    return Some(reply);
                }
            }
        }
        self.commit(group);
        None
    }

    /// How long to wait for work before something else is due.
    fn patience(&self) -> Option<Duration> {
        let segment = self.segment.as_ref()?;
        match self.log.options.policy {
            Policy::Interval(every) if segment.durable < segment.len => {
                Some(every.saturating_sub(self.last_sync.elapsed()))
            }
            _ => (segment.marked < segment.durable).then_some(MARK_AFTER),
        }
    }

    fn idle(&mut self) {
        let interval = matches!(self.log.options.policy, Policy::Interval(_));
        let Some(segment) = &mut self.segment else { return };
        if interval && segment.durable < segment.len {
            self.sync();
        } else if segment.marked < segment.durable && self.last_sync.elapsed() >= MARK_AFTER {
            segment.fill();
            segment.marked = segment.durable;
            // A help for recovery only; the next sync tells if the file is in trouble.
            write_mark(segment.file.as_ref(), segment.incarnation, segment.durable).ok();
        }
    }

    /// Writes blocks, makes them durable together and answers.
    pub(crate) fn commit(&mut self, group: Vec<Append>) {
        let mut batch = Vec::new();
        for job in group {
            if let Err(error) = self.admit(&job) {
                refuse(job, &error);
                continue;
            }
            if !self.fits(job.part.len()) {
                self.write(std::mem::take(&mut batch));
                self.sync();
                if let Err(fault) = self.make_room(job.part.len()) {
                    self.refuse_for(&fault, vec![job]);
                    continue;
                }
                if let Err(error) = self.admit(&job) {
                    refuse(job, &error);
                    continue;
                }
            }
            self.expect_after(&job);
            if let Some(place) = self.place(job.part.len()) {
                batch.push(Written { head: job.part.head(&place), job });
            }
        }
        self.write(batch);
        self.make_durable();
    }

    /// Checks that the writer is not fenced and that the frame continues what was admitted.
    fn admit(&self, job: &Append) -> Result<(), AppendError> {
        if let Some(reason) = &self.poisoned {
            return Err(AppendError::Poisoned { reason: reason.clone() });
        }
        if job.writer != self.writer {
            return Err(AppendError::Fenced { fence: self.control.fence });
        }
        if job.resets != self.log.resets.load(Ordering::Acquire) {
            let reason = self.log.state.read().append_refused.clone();
            let reason = reason.unwrap_or_else(|| "an earlier block was refused".to_owned());
            return Err(AppendError::DiskFull { reason });
        }
        let header = &job.header;
        let pointer = || header.pointer.clone();
        if header.part > 0 && self.expected.block != Some((pointer(), header.part)) {
            let reason = "it does not continue the block before it".to_owned();
            return Err(AppendError::Invalid { pointer: pointer(), reason });
        }
        if header.parent != self.expected.pointer {
            return Err(AppendError::WrongParent {
                pointer: pointer(),
                expected: self.expected.pointer.clone(),
                got: header.parent.clone(),
                head: crate::codec::visible(&self.assembler.head).map(Box::new),
            });
        }
        Ok(())
    }

    fn expect_after(&mut self, job: &Append) {
        let header = &job.header;
        if header.end.is_some() {
            self.expected.generation = header.generation;
            self.expected.pointer = header.pointer.clone();
            self.expected.block = None;
        } else {
            self.expected.block = Some((header.pointer.clone(), header.part + 1));
        }
    }

    fn fits(&self, len: u64) -> bool {
        let room = |segment: &Writing| segment.len + len + RESERVE <= segment.file_len;
        self.segment.as_ref().is_some_and(room)
    }

    /// The place of the next record; takes it.
    fn place(&mut self, len: u64) -> Option<Place> {
        let segment = self.segment.as_mut()?;
        let place = Place {
            incarnation: segment.incarnation,
            offset: segment.len,
            durable: segment.durable,
            writer: self.writer,
            appended: now(),
        };
        segment.len += len;
        Some(place)
    }

    fn write(&mut self, batch: Vec<Written>) {
        let (Some(first), Some(segment)) = (batch.first(), &mut self.segment) else { return };
        let at = first.head.offset;
        let fill = segment.fill_up_to(at);
        let heads: Vec<[u8; HEAD]> =
            batch.iter().map(|written| written.head.encode(self.log.seed)).collect();
        let mut slices = Vec::with_capacity(1 + batch.len() * 4);
        slices.extend(fill.as_ref().map(|fill| IoSlice::new(&fill.bytes)));
        for (head, written) in heads.iter().zip(&batch) {
            let part = &written.job.part;
            slices.push(IoSlice::new(head));
            slices.push(IoSlice::new(&part.header));
            slices.push(IoSlice::new(&part.changes));
            slices.push(zeros(part.behind()));
        }
        slices.retain(|slice| !slice.is_empty());
        let from = fill.as_ref().map_or(at, |fill| fill.at);
        match segment.file.write(&slices, from).at("write", &segment.path) {
            Ok(()) => self.unsynced.extend(batch.into_iter().map(|mut written| {
                // Written bytes are the system's; a large block must not fill the queue.
                written.job.room = None;
                written.job.part.changes = Bytes::new();
                written
            })),
            Err(fault) => {
                if let Some(segment) = &mut self.segment {
                    segment.len = at;
                    segment.spoiled = true;
                }
                self.sync();
                // What was half written must not look like a record later: go on elsewhere.
                self.seal();
                self.refuse_for(&fault, batch.into_iter().map(|written| written.job).collect());
            }
        }
    }

    fn make_durable(&mut self) {
        match self.log.options.policy {
            Policy::Fsync => {
                let bytes: u64 = self.unsynced.iter().map(|written| written.head.len()).sum();
                let awaited = self.unsynced.iter().any(|written| written.job.reply.is_some());
                if awaited || bytes > SYNC_AFTER {
                    self.sync();
                }
            }
            Policy::Interval(every) => {
                self.publish();
                if self.last_sync.elapsed() >= every {
                    self.sync();
                }
            }
            Policy::None => self.publish(),
        }
    }

    /// Makes everything written durable and visible, or poisons the writer.
    fn sync(&mut self) {
        let Some(segment) = &mut self.segment else { return };
        if segment.durable == segment.len {
            return;
        }
        let synced = segment.file.sync().at("sync", &segment.path);
        let synced = synced.map_err(|fault| fault.to_string());
        let completed = synced.and_then(|()| self.complete().map_err(|error| error.to_string()));
        match (completed, &mut self.segment) {
            (Ok(completed), Some(segment)) => {
                segment.durable = segment.len;
                self.last_sync = Instant::now();
                self.publish();
                self.note_fills(&completed);
            }
            (Ok(_), None) => {}
            (Err(reason), _) => self.poison(reason),
        }
    }

    fn close(&mut self) {
        self.sync();
        self.segment.iter_mut().for_each(Writing::fill);
        self.spare.wait();
        if let Some(segment) = &self.segment {
            self.control.newest = segment.number;
            self.control.durable = segment.durable;
        }
        if self.poisoned.is_none()
            && let Err(fault) = self.record_head_now()
        {
            tracing::warn!(%fault, "the head was not recorded");
        }
    }

    /// Notes head and counters in the control record.
    pub(crate) fn record_head_now(&mut self) -> Result<(), Fault> {
        self.control.head = self.assembler.head.clone();
        self.control_file.write(&self.control)
    }
}

/// At most as many as the largest slot has, and padding.
fn zeros(count: usize) -> IoSlice<'static> {
    static ZEROS: [u8; HEAD * (u8::MAX as usize + 1)] = [0; HEAD * (u8::MAX as usize + 1)];
    IoSlice::new(ZEROS.get(..count).unwrap_or_default())
}

fn expected(head: &Head) -> Expected {
    Expected { generation: head.generation, pointer: head.pointer.clone(), block: None }
}

/// What a committed block is answered with.
pub(crate) type Reply = (oneshot::Sender<Result<Receipt, AppendError>>, Receipt);
