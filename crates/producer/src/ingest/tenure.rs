//! From winning the lock to giving it up.

use std::{sync::Arc, time::Duration};

use sluice_client::coordination::CoordinationError;
use tokio::time::Instant;

use super::{Ingest, attempt};
use crate::{
    policy::{Next, Outcome},
    seam::Ownership,
    status::State,
};

impl Ingest {
    /// Queues for the lock, owns it, gives it up. Gives what comes after that.
    pub(super) async fn tenure(&mut self) -> Next {
        if self.policy.blocked().is_none() {
            self.parts.status.state(State::Standby, "");
        }
        let queued = Instant::now();
        let Some(acquired) = self.turn().await else { return Next::Stop };
        let lock = match acquired {
            Ok(lock) => lock,
            Err(error) => return self.decide(attempt::coordination_failed(&error)),
        };
        self.parts.status.owned(lock.epoch(), queued.elapsed());
        self.trail.epoch(lock.epoch());
        let next = self.own(&lock).await;
        self.release(lock.as_ref()).await;
        next
    }

    /// Waits for the lock, and captures beside meanwhile if so configured. `None` if the stop
    /// came first.
    async fn turn(&mut self) -> Option<Result<Arc<dyn Ownership>, CoordinationError>> {
        let stop = self.stop.clone();
        let (coordinator, ingestor) = (&self.parts.coordinator, &self.parts.ingestor);
        let waiting = async {
            tokio::select! {
                biased;
                () = stop.cancelled() => None,
                acquired = coordinator.acquire(ingestor) => Some(acquired),
            }
        };
        match &mut self.parts.beside {
            Some(beside) => beside.run_until(self.parts.source.as_mut(), waiting).await,
            None => waiting.await,
        }
    }

    async fn own(&mut self, lock: &Arc<dyn Ownership>) -> Next {
        // What was asked of the owner before binds this one from the first block on.
        if self.policy.blocked().is_none() {
            self.parts.status.state(State::Opening, "asking the coordinator what operators want");
        }
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => return Next::Stop,
            _ = lock.lost() => return Next::Requeue(Duration::ZERO),
            () = self.orders.refresh() => {}
        }
        self.waiting = None;
        self.parts.contact.rest();
        let since = Instant::now();
        loop {
            if let Some(why) = self.orders.hold() {
                self.parts.contact.rest();
                if let Some(end) = self.hold(lock, why).await {
                    return end;
                }
                continue;
            }
            let known = self.orders.version();
            let outcome = self.attempt(lock, since).await;
            let wait = match self.decide(outcome) {
                Next::Reopen(wait) => wait,
                Next::Halt(_) => match self.halted(lock).await {
                    Some(end) => return end,
                    None => {
                        self.parts.contact.rest();
                        continue;
                    }
                },
                end => return end,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Next::Stop,
                _ = lock.lost() => return Next::Requeue(Duration::ZERO),
                cause = self.fitness().lost() => return self.decide(Outcome::Unfit(cause)),
                () = self.orders.changed(known) => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Keeps the lock and captures nothing, until operators want something else (`None`) or the
    /// lock goes.
    async fn hold(&self, lock: &Arc<dyn Ownership>, why: String) -> Option<Next> {
        let halted = self.orders.alarmed();
        self.parts.status.state(if halted { State::Halted } else { State::Paused }, why);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Some(Next::Stop),
            _ = lock.lost() => Some(Next::Requeue(Duration::ZERO)),
            () = self.orders.resumed() => {
                if halted {
                    self.parts.status.state(State::Opening, "");
                }
                None
            }
        }
    }

    /// Keeps the lock while halted, so that nobody else comes to the same end, until an operator
    /// asks for something (`None`) or the lock goes: the next owner finds the same.
    async fn halted(&self, lock: &Arc<dyn Ownership>) -> Option<Next> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Some(Next::Stop),
            _ = lock.lost() => Some(Next::Requeue(Duration::ZERO)),
            () = self.orders.asked(None) => None,
        }
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
}
