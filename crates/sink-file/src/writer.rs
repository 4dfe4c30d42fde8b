use sluice_frame::Frame;
use sluice_model::{Checkpoint, Generation, Pointer, Position};

use crate::error::FileError;

/// The files of one stream in one format, as the dispatcher drives it: for each batch `begin`,
/// then frames and marks in order, then `finish`, after which everything is durable. Blocking.
///
/// After an error nothing of the batch counts; the next `begin` goes back to what is durable.
pub(crate) trait Writer: Send + std::fmt::Debug {
    /// How far the files are; `None` if they have not begun.
    fn resume(&mut self) -> Result<Option<Checkpoint>, FileError>;
    /// Begins a batch that holds everything after a position.
    fn begin(&mut self, after: &Position, reset_epoch: u64) -> Result<(), FileError>;
    /// Matching changes of a block, or its metadata.
    fn frame(&mut self, frame: &Frame) -> Result<(), FileError>;
    /// Blocks that do not exist.
    fn gap(&mut self, from: &Pointer, to: &Pointer, cause: &str) -> Result<(), FileError>;
    /// A new history begins behind a base.
    fn rewind(&mut self, generation: Generation, base: &Pointer) -> Result<(), FileError>;
    /// Ends the batch: everything that matches up to here has been given. Durable on return.
    fn finish(&mut self, through: &Checkpoint, height: u64) -> Result<(), FileError>;
    /// Ranges closed since the start.
    fn closed_ranges(&self) -> u64;
}
