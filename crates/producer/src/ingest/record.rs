//! Control records: gaps and generations that the owner writes between two runs of its source.

use std::sync::Arc;

use bytes::Bytes;
use sluice_client::append::{self, AppendError};
use sluice_frame::{BlockEnd, Frame, Header, Record};
use sluice_model::{Durability, Epoch, Generation, Head, IngestorName, Kind, Pointer};

use super::{
    Ingest,
    attempt::{Ready, append_failed, coordination_failed},
};
use crate::{control, policy::Outcome, seam::Ownership, source::Ack};

/// Blocks that are missing, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// First missing block.
    pub from: Pointer,
    /// Last missing block.
    pub to: Pointer,
    /// Why.
    pub cause: String,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "blocks {} to {}: {}", self.from, self.to, self.cause)
    }
}

/// Where a history begins, who wanted it and why.
pub(super) struct Base {
    pub(super) block: Head,
    pub(super) actor: String,
    pub(super) reason: String,
}

impl Base {
    /// For the trail.
    pub(super) fn told(&self, generation: Generation) -> String {
        let Head { pointer, generation: of, digest, .. } = &self.block;
        let begun = control::begun(generation, pointer);
        format!("{begun} (generation {of}, {}): {}", digest.short(), self.reason)
    }
}

/// The frame of a gap behind `parent`.
pub(super) fn gap(
    ingestor: &IngestorName,
    generation: Generation,
    (parent, height): (Pointer, u64),
    gap: &Gap,
    epoch: Epoch,
) -> Frame {
    let Gap { from, to, cause } = gap.clone();
    let mut header = Header::new(Kind::Gap, ingestor.clone(), to.clone(), height);
    header.generation = generation;
    header.parent = parent;
    header.record = Some(Record::Gap { from, to, cause });
    whole(header, epoch)
}

/// The frame that begins `generation` at `base`, on top of `parent`.
fn generation(
    ingestor: &IngestorName,
    generation: Generation,
    parent: Pointer,
    base: &Base,
    epoch: Epoch,
) -> Frame {
    let Head { pointer, height, generation: base_generation, digest, .. } = base.block.clone();
    let mut header = Header::new(Kind::Generation, ingestor.clone(), pointer.clone(), height);
    header.generation = generation;
    header.parent = parent;
    header.record = Some(Record::GenerationStart {
        generation,
        base_generation,
        base_pointer: pointer,
        base_digest: digest,
        reason: base.reason.clone(),
        actor: base.actor.clone(),
    });
    whole(header, epoch)
}

fn whole(mut header: Header, epoch: Epoch) -> Frame {
    header.epoch = epoch;
    header.end = Some(BlockEnd { parts: 1, ..BlockEnd::default() });
    Frame { header, changes: Bytes::new() }
}

impl Ingest {
    /// Begins histories at a base until the head is of generation `last`, and moves the commit
    /// there. A journal that lost whole histories begins one for each, so that no number is used
    /// twice.
    pub(super) async fn begin_generation(
        &mut self,
        lock: &Arc<dyn Ownership>,
        ready: &mut Ready,
        base: &Base,
        last: Generation,
    ) -> Result<(), Outcome> {
        loop {
            let head = ready.opened.head.as_ref();
            let at = head.map_or(Generation(0), |head| head.generation);
            if at >= last {
                break;
            }
            let next = Generation(at.0.saturating_add(1));
            let parent = head.map(|head| head.pointer.clone()).unwrap_or_default();
            let base = Base {
                // The second one has the first as its base, which is the same block.
                block: base.block.clone(),
                actor: base.actor.clone(),
                reason: base.reason.clone(),
            };
            let frame = generation(&self.parts.ingestor, next, parent, &base, lock.epoch());
            let ack = self.append(ready, &frame).await?;
            let height = base.block.height;
            self.reached(ready, &ack, height);
        }
        // What the own process saw durable belongs to a history that is over.
        ready.loss = None;
        self.trace = None;
        self.commit_head(lock, ready).await
    }

    /// Appends a control record and waits until it is durable.
    pub(super) async fn append(
        &self,
        ready: &mut Ready,
        frame: &Frame,
    ) -> Result<append::Ack, Outcome> {
        match ready.opened.frames.send(frame).await {
            // The acknowledgements tell why.
            Ok(()) | Err(AppendError::Ended) => {}
            Err(error) => return Err(append_failed(&error, None)),
        }
        match ready.opened.acks.next().await {
            Ok(Some(ack)) if ack.pointer == frame.header.pointer => Ok(ack),
            Ok(Some(ack)) => {
                let (sent, got) = (&frame.header.pointer, ack.pointer);
                let cause = format!("the router acknowledged {got} where {sent} was sent");
                Err(super::attempt::failed("router", &cause))
            }
            Ok(None) => Err(super::attempt::failed("router", "the router ended the append stream")),
            Err(error) => Err(append_failed(&error, None)),
        }
    }

    /// The head is this record now.
    pub(super) fn reached(&mut self, ready: &mut Ready, ack: &append::Ack, height: u64) {
        let head = Head {
            generation: ack.generation,
            pointer: ack.pointer.clone(),
            height,
            digest: ack.digest,
            time: None,
            appended: crate::status::now(),
        };
        self.last = Some(Ack {
            pointer: ack.pointer.clone(),
            height,
            generation: ack.generation,
            digest: ack.digest,
            time: None,
            durability: ack.durability,
            duplicate: false,
            unverifiable: false,
        });
        self.parts.status.opened(Some(&head));
        ready.opened.head = Some(head);
        ready.repair = true;
        self.progressed();
    }

    /// Moves the commit to the head, now.
    pub(super) async fn commit_head(
        &self,
        lock: &Arc<dyn Ownership>,
        ready: &mut Ready,
    ) -> Result<(), Outcome> {
        let Some(head) = ready.opened.head.as_ref().filter(|head| {
            // A first commit of nothing says nothing.
            ready.repair && !(head.pointer.is_origin() && ready.commit.is_none())
        }) else {
            return Ok(());
        };
        let durability = self.last.as_ref().map_or(Durability::None, |last| last.durability);
        let mut commit = self.commit_of(ready.id, head, durability);
        commit.previous = ready.commit.as_ref().map(|c| c.pointer.clone()).unwrap_or_default();
        loop {
            match lock.commit(&commit).await {
                Err(error) if error.is_transient() && lock.is_valid() => {
                    tracing::warn!(ingestor = %commit.ingestor, %error, "commit; trying again");
                    tokio::time::sleep(self.parts.rules.first).await;
                }
                Err(error) => return Err(coordination_failed(&error)),
                Ok(stored) => {
                    self.parts.status.commit_moved(stored.pointer.clone());
                    (ready.commit, ready.repair) = (Some(stored), false);
                    return Ok(());
                }
            }
        }
    }
}
