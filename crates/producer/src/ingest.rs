//! The ingest loop of one ingestor: lock, open, compare witnesses, pump, commit, and again.

mod attempt;
mod commit;
mod intake;
mod window;

use std::{sync::Arc, time::Duration};

use sluice_client::coordination::CoordinationError;
use sluice_model::{IngestorName, TopicRules};
use tokio_util::sync::CancellationToken;

use crate::{
    policy::{Next, Outcome, Policy, Rules},
    seam::{Coordinator, Journals, Ownership},
    source::{Ack, Source},
    status::{State, StatusCell},
    stores::Stores,
};

/// How much may be under way.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Blocks sent and not acknowledged.
    pub blocks: usize,
    /// Bytes of changes in them; one block beyond it is let in, whatever its size.
    pub bytes: u64,
    /// Least time between two commits.
    pub commit_every: Duration,
    /// Largest metadata of a block, in bytes.
    pub metadata: usize,
    /// How long a stop waits for acknowledgements and the last commit.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blocks: 16,
            bytes: 64 << 20,
            commit_every: Duration::from_secs(1),
            metadata: 64 << 20,
            drain: Duration::from_secs(5),
        }
    }
}

/// What an ingest loop is made of.
pub struct Parts {
    /// Whose loop.
    pub ingestor: IngestorName,
    /// Locks and commits.
    pub coordinator: Arc<dyn Coordinator>,
    /// Journals.
    pub journals: Arc<dyn Journals>,
    /// Where the blocks come from.
    pub source: Box<dyn Source>,
    /// Topic rules.
    pub topics: TopicRules,
    /// Stores to capture.
    pub stores: Stores,
    /// Bounds.
    pub limits: Limits,
    /// When to give up and how long to wait.
    pub rules: Rules,
    /// Who this is, for people.
    pub holder: String,
    /// Where the state is told.
    pub status: StatusCell,
}

/// The loop.
pub struct Ingest {
    parts: Parts,
    policy: Policy,
    /// The last block acknowledged to this process, as a witness.
    last: Option<Ack>,
    stop: CancellationToken,
}

impl Ingest {
    /// A loop that ends when `stop` is cancelled.
    pub fn new(parts: Parts, stop: CancellationToken) -> Self {
        let policy = Policy::new(parts.rules);
        Self { parts, policy, last: None, stop }
    }

    /// Runs until the stop, or until the source has ended. In the state `Halted` it waits for the
    /// stop. When it returns, every task under it has ended and the lock is given up.
    pub async fn run(mut self) {
        let next = loop {
            match self.tenure().await {
                Next::Requeue(wait) => {
                    if !self.pause(wait).await {
                        break Next::Stop;
                    }
                }
                Next::Reopen(_) => {}
                end => break end,
            }
        };
        match next {
            Next::Finish => self.parts.status.state(State::Finished, ""),
            Next::Halt(cause) => {
                self.parts.status.state(State::Halted, cause);
                self.stop.cancelled().await;
            }
            _ => self.parts.status.state(State::Stopped, ""),
        }
    }

    /// From winning the lock to giving it up.
    async fn tenure(&mut self) -> Next {
        if self.policy.blocked().is_none() {
            self.parts.status.state(State::Standby, "");
        }
        let acquired = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Next::Stop,
            acquired = self.parts.coordinator.acquire(&self.parts.ingestor) => acquired,
        };
        let lock = match acquired {
            Ok(lock) => lock,
            Err(error) => return self.decide(attempt::coordination_failed(&error)),
        };
        self.parts.status.epoch(lock.epoch());
        let next = loop {
            let outcome = self.attempt(&lock).await;
            match self.decide(outcome) {
                Next::Reopen(wait) => {
                    let lost = lock.lost();
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => break Next::Stop,
                        _ = lost => break Next::Requeue(Duration::ZERO),
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                next => break next,
            }
        };
        self.release(lock.as_ref()).await;
        next
    }

    fn decide(&mut self, outcome: Outcome) -> Next {
        let status = &self.parts.status;
        let (reason, cause) = match &outcome {
            Outcome::Stopped => ("stopped", String::new()),
            Outcome::Finished => ("finished", String::new()),
            Outcome::Lost(cause) => ("lost-lock", cause.clone()),
            Outcome::Fenced(cause) => ("fenced", cause.clone()),
            Outcome::Refused(cause) => ("refused", cause.clone()),
            Outcome::Halt(cause) => ("halted", cause.clone()),
            Outcome::Failed(failure) => (failure.reason, failure.cause.clone()),
        };
        if !matches!(outcome, Outcome::Stopped | Outcome::Finished) {
            tracing::warn!(ingestor = %self.parts.ingestor, reason, cause, "ingest attempt ended");
            status.metrics().restart(&self.parts.ingestor, reason);
        }
        let next = self.policy.decide(outcome, rand::random());
        status.failures(&self.policy);
        match (&next, self.policy.blocked()) {
            (Next::Requeue(_) | Next::Reopen(_), Some(blocked)) => {
                let at = blocked.pointer.as_ref().map(|at| format!("at block {at}: "));
                let cause = format!("{}{}", at.unwrap_or_default(), blocked.cause);
                status.state(State::Blocked, cause);
            }
            (Next::Reopen(_), None) => status.state(State::Opening, cause),
            (Next::Requeue(_), None) => status.state(State::Standby, cause),
            _ => {}
        }
        next
    }

    /// Gives the lock up; a store that does not answer keeps it until the lease runs out.
    async fn release(&self, lock: &dyn Ownership) {
        match tokio::time::timeout(self.parts.limits.drain, lock.release()).await {
            Ok(Ok(()) | Err(CoordinationError::LostOwnership { .. })) => {}
            Ok(Err(error)) => {
                tracing::warn!(ingestor = %self.parts.ingestor, %error, "releasing the lock");
            }
            Err(_) => {
                tracing::warn!(ingestor = %self.parts.ingestor, "releasing the lock: no answer");
            }
        }
        self.parts.status.epoch(sluice_model::Epoch::ZERO);
    }

    /// False if the stop came first.
    async fn pause(&self, wait: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(wait) => true,
        }
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("ingestor", &self.ingestor).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest").field("ingestor", &self.parts.ingestor).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
