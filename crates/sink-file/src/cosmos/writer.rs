//! Which block files there are: one for every block, in order, also for those without a match.

use sluice_frame::{Frame, Header};
use sluice_model::{Checkpoint, Generation, Pointer, Position};
use tracing::warn;

use crate::{
    cosmos::{Block, Cosmos},
    engine::Engine,
    error::FileError,
    writer::Writer,
};

/// Why a block is in no file although it exists.
pub(super) const STARTED_INSIDE: &str =
    "the stream was started inside this block, so its file could not be whole";

/// The writer of block files.
#[derive(Debug)]
pub(crate) struct CosmosWriter {
    engine: Engine<Cosmos>,
    /// The height after the last whole block; unknown before the first block of a journal.
    next: Option<u64>,
}

impl CosmosWriter {
    pub(crate) const fn new(engine: Engine<Cosmos>) -> Self {
        Self { engine, next: None }
    }

    /// The next height to be written, from how far the files are.
    fn find_next(&mut self) {
        self.next = self.engine.cursor().and_then(|cursor| {
            let height = cursor.position.pointer.height()?;
            if cursor.position.is_end_of_block() { height.checked_add(1) } else { Some(height) }
        });
    }

    fn block_mut(&mut self) -> Option<&mut Block> {
        self.engine.open_mut().and_then(|open| open.block.as_mut())
    }

    /// Ends the block that is being written, because something after it has come.
    fn end_block(&mut self) -> Result<(), FileError> {
        let Some(block) = self.engine.open_mut().and_then(|open| open.block.take()) else {
            return Ok(());
        };
        self.next = block.height.checked_add(1);
        let at = block.at.clone();
        let height = block.height;
        let engine = &mut self.engine;
        engine.range_at(&at, height)?;
        engine.with_open(|files, open| open.end(files, block))
    }

    /// Writes the files of blocks in which nothing matched, up to and including a height. Blocks
    /// of a chain follow each other without holes; those that do not exist come as gaps.
    fn fill(&mut self, generation: Generation, to: u64) -> Result<(), FileError> {
        while let Some(height) = self.next.filter(|next| *next <= to) {
            let at = Position::end_of(generation, Pointer::from_height(height));
            let range = self.engine.range_at(&at, height)?;
            let from = range.from;
            let dir = self.engine.spot(from).dir;
            let block = self.engine.body.begin_block(&dir, at, height);
            self.engine.with_open(|files, open| open.end(files, block))?;
            self.next = height.checked_add(1);
        }
        Ok(())
    }

    fn enter_generation(
        &mut self,
        generation: Generation,
        base: &Pointer,
    ) -> Result<(), FileError> {
        let before = self.engine.cursor().map(|cursor| cursor.position.generation);
        let new = before.is_none_or(|before| generation > before);
        if new {
            self.end_block()?;
        }
        self.engine.enter_generation(generation, base)?;
        if new {
            self.find_next();
        }
        Ok(())
    }

    fn enter(&mut self, header: &Header) -> Result<Option<u64>, FileError> {
        let Some(height) = header.pointer.height() else {
            return Err(FileError::NoHeight(header.pointer.to_string()));
        };
        let end = header.end_of_block();
        self.enter_generation(header.generation, &header.parent)?;
        let cursor = self.engine.cursor().map(|cursor| cursor.position.clone());
        if self.engine.is_done(&end) {
            return Ok(None);
        }
        if self.block_mut().is_some_and(|block| block.at == end) {
            return Ok(Some(height));
        }
        self.end_block()?;
        if self.next.is_some_and(|next| height < next) {
            return Ok(None);
        }
        let inside = cursor.is_some_and(|at| !at.is_end_of_block() && at.pointer == header.pointer);
        if inside {
            warn!(height, "{STARTED_INSIDE}");
            let pointer = header.pointer.clone();
            self.engine.gap(&pointer, &pointer, STARTED_INSIDE)?;
            self.next = height.checked_add(1);
            return Ok(None);
        }
        let parent = header.parent.height().filter(|parent| *parent < height);
        if let Some(before) = parent.or_else(|| height.checked_sub(1)) {
            self.fill(header.generation, before)?;
        }
        let from = self.engine.range_at(&end, height)?.from;
        let dir = self.engine.spot(from).dir;
        let block = self.engine.body.begin_block(&dir, end, height);
        if let Some(open) = self.engine.open_mut() {
            open.block = Some(block);
        }
        Ok(Some(height))
    }
}

impl Writer for CosmosWriter {
    fn resume(&mut self) -> Result<Option<Checkpoint>, FileError> {
        self.engine.reload()
    }

    fn begin(&mut self, after: &Position, reset_epoch: u64) -> Result<(), FileError> {
        self.engine.begin(after, reset_epoch)?;
        self.find_next();
        Ok(())
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), FileError> {
        if self.enter(&frame.header)?.is_none() {
            return Ok(());
        }
        let keys = self.engine.body.keys.clone();
        self.engine.with_open(|files, open| match &mut open.block {
            Some(block) => block.take(frame, &keys, files),
            None => Ok(()),
        })?;
        if frame.header.end.is_some() { self.end_block() } else { Ok(()) }
    }

    fn gap(&mut self, from: &Pointer, to: &Pointer, cause: &str) -> Result<(), FileError> {
        let generation = self.engine.feed();
        let Some((low, high)) = from.height().zip(to.height()) else {
            return Err(FileError::NoHeight(from.to_string()));
        };
        if self.engine.is_done(&Position::end_of(generation, to.clone())) {
            return Ok(());
        }
        self.end_block()?;
        if let Some(before) = low.checked_sub(1) {
            self.fill(generation, before)?;
        }
        self.engine.gap(from, to, cause)?;
        self.next = high.checked_add(1);
        Ok(())
    }

    fn rewind(&mut self, generation: Generation, base: &Pointer) -> Result<(), FileError> {
        self.enter_generation(generation, base)
    }

    fn finish(&mut self, through: &Checkpoint, height: u64) -> Result<(), FileError> {
        let position = &through.position;
        if !self.engine.is_done(position) {
            let Some(reached) = position.pointer.height() else {
                return Err(FileError::NoHeight(position.pointer.to_string()));
            };
            // A batch may be cut behind metadata of a block whose changes have not come: that
            // block stays open.
            let ahead = self.block_mut().is_some_and(|block| block.at > *position);
            if position.is_end_of_block() && !ahead {
                self.end_block()?;
                // A journal whose first block is not known yet has at least this one.
                self.next = self.next.or(Some(reached));
                self.fill(position.generation, reached)?;
            }
        }
        self.engine.finish(through, height)
    }

    fn closed_ranges(&self) -> u64 {
        self.engine.closed()
    }
}
