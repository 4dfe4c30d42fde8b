use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use sluice_frame::Header;
use sluice_model::Position;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{MARK_AFTER, OpenJob, Reply};
use crate::{JournalError, Stored, Trimmed, hover::Hover, late::Late, record::Prepared};

/// How long the committer hovers for an announced block; a block of one frame is verified in less.
const ANNOUNCED: Duration = Duration::from_micros(200);
/// Blocks that come alone are in rapid succession if they are no further apart than this.
const RAPID: Duration = Duration::from_millis(2);
/// How long whoever waits for the next of them, or for its commit, hovers.
pub(super) const HOVERING: Duration = Duration::from_millis(1);

/// A frame to write.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) writer: u32,
    /// The count of refusals for lack of room when the frame was prepared.
    pub(crate) resets: u64,
    pub(crate) part: Prepared,
    /// Lacks the digests if they are late, and shares the memory of the changes then.
    pub(crate) header: Arc<Header>,
    /// The frame for the tail cache, if it may be cached and nothing of it is late.
    pub(crate) cached: Option<Arc<Stored>>,
    /// What is computed beside the write.
    pub(crate) late: Option<Arc<Late>>,
    /// On a last part.
    pub(crate) reply: Option<Reply>,
    /// Its share of the queue's room, until it is written.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// A trim to do.
#[derive(Debug)]
pub(crate) struct TrimJob {
    pub(crate) holds: Option<Vec<Position>>,
    pub(crate) now: i64,
    pub(crate) reply: oneshot::Sender<Result<Trimmed, JournalError>>,
}

/// Work for the committer.
#[derive(Debug)]
pub(crate) enum Job {
    Append(Box<Append>),
    Open(OpenJob),
    Trim(TrimJob),
    Close(oneshot::Sender<()>),
}

/// The committer's queue. Frames are bounded in bytes by the permits they carry; the other jobs
/// by the calls that wait for them.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    jobs: Mutex<Jobs>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct Jobs {
    list: VecDeque<Job>,
    /// A block that came alone; its ticket commits it, unless something else comes before that.
    lone: Option<Box<Append>>,
    /// Counts lone blocks.
    lones: u64,
    /// When the last of them came.
    lone_at: Option<Instant>,
    /// The last two came in rapid succession.
    rapid: bool,
    /// What is to be computed of the lone block that its ticket commits now.
    late: Option<Arc<Late>>,
    /// How long the committer hovers before it sleeps.
    hover: Option<Duration>,
    /// The committer waits without an end.
    asleep: bool,
    closed: bool,
}

impl Queue {
    /// Adds a job; false if the committer has ended or is about to.
    pub(crate) fn put(&self, job: Job) -> bool {
        let mut jobs = self.jobs.lock();
        if jobs.closed {
            return false;
        }
        jobs.closed = matches!(job, Job::Close(_));
        jobs.queue_lone();
        jobs.list.push_back(job);
        drop(jobs);
        self.ready.notify_one();
        true
    }

    /// Says that a lone block will be there in a moment. Waking the committer takes about as long
    /// as verifying a block, so it is woken before that.
    pub(crate) fn announce_lone(&self) {
        self.jobs.lock().hover = Some(ANNOUNCED);
        self.ready.notify_one();
    }

    /// Leaves a block to its ticket, for a while; false as for [`Self::put`].
    pub(crate) fn put_lone(&self, append: Box<Append>) -> bool {
        let mut jobs = self.jobs.lock();
        if jobs.closed {
            return false;
        }
        jobs.queue_lone();
        jobs.lone = Some(append);
        jobs.lones += 1;
        let before = jobs.lone_at.replace(Instant::now());
        jobs.rapid = before.is_some_and(|before| before.elapsed() < RAPID);
        let asleep = std::mem::take(&mut jobs.asleep);
        drop(jobs);
        if asleep {
            self.ready.notify_one();
        }
        true
    }

    /// Takes the lone block, if it is still there, to be committed by the caller; the committer
    /// computes what belongs to it in the meantime.
    pub(crate) fn take_lone(&self) -> Option<Box<Append>> {
        let mut jobs = self.jobs.lock();
        let lone = jobs.lone.take()?;
        jobs.hover_for_next();
        jobs.late.clone_from(&lone.late);
        drop(jobs);
        self.ready.notify_one();
        Some(lone)
    }

    /// Leaves the lone block, if it is still there, to the committer; true if whoever waits for
    /// it had better hover.
    pub(crate) fn queue_lone(&self) -> bool {
        let mut jobs = self.jobs.lock();
        if !jobs.queue_lone() {
            return false;
        }
        let rapid = jobs.hover_for_next();
        drop(jobs);
        self.ready.notify_one();
        rapid
    }

    /// Takes everything queued; waits for something, at most for `patience`.
    pub(crate) fn take(&self, mut patience: Option<Duration>) -> Option<VecDeque<Job>> {
        let mut jobs = self.jobs.lock();
        loop {
            if let Some(late) = jobs.late.take() {
                MutexGuard::unlocked(&mut jobs, || late.run());
                // Something is written now without this thread, which will have to be marked.
                patience = Some(MARK_AFTER);
                continue;
            }
            if !jobs.list.is_empty() {
                return Some(std::mem::take(&mut jobs.list));
            }
            if let Some(hover) = jobs.hover.take().and_then(Hover::begin) {
                let nothing = |jobs: &Jobs| jobs.is_empty() && jobs.hover.is_none();
                while nothing(&jobs) && MutexGuard::unlocked(&mut jobs, || hover.pause()) {}
                continue;
            }
            let lone = jobs.lone.is_some().then_some(jobs.lones);
            let Some(patience) = lone.map(|_| MARK_AFTER).or(patience) else {
                jobs.asleep = true;
                self.ready.wait(&mut jobs);
                jobs.asleep = false;
                continue;
            };
            if self.ready.wait_for(&mut jobs, patience).timed_out() && jobs.is_empty() {
                jobs.lone.as_ref()?;
                // Nobody waits for it.
                if lone == Some(jobs.lones) {
                    jobs.queue_lone();
                }
            }
        }
    }
}

impl Jobs {
    fn is_empty(&self) -> bool {
        self.list.is_empty() && self.late.is_none()
    }

    /// Keeps the committer awake for the next lone block if they come in rapid succession; true
    /// if they do.
    fn hover_for_next(&mut self) -> bool {
        if self.rapid {
            self.hover = Some(HOVERING);
        }
        self.rapid
    }

    /// False if there is no lone block.
    fn queue_lone(&mut self) -> bool {
        let lone = self.lone.take().map(Job::Append);
        let queued = lone.is_some();
        self.list.extend(lone);
        queued
    }
}
