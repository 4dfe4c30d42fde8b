//! What is computed of a block while it is being written: its digests.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use sluice_frame::{FrameError, Header};
use sluice_model::Digest;

use crate::{Stored, slot::derive};

/// The work, done once by whoever comes first, and waited for by the others.
#[derive(Debug)]
pub(crate) struct Late {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug)]
enum State {
    Open(Work),
    Taken,
    Done(Result<Outcome, Arc<FrameError>>),
}

#[derive(Debug)]
struct Work {
    /// The encoded header, whose end lacks the digests.
    header: Bytes,
    changes: Bytes,
    cacheable: bool,
}

/// What the journal keeps of the block.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Complete.
    pub(crate) header: Arc<Header>,
    /// For the tail cache, if it may be cached.
    pub(crate) cached: Option<Arc<Stored>>,
}

impl Late {
    /// For a block's only part, with what stands in its record.
    pub(crate) const fn new(header: Bytes, changes: Bytes, cacheable: bool) -> Self {
        let work = Work { header, changes, cacheable };
        Self { state: Mutex::new(State::Open(work)), done: Condvar::new() }
    }

    /// Does the work unless somebody has begun it.
    pub(crate) fn run(&self) {
        let mut state = self.state.lock();
        let taken = std::mem::replace(&mut *state, State::Taken);
        let State::Open(work) = taken else {
            *state = taken;
            return;
        };
        drop(state);
        let outcome = work.run().map_err(Arc::new);
        *self.state.lock() = State::Done(outcome);
        self.done.notify_all();
    }

    /// The outcome; does the work, or waits for who does it. That takes as long as hashing the
    /// block and no longer.
    pub(crate) fn outcome(&self) -> Result<Outcome, Arc<FrameError>> {
        self.run();
        let mut state = self.state.lock();
        loop {
            if let State::Done(outcome) = &*state {
                return outcome.clone();
            }
            self.done.wait(&mut state);
        }
    }
}

impl Work {
    fn run(self) -> Result<Outcome, FrameError> {
        let header = Arc::new(derive(Header::parse(&self.header)?, &self.changes)?);
        let changes = self.changes;
        let cached =
            self.cacheable.then(|| Arc::new(Stored { header: Arc::clone(&header), changes }));
        Ok(Outcome { header, cached })
    }
}

impl Outcome {
    /// The digest of the block.
    pub(crate) fn digest(&self) -> Digest {
        self.header.end.as_ref().map_or(Digest::ZERO, |end| end.digest)
    }
}
