//! The ingest loop of one ingestor: lock, what operators want, open, compare witnesses, pump,
//! commit, and again.

mod attempt;
mod commit;
mod fitness;
mod intake;
mod orders;
mod perform;
mod receipts;
mod record;
mod regress;
mod tenure;
mod trace;
mod trail;
mod window;

use std::{sync::Arc, time::Duration};

use sluice_client::coordination::AuditKind;
use sluice_config::OnRegress;
use sluice_model::{IngestorName, TopicRules};
use tokio_util::sync::CancellationToken;

use crate::{
    contact::Contact,
    feeds::Beside,
    policy::{Next, Outcome, Policy, Rules},
    seam::{Coordinator, Journals},
    source::{Ack, Source},
    status::{State, StatusCell},
    stores::Stores,
};
use orders::{Orders, Waiting};
pub use record::Gap;
use trace::Trace;
use trail::Trail;

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
    /// How long a stop or a pause waits for acknowledgements and the last commit.
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
    /// Locks, commits, and what operators want.
    pub coordinator: Arc<dyn Coordinator>,
    /// Journals.
    pub journals: Arc<dyn Journals>,
    /// Listens to the router behind them.
    pub contact: Contact,
    /// Where the blocks come from.
    pub source: Box<dyn Source>,
    /// What to do with the source while somebody else owns the ingestor; nothing, if so configured.
    pub beside: Option<Beside>,
    /// Topic rules.
    pub topics: TopicRules,
    /// Stores to capture.
    pub stores: Stores,
    /// Bounds.
    pub limits: Limits,
    /// When to give up and how long to wait.
    pub rules: Rules,
    /// What to do when the chain went back.
    pub on_regress: OnRegress,
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
    orders: Orders,
    trail: Trail,
    /// An action that this owner cannot judge yet.
    waiting: Option<Waiting>,
    /// The source went back, and the block that both histories have is being looked for.
    trace: Option<Trace>,
    /// What the source was refused for last, so that it is in the trail once.
    diverged: Option<String>,
}

impl Ingest {
    /// A loop that ends when `stop` is cancelled. Begins to watch what operators want, so it must
    /// be called in a runtime.
    pub fn new(parts: Parts, stop: CancellationToken) -> Self {
        let policy = Policy::new(parts.rules);
        let (ingestor, coordinator) = (parts.ingestor.clone(), parts.coordinator.clone());
        let orders = Orders::new(ingestor.clone(), coordinator.clone(), parts.status.clone());
        let trail = Trail::new(ingestor, parts.holder.clone(), coordinator);
        Self {
            parts,
            policy,
            last: None,
            stop,
            orders,
            trail,
            waiting: None,
            trace: None,
            diverged: None,
        }
    }

    /// Runs until the stop, or until the source has ended. When it returns, every task under it
    /// has ended and the lock is given up.
    pub async fn run(mut self) {
        let mut woken = None;
        let next = loop {
            match self.tenure().await {
                Next::Requeue(wait) => {
                    if !self.pause(wait, &mut woken).await {
                        break Next::Stop;
                    }
                }
                Next::Reopen(_) | Next::Halt(_) => {}
                end => break end,
            }
        };
        self.trail.close(self.parts.limits.drain).await;
        let end = if next == Next::Finish { State::Finished } else { State::Stopped };
        self.parts.status.state(end, "");
    }

    /// Decides after an attempt, and tells.
    fn decide(&mut self, outcome: Outcome) -> Next {
        let (reason, cause) = match &outcome {
            Outcome::Stopped => ("stopped", String::new()),
            Outcome::Finished => ("finished", String::new()),
            Outcome::Control => ("control", String::new()),
            Outcome::HandOver => ("hand-over", "handed over".to_owned()),
            Outcome::Lost(cause) => ("lost-lock", cause.clone()),
            Outcome::Fenced(cause) => ("fenced", cause.clone()),
            Outcome::Refused(cause) => ("refused", cause.clone()),
            Outcome::Diverged(cause) => ("diverged", cause.clone()),
            Outcome::Halt(cause) => ("halted", cause.clone()),
            Outcome::Unanswered(cause) => ("router", cause.clone()),
            Outcome::Unfit(cause) => ("unfit", cause.clone()),
            Outcome::Failed(failure) => (failure.reason, failure.cause.clone()),
        };
        if !matches!(outcome, Outcome::Stopped | Outcome::Finished | Outcome::Control) {
            tracing::warn!(ingestor = %self.parts.ingestor, reason, cause, "ingest attempt ended");
            self.parts.status.metrics().restart(&self.parts.ingestor, reason);
        }
        if let Outcome::Unfit(cause) = &outcome {
            self.trail.note(AuditKind::Unfit, cause);
        }
        let was_blocked = self.policy.blocked().is_some();
        let next = self.policy.decide(outcome, rand::random());
        self.tell(&next, was_blocked, cause);
        next
    }

    fn tell(&self, next: &Next, was_blocked: bool, cause: String) {
        let status = &self.parts.status;
        status.failures(&self.policy);
        match (next, self.policy.blocked()) {
            (Next::Requeue(_) | Next::Reopen(_), Some(blocked)) => {
                let at = blocked.pointer.as_ref().map(|at| format!("at block {at}: "));
                let cause = format!("{}{}", at.unwrap_or_default(), blocked.cause);
                if !was_blocked {
                    self.trail.note(AuditKind::Blocked, &cause);
                }
                status.state(State::Blocked, cause);
            }
            (Next::Halt(cause), _) => {
                if status.get().state != State::Halted {
                    self.trail.note(AuditKind::Halted, cause);
                }
                status.state(State::Halted, cause);
            }
            (Next::Reopen(_), None) => status.state(State::Opening, cause),
            (Next::Requeue(_), None) => status.state(State::Standby, cause),
            _ => {}
        }
    }

    /// Waits without the lock; less long if an action waits that was not a reason to wake yet.
    /// False if the stop came first.
    async fn pause(&self, wait: Duration, woken: &mut Option<u64>) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = self.orders.asked(*woken) => {
                *woken = self.orders.action().map(|action| action.id);
                true
            }
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
