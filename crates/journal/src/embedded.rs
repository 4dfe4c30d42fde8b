//! The embedded backend: journals in a directory of a local disk.

mod load;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use sluice_model::{IngestorName, JournalId, Position};
use tokio::sync::oneshot;

use crate::{
    Journal, JournalError, Open, Opened, ReadError, ReadFrom, Reader, Report, Select, Status,
    Trimmed, VerifyProgress,
    committer::{Job, OpenJob, TrimJob},
    files::{Files, Lock, LockError, RealFiles},
    reader::EmbeddedReader,
    shared::{Log, ROOM_UNIT},
    tail::IndexCache,
    verify::{Part, Verifier},
    writer::EmbeddedWriter,
};

/// Longest nonce of an open, in bytes.
const MAX_NONCE: usize = 64;
/// Longest holder of an open, in bytes.
const MAX_HOLDER: usize = 256;

/// What an acknowledgement of the embedded journal means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The block was synced to the disk.
    #[default]
    Fsync,
    /// The block was handed to the system, which is asked to sync every so often.
    Interval(Duration),
    /// The block was handed to the system.
    None,
}

/// When segments are retired. Each limit that is set retires what exceeds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of records to keep, over all segments of a journal.
    pub bytes: Option<u64>,
    /// Segments whose newest record is older go.
    pub age: Option<Duration>,
    /// Blocks to keep at least; segments that are not needed for them go.
    pub blocks: Option<u64>,
}

/// How the embedded journal works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of records in a segment file; at least 4 KiB, at most 1 GiB. A record that is
    /// larger has a segment of its own.
    pub segment_bytes: u64,
    /// Memory for the newest frames, in bytes per journal.
    pub tail_cache_bytes: usize,
    /// Memory for the indexes of sealed segments that are being read, in bytes for all journals.
    pub index_cache_bytes: usize,
    /// Bytes of frames that may wait for the committer, per journal.
    pub queue_bytes: u64,
    /// What an acknowledgement means.
    pub policy: Policy,
    /// When segments are retired.
    pub retention: Retention,
    /// Prepare the next segment in the background. Costs the room of one segment per journal and
    /// saves the slow first touch of new blocks.
    pub prepare_spares: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            tail_cache_bytes: 64 << 20,
            index_cache_bytes: 64 << 20,
            queue_bytes: 32 << 20,
            policy: Policy::Fsync,
            retention: Retention::default(),
            prepare_spares: true,
        }
    }
}

impl Options {
    /// Room in the queue, in units of [`ROOM_UNIT`].
    pub(crate) fn queue_room(&self) -> u32 {
        u32::try_from(self.queue_bytes.div_ceil(ROOM_UNIT)).unwrap_or(u32::MAX >> 4).max(1)
    }

    fn check(&self) -> Result<(), JournalError> {
        if (4 << 10..=1 << 30).contains(&self.segment_bytes) {
            return Ok(());
        }
        let size = self.segment_bytes;
        Err(JournalError::Invalid(format!(
            "a segment size of {size} bytes is not possible; choose 4 KiB to 1 GiB"
        )))
    }
}

/// The journals in one directory.
pub struct Embedded {
    dir: PathBuf,
    files: Arc<dyn Files>,
    options: Arc<Options>,
    indexes: Arc<Mutex<IndexCache>>,
    logs: RwLock<BTreeMap<IngestorName, Result<Arc<Log>, JournalError>>>,
    /// One create at a time.
    creating: tokio::sync::Mutex<()>,
    /// Shared with the committers: the directory is in use until the last of them has ended.
    lock: Mutex<Option<Arc<dyn Lock>>>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens every journal in a directory, which is made if it is not there. Blocks while it
    /// reads. A journal that cannot be loaded answers every call with the reason; the others work.
    ///
    /// # Errors
    /// `InUse` if another process has it, or the disk.
    pub fn open_dir(dir: &Path, options: Options) -> Result<Arc<Self>, JournalError> {
        Self::open_with(Arc::new(RealFiles), dir, options)
    }

