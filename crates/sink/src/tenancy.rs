//! One tenure of a stream's lock: deliver batches in order until something ends it.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use crate::{
    batch::{Batch, Receipt},
    dispatcher::{DeliverError, Dispatcher},
    line::{End, Line, clock},
    retry::{Next, Retry},
    status::State,
};

/// A destination that holds batches back is flushed this often.
pub(crate) const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) struct Tenancy {
    pub(crate) dispatcher: Box<dyn Dispatcher>,
    pub(crate) line: Line,
    pub(crate) name: String,
    pub(crate) retry: Retry,
    /// Longest time for what is still to be done after a stop.
    pub(crate) grace: Duration,
    /// When a destination that holds something is flushed, and how often that failed since.
    flush_at: Option<Instant>,
    flush_failures: u32,
}

/// Failures of one batch.
struct Failures {
    count: u32,
    began: Instant,
}

impl Tenancy {
    pub(crate) const fn new(
        dispatcher: Box<dyn Dispatcher>,
        line: Line,
        name: String,
        retry: Retry,
        grace: Duration,
    ) -> Self {
        Self { dispatcher, line, name, retry, grace, flush_at: None, flush_failures: 0 }
    }

    /// Delivers until the tenure ends, then brings in what can still be brought in.
    pub(crate) async fn run(mut self) -> End {
        while self.line.ending.is_none() {
            match self.line.batcher.take(clock()) {
                Ok(Some(batch)) => {
                    self.deliver(&batch).await;
                }
                Ok(None) => self.idle().await,
                Err(error) => self.line.ending = Some(End::Failed(error.to_string())),
            }
        }
        let name = self.name.clone();
        if tokio::time::timeout(self.grace, self.wind_down()).await.is_err() {
            tracing::warn!(stream = name, "stopped before everything was brought in");
        }
        self.line.ending.take().unwrap_or(End::Stopped)
    }

    /// Nothing to deliver: waits for it, and flushes a destination that holds something back.
    async fn idle(&mut self) {
        self.note_held();
        let now = clock();
        if self.flush_at.is_some_and(|at| at <= now) && self.line.may_deliver() {
            self.flush().await;
            return;
        }
        let deadlines = [self.line.batcher.deadline(), self.flush_at];
        self.line.turn(deadlines.into_iter().flatten().min()).await;
    }

    fn note_held(&mut self) {
        if self.line.ledger.all_accepted() {
            self.flush_at = None;
        } else if self.flush_at.is_none() {
            self.flush_at = clock().checked_add(FLUSH_INTERVAL);
        }
    }

    /// Delivers one batch, however often it takes. False if the tenure ended before it was.
    async fn deliver(&mut self, batch: &Batch) -> bool {
        self.line.ledger.given(batch);
        let mut failures = Failures { count: 0, began: clock() };
        while self.line.may_deliver() {
            // After a stop what failed is not tried again: it comes again from the checkpoint.
            if failures.count > 0 && self.line.ending.is_some() {
                return false;
            }
            let attempt = self.dispatcher.deliver(batch);
            match beside(attempt, &mut self.line).await {
                Ok(receipt) => {
                    let settled = self.settle(receipt, Some(batch));
                    if settled && self.line.ledger.is_synchronous() {
                        self.line.checkpoint_now().await;
                    }
                    return settled;
                }
                Err(error) => self.back_off(&mut failures, &error).await,
            }
        }
        false
    }

    async fn back_off(&mut self, failures: &mut Failures, error: &DeliverError) {
        failures.count = failures.count.saturating_add(1);
        let next = self.next(failures.count, failures.began, error);
        self.report(error, failures.count, next);
        let until = clock().checked_add(next.wait);
        while self.line.ending.is_none() && until.is_none_or(|until| clock() < until) {
            self.line.turn(until).await;
        }
    }

    fn next(&self, failure: u32, began: Instant, error: &DeliverError) -> Next {
        let elapsed = if error.is_halt() {
            self.retry.for_
        } else {
            clock().saturating_duration_since(began)
        };
        self.retry.next(failure, elapsed, error.retry_after(), rand::random())
    }

    fn report(&self, error: &DeliverError, failure: u32, next: Next) {
        let state = if next.blocked { State::Blocked } else { State::Retrying };
        let name = &self.name;
        let cause = format!("{error}; failed {failure} times, `sluice streams explain {name}`");
        self.line.status.failed(state, &cause);
        let (wait, blocked) = (next.wait.as_millis(), next.blocked);
        tracing::warn!(stream = name, failure, wait, blocked, %error, "delivery failed");
    }

    /// Takes a receipt into the books. False if it cannot be one.
    fn settle(&mut self, receipt: Receipt, batch: Option<&Batch>) -> bool {
        if let Err(error) = self.line.ledger.settle(receipt) {
            self.line.ending = Some(End::Failed(error.to_string()));
            return false;
        }
        if let Some(batch) = batch {
            self.line.status.delivered(batch);
        }
        self.line.checkpoint(false);
        true
    }

    /// Asks the destination to make durable what it holds; a failure is tried again later.
    async fn flush(&mut self) -> bool {
        let began = clock();
        let flush = self.dispatcher.flush();
        match beside(flush, &mut self.line).await {
            Ok(receipt) => {
                self.flush_failures = 0;
                self.flush_at = None;
                if self.line.ending.is_none() {
                    self.line.status.running();
                }
                receipt.is_none_or(|receipt| self.settle(receipt, None))
            }
            Err(error) => {
                self.flush_failures = self.flush_failures.saturating_add(1);
                let next = self.next(self.flush_failures, began, &error);
                self.report(&error, self.flush_failures, next);
                self.flush_at = clock().checked_add(next.wait.max(self.retry.first));
                false
            }
        }
    }

    /// After a stop: what waits goes out with one attempt each, then flush, then checkpoint.
    /// After the lock is lost nothing goes out.
    async fn wind_down(&mut self) {
        // A batch that failed stays undelivered, and nothing may overtake it.
        let healthy = self.line.status.snapshot().state == State::Running;
        while healthy && self.line.may_deliver() {
            match self.line.batcher.drain() {
                Ok(Some(batch)) if self.deliver(&batch).await => {}
                _ => break,
            }
        }
        if !self.line.ledger.all_accepted() && self.line.may_deliver() {
            self.flush().await;
        }
        if self.line.may_deliver() {
            self.line.checkpoint_now().await;
        }
    }
}

/// Waits for a call of the destination while the rest goes on. The call is always awaited to its
/// end: once begun, its effect is not known before it answers.
async fn beside<T>(call: impl Future<Output = T>, line: &mut Line) -> T {
    let mut call = pin!(call);
    loop {
        tokio::select! {
            answer = &mut call => return answer,
            () = line.turn(None) => {}
        }
    }
}
