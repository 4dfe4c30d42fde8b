//! What runs over every byte of a frame before it is queued. It runs on the caller's task, one
//! step after the other while the bytes are in the processor's cache: waking another thread and
//! being woken by it costs more than hashing beside the rest saves. Of a block that comes alone
//! only what must be known before it is written runs here; the rest is [`crate::late`].

use sluice_frame::{Digester, Frame, FrameError};

/// A frame that is what its table says.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) frame: Frame,
    pub(super) changes_crc: u32,
    /// Units of the slot that its digests come into; 0 if they are not late.
    pub(super) slot: u8,
}

/// Verifies a frame, takes it into the digests, if it has any, and sums it up.
pub(super) fn pass(frame: Frame, digester: Option<&mut Digester>) -> Result<Passed, FrameError> {
    frame.verify()?;
    if let Some(digester) = digester {
        digester.add(&frame)?;
    }
    let changes_crc = crc32c::crc32c(&frame.changes);
    Ok(Passed { frame, changes_crc, slot: 0 })
}
