use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};
use sluice_frame::Header;
use sluice_model::Position;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{OpenJob, Reply};
use crate::{JournalError, Stored, Trimmed, record::Prepared};

/// A frame to write.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) writer: u32,
    /// The count of refusals for lack of room when the frame was prepared.
    pub(crate) resets: u64,
    pub(crate) part: Prepared,
    pub(crate) header: Arc<Header>,
    /// The frame for the tail cache, if it may be cached.
    pub(crate) cached: Option<Arc<Stored>>,
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
        jobs.list.push_back(job);
        drop(jobs);
        self.ready.notify_one();
        true
    }

    /// Takes everything queued; waits for something, at most for `patience`.
    pub(crate) fn take(&self, patience: Option<Duration>) -> Option<VecDeque<Job>> {
        let mut jobs = self.jobs.lock();
        while jobs.list.is_empty() {
            match patience {
                None => self.ready.wait(&mut jobs),
                Some(patience) => {
                    if self.ready.wait_for(&mut jobs, patience).timed_out() && jobs.list.is_empty()
                    {
                        return None;
                    }
                }
            }
        }
        Some(std::mem::take(&mut jobs.list))
    }
}
