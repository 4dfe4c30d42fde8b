//! The life of a stream in one process: wait for the lock, deliver, give it back, again.

use std::{sync::Arc, time::Duration};

use sluice_model::{Checkpoint, Position, StartPosition};
use tokio_util::sync::CancellationToken;

use crate::{
    batch::{Origin, Reached},
    batcher::Batcher,
    config::{SinkConfig, StreamConfig},
    dispatcher::{Dispatcher, DispatcherFactory},
    feed::{FeedError, FeedRequest, Journal},
    ledger::Ledger,
    line::{self, Beginning, End, Line},
    owners::{OwnerError, Owners, StreamState, Tenure},
    retry::Retry,
    status::{State, Status},
    tenancy::Tenancy,
};

/// Waits between tenures that failed.
const RESTART: Retry = Retry {
    first: Duration::from_millis(200),
    max: Duration::from_secs(15),
    for_: Duration::from_secs(60),
};

/// How often a stream looks whether its ingestor has a journal. Of its own, because there is
/// nothing wrong with an ingestor that was never captured.
const LOOK: Retry =
    Retry { first: Duration::from_millis(100), max: Duration::from_secs(2), for_: Duration::MAX };

/// How often a stream in a gap looks whether it can go on: a reset, a healed journal.
const GAP_RECHECK: Duration = Duration::from_secs(5);

/// A stream and everything it needs.
pub(crate) struct Stream {
    /// The stream.
    pub(crate) config: Arc<StreamConfig>,
    /// Its sink.
    pub(crate) sink: Arc<SinkConfig>,
    /// Makes its dispatchers.
    pub(crate) factory: Arc<dyn DispatcherFactory>,
    /// What it reads.
    pub(crate) journal: Arc<dyn Journal>,
    /// Who gives it the lock.
    pub(crate) owners: Arc<dyn Owners>,
    /// Where it says what it does.
    pub(crate) status: Arc<Status>,
    /// Longest time for what is still to be done after a stop.
    pub(crate) grace: Duration,
}

