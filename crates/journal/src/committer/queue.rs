use std::{
    collections::VecDeque,
    hint,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use sluice_frame::Header;
use sluice_model::Position;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{MARK_AFTER, OpenJob, Reply};
use crate::{JournalError, Stored, Trimmed, late::Late, record::Prepared};

/// How long the committer stays awake for an announced block; a block of one frame is verified in
/// less.
const AWAKE: Duration = Duration::from_micros(200);
/// Between two looks at what is announced: about a microsecond.
const PAUSES: u32 = 32;

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
    /// What is to be computed of the lone block that its ticket commits now.
    late: Option<Arc<Late>>,
    /// A block that comes alone is being verified.
    announced: bool,
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
        self.jobs.lock().announced = true;
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
        jobs.late.clone_from(&lone.late);
        drop(jobs);
        self.ready.notify_one();
        Some(lone)
    }

    /// Leaves the lone block, if it is still there, to the committer.
    pub(crate) fn queue_lone(&self) {
        if self.jobs.lock().queue_lone() {
            self.ready.notify_one();
        }
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
            if std::mem::take(&mut jobs.announced) {
                let until = Instant::now() + AWAKE;
                while jobs.is_empty() && Instant::now() < until {
                    MutexGuard::unlocked(&mut jobs, pause);
                }
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

/// Leaves the processor to others, the one it may share its units with above all: that verifies
/// what is waited for.
fn pause() {
    (0..PAUSES).for_each(|_| hint::spin_loop());
    thread::yield_now();
}

impl Jobs {
    fn is_empty(&self) -> bool {
        self.list.is_empty() && self.late.is_none()
    }

    /// False if there is no lone block.
    fn queue_lone(&mut self) -> bool {
        let lone = self.lone.take().map(Job::Append);
        let queued = lone.is_some();
        self.list.extend(lone);
        queued
    }
}
