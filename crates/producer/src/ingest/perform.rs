//! Does what operators asked for, with the journal open and before the source begins.

use std::sync::Arc;

use sluice_client::{
    append::AppendError,
    coordination::{Action, AuditKind, Control, CoordinationError},
};
use sluice_model::{Digest, Generation, Head, Kind, Pointer, Position};
use tokio::time::Instant;

use super::{
    Ingest,
    attempt::{Ready, append_failed, coordination_failed},
    orders::Waiting,
    record::{self, Base, Gap},
};
use crate::{
    control::{self, Plan, Situation, Top, begun},
    policy::Outcome,
    seam::Ownership,
};

/// What was done about an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Performed {
    /// None waits, or it cannot be judged yet.
    Nothing,
    /// It ended, one way or the other.
    Finished,
    /// The lock is to be given up.
    HandOver,
}

/// How an action ends: whether it was done, and what is to be said.
type End = (bool, String);

impl Ingest {
    /// Does the action that waits, if one does, and reports how it ended. The next block waits
    /// for that: an owner after this one, if this one dies, finds in the journal what was done.
    pub(super) async fn perform(
        &mut self,
        lock: &Arc<dyn Ownership>,
        ready: &mut Ready,
        settled: Instant,
    ) -> Result<Performed, Outcome> {
        let Some(action) = self.orders.action() else {
            self.waiting = None;
            return Ok(Performed::Nothing);
        };
        let top = self.top(ready.opened.head.as_ref()).await?;
        let situation = Situation {
            head: ready.opened.head.as_ref(),
            top,
            blocked: self.policy.blocked(),
            loss: ready.loss.as_deref(),
            newest: self.newest(ready),
            settled: Instant::now() >= settled && self.policy.failures() == 0,
        };
        let plan = control::plan(&action.kind, &situation);
        if plan == Plan::Wait {
            // While it fails it gets its turns until it is blocked or well.
            let until = settled.max(Instant::now() + self.parts.rules.first);
            self.waiting = Some(Waiting { id: action.id, until });
            return Ok(Performed::Nothing);
        }
        let hand_over = plan == Plan::HandOver;
        let (done, message) = self.carry_out(lock, ready, &action, plan).await?;
        let told = control::describe(&action);
        let ingestor = &self.parts.ingestor;
        tracing::warn!(target: "sluice::audit", %ingestor, action = told, done, message, "action ended");
        self.finish(lock, action.id, done, &message).await?;
        Ok(if hand_over { Performed::HandOver } else { Performed::Finished })
    }

    async fn carry_out(
        &mut self,
        lock: &Arc<dyn Ownership>,
        ready: &mut Ready,
        action: &Action,
        plan: Plan,
    ) -> Result<End, Outcome> {
        Ok(match plan {
            Plan::Wait => (false, "not judged".to_owned()),
            Plan::Refuse(why) => (false, why),
            Plan::Done(what) => (true, what),
            Plan::Retry => {
                self.policy.progress();
                self.parts.status.failures(&self.policy);
                (true, "the failures are forgotten; trying again".to_owned())
            }
            Plan::HandOver => (true, "drained and committed; the lock is released".to_owned()),
            Plan::Skip { from, to } => self.skip(lock, ready, action, (from, to)).await?,
            Plan::Begin { base, generation } => {
                self.begin_at(lock, ready, action, (base, generation)).await?
            }
        })
    }

    async fn skip(
        &mut self,
        lock: &Arc<dyn Ownership>,
        ready: &mut Ready,
        action: &Action,
        (from, to): (Pointer, Pointer),
    ) -> Result<End, Outcome> {
        let head = ready.opened.head.as_ref();
        let generation = head.map_or(Generation(0), |head| head.generation);
        let parent = head.map(|head| head.pointer.clone()).unwrap_or_default();
        let height = to.height().or(head.map(|head| head.height)).unwrap_or_default();
        let Action { actor, reason, .. } = action;
        let gap = Gap { from, to, cause: format!("skipped by {actor}: {reason}") };
        let place = (parent, height);
        let frame = record::gap(&self.parts.ingestor, generation, place, &gap, lock.epoch());
        let ack = match self.append(ready, &frame).await {
            Ok(ack) => ack,
            Err(outcome) => return refused(outcome),
        };
        self.reached(ready, &ack, height);
        self.parts.status.gap(&gap, height);
        self.trail.note_by(AuditKind::Gap, actor, gap.to_string());
        self.commit_head(lock, ready).await?;
        Ok((true, format!("{gap}; going on behind block {}", gap.to)))
    }

