//! One attempt: open the journal, compare the witnesses, pump until something ends it.

use std::sync::Arc;

use sluice_client::{
    append::{AppendError, Open},
    coordination::{Commit, CommitRecord, CoordinationError},
};
use sluice_model::{Durability, Generation, Head, JournalId, Pointer};

use super::{
    Ingest,
    commit::{self, Commits},
    intake::{Intake, Sent},
    window::Window,
};
use crate::{
    policy::{Failure, Outcome, Policy},
    seam::{AckSource, Opened, Ownership, refusal_reason},
    source::{Ack, Feed, Refusal, Source, SourceError, Verdict},
    status::{State, StatusCell},
    witness,
};

/// An open journal that agrees with its witnesses.
struct Ready {
    opened: Opened,
    id: JournalId,
    /// The last commit, if there is one.
    commit: Option<CommitRecord>,
    /// The commit is behind the head.
    repair: bool,
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
    pub(super) async fn attempt(&mut self, lock: &Arc<dyn Ownership>) -> Outcome {
        let mut running = Running::default();
        let lost = lock.lost();
        let outcome = tokio::select! {
            biased;
            cause = lost => Outcome::Lost(cause.to_string()),
            outcome = self.work(lock, &mut running) => outcome,
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

    async fn work(&mut self, lock: &Arc<dyn Ownership>, running: &mut Running) -> Outcome {
        let stop = self.stop.clone();
        if self.policy.blocked().is_none() {
            self.parts.status.state(State::Opening, "");
        }
        let opened = tokio::select! {
            biased;
            () = stop.cancelled() => return Outcome::Stopped,
            opened = self.open(lock) => opened,
        };
        let ready = match opened {
            Ok(ready) => ready,
            Err(outcome) => return outcome,
        };
        let head = ready.opened.head.clone();
        let known = self.parts.status.get().head;
        let place = |head: &Head| (head.generation, head.pointer.clone());
        if known.as_ref().map(place) < head.as_ref().map(place) {
            // Acknowledgements that were lost on the way were progress too.
            self.policy.progress();
        }
        self.parts.status.opened(head.as_ref());
        let feed = match self.parts.source.blocks(head.as_ref()).await {
            Ok(feed) => running.feed.insert(feed),
            Err(error) => return source_failed(&error),
        };
        let previous = ready.commit.as_ref().map(|c| c.pointer.clone()).unwrap_or_default();
        self.parts.status.committed(previous.clone());
        let commits = running.commits.insert(commit::start(
            lock.clone(),
            previous,
            self.parts.status.clone(),
            self.parts.limits.commit_every,
        ));
        if let Some(head) = head.as_ref().filter(|_| ready.repair) {
            let durability = ready.commit.as_ref().map_or(Durability::None, |c| c.durability);
            commits.offer(self.commit_of_head(ready.id, head, durability));
        }
        if self.policy.blocked().is_none() {
            self.parts.status.state(State::Active, "");
        }
        self.pump(lock, ready.id, ready.opened, feed, commits).await
    }

    /// Sends and acknowledges side by side.
    async fn pump(
        &mut self,
        lock: &Arc<dyn Ownership>,
        journal: JournalId,
        opened: Opened,
        feed: &mut Feed,
        commits: &Commits,
    ) -> Outcome {
        let Self { parts, policy, last, stop } = self;
        let window = Window::new(parts.limits);
        let generation = opened.head.as_ref().map_or(Generation(0), |head| head.generation);
        let mut intake = Intake {
            ingestor: &parts.ingestor,
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
        };
        let mut receipts = Receipts {
            acks: opened.acks,
            window: &window,
            source: parts.source.as_mut(),
            status: &parts.status,
            policy,
            last,
            commits,
            journal,
        };
        let drain = parts.limits.drain;
        let sending = async {
            let sent = tokio::select! {
                biased;
                () = stop.cancelled() => Ok(Sent::Stopped),
                sent = intake.run(feed) => sent,
            };
            match sent {
                Err(failure) => {
                    // What was sent before is durable or soon is; the source wants to know, and
                    // it counts as progress.
                    tokio::time::timeout(drain, window.drained()).await.ok();
                    Outcome::Failed(failure)
                }
                Ok(Sent::Finished) => {
                    window.drained().await;
                    Outcome::Finished
                }
                Ok(Sent::Stopped) => {
                    // What is not acknowledged by then is found by the next owner.
                    tokio::time::timeout(drain, window.drained()).await.ok();
                    Outcome::Stopped
                }
            }
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
            other => other.map_err(|error| append_failed(&error, None))?,
        };
        let head = opened.head.as_ref();
        let verdict = witness::compare(journal.id, head, commit.as_ref(), self.last.as_ref());
        let repair = match verdict {
            witness::Verdict::Agree => false,
            witness::Verdict::Repair => true,
            witness::Verdict::Loss(loss) => {
                return Err(Outcome::Halt(format!(
                    "{loss}; bring the lost blocks back, or accept the loss: sluice ingestors \
                     accept-loss {ingestor}"
                )));
            }
        };
        Ok(Ready { opened, id: journal.id, commit, repair })
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
            }
            Err(error) => return Err(coordination_failed(&error)),
        }
        self.open_once(lock, id).await.map_err(|error| append_failed(&error, None))
    }

