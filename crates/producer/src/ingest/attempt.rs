//! One attempt: open the journal, compare the witnesses, do what operators want, pump until
//! something ends it.

use std::{sync::Arc, time::Duration};

use sluice_client::{
    append::{AppendError, Open},
    coordination::{ActionKind, Commit, CommitRecord, CoordinationError},
};
use sluice_model::{Durability, Generation, Head, JournalId, Pointer};
use tokio::time::Instant;

use super::{
    Ingest,
    commit::{self, Commits},
    intake::{Intake, Sent},
    perform::Performed,
    receipts::Receipts,
    window::Window,
};
use crate::{
    contact,
    policy::{Failure, Outcome},
    seam::{Opened, Ownership},
    source::{Feed, SourceError},
    status::State,
    witness,
};

/// An open journal, and what its witnesses say of it.
pub(super) struct Ready {
    pub(super) opened: Opened,
    pub(super) id: JournalId,
    /// The last commit, if there is one.
    pub(super) commit: Option<CommitRecord>,
    /// The commit is behind the head.
    pub(super) repair: bool,
    /// What was lost, in words that name both sides.
    pub(super) loss: Option<String>,
}

/// What has to be ended after an attempt, however it ended.
#[derive(Default)]
struct Running {
    feed: Option<Feed>,
    commits: Option<Commits>,
}

impl Ingest {
    /// Runs until something ends it. When it returns, the source's tasks have ended and what was
    /// acknowledged is committed, if the lock still allows it.
    pub(super) async fn attempt(&mut self, lock: &Arc<dyn Ownership>, since: Instant) -> Outcome {
        let mut running = Running::default();
        let (lost, unfit) = (lock.lost(), self.fitness().lost());
        let outcome = tokio::select! {
            biased;
            cause = lost => Outcome::Lost(cause.to_string()),
            cause = unfit => Outcome::Unfit(cause),
            outcome = self.work(lock, since, &mut running) => outcome,
        };
        if let Some(feed) = running.feed {
            feed.close().await;
        }
        if let Some(commits) = running.commits.filter(|_| lock.is_valid()) {
            let flushed = tokio::time::timeout(self.parts.limits.drain, commits.flush()).await;
            if !matches!(flushed, Ok(Ok(()))) {
                // The next owner finds the journal ahead of the commit and repairs it.
                tracing::warn!(ingestor = %self.parts.ingestor, ?flushed, "the last commit is not written");
            }
        }
        outcome
    }

    async fn work(
        &mut self,
        lock: &Arc<dyn Ownership>,
        since: Instant,
        running: &mut Running,
    ) -> Outcome {
        let stop = self.stop.clone();
        if self.policy.blocked().is_none() && self.parts.status.get().state != State::Halted {
            self.parts.status.state(State::Opening, "");
        }
        let prepared = tokio::select! {
            biased;
            () = stop.cancelled() => return Outcome::Stopped,
            prepared = self.prepare(lock, since) => prepared,
        };
        let (ready, feed) = match prepared {
            Ok(prepared) => prepared,
            Err(outcome) => return outcome,
        };
        let feed = running.feed.insert(feed);
        let previous = ready.commit.as_ref().map(|c| c.pointer.clone()).unwrap_or_default();
        self.parts.status.committed(previous.clone());
        let commits = running.commits.insert(commit::start(
            lock.clone(),
            previous,
            self.parts.status.clone(),
            self.parts.limits.commit_every,
        ));
        if let Some(head) = ready.opened.head.as_ref().filter(|_| ready.repair) {
            let durability = ready.commit.as_ref().map_or(Durability::None, |c| c.durability);
            commits.offer(self.commit_of(ready.id, head, durability));
        }
        if self.policy.blocked().is_none() {
            self.parts.status.state(State::Active, "");
        }
        self.pump(lock, ready, feed, commits).await
    }

    /// Everything before the first block: the journal is open and agrees with its witnesses, what
    /// operators asked for is done, and the source has begun.
    async fn prepare(
        &mut self,
        lock: &Arc<dyn Ownership>,
        since: Instant,
    ) -> Result<(Ready, Feed), Outcome> {
        let mut ready = self.open(lock).await?;
        let known = self.parts.status.get().head;
        let place = |head: &Head| (head.generation, head.pointer.clone());
        if known.as_ref().map(place) < ready.opened.head.as_ref().map(place) {
            // Acknowledgements that were lost on the way were progress too.
            self.progressed();
        }
        self.parts.status.opened(ready.opened.head.as_ref());
        let settled = since + self.parts.rules.settle;
        match self.perform(lock, &mut ready, settled).await? {
            Performed::Nothing | Performed::Finished => {}
            Performed::HandOver => return Err(Outcome::HandOver),
        }
        if let Some(loss) = ready.loss {
            let ingestor = &self.parts.ingestor;
            return Err(Outcome::Halt(format!(
                "{loss}; bring the lost blocks back, or accept the loss: sluice ingestors \
                 accept-loss {ingestor}"
            )));
        }
        if self.orders.hold().is_some() {
            return Err(Outcome::Control);
        }
        let feed = self.begin_source(lock, &mut ready).await?;
        Ok((ready, feed))
    }

