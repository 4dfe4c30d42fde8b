//! The spool as several tasks share it: the one that captures beside, those that serve calls, and
//! the owner that looks for what its source lacks.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{BlockReader, Captured, Place, Spool, error::SpoolError};

/// What the task that captures beside is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// It obtains blocks.
    pub capturing: bool,
    /// Why it does not; empty if nothing stands in the way.
    pub cause: String,
    /// Every block up to here that it obtains is visible; what is after it may still come.
    pub synced: Option<Place>,
    /// The height of that block.
    pub height: u64,
}

/// Opens the spool when it is first needed. Every method runs on a thread that may block.
#[derive(Debug)]
pub struct SpoolHandle {
    dir: PathBuf,
    limit: u64,
    spool: Arc<Mutex<Option<Spool>>>,
    progress: watch::Sender<Progress>,
    /// Beside the progress: it changes with every block and nobody waits for it.
    source_height: AtomicU64,
}

impl SpoolHandle {
    /// For the spool in this directory, of at most this many bytes. Does no I/O.
    pub fn new(dir: PathBuf, limit: u64) -> Self {
        let (progress, _) = watch::channel(Progress::default());
        Self { dir, limit, spool: Arc::default(), progress, source_height: AtomicU64::new(0) }
    }

    /// Bytes that the spool may have.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Does something with the spool, which is opened if it is not. A failure to read or write
    /// closes it, so that the next call starts from what is on disk.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Spool) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let (shared, dir, limit) = (self.spool.clone(), self.dir.clone(), self.limit);
        let done = tokio::task::spawn_blocking(move || {
            let mut place = shared.lock();
            let spool = match place.take() {
                Some(spool) => place.insert(spool),
                None => place.insert(Spool::open(&dir, limit)?),
            };
            let done = work(spool);
            if matches!(done, Err(SpoolError::Io { .. })) {
                *place = None;
            }
            done
        });
        done.await.unwrap_or(Err(SpoolError::Stopping))
    }

    /// What is known of a block.
    pub async fn captured(&self, place: Place) -> Result<Option<Captured>, SpoolError> {
        self.with(move |spool| spool.captured(&place)).await
    }

    /// The frames of a block.
    pub async fn read(&self, place: Place) -> Result<Option<BlockReader>, SpoolError> {
        self.with(move |spool| spool.read(&place)).await
    }

    /// Makes durable what was captured, up to this block, and tells those who wait for it.
    pub async fn sync(&self, reached: Place, height: u64) -> Result<(), SpoolError> {
        self.with(Spool::sync).await?;
        self.tell(|progress| (progress.synced, progress.height) = (Some(reached), height));
        Ok(())
    }

    /// The source is known to have this height.
    pub fn source_has(&self, height: u64) {
        self.source_height.fetch_max(height, Ordering::Relaxed);
    }

    /// The newest height that the source is known to have; 0 if it did not tell.
    pub fn source_height(&self) -> u64 {
        self.source_height.load(Ordering::Relaxed)
    }

    /// Changes what others see of the capture.
    pub fn tell(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    /// What the capture is doing.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// To wait for changes of the same.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }
}
