//! Blocks that come alone: committed by their tickets, completed after they are durable.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use sluice_frame::{FrameError, Header};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Core, Writing, Written, queue::HOVERING};
use crate::{
    Help, error::At, files::write_all, hover::Hover, late::Late, record::RecordHead, shared::Log,
    slot::Fill,
};

/// What a ticket does for its block.
#[derive(Debug)]
pub(crate) struct Helper {
    log: Arc<Log>,
    late: Arc<Late>,
    hover: Mutex<Option<Hover>>,
}

impl Helper {
    pub(crate) const fn new(log: Arc<Log>, late: Arc<Late>) -> Self {
        Self { log, late, hover: Mutex::new(None) }
    }
}

/// True if a ticket that is waited for on this thread commits its block itself: only a runtime of
/// several threads goes on while one of them waits for the disk.
pub(crate) fn commits_here() -> bool {
    let many = |handle: Handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread;
    Handle::try_current().is_ok_and(many)
}

impl Help for Helper {
    fn help(&self) {
        let core = self.log.core.get().and_then(Weak::upgrade).filter(|_| commits_here());
        let free = core.as_ref().and_then(|core| core.try_lock());
        let Some(mut core) = free else {
            let rapid = self.log.queue.queue_lone();
            // The disk is waited for elsewhere.
            self.late.run();
            *self.hover.lock() = rapid.then(|| Hover::begin(HOVERING)).flatten();
            return;
        };
        if let Some(lone) = self.log.queue.take_lone() {
            tokio::task::block_in_place(|| core.commit(vec![*lone]));
        }
    }

    fn hover(&self) -> bool {
        let mut hover = self.hover.lock();
        let on = hover.as_ref().is_some_and(Hover::pause);
        if !on {
            *hover = None;
        }
        on
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

    /// Keeps the digests of blocks that are already acknowledged until something is written, or
    /// nothing more is.
    pub(super) fn note_fills(&mut self, completed: &[Completed]) {
        let Some(segment) = &mut self.segment else { return };
        let fill = |(head, header): &Completed| header.end.as_ref().and_then(|end| head.fill(end));
        segment.fills.extend(completed.iter().filter_map(fill));
    }
}

impl Writing {
    /// Stores the digests that wait for it: they only repeat what follows from the blocks.
    pub(super) fn fill(&mut self) {
        for fill in std::mem::take(&mut self.fills) {
            let filled = write_all(self.file.as_ref(), &fill.bytes, fill.at);
            if let Err(fault) = filled.at("write", &self.path) {
                tracing::warn!(%fault, "the digests of a block were not stored");
                self.spoiled = true;
            }
        }
    }

    /// Stores them, but for those that end at `offset`, which can be written with what comes
    /// there.
    pub(super) fn fill_up_to(&mut self, offset: u64) -> Option<Fill> {
        let last = self.fills.pop_if(|fill| fill.end() == offset);
        self.fill();
        last
    }
}

/// A record with a slot, and its complete header.
type Completed = (RecordHead, Arc<Header>);

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::files::{Files, RealFiles, read_up_to};

    fn writing(dir: &std::path::Path) -> Writing {
        let path: PathBuf = dir.join("segment");
        let file = RealFiles.create(&path).unwrap();
        write_all(file.as_ref(), &[0; 256], 0).unwrap();
        Writing {
            number: 1,
            incarnation: 1,
            file,
            path,
            len: 256,
            durable: 256,
            marked: 256,
            file_len: 256,
            fills: Vec::new(),
            spoiled: false,
        }
    }

    #[test]
    fn a_slot_is_left_to_what_is_written_behind_it_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut writing = writing(dir.path());
        let fill = |at: u64, byte: u8| Fill { at, bytes: vec![byte; 64] };
        let stored = |writing: &Writing| {
            let bytes = read_up_to(writing.file.as_ref(), 0, 256).unwrap();
            bytes.chunks(64).map(|slot| slot[0]).collect::<Vec<_>>()
        };
        writing.fills = vec![fill(0, 1), fill(64, 2)];
        let last = writing.fill_up_to(128).expect("it ends there");
        assert_eq!((last.at, last.bytes[0]), (64, 2));
        assert_eq!(stored(&writing), [1, 0, 0, 0], "what stands elsewhere is stored");
        writing.fills = vec![fill(64, 2)];
        assert!(writing.fill_up_to(192).is_none(), "an open was recorded behind it");
        assert_eq!(stored(&writing), [1, 2, 0, 0]);
        writing.fills = vec![fill(128, 3), fill(192, 4)];
        writing.fill();
        assert_eq!(stored(&writing), [1, 2, 3, 4], "nothing more is written");
        assert!(writing.fills.is_empty() && !writing.spoiled);
    }
}
