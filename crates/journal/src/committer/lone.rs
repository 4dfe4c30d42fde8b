//! Blocks that come alone: committed by their tickets, completed after they are durable.

use std::sync::{Arc, Weak};

use sluice_frame::{FrameError, Header};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Core, Written};
use crate::{Help, error::At, files::write_all, late::Late, record::RecordHead, shared::Log};

/// What a ticket does for its block.
#[derive(Debug)]
pub(crate) struct Helper {
    pub(crate) log: Arc<Log>,
    pub(crate) late: Arc<Late>,
}

impl Help for Helper {
    fn help(&self) {
        let core = self.log.core.get().and_then(Weak::upgrade);
        // Only a runtime of several threads goes on while one of them waits for the disk.
        let many = |handle: Handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread;
        let core = core.filter(|_| Handle::try_current().is_ok_and(many));
        let free = core.as_ref().and_then(|core| core.try_lock());
        let Some(mut core) = free else {
            self.log.queue.queue_lone();
            // The disk is waited for elsewhere.
            self.late.run();
            return;
        };
        if let Some(lone) = self.log.queue.take_lone() {
            tokio::task::block_in_place(|| core.commit(vec![*lone]));
        }
    }

    fn leave(&self) {
        self.log.queue.queue_lone();
    }
}

impl Core {
    /// Completes what is durable now and was written without its digests; gives the records
    /// whose slots wait for them.
    pub(super) fn complete(&mut self) -> Result<Vec<Completed>, Arc<FrameError>> {
        let mut completed = Vec::new();
        for Written { head, job } in &mut self.unsynced {
            let Some(late) = job.late.take() else { continue };
            let outcome = late.outcome()?;
            if let Some((_, receipt)) = &mut job.reply {
                receipt.digest = outcome.digest();
            }
            (job.header, job.cached) = (outcome.header, outcome.cached);
            completed.push((head.clone(), Arc::clone(&job.header)));
        }
        Ok(completed)
    }

    /// Stores the digests of blocks that are already acknowledged: they only repeat what follows
    /// from the blocks.
    pub(super) fn fill(&mut self, completed: &[Completed]) {
        let Some(segment) = &mut self.segment else { return };
        for (head, header) in completed {
            let slot = header.end.as_ref().and_then(|end| head.fill(end));
            let Some(slot) = slot else { continue };
            let filled = write_all(segment.file.as_ref(), &slot, head.slot_at());
            if let Err(fault) = filled.at("write", &segment.path) {
                tracing::warn!(%fault, "the digests of a block were not stored");
                segment.spoiled = true;
            }
        }
    }
}

/// A record with a slot, and its complete header.
type Completed = (RecordHead, Arc<Header>);
