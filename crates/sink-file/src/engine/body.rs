//! What a format adds to the engine.

use std::path::PathBuf;

use sluice_model::{Digest, Generation, Position};

use crate::{
    error::FileError,
    files::Files,
    manifest::{FileLine, Line},
};

/// Where the files of a range belong.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    pub(crate) dir: PathBuf,
    pub(crate) generation: Generation,
    pub(crate) from: u64,
}

/// What closing a range made.
#[derive(Debug, Default)]
pub(crate) struct Sealed {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) digest: Digest,
    pub(crate) first: Option<String>,
    pub(crate) last: Option<String>,
    pub(crate) files: Vec<FileLine>,
    /// Files that are superseded once the commit is durable.
    pub(crate) stale: Vec<PathBuf>,
}

/// From what an open range is restored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// What [`Body::save`] wrote.
    Saved(&'a serde_json::Value),
    /// The closed range that it was.
    Line(&'a Line),
}

/// What differs between the formats: what is in a range.
pub(crate) trait Body: Send + std::fmt::Debug {
    /// An open range's content.
    type Open: Send + Default + std::fmt::Debug;

    /// True if the range must close at the end of the block.
    fn is_full(&self, open: &Self::Open) -> bool;

    /// The last block in an open range that has content, and its height.
    fn last_block(&self, open: &Self::Open) -> Option<(Position, u64)>;

    /// Writes the files of a range that closes at height `to`. `known` is the line that a run
    /// before a restart wrote for the same range: files that it names with the same digest need
    /// not be written again.
    fn seal(
        &mut self,
        files: &mut Files,
        spot: &Spot,
        to: u64,
        open: Self::Open,
        known: Option<&Line>,
    ) -> Result<Sealed, FileError>;

    /// Makes the content durable and says what [`Body::restore`] needs to find it.
    fn save(
        &mut self,
        files: &mut Files,
        spot: &Spot,
        open: &mut Self::Open,
    ) -> Result<serde_json::Value, FileError>;

    /// Restores content, up to and including `target` if one is given, without changing files
    /// that have their name. `None` if the files are not what was saved.
    fn restore(
        &mut self,
        files: &mut Files,
        spot: &Spot,
        source: Source<'_>,
        target: Option<&Position>,
    ) -> Result<Option<Self::Open>, FileError>;

    /// Files of a saved range that is given up.
    fn saved_files(&self, spot: &Spot, saved: &serde_json::Value) -> Vec<PathBuf>;
}