    fn commit_of_head(&self, journal: JournalId, head: &Head, durability: Durability) -> Commit {
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

/// Takes acknowledgements and acts on them.
struct Receipts<'a> {
    acks: Box<dyn AckSource>,
    window: &'a Window,
    source: &'a mut dyn Source,
    status: &'a StatusCell,
    policy: &'a mut Policy,
    last: &'a mut Option<Ack>,
    commits: &'a Commits,
    journal: JournalId,
}

impl Receipts<'_> {
    /// Runs until the router refuses something or is gone.
    async fn run(&mut self) -> Outcome {
        loop {
            match self.acks.next().await {
                Ok(Some(ack)) => {
                    if let Err(outcome) = self.acked(ack).await {
                        return outcome;
                    }
                }
                Ok(None) => return failed("router", "the router ended the append stream"),
                Err(error) => return self.refused(error).await,
            }
        }
    }

    async fn acked(&mut self, ack: sluice_client::append::Ack) -> Result<(), Outcome> {
        let Some(block) = self.window.acked() else {
            let cause = format!("the router acknowledged {}, which was not sent", ack.pointer);
            return Err(failed("router", &cause));
        };
        if block.pointer != ack.pointer {
            let (sent, got) = (&block.pointer, &ack.pointer);
            let cause = format!("the router acknowledged {got} where {sent} was sent");
            return Err(failed("router", &cause));
        }
        let ack = Ack {
            pointer: ack.pointer,
            height: block.height,
            generation: ack.generation,
            digest: ack.digest,
            time: block.time,
            durability: ack.durability,
            duplicate: ack.duplicate,
            unverifiable: ack.unverifiable,
        };
        if block.block {
            self.status.acked(&ack, block.changes, block.bytes);
        } else {
            self.status.advanced(&ack);
        }
        drop(block.room);
        if block.block
            && let Err(error) = self.source.durable(&ack).await
        {
            // The block is safe; only the source's own files are not in order.
            tracing::warn!(ingestor = %self.status.ingestor(), %error, "after a durable block");
        }
        if !ack.duplicate && !ack.unverifiable {
            self.policy.progress();
            self.status.failures(self.policy);
            self.commits.offer(self.commit(&ack));
            *self.last = Some(ack);
        }
        Ok(())
    }

    fn commit(&self, ack: &Ack) -> Commit {
        Commit {
            ingestor: self.status.ingestor().clone(),
            previous: Pointer::ORIGIN,
            journal: self.journal,
            generation: ack.generation,
            pointer: ack.pointer.clone(),
            digest: ack.digest,
            durability: ack.durability,
        }
    }

    async fn refused(&mut self, error: AppendError) -> Outcome {
        let suspect = self.window.suspect();
        let about_a_block = matches!(
            error,
            AppendError::Divergent { .. }
                | AppendError::WrongParent { .. }
                | AppendError::Invalid(_)
                | AppendError::Refused(_)
        );
        if about_a_block {
            let refusal = Refusal {
                pointer: suspect.clone(),
                reason: refusal_reason(&error).to_owned(),
                message: error.to_string(),
            };
            if self.source.refused(&refusal).await == Verdict::Continue {
                return Outcome::Refused(refusal.message);
            }
        }
        append_failed(&error, suspect)
    }
}

fn failed(reason: &'static str, cause: &str) -> Outcome {
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
fn append_failed(error: &AppendError, suspect: Option<Pointer>) -> Outcome {
    match error {
        AppendError::Fenced(cause) => Outcome::Fenced(cause.clone()),
        AppendError::Divergent { message, .. } => Outcome::Halt(format!(
            "the source gives another block than the journal holds: {message}"
        )),
        _ => Outcome::Failed(Failure {
            pointer: suspect,
            cause: error.to_string(),
            lasting: false,
            reason: if error.is_transient() { "router" } else { "refused" },
        }),
    }
}
