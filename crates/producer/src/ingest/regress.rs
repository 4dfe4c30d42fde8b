//! A chain that went back: its source gives other blocks than the journal has.

use std::sync::Arc;

use sluice_client::coordination::AuditKind;
use sluice_frame::StateDigest;
use sluice_model::{Generation, Head, IngestorName, Pointer};

use super::{
    Ingest,
    attempt::{Ready, append_failed, source_failed},
    record::Base,
    trace::{Divergence, Reach, Search, Trace},
    window::Sending,
};
use crate::{
    policy::{Failure, Outcome},
    seam::{Ownership, StoredBlock},
    source::{Again, Feed},
};

/// Who begins a generation that nobody asked for.
const ACTOR: &str = "on_regress";

impl Ingest {
    /// Starts the source: behind the head, or wherever the last block is to be found that it and
    /// the journal both have.
    pub(super) async fn begin_source(
        &mut self,
        lock: &Arc<dyn Ownership>,
        ready: &mut Ready,
    ) -> Result<Feed, Outcome> {
        let tracing = self.trace.take();
        if let Some((trace, head)) = tracing.zip(ready.opened.head.clone())
            && let Some(feed) = self.look_back(trace, &head, lock, ready).await?
        {
            return Ok(feed);
        }
        // A journal that lost every block begins again like an empty one.
        let head = ready.opened.head.as_ref().filter(|head| !head.pointer.is_origin());
        self.parts.source.blocks(head).await.map_err(|error| source_failed(&error))
    }

    /// The next step of the search. A feed if the source sends blocks again; `None` when a new
    /// generation has begun.
    async fn look_back(
        &mut self,
        trace: Trace,
        head: &Head,
        lock: &Arc<dyn Ownership>,
        ready: &mut Ready,
    ) -> Result<Option<Feed>, Outcome> {
        let base = match trace.search() {
            Search::Base(base) => Ok(base),
            Search::Earlier(from) => {
                let again = self.parts.source.again(head, &from, &trace.found.at).await;
                let again = again.map_err(|error| source_failed(&error))?;
                let reach = again
                    .as_ref()
                    .map(|again| Reach { first: again.first.clone(), made_anew: again.made_anew });
                match (trace.reached(reach.as_ref()), again) {
                    (None, Some(Again { feed, .. })) => {
                        self.trace = Some(trace);
                        return Ok(Some(feed));
                    }
                    (base, _) => base.unwrap_or_else(|| Ok(trace.found.parent.clone())),
                }
            }
        };
        let Divergence { at, cause, .. } = trace.found;
        let base = base.map_err(|stuck| blocked(&self.parts.ingestor, &at, &stuck))?;
        self.new_history(base, &at, &cause, lock, ready).await.map(|()| None)
    }

    async fn new_history(
        &mut self,
        base: Pointer,
        at: &Pointer,
        cause: &str,
        lock: &Arc<dyn Ownership>,
        ready: &mut Ready,
    ) -> Result<(), Outcome> {
        let ingestor = self.parts.ingestor.clone();
        let none = || blocked(&ingestor, at, &format!("{cause}; no block is in both histories"));
        if base.is_origin() {
            return Err(none());
        }
        let stored = self.parts.journals.block(&ingestor, &base, None).await;
        let stored = match stored {
            Ok(stored) => stored.ok_or_else(none)?,
            Err(error) if error.is_transient() => return Err(append_failed(&error, None)),
            // Retention has passed it.
            Err(error) => return Err(blocked(&ingestor, at, &format!("{cause}; {error}"))),
        };
        let next = ready.opened.head.as_ref().map_or(0, |head| head.generation.0);
        let next = Generation(next.saturating_add(1));
        let reason = format!("the chain went back: {cause}");
        let base = Base { block: stored.head, actor: ACTOR.to_owned(), reason };
        self.begin_generation(lock, ready, &base, next).await?;
        self.trail.note_by(AuditKind::Generation, ACTOR, base.told(next));
        self.diverged = None;
        self.parts.status.note("diverged", None);
        Ok(())
    }
}

/// The failure of a source that went back.
pub(super) fn blocked(ingestor: &IngestorName, at: &Pointer, cause: &str) -> Outcome {
    Outcome::Failed(Failure {
        pointer: Some(at.clone()),
        cause: format!(
            "{cause}; put the source right, or leave the journal's history: sluice ingestors \
             rewind {ingestor}"
        ),
        lasting: true,
        reason: "diverged",
    })
}

/// What differs between a stored block and one that was sent in its place.
pub(super) fn differs(stored: &StoredBlock, sent: &Sending, store: Option<&str>) -> String {
    let at = &sent.pointer;
    let generation = stored.head.generation;
    let ours = |store: &str| of(&stored.states, store);
    let theirs = |store: &str| of(&sent.states, store);
    match store {
        Some(store) => format!(
            "the source gives another block {at} than the journal has (generation {generation}): \
             the digest of store {store} is {} in the journal and {} from the source",
            ours(store),
            theirs(store),
        ),
        None => format!(
            "the source gives another block {at} than the journal has (generation {generation}, \
             {}): its stores are the same, its parent is {} and not {}, or its height differs",
            stored.head.digest, sent.parent, stored.parent,
        ),
    }
}

fn of(states: &[StateDigest], store: &str) -> String {
    let found = states.iter().find(|state| state.store == store);
    found.map_or_else(|| "nothing".to_owned(), |state| state.digest.to_string())
}