impl Stream {
    /// Runs until told to stop; then the current batch is brought in, the destination flushed,
    /// the checkpoint written and the lock given back, within the grace.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let (mut failures, mut delivered) = (0, 0);
        let mut in_gap = false;
        while !stop.is_cancelled() {
            let end = self.tenure(&stop, in_gap).await;
            in_gap = matches!(end, End::Gap(_));
            let wait = match end {
                End::Stopped => break,
                End::Lost(cause) | End::Changed(cause) => {
                    tracing::info!(stream = self.config.name, cause, "tenure ended");
                    failures = 0;
                    continue;
                }
                End::Gap(cause) => {
                    let name = &self.config.name;
                    let cause = format!(
                        "{cause}; the stream does not jump: `sluice streams reset {name} --to …`"
                    );
                    self.status.set(State::Gap, &cause);
                    GAP_RECHECK
                }
                End::Failed(cause) => {
                    let batches = self.status.snapshot().batches;
                    failures = if batches > delivered { 1 } else { failures + 1 };
                    delivered = batches;
                    let next = RESTART.next(failures, Duration::ZERO, None, rand::random());
                    self.status.failed(State::Retrying, &cause);
                    tracing::warn!(
                        stream = self.config.name,
                        cause,
                        "stream failed, starting again"
                    );
                    next.wait
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.status.set(State::Stopped, "");
    }

    async fn tenure(&self, stop: &CancellationToken, in_gap: bool) -> End {
        let lock = match self.factory.lock_name(&self.config, &self.sink) {
            Ok(lock) => lock,
            Err(error) => return End::Failed(error.to_string()),
        };
        if !in_gap {
            self.status.waiting();
        }
        let acquired = tokio::select! {
            () = stop.cancelled() => return End::Stopped,
            acquired = self.owners.acquire(&lock) => acquired,
        };
        let tenure: Arc<dyn Tenure> = match acquired {
            Ok(tenure) => tenure.into(),
            Err(error) => return failed(&error),
        };
        tracing::info!(stream = self.config.name, lock, epoch = %tenure.epoch(), "lock acquired");
        if !in_gap {
            self.status.starting(tenure.epoch());
        }
        let end = match self.begin(&tenure, stop).await {
            Ok(tenancy) => tenancy.run().await,
            Err(end) => end,
        };
        tenure.release().await;
        end
    }

    /// From the lock to the first subscription.
    async fn begin(
        &self,
        tenure: &Arc<dyn Tenure>,
        stop: &CancellationToken,
    ) -> Result<Tenancy, End> {
        let mut state = tokio::select! {
            () = stop.cancelled() => return Err(End::Stopped),
            state = tenure.state(&self.config.name) => state.map_err(|error| failed(&error))?,
        };
        let invalid = |error: crate::ConfigError| End::Failed(error.to_string());
        let shape = self.factory.shape(&self.config).map_err(invalid)?;
        let mut dispatcher = self.factory.build(&self.config, &self.sink).map_err(invalid)?;
        let start = self.resume(dispatcher.as_mut(), &state, tenure.as_ref(), stop).await?;
        let stored = match &state.checkpoint {
            Some((checkpoint, _)) => reached(checkpoint),
            None => {
                let first = reached(&start);
                line::store_first(tenure.as_ref(), &self.config, &mut state, &first)
                    .await
                    .map_err(|error| failed(&error))?;
                first
            }
        };
        self.status.checkpoint(&stored);
        let filter = self.config.filter.hash();
        let after = after(&state, &start, &filter);
        let origin = Arc::new(Origin {
            stream: self.config.name.as_str().into(),
            ingestor: self.config.ingestor.clone(),
            filter: filter.as_str().into(),
            reset_epoch: state.reset_epoch,
            epoch: tenure.epoch(),
        });
        let ledger =
            Ledger::new(Arc::clone(&origin), stored, after.clone(), self.config.checkpoint);
        let feed = self.journal.subscribe(FeedRequest {
            ingestor: self.config.ingestor.clone(),
            filter: Arc::clone(&self.config.filter),
            after: start.clone(),
            metadata: self.factory.wants_metadata(&self.config),
        });
        let line = Line::new(Beginning {
            config: Arc::clone(&self.config),
            filter,
            state,
            batcher: Batcher::new(origin, shape, after, start),
            ledger,
            feed,
            tenure: Arc::clone(tenure),
            status: Arc::clone(&self.status),
            stop: stop.clone(),
        });
        let (name, retry) = (self.config.name.clone(), self.config.retry);
        Ok(Tenancy::new(dispatcher, line, name, retry, self.grace))
    }

    /// Where to start: the lower of the stored checkpoint and the destination's own, else what
    /// the destination says, else the start of the last reset or of the configuration.
    async fn resume(
        &self,
        dispatcher: &mut dyn Dispatcher,
        state: &StreamState,
        tenure: &dyn Tenure,
        stop: &CancellationToken,
    ) -> Result<Checkpoint, End> {
        if stop.is_cancelled() {
            return Err(End::Stopped);
        }
        if !tenure.is_valid() {
            return Err(End::Lost("the lock's validity has passed".to_owned()));
        }
        let stored = state.checkpoint.as_ref().map(|(checkpoint, _)| checkpoint);
        let told =
            dispatcher.resume(stored).await.map_err(|error| End::Failed(error.to_string()))?;
        match (stored, told) {
            (Some(stored), Some(told)) if told.position < stored.position => return Ok(told),
            (Some(stored), _) => return Ok(stored.clone()),
            (None, Some(told)) if state.start.is_none() => return Ok(told),
            (None, _) => {}
        }
        let start = state.start.as_ref().unwrap_or(&self.config.start);
        tokio::select! {
            () = stop.cancelled() => Err(End::Stopped),
            cause = tenure.lost() => Err(End::Lost(cause)),
            located = self.locate(start) => located,
        }
    }

    /// The place that a start stands for; waits for the ingestor's first block.
    async fn locate(&self, start: &StartPosition) -> Result<Checkpoint, End> {
        let Self { config, status, .. } = self;
        let mut start = start;
        for attempt in 1.. {
            match self.journal.locate(&config.ingestor, start).await {
                Err(FeedError::NotYet(cause)) => {
                    if *start == StartPosition::Latest {
                        // Whatever comes is newer than the moment of asking.
                        start = &StartPosition::Earliest;
                    }
                    tracing::debug!(stream = config.name, cause, "waiting for the first block");
                    let ingestor = &config.ingestor;
                    let cause = format!(
                        "the ingestor {ingestor} has no block yet; `sluice ingestors get {ingestor}`"
                    );
                    status.set(State::Starting, &cause);
                }
                located => return located.map_err(|error| End::of_feed(&error)),
            }
            tokio::time::sleep(LOOK.bound(attempt)).await;
        }
        Err(End::Failed("no answer about the start".to_owned()))
    }
}

/// The end of the last batch, for the next one to begin at. Only under the same filter: another
/// one may match in between.
fn after(state: &StreamState, start: &Checkpoint, filter: &str) -> Position {
    state
        .checkpoint
        .as_ref()
        .filter(|(checkpoint, under)| checkpoint == start && under.filter == filter)
        .and_then(|(_, under)| under.delivered.clone())
        .unwrap_or_else(|| start.position.clone())
}

fn reached(checkpoint: &Checkpoint) -> Reached {
    let height = checkpoint.position.pointer.height().unwrap_or_default();
    Reached { at: checkpoint.clone(), height }
}

fn failed(error: &OwnerError) -> End {
    match error {
        OwnerError::Lost(cause) => End::Lost(cause.clone()),
        OwnerError::Conflict(cause) => End::Changed(cause.clone()),
        OwnerError::Unavailable(cause) => End::Failed(cause.clone()),
    }
}

#[cfg(test)]
mod tests;
