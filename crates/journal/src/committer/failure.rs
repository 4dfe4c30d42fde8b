//! What the committer does when the disk fails or is full.

use std::sync::atomic::Ordering;

use super::{Append, Core, expected};
use crate::{AppendError, error::Fault};

impl Core {
    /// Refuses blocks because of a failed file operation; poisons the writer unless room is all
    /// that was missing.
    pub(super) fn refuse_for(&mut self, fault: &Fault, jobs: Vec<Append>) {
        let error = if fault.is_full() && self.poisoned.is_none() {
            let reason = fault.to_string();
            self.log.state.write().append_refused = Some(reason.clone());
            self.assembler.abort();
            self.forget_cached();
            self.expected = expected(&self.assembler.head);
            // Everything queued was prepared on top of what is refused now.
            self.log.resets.fetch_add(1, Ordering::AcqRel);
            AppendError::DiskFull { reason }
        } else {
            let reason = fault.to_string();
            self.poison(reason.clone());
            AppendError::Poisoned { reason }
        };
        for job in jobs {
            refuse(job, &error);
        }
    }

    /// Gives up on the segment after a failure that leaves unknown what the disk holds. Nothing
    /// that waits is acknowledged; the next open goes on in another file.
    pub(crate) fn poison(&mut self, reason: String) {
        if self.poisoned.is_some() {
            return;
        }
        tracing::error!(ingestor = %self.log.ingestor, reason, "the writer is poisoned");
        self.poisoned = Some(reason.clone());
        if let Some(segment) = &mut self.segment {
            segment.len = segment.durable;
            self.control.newest = segment.number;
            self.control.durable = segment.durable;
            self.control.sealed = true;
            self.control.head = self.assembler.head.clone();
            if let Err(fault) = self.control_file.write(&self.control) {
                tracing::error!(%fault, "the failure was not recorded");
            }
        }
        self.seal();
        self.assembler.abort();
        self.forget_cached();
        self.expected = expected(&self.assembler.head);
        let mut state = self.log.state.write();
        state.append_refused = Some(reason.clone());
        state.poisoned = Some(reason.clone());
        drop(state);
        // Last, so that whoever is refused finds the failure recorded.
        let error = AppendError::Poisoned { reason };
        for written in std::mem::take(&mut self.unsynced) {
            refuse(written.job, &error);
        }
    }
}

/// Tells whoever waits for the block why it was not appended.
pub(super) fn refuse(job: Append, error: &AppendError) {
    if let Some((reply, _)) = job.reply {
        reply.send(Err(error.clone())).ok();
    }
}