    /// Sends and acknowledges side by side.
    async fn pump(
        &mut self,
        lock: &Arc<dyn Ownership>,
        ready: Ready,
        feed: &mut Feed,
        commits: &Commits,
    ) -> Outcome {
        let Self { parts, policy, last, stop, orders, trail, waiting, trace, diverged, .. } = self;
        let Ready { opened, id: journal, .. } = ready;
        let window = Window::new(parts.limits);
        let generation = opened.head.as_ref().map_or(Generation(0), |head| head.generation);
        let mut intake = Intake {
            ingestor: &parts.ingestor,
            journals: parts.journals.as_ref(),
            generation,
            epoch: lock.epoch(),
            topics: &parts.topics,
            stores: &mut parts.stores,
            strict_stores: parts.source.first_block_is_complete(),
            metadata_limit: parts.limits.metadata,
            tail: opened.head.as_ref().map(|head| head.pointer.clone()).unwrap_or_default(),
            tail_height: opened.head.as_ref().map(|head| head.height),
            frames: opened.frames,
            window: &window,
            status: &parts.status,
            current: None,
            dropping: false,
        };
        let mut receipts = Receipts {
            acks: opened.acks,
            window: &window,
            source: parts.source.as_mut(),
            journals: parts.journals.as_ref(),
            on_regress: parts.on_regress,
            status: &parts.status,
            policy,
            last,
            trail,
            trace,
            diverged,
            agreed: None,
            commits,
            journal,
        };
        let drain = parts.limits.drain;
        let (orders, waiting) = (&*orders, *waiting);
        let sending = async {
            let sent = tokio::select! {
                biased;
                () = stop.cancelled() => Ok(Sent::Stopped),
                () = orders.interrupted(waiting) => Ok(Sent::Interrupted),
                sent = intake.run(feed) => sent,
            };
            ended(sent, &window, drain).await
        };
        tokio::select! {
            outcome = sending => outcome,
            outcome = receipts.run() => outcome,
            error = commits.failed() => coordination_failed(&error),
        }
    }

    /// Opens the journal (which fences every earlier writer) and compares the witnesses.
    async fn open(&self, lock: &Arc<dyn Ownership>) -> Result<Ready, Outcome> {
        let (ingestor, parts) = (&self.parts.ingestor, &self.parts);
        let coordination = |error: CoordinationError| coordination_failed(&error);
        let journal = parts.coordinator.ensure_journal(ingestor).await.map_err(coordination)?;
        let commit = parts.coordinator.latest(ingestor).await.map_err(coordination)?;
        if journal.created || commit.is_none() {
            // Whoever minted the id may have died before it made the journal. With a commit it
            // was made: a volume without it has lost it.
            let created = parts.journals.create(ingestor, journal.id).await;
            created.map_err(|error| append_failed(&error, None))?;
        }
        let opened = match self.open_once(lock, journal.id).await {
            Err(AppendError::Fenced(cause)) => self.open_raised(lock, journal.id, cause).await?,
            Err(AppendError::NotHere(cause)) => self.open_lost(lock, journal.id, &cause).await?,
            other => other.map_err(|error| append_failed(&error, None))?,
        };
        let head = opened.head.as_ref();
        let verdict = witness::compare(journal.id, head, commit.as_ref(), self.last.as_ref());
        let repair = verdict == witness::Verdict::Repair;
        let loss = match verdict {
            witness::Verdict::Agree | witness::Verdict::Repair => None,
            witness::Verdict::Loss(loss) => Some(loss),
        };
        Ok(Ready { opened, id: journal.id, commit, repair, loss })
    }

    async fn open_once(
        &self,
        lock: &Arc<dyn Ownership>,
        id: JournalId,
    ) -> Result<Opened, AppendError> {
        let open = Open {
            ingestor: self.parts.ingestor.clone(),
            journal_id: id,
            epoch: lock.epoch(),
            nonce: lock.nonce(),
            holder: self.parts.holder.clone(),
        };
        self.parts.journals.open(open).await
    }

