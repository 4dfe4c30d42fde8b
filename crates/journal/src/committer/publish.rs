//! Making durable blocks visible: to the index, the tail cache, the readers and whoever waits.

use std::sync::Arc;

use super::{Append, Core, Written};
use crate::{
    assembler::Outcome,
    index::Draft,
    shared::State,
    tail::{Location, weight},
};

impl Core {
    /// Makes whole blocks visible and acknowledges them.
    pub(super) fn publish(&mut self) {
        let (Some(segment), false) = (&self.segment, self.unsynced.is_empty()) else { return };
        let (number, len) = (segment.number, segment.len);
        let log = Arc::clone(&self.log);
        let mut replies = Vec::new();
        let mut state = log.state.write();
        for Written { head, mut job } in std::mem::take(&mut self.unsynced) {
            self.cache(&mut job, (number, head.offset));
            match self.assembler.push(&head, &job.header, number) {
                Ok(Outcome::Whole(drafts)) => self.show(drafts, &mut state),
                Ok(Outcome::Nothing) => {}
                // Admission has checked the chain, so this cannot be; nothing is acknowledged.
                Err(broken) => {
                    tracing::error!(?broken, "an admitted block does not follow the head");
                    job.reply = None;
                }
            }
            replies.extend(job.reply.take());
        }
        if let Some(active) = &mut state.active {
            active.len = len;
        }
        state.head = self.assembler.head.clone();
        state.aborted_parts = self.control.aborted_parts + self.assembler.aborted;
        state.append_refused = None;
        drop(state);
        log.announce();
        for (reply, receipt) in replies {
            // Whoever gave the ticket up does not need it.
            reply.send(Ok(receipt)).ok();
        }
    }

    fn show(&mut self, drafts: Vec<Draft>, state: &mut State) {
        if let Some(active) = &mut state.active {
            active.index.push(drafts, self.assembler.head.clone());
        }
        let frames = self.cached.replace(Vec::new());
        self.cached_bytes = 0;
        let mut tail = self.log.tail.lock();
        for (location, frame) in frames.into_iter().flatten() {
            tail.push(location, frame);
        }
    }

    /// Keeps a frame for the tail cache until its block is whole.
    fn cache(&mut self, job: &mut Append, location: Location) {
        if job.header.part == 0 {
            self.forget_cached();
        }
        let Some(frame) = job.cached.take() else {
            self.cached = None;
            return;
        };
        self.cached_bytes += weight(&frame);
        if self.cached_bytes > self.log.options.tail_cache_bytes / 2 {
            self.cached = None;
        }
        if let Some(frames) = &mut self.cached {
            frames.push((location, frame));
        }
    }

    pub(super) fn forget_cached(&mut self) {
        self.cached = Some(Vec::new());
        self.cached_bytes = 0;
    }
}
