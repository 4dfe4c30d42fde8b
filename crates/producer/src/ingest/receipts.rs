//! Takes acknowledgements and acts on them.

use sluice_client::{
    append::{self, AppendError},
    coordination::{AuditKind, Commit},
};
use sluice_config::OnRegress;
use sluice_model::{JournalId, Pointer};

use super::{
    attempt::{append_failed, failed},
    commit::Commits,
    regress,
    trace::{Divergence, Trace},
    trail::Trail,
    window::{InFlight, Sending, Window},
};
use crate::{
    policy::{Failure, Outcome, Policy},
    seam::{AckSource, Journals, refusal_reason},
    source::{Ack, Refusal, Source, Verdict},
    status::StatusCell,
};

pub(super) struct Receipts<'a> {
    pub(super) acks: Box<dyn AckSource>,
    pub(super) window: &'a Window,
    pub(super) source: &'a mut dyn Source,
    pub(super) journals: &'a dyn Journals,
    pub(super) on_regress: OnRegress,
    pub(super) status: &'a StatusCell,
    pub(super) policy: &'a mut Policy,
    pub(super) last: &'a mut Option<Ack>,
    pub(super) trail: &'a Trail,
    pub(super) trace: &'a mut Option<Trace>,
    pub(super) diverged: &'a mut Option<String>,
    /// The last block that came again and is the one that the journal has.
    pub(super) agreed: Option<Pointer>,
    pub(super) commits: &'a Commits,
    pub(super) journal: JournalId,
}

impl Receipts<'_> {
    /// Runs until the router refuses something or is gone.
    pub(super) async fn run(&mut self) -> Outcome {
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

    async fn acked(&mut self, ack: append::Ack) -> Result<(), Outcome> {
        let Some(sent) = self.window.acked() else {
            let cause = format!("the router acknowledged {}, which was not sent", ack.pointer);
            return Err(failed("router", &cause));
        };
        if sent.pointer != ack.pointer {
            let (sent, got) = (&sent.pointer, &ack.pointer);
            let cause = format!("the router acknowledged {got} where {sent} was sent");
            return Err(failed("router", &cause));
        }
        let ack = Ack {
            pointer: ack.pointer,
            height: sent.height,
            generation: ack.generation,
            digest: ack.digest,
            time: sent.time,
            durability: ack.durability,
            duplicate: ack.duplicate,
            unverifiable: ack.unverifiable,
        };
        self.tell(&sent, &ack);
        drop(sent.room);
        if sent.gap.is_none()
            && let Err(error) = self.source.durable(&ack).await
        {
            // The block is safe; only the source's own files are not in order.
            tracing::warn!(ingestor = %self.status.ingestor(), %error, "after a durable block");
        }
        if ack.duplicate || ack.unverifiable {
            self.agreed = (!ack.unverifiable).then_some(ack.pointer);
            return Ok(());
        }
        self.progress();
        self.commits.offer(self.commit(&ack));
        *self.last = Some(ack);
        Ok(())
    }

    fn tell(&self, sent: &InFlight, ack: &Ack) {
        match &sent.gap {
            Some(gap) => {
                self.trail.note(AuditKind::Gap, gap.to_string());
                self.status.gap(gap, sent.height);
                self.status.advanced(ack);
            }
            None if ack.duplicate || ack.unverifiable => self.status.advanced(ack),
            None => self.status.acked(ack, sent.changes, sent.bytes),
        }
        self.status.inflight(self.window.flying());
    }

    /// A new block became durable: what stood in the way is over.
    fn progress(&mut self) {
        if self.policy.blocked().is_some() {
            self.trail.note(AuditKind::Unblocked, "blocks are captured again");
        }
        self.policy.progress();
        self.status.failures(self.policy);
        *self.trace = None;
        if self.diverged.take().is_some() {
            self.status.note("diverged", None);
        }
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
        if let AppendError::Divergent { store, message, .. } = &error
            && let Some(suspect) = &suspect
        {
            let found = self.divergence(suspect, store.as_deref(), message).await;
            return match found {
                Ok(found) => self.went_back(found).await,
                Err(error) => append_failed(&error, Some(suspect.pointer.clone())),
            };
        }
        let pointer = suspect.map(|suspect| suspect.pointer);
        let about_a_block = matches!(
            error,
            AppendError::Divergent { .. }
                | AppendError::WrongParent { .. }
                | AppendError::Invalid(_)
                | AppendError::Refused(_)
        );
        if about_a_block {
            let refusal = Refusal {
                pointer: pointer.clone(),
                reason: refusal_reason(&error).to_owned(),
                message: error.to_string(),
            };
            if self.source.refused(&refusal).await == Verdict::Continue {
                return Outcome::Refused(refusal.message);
            }
        }
        append_failed(&error, pointer)
    }

    /// What differs, from both sides.
    async fn divergence(
        &mut self,
        sent: &Sending,
        store: Option<&str>,
        message: &str,
    ) -> Result<Divergence, AppendError> {
        let stored = self.journals.block(self.status.ingestor(), &sent.pointer, None).await?;
        let parent = match &stored {
            Some(stored) if sent.parent.is_origin() => stored.parent.clone(),
            _ => sent.parent.clone(),
        };
        let cause = match &stored {
            Some(stored) => regress::differs(stored, sent, store),
            None => message.to_owned(),
        };
        let parent_agrees = self.agreed.as_ref() == Some(&parent);
        Ok(Divergence { at: sent.pointer.clone(), parent, cause, parent_agrees })
    }

    /// The source gives another block than the journal has.
    async fn went_back(&mut self, found: Divergence) -> Outcome {
        if self.diverged.as_ref() != Some(&found.cause) {
            self.trail.note(AuditKind::Diverged, &found.cause);
            self.status.note("diverged", Some(found.cause.clone()));
            *self.diverged = Some(found.cause.clone());
        }
        if self.on_regress == OnRegress::Generation {
            let cause = found.cause.clone();
            *self.trace = Some(match self.trace.take() {
                Some(trace) => trace.again(found),
                None => Trace::new(found),
            });
            return Outcome::Diverged(cause);
        }
        let refusal = Refusal {
            pointer: Some(found.at.clone()),
            reason: sluice_proto::reason::DIVERGENT.to_owned(),
            message: found.cause.clone(),
        };
        if self.source.refused(&refusal).await == Verdict::Continue {
            return Outcome::Refused(refusal.message);
        }
        regress::blocked(self.status.ingestor(), &found.at, &found.cause)
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}
