//! A block that another replica sends, checked while its frames pass. Pure.

use bytes::Bytes;
use sluice_frame::{Digester, Frame};
use sluice_model::{Digest, IngestorName, Kind, Pointer};

use crate::spool::Place;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Whose block.
    pub ingestor: IngestorName,
    /// Which block.
    pub place: Place,
    /// The block that it must follow.
    pub parent: Pointer,
    /// Bytes of frames that it may have.
    pub limit: u64,
}

/// Takes the frames of one block in order and says what is wrong with them, if anything is.
#[derive(Debug)]
pub struct Incoming {
    asked: Asked,
    digester: Option<Digester>,
    height: u64,
    parts: u32,
    changes: u32,
    bytes: u64,
    complete: bool,
}

impl Incoming {
    /// Nothing came yet.
    pub const fn new(asked: Asked) -> Self {
        Self { asked, digester: None, height: 0, parts: 0, changes: 0, bytes: 0, complete: false }
    }

    /// Takes the next frame. With the last one of the block everything about it was checked: its
    /// place, its parent, the encoding of every change, its counts and its digests.
    pub fn take(&mut self, encoded: Bytes) -> Result<Frame, String> {
        self.bytes = self.bytes.saturating_add(encoded.len() as u64);
        if self.bytes > self.asked.limit {
            let limit = self.asked.limit;
            return Err(format!("the block has more than {limit} bytes; raise spool_bytes"));
        }
        let frame = Frame::parse(encoded).map_err(|error| error.to_string())?;
        self.check_place(&frame)?;
        frame.verify().map_err(|error| error.to_string())?;
        let header = &frame.header;
        let new = || {
            let (generation, pointer) = self.asked.place.clone();
            Digester::new(Digest::ZERO, generation, pointer, header.height)
        };
        let mut digester = self.digester.take().unwrap_or_else(new);
        digester.add(&frame).map_err(|error| error.to_string())?;
        self.height = header.height;
        self.parts += 1;
        self.changes = self.changes.saturating_add(header.changes());
        match &header.end {
            None => self.digester = Some(digester),
            Some(end) => {
                let digests = digester.finish();
                if (end.parts, end.changes) != (self.parts, self.changes) {
                    return Err(format!(
                        "it ends with {} parts and {} changes, but {} and {} came",
                        end.parts, end.changes, self.parts, self.changes
                    ));
                }
                if digests.states != end.states || digests.metadata != end.metadata_digest {
                    return Err("its digests are not those of its changes".to_owned());
                }
                self.complete = true;
            }
        }
        Ok(frame)
    }

    /// True when the last frame was taken.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    fn check_place(&self, frame: &Frame) -> Result<(), String> {
        let header = &frame.header;
        let (asked, place) = (&self.asked, (header.generation, header.pointer.clone()));
        if self.complete {
            return Err("frames came after the block's last".to_owned());
        }
        if header.kind != Kind::Block || header.ingestor != asked.ingestor {
            return Err(format!(
                "it is no block of {}, but of {}",
                asked.ingestor, header.ingestor
            ));
        }
        if place != asked.place {
            return Err(format!(
                "it is block {} of generation {}, but {} of generation {} was asked for",
                place.1, place.0, asked.place.1, asked.place.0
            ));
        }
        if header.parent != asked.parent {
            let (got, expected) = (&header.parent, &asked.parent);
            return Err(format!("it has the parent {got}, but the last block is {expected}"));
        }
        if header.part != self.parts || header.first_index != self.changes {
            let (got, due) = (header.part, self.parts);
            return Err(format!("part {got} came where part {due} was due"));
        }
        if self.parts > 0 && header.height != self.height {
            return Err("its parts name different heights".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