    /// The same over a file system of the caller's choice.
    ///
    /// # Errors
    /// See [`Self::open_dir`].
    pub fn open_with(
        files: Arc<dyn Files>,
        dir: &Path,
        options: Options,
    ) -> Result<Arc<Self>, JournalError> {
        options.check()?;
        let io = |action, source| JournalError::Io {
            action,
            file: dir.to_owned(),
            source: Arc::new(source),
        };
        files.create_dir(dir).map_err(|source| io("create", source))?;
        let lock = files.lock(&dir.join(".lock")).map_err(|error| match error {
            LockError::Held(pid) => JournalError::InUse { dir: dir.to_owned(), pid },
            LockError::Io(source) => io("lock", source),
        })?;
        let indexes = Arc::new(Mutex::new(IndexCache::new(options.index_cache_bytes)));
        let this = Self {
            dir: dir.to_owned(),
            files,
            options: Arc::new(options),
            indexes,
            logs: RwLock::new(BTreeMap::new()),
            creating: tokio::sync::Mutex::new(()),
            lock: Mutex::new(Some(lock.into())),
        };
        this.load_all()?;
        Ok(Arc::new(this))
    }

    fn log(&self, ingestor: &IngestorName) -> Result<Arc<Log>, JournalError> {
        let not_here = || JournalError::NotHere { ingestor: ingestor.clone(), other: None };
        self.logs.read().get(ingestor).cloned().unwrap_or_else(|| Err(not_here()))
    }

    fn all(&self) -> Vec<Arc<Log>> {
        self.logs.read().values().filter_map(|log| log.as_ref().ok().cloned()).collect()
    }

    fn status_of(log: &Log) -> Status {
        let tail_bytes = log.tail.lock().bytes() as u64;
        let state = log.state.read();
        let oldest = state.oldest();
        let active = state.active.as_ref();
        let summaries = || {
            let sealed = state.sealed.iter().map(|meta| &meta.summary);
            sealed.chain(active.map(|active| &active.index.summary))
        };
        let sealed_bytes: u64 = state.sealed.iter().map(|meta| meta.file_len).sum();
        Status {
            ingestor: log.ingestor.clone(),
            id: log.id,
            head: state.visible_head(),
            oldest: oldest.position(),
            oldest_height: 0,
            oldest_block: None,
            fence: state.fence,
            writer_id: u64::from(log.writer.load(Ordering::Acquire)),
            holder: state.holder.clone(),
            blocks: summaries().map(|summary| summary.blocks).sum(),
            changes: summaries().map(|summary| summary.changes).sum(),
            bytes: sealed_bytes + active.map_or(0, |active| active.file_len),
            segments: (state.sealed.len() + usize::from(active.is_some())) as u64,
            quarantined: state.quarantined,
            corruptions: state.corruptions.iter().cloned().collect(),
            aborted_parts: state.aborted_parts,
            cut_bytes: state.cut_bytes,
            unknown_records: state.unknown_records,
            durability: log.durability(),
            append_refused: state.append_refused.clone(),
            disk_reads: log.disk_reads.load(Ordering::Relaxed),
            tail_bytes,
            readers: log.readers.load(Ordering::Relaxed),
        }
    }

    /// Adds what only the index of the first segment tells.
    fn with_oldest(log: &Log, mut status: Status) -> Result<Status, ReadError> {
        let segments = log.state.read().oldest_segment();
        let mut segment = Some(segments);
        while let Some(number) = segment {
            let first = log.with_index(number, |index| {
                let blocks =
                    |entry: &&crate::index::Entry| entry.kind == crate::index::EntryKind::Block;
                index.entries.iter().find(blocks).map(|e| (e.height, e.position()))
            })?;
            if let Some(Some((height, position))) = first {
                status.oldest_height = height;
                status.oldest_block = Some(position);
                break;
            }
            segment = log.next_segment(number).map(|(number, _)| number);
        }
        Ok(status)
    }

    fn parts(log: &Log) -> Vec<Part> {
        let state = log.state.read();
        let sealed = state.sealed.iter().map(|m| Part { number: m.number, len: Some(m.len) });
        let active = state.active.iter();
        let active = active.map(|a| Part { number: a.index.number, len: Some(a.len) });
        sealed.chain(active).collect()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(JournalError::Closed))
}