    /// Fenced although the lock is held: either a newer owner exists, which the coordinator
    /// knows, or the coordinator's store went back in time and has to pass the fence.
    async fn open_raised(
        &self,
        lock: &Arc<dyn Ownership>,
        id: JournalId,
        cause: String,
    ) -> Result<Opened, Outcome> {
        let fence = self.parts.journals.fence(&self.parts.ingestor).await;
        let fence = fence.map_err(|error| append_failed(&error, None))?;
        if fence <= lock.epoch() {
            return Err(Outcome::Fenced(cause));
        }
        match lock.raise(fence).await {
            Ok(epoch) => {
                tracing::warn!(ingestor = %self.parts.ingestor, %fence, %epoch, "the store of locks went back in time; its incarnation was raised");
                self.parts.status.epoch(epoch);
                self.trail.epoch(epoch);
            }
            Err(error) => return Err(coordination_failed(&error)),
        }
        self.open_once(lock, id).await.map_err(|error| append_failed(&error, None))
    }

    /// The router's volume lacks a journal that has blocks. It may be mounted yet, so it is asked
    /// for again and again; only an operator who accepts the loss gets an empty one in its place.
    async fn open_lost(
        &self,
        lock: &Arc<dyn Ownership>,
        id: JournalId,
        cause: &str,
    ) -> Result<Opened, Outcome> {
        let ingestor = &self.parts.ingestor;
        let action = self.orders.action().map(|action| action.kind);
        if action != Some(ActionKind::AcceptLoss) {
            let told = format!(
                "{cause}; bring its volume back, or accept that it is lost: sluice ingestors \
                 accept-loss {ingestor}"
            );
            return Err(append_failed(&AppendError::NotHere(told), None));
        }
        tracing::warn!(%ingestor, journal = %id, "its loss was accepted: the journal is made anew, empty");
        let created = self.parts.journals.create(ingestor, id).await;
        created.map_err(|error| append_failed(&error, None))?;
        self.open_once(lock, id).await.map_err(|error| append_failed(&error, None))
    }

    pub(super) fn commit_of(
        &self,
        journal: JournalId,
        head: &Head,
        durability: Durability,
    ) -> Commit {
        Commit {
            ingestor: self.parts.ingestor.clone(),
            previous: Pointer::ORIGIN,
            journal,
            generation: head.generation,
            pointer: head.pointer.clone(),
            digest: head.digest,
            durability,
        }
    }
}

/// Waits for what was sent, as long as the way it ended allows.
async fn ended(sent: Result<Sent, Failure>, window: &Window, drain: Duration) -> Outcome {
    let drained = window.drained();
    match sent {
        Err(failure) => {
            // What was sent before is durable or soon is; the source wants to know, and it counts
            // as progress.
            tokio::time::timeout(drain, drained).await.ok();
            Outcome::Failed(failure)
        }
        Ok(Sent::Finished) => {
            drained.await;
            Outcome::Finished
        }
        // What is not acknowledged by then is found at the next opening.
        Ok(Sent::Stopped) => {
            tokio::time::timeout(drain, drained).await.ok();
            Outcome::Stopped
        }
        Ok(Sent::Interrupted) => {
            tokio::time::timeout(drain, drained).await.ok();
            Outcome::Control
        }
    }
}

pub(super) fn failed(reason: &'static str, cause: &str) -> Outcome {
    Outcome::Failed(Failure { pointer: None, cause: cause.to_owned(), lasting: false, reason })
}

/// What an error of the source means.
pub(super) fn source_failed(error: &SourceError) -> Outcome {
    Outcome::Failed(source_failure(error))
}

pub(super) fn source_failure(error: &SourceError) -> Failure {
    let lasting = matches!(error, SourceError::Gap { .. });
    let reason = if lasting { "gap" } else { "source" };
    let cause = error.to_string();
    Failure { pointer: error.pointer().cloned(), cause, lasting, reason }
}

/// What an error of the coordinator means.
pub(super) fn coordination_failed(error: &CoordinationError) -> Outcome {
    match error {
        CoordinationError::LostOwnership { .. } | CoordinationError::Closed => {
            Outcome::Lost(error.to_string())
        }
        _ => failed("coordinator", &error.to_string()),
    }
}

/// What an error of the router means.
pub(super) fn append_failed(error: &AppendError, suspect: Option<Pointer>) -> Outcome {
    match error {
        AppendError::Fenced(cause) => Outcome::Fenced(cause.clone()),
        error if !contact::is_answer(error) => Outcome::Unanswered(error.to_string()),
        _ => Outcome::Failed(Failure {
            pointer: suspect,
            cause: error.to_string(),
            // What the source says will be the same the next time, unless somebody acts.
            lasting: matches!(error, AppendError::Divergent { .. }),
            reason: match error {
                AppendError::Divergent { .. } => "diverged",
                error if error.is_transient() => "router",
                _ => "refused",
            },
        }),
    }
}