    async fn begin_at(
        &mut self,
        lock: &Arc<dyn Ownership>,
        ready: &mut Ready,
        action: &Action,
        (base, generation): (Option<(Position, Option<Digest>)>, Generation),
    ) -> Result<End, Outcome> {
        let block = match base {
            Some((to, digest)) => match self.base(&to, digest).await? {
                Ok(block) => block,
                Err(why) => return Ok((false, why)),
            },
            // The head, or the place before every block.
            None => ready.opened.head.clone().unwrap_or(Head {
                generation: Generation(0),
                pointer: Pointer::ORIGIN,
                height: 0,
                digest: Digest::ZERO,
                time: None,
                appended: 0,
            }),
        };
        let lost = ready.loss.as_ref().map(|loss| format!(" ({loss})")).unwrap_or_default();
        let reason = format!("{}: {}{lost}", action.kind.name(), action.reason);
        let base = Base { block, actor: action.actor.clone(), reason };
        if let Err(outcome) = self.begin_generation(lock, ready, &base, generation).await {
            return refused(outcome);
        }
        self.trail.note_by(AuditKind::Generation, &action.actor, base.told(generation));
        let Head { pointer, digest, .. } = &base.block;
        Ok((true, format!("{} ({})", begun(generation, pointer), digest.short())))
    }

    /// The block to go back to, as the journal has it; why not, in words.
    async fn base(
        &self,
        to: &Position,
        digest: Option<Digest>,
    ) -> Result<Result<Head, String>, Outcome> {
        let Position { generation, pointer, .. } = to;
        let (journals, ingestor) = (&self.parts.journals, &self.parts.ingestor);
        let found = match journals.block(ingestor, pointer, Some(*generation)).await {
            Ok(found) => found,
            Err(error) if !is_final(&error) => return Err(append_failed(&error, None)),
            Err(error) => return Ok(Err(error.to_string())),
        };
        Ok(match found {
            None => Err(format!("the journal has no block {pointer} in generation {generation}")),
            Some(block) if digest.is_some_and(|digest| digest != block.head.digest) => {
                Err(format!(
                    "block {pointer} of generation {} has the digest {}, not the one that was \
                     given, {}",
                    block.head.generation,
                    block.head.digest,
                    digest.unwrap_or_default(),
                ))
            }
            Some(block) => Ok(block.head),
        })
    }

    /// What the last record of the journal is. A generation without blocks has its base below.
    async fn top(&self, head: Option<&Head>) -> Result<Top, Outcome> {
        let Some(head) = head else { return Ok(Top::Nothing) };
        if head.pointer.is_origin() {
            return Ok(Top::Generation);
        }
        let ingestor = &self.parts.ingestor;
        match self.parts.journals.block(ingestor, &head.pointer, None).await {
            Ok(Some(block)) if block.head.generation != head.generation => Ok(Top::Generation),
            Ok(Some(block)) if block.kind == Kind::Gap => Ok(Top::Gap),
            Ok(Some(_)) => Ok(Top::Block),
            // The head always stays: what is not there as a block is the begin of a generation
            // whose base retention has passed.
            Ok(None) => Ok(Top::Generation),
            Err(error) if is_final(&error) => Ok(Top::Generation),
            Err(error) => Err(append_failed(&error, None)),
        }
    }

    /// The newest generation that anything names.
    fn newest(&self, ready: &Ready) -> Generation {
        let head = ready.opened.head.as_ref().map(|head| head.generation);
        let commit = ready.commit.as_ref().map(|commit| commit.generation);
        let own = self.last.as_ref().map(|last| last.generation);
        head.max(commit).max(own).unwrap_or_default()
    }

    /// Reports how an action ended, until the coordinator has it.
    async fn finish(
        &mut self,
        lock: &Arc<dyn Ownership>,
        id: u64,
        done: bool,
        message: &str,
    ) -> Result<(), Outcome> {
        self.waiting = None;
        loop {
            let ingestor = &self.parts.ingestor;
            match lock.finish_action(ingestor, id, done, message).await {
                Ok(control) => {
                    self.learn(control);
                    return Ok(());
                }
                Err(error) if error.is_transient() && lock.is_valid() => {
                    tracing::warn!(%ingestor, %error, "how the action ended is not told; again");
                    tokio::time::sleep(self.parts.rules.first).await;
                }
                Err(error @ CoordinationError::Refused { .. }) => {
                    // Most likely it was withdrawn while it was done.
                    tracing::warn!(%ingestor, id, %error, "how the action ended was not taken");
                    self.orders.refresh().await;
                    return Ok(());
                }
                Err(error) => return Err(coordination_failed(&error)),
            }
        }
    }

    fn learn(&self, control: Control) {
        self.orders.learn(control);
    }

    /// A failure is over: the journal moved.
    pub(super) fn progressed(&mut self) {
        if self.policy.blocked().is_some() {
            self.trail.note(AuditKind::Unblocked, "the journal moved");
        }
        self.policy.progress();
        self.parts.status.failures(&self.policy);
    }
}

/// The router's refusal of a record ends the action; anything else ends the attempt, and the
/// action is looked at again.
fn refused(outcome: Outcome) -> Result<End, Outcome> {
    match outcome {
        Outcome::Failed(failure) if failure.reason == "refused" => Ok((false, failure.cause)),
        other => Err(other),
    }
}

/// Asking again gives the same answer.
fn is_final(error: &AppendError) -> bool {
    matches!(error, AppendError::Refused(_) | AppendError::Invalid(_))
}
