//! From a source's pieces to frames with state digests, for a block that is kept and not sent.

use std::{mem, sync::Arc};

use bytes::{Bytes, BytesMut};
use sluice_frame::{BlockBuilder, BlockStart, Digester, Frame, FrameError, canonicalize};
use sluice_model::{Digest, Epoch, Generation, IngestorName, Pointer, TopicRules};

use crate::{
    source::{Begin, Item, Piece},
    stores::Stores,
};

/// What came of an item.
#[derive(Debug, Default)]
pub struct Assembled {
    /// Frames that are complete, in order; the last of a block has its end and its state digests.
    pub frames: Vec<Frame>,
    /// The unfinished block is forgotten.
    pub aborted: bool,
    /// A block that came before, or lies before the first one, came again. It is left out.
    pub again: Option<Pointer>,
}

/// Cuts blocks into frames as the owner would, apart from the epoch.
#[derive(Debug)]
pub struct Assembler<'t> {
    ingestor: IngestorName,
    generation: Generation,
    topics: &'t TopicRules,
    metadata_limit: usize,
    /// The last block.
    tail: Pointer,
    current: Option<Current<'t>>,
    /// A block at or below the tail, while it comes.
    again: Option<Pointer>,
}

#[derive(Debug)]
struct Current<'t> {
    begin: Begin,
    builder: BlockBuilder<'t>,
    digester: Digester,
    offered: u32,
    metadata: Option<(Arc<str>, BytesMut)>,
}

impl<'t> Assembler<'t> {
    /// For the blocks after `tail`.
    pub const fn new(
        ingestor: IngestorName,
        generation: Generation,
        topics: &'t TopicRules,
        metadata_limit: usize,
        tail: Pointer,
    ) -> Self {
        Self { ingestor, generation, topics, metadata_limit, tail, current: None, again: None }
    }

    /// The last block that is complete.
    pub const fn tail(&self) -> &Pointer {
        &self.tail
    }

    /// Takes a source's next item. A gap moves the tail behind it. An error is
    /// about the block, in words; the block is forgotten.
    pub fn take(&mut self, item: Item, stores: &mut Stores) -> Result<Assembled, String> {
        let took = self.item(item, stores);
        took.map_err(|cause| match self.current.take() {
            Some(current) => format!("block {}: {cause}", current.begin.pointer),
            None => cause,
        })
    }

    fn item(&mut self, item: Item, stores: &mut Stores) -> Result<Assembled, String> {
        let mut assembled = Assembled::default();
        match item {
            Item::Begin(begin) if begin.pointer <= self.tail => {
                assembled.aborted = self.current.take().is_some();
                self.again = Some(begin.pointer);
            }
            Item::Changes(_) | Item::Metadata { .. } if self.again.is_some() => {}
            Item::End { .. } if self.again.is_some() => assembled.again = self.again.take(),
            Item::Begin(begin) => {
                assembled.aborted = self.current.is_some();
                self.begin(begin)?;
            }
            Item::Changes(piece) => assembled.frames = self.changes(&piece, stores)?,
            Item::Metadata { type_url, value } => self.metadata(type_url, &value)?,
            Item::End { changes, traceparent } => {
                assembled.frames = self.end(changes, &traceparent)?;
            }
            Item::Abort => {
                self.again = None;
                assembled.aborted = self.current.take().is_some();
            }
            Item::Gap { to, .. } => {
                assembled.aborted = self.current.take().is_some();
                self.tail = to;
            }
            Item::Progress { .. } | Item::Finished => {}
        }
        Ok(assembled)
    }

    fn begin(&mut self, begin: Begin) -> Result<(), String> {
        (self.current, self.again) = (None, None);
        let parent = begin.parent.clone().unwrap_or_else(|| self.tail.clone());
        if parent != self.tail {
            let (pointer, tail) = (&begin.pointer, &self.tail);
            return Err(format!(
                "block {pointer} with the parent {parent} does not follow the last one, {tail}"
            ));
        }
        let start = BlockStart {
            ingestor: self.ingestor.clone(),
            generation: self.generation,
            pointer: begin.pointer.clone(),
            parent,
            height: begin.height,
            time: begin.time,
            epoch: Epoch::ZERO,
        };
        let (pointer, height) = (begin.pointer.clone(), begin.height);
        self.current = Some(Current {
            begin,
            builder: BlockBuilder::new(start, self.topics),
            digester: Digester::new(Digest::ZERO, self.generation, pointer, height),
            offered: 0,
            metadata: None,
        });
        Ok(())
    }

    fn changes(&mut self, piece: &Piece, stores: &mut Stores) -> Result<Vec<Frame>, String> {
        let kept = match stores.keep(&piece.bytes) {
            Ok(kept) => kept,
            Err(_) => {
                let canonical =
                    canonicalize(&piece.bytes).map_err(|error| piece.explain(&error))?;
                stores.keep(&canonical).map_err(|error| error.to_string())?
            }
        };
        let current = self.current.as_mut().ok_or("changes came outside of a block")?;
        current.offered = current.offered.saturating_add(kept.offered);
        let mut frames = Vec::new();
        for slice in &kept.slices {
            current.builder.push_changes(slice).map_err(|error| piece.explain(&error))?;
            while let Some(frame) = current.builder.take() {
                current.digester.add(&frame).map_err(|error| error.to_string())?;
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    fn metadata(&mut self, type_url: Arc<str>, value: &Bytes) -> Result<(), String> {
        let limit = self.metadata_limit;
        let current = self.current.as_mut().ok_or("metadata came outside of a block")?;
        let (_, whole) = current.metadata.get_or_insert_with(|| (type_url, BytesMut::new()));
        if whole.len() + value.len() > limit {
            return Err(format!("its metadata is larger than {limit} bytes"));
        }
        whole.extend_from_slice(value);
        Ok(())
    }

    fn end(&mut self, counted: Option<u32>, traceparent: &str) -> Result<Vec<Frame>, String> {
        let mut current = self.current.take().ok_or("a block ended that was not begun")?;
        let pointer = current.begin.pointer.clone();
        if let Some(counted) = counted.filter(|counted| *counted != current.offered) {
            let came = current.offered;
            return Err(format!("block {pointer}: {counted} changes were announced, {came} came"));
        }
        if let Some((type_url, value)) = current.metadata.take() {
            current.builder.set_metadata(&type_url, value.freeze());
        }
        let mut frames: Vec<Frame> = current.builder.finish(traceparent).into();
        close(current.digester, &mut frames).map_err(|error| error.to_string())?;
        self.tail = pointer;
        Ok(frames)
    }
}

/// Puts the state digests into the last of a block's remaining frames. The block's own digest
/// stays empty: it hangs on those of the blocks before, which only the journal knows.
fn close(mut digester: Digester, frames: &mut [Frame]) -> Result<(), FrameError> {
    for frame in frames.iter() {
        digester.add(frame)?;
    }
    if let Some(end) = frames.last_mut().and_then(|last| last.header.end.as_mut()) {
        digester.finish().fill(Digest::ZERO, end);
        mem::take(&mut end.digest);
    }
    Ok(())
}
