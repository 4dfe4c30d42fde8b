//! Frames on their way into the spool.

use std::collections::VecDeque;

use sluice_frame::Frame;

use crate::spool::{Place, Spool, SpoolError};

/// What became of frames on their way into the spool.
#[derive(Default)]
pub(super) struct Spooled {
    pub(super) rest: VecDeque<Frame>,
    /// Blocks that are whole, with their heights.
    pub(super) done: Vec<(Place, u64)>,
    pub(super) full: Option<String>,
    pub(super) unsynced: u64,
}

/// Appends frames as far as there is room, making some of what the journal has.
pub(super) fn append(
    spool: &mut Spool,
    mut frames: VecDeque<Frame>,
    durable: &Place,
) -> Result<Spooled, SpoolError> {
    let mut spooled = Spooled::default();
    while let Some(frame) = frames.front() {
        match spool.append(frame) {
            Err(error @ SpoolError::Full { .. }) => {
                if !spool.make_room(durable)? {
                    spooled.full = Some(error.to_string());
                    break;
                }
            }
            other => {
                other?;
                let header = &frame.header;
                if header.end.is_some() {
                    let place = (header.generation, header.pointer.clone());
                    spooled.done.push((place, header.height));
                }
                frames.pop_front();
            }
        }
    }
    spooled.rest = frames;
    spooled.unsynced = spool.unsynced_bytes();
    Ok(spooled)
}