#[async_trait]
impl Journal for Embedded {
    async fn create(&self, ingestor: &IngestorName, id: JournalId) -> Result<(), JournalError> {
        let _guard = self.creating.lock().await;
        match self.log(ingestor) {
            Ok(log) if log.id == id => return Ok(()),
            Ok(log) => {
                let (ingestor, existing) = (ingestor.clone(), log.id);
                return Err(JournalError::AlreadyExists { ingestor, existing });
            }
            Err(JournalError::NotHere { .. }) => {}
            Err(error) => return Err(error),
        }
        let prepared = self.preparation(ingestor)?;
        let log = blocking(move || prepared.create(id)).await?;
        self.logs.write().insert(ingestor.clone(), Ok(log));
        Ok(())
    }

    async fn open(&self, open: Open) -> Result<Opened, JournalError> {
        if open.nonce.len() > MAX_NONCE || open.holder.len() > MAX_HOLDER {
            return Err(JournalError::Invalid(format!(
                "a nonce has at most {MAX_NONCE} bytes and a holder {MAX_HOLDER}"
            )));
        }
        let log = self.log(&open.ingestor)?;
        if log.id != open.id {
            return Err(JournalError::NotHere { ingestor: open.ingestor, other: Some(log.id) });
        }
        let (reply, granted) = oneshot::channel();
        let epoch = open.epoch;
        if !log.queue.put(Job::Open(OpenJob { open, reply })) {
            return Err(JournalError::Closed);
        }
        let granted = granted.await.map_err(|_| JournalError::Closed)??;
        let head = crate::codec::visible(&granted.head);
        let writer = EmbeddedWriter::new(log, granted.writer, epoch, granted.head);
        Ok(Opened { writer: Box::new(writer), writer_id: u64::from(granted.writer), head })
    }

    async fn status(&self, ingestor: &IngestorName) -> Result<Status, JournalError> {
        let log = self.log(ingestor)?;
        blocking(move || {
            let status = Self::status_of(&log);
            Self::with_oldest(&log, status)
                .map_err(|error| JournalError::Invalid(error.to_string()))
        })
        .await
    }

    async fn list(&self) -> Result<Vec<IngestorName>, JournalError> {
        Ok(self.logs.read().keys().cloned().collect())
    }

    async fn read(
        &self,
        ingestor: &IngestorName,
        from: ReadFrom,
        select: Select,
    ) -> Result<Box<dyn Reader>, ReadError> {
        let log = match self.log(ingestor) {
            Ok(log) => log,
            Err(JournalError::NotHere { ingestor, .. }) => {
                return Err(ReadError::NotHere(ingestor));
            }
            Err(error) => {
                let source = Arc::new(std::io::Error::other(error.to_string()));
                let file = self.dir.join(ingestor.encoded());
                return Err(ReadError::Io { action: "load", file, source });
            }
        };
        if log.closed.load(Ordering::Acquire) {
            return Err(ReadError::Closed);
        }
        let reader = tokio::task::spawn_blocking(move || EmbeddedReader::new(log, select, from));
        Ok(Box::new(reader.await.map_err(|_| ReadError::Closed)??))
    }

    async fn trim(
        &self,
        ingestor: &IngestorName,
        holds: Option<&[Position]>,
        now: i64,
    ) -> Result<Trimmed, JournalError> {
        let log = self.log(ingestor)?;
        let (reply, trimmed) = oneshot::channel();
        let job = TrimJob { holds: holds.map(<[Position]>::to_vec), now, reply };
        if !log.queue.put(Job::Trim(job)) {
            return Err(JournalError::Closed);
        }
        trimmed.await.map_err(|_| JournalError::Closed)?
    }

    async fn verify(
        &self,
        ingestor: &IngestorName,
        progress: Box<dyn Fn(VerifyProgress) + Send + Sync>,
    ) -> Result<Report, JournalError> {
        let log = self.log(ingestor)?;
        blocking(move || {
            let parts = Self::parts(&log);
            let progress = progress.as_ref();
            let verifier = Verifier { files: &log.files, dir: &log.dir, id: log.id, progress };
            Ok(verifier.run(&parts)?)
        })
        .await
    }

    async fn close(&self) {
        for log in self.all() {
            let (reply, done) = oneshot::channel();
            if log.queue.put(Job::Close(reply)) {
                // An error means that the committer is gone, which is what is wanted.
                done.await.ok();
            }
            log.closed.store(true, Ordering::Release);
            log.announce();
        }
        self.lock.lock().take();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        for log in self.all() {
            let (reply, _) = oneshot::channel();
            log.queue.put(Job::Close(reply));
            log.closed.store(true, Ordering::Release);
            log.announce();
        }
    }
}
