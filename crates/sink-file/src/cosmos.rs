//! Block files as Cosmos nodes write them, byte for byte: one `block-N-data` per block and,
//! if asked for, one `block-N-meta`.
//!
//! ```text
//!   8 bytes  big-endian length of what follows
//!   data     [uvarint length][StoreKVPair] …     meta     one BlockMetadata
//! ```
//!
//! Every block has a data file, also one in which nothing matched: 8 zero bytes. Pairs keep the
//! bytes and the order in which they were captured; Cosmos sources give them sorted by store.

mod part;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};

use sluice_frame::{CHANGE_TAG, Elements, Frame, FrameError};
use sluice_model::{Digest, Pointer, Position};

use crate::{
    config::Keys,
    engine::{Body, Sealed, Source, Spot, id_text},
    error::FileError,
    files::Files,
    manifest::{Line, chain},
    names::{self, Layout},
};

use part::{Finished, Part, SavedPart};
pub(crate) use writer::CosmosWriter;

/// The content of files in format `cosmos`.
#[derive(Debug)]
pub(crate) struct Cosmos {
    pub(crate) prefix: String,
    pub(crate) metadata: bool,
    pub(crate) layout: Layout,
    pub(crate) keys: Keys,
}

/// What an open range has so far: its files are final already, so only their sums are kept, and
/// the block that has not ended.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    rows: u64,
    bytes: u64,
    digest: Digest,
    /// Heights of the first and last block file.
    bounds: Option<(u64, u64)>,
    last: Option<Position>,
    block: Option<Block>,
}

/// A block whose end has not come.
#[derive(Debug)]
struct Block {
    at: Position,
    height: u64,
    /// The last part that was taken in.
    part: Option<u32>,
    data: Part,
    meta: Option<Part>,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct SavedBlocks {
    rows: u64,
    bytes: u64,
    digest: Digest,
    bounds: Option<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    last: Option<crate::manifest::Id>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    block: Option<SavedBlock>,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct SavedBlock {
    at: crate::manifest::Id,
    height: u64,
    part: Option<u32>,
    data: SavedPart,
    meta: Option<SavedPart>,
}

impl Cosmos {
    fn path(&self, dir: &Path, height: u64, part: &str) -> PathBuf {
        let name = names::block_name(&self.prefix, height, part);
        match self.layout {
            Layout::Height => dir.join(names::height_dir(height)).join(name),
            Layout::Flat | Layout::StoreHeight => dir.join(name),
        }
    }

    fn begin_block(&self, dir: &Path, at: Position, height: u64) -> Block {
        let data = Part::new(self.path(dir, height, "data"));
        let meta = self.metadata.then(|| Part::new(self.path(dir, height, "meta")));
        Block { at, height, part: None, data, meta }
    }
}

impl Blocks {
    fn add(&mut self, height: u64, file: &Finished) {
        self.rows += file.rows;
        self.bytes += file.bytes;
        self.digest = chain(&self.digest, &file.name, &file.digest);
        let first = self.bounds.map_or(height, |(first, _)| first);
        self.bounds = Some((first, height));
    }

    /// Ends a block: its files get their names, what is beside the pairs first, as readers wait
    /// for the pairs.
    fn end(&mut self, files: &mut Files, block: Block) -> Result<(), FileError> {
        if let Some(meta) = block.meta {
            let finished = meta.finish(files)?;
            self.add(block.height, &finished);
        }
        let finished = block.data.finish(files)?;
        self.add(block.height, &finished);
        self.last = Some(block.at);
        Ok(())
    }
}

impl Block {
    fn take(&mut self, frame: &Frame, keys: &Keys, files: &mut Files) -> Result<(), FileError> {
        let header = &frame.header;
        // A part that is in the file already comes again after a restart inside the block.
        if self.part.is_some_and(|part| header.part <= part) {
            return Ok(());
        }
        self.part = Some(header.part);
        if let (Some(meta), Some(piece)) = (&mut self.meta, &header.metadata) {
            meta.push(files, &piece.value, 0)?;
        }
        for element in Elements::new(&frame.changes) {
            let element = element.map_err(|source| FileError::Frame {
                height: self.height,
                source: source.into(),
            })?;
            if !keys.has_bytes(element.store) {
                continue;
            }
            match element.raw.split_first() {
                Some((&CHANGE_TAG, pair)) => self.data.push(files, pair, 1)?,
                _ => {
                    let source = FrameError::Table("a change without its tag");
                    return Err(FileError::Frame { height: self.height, source });
                }
            }
        }
        Ok(())
    }
}

impl Body for Cosmos {
    type Open = Blocks;

    fn is_full(&self, _: &Blocks) -> bool {
        false
    }

    fn last_block(&self, open: &Blocks) -> Option<(Position, u64)> {
        let last = open.last.clone()?;
        let height = last.pointer.height()?;
        Some((last, height))
    }

    fn seal(
        &mut self,
        _: &mut Files,
        spot: &Spot,
        to: u64,
        open: Blocks,
        _: Option<&Line>,
    ) -> Result<Sealed, FileError> {
        let id = |height, end: bool| {
            let pointer = Pointer::from_height(height);
            let mut position = Position::end_of(spot.generation, pointer);
            position.index = if end { position.index } else { 0 };
            id_text(&position)
        };
        Ok(Sealed {
            rows: open.rows,
            bytes: open.bytes,
            digest: open.digest,
            first: open.bounds.map(|(first, _)| id(first, false)),
            last: open.bounds.map(|(_, last)| id(last.min(to), true)),
            files: Vec::new(),
            stale: Vec::new(),
        })
    }

    fn save(
        &mut self,
        files: &mut Files,
        _: &Spot,
        open: &mut Blocks,
    ) -> Result<serde_json::Value, FileError> {
        let block = match &mut open.block {
            None => None,
            Some(block) => Some(SavedBlock {
                at: crate::manifest::Id(block.at.clone()),
                height: block.height,
                part: block.part,
                data: block.data.save(files)?,
                meta: block.meta.as_mut().map(|meta| meta.save(files)).transpose()?,
            }),
        };
        let saved = SavedBlocks {
            rows: open.rows,
            bytes: open.bytes,
            digest: open.digest,
            bounds: open.bounds,
            last: open.last.clone().map(crate::manifest::Id),
            block,
        };
        Ok(serde_json::to_value(saved).unwrap_or_default())
    }

    fn restore(
        &mut self,
        files: &mut Files,
        spot: &Spot,
        source: Source<'_>,
        target: Option<&Position>,
    ) -> Result<Option<Blocks>, FileError> {
        let (Source::Saved(saved), None) = (source, target) else {
            return self.recount(files, spot, target).map(Some);
        };
        let Ok(saved) = serde_json::from_value::<SavedBlocks>(saved.clone()) else {
            return Ok(None);
        };
        let mut open = Blocks {
            rows: saved.rows,
            bytes: saved.bytes,
            digest: saved.digest,
            bounds: saved.bounds,
            last: saved.last.map(|id| id.0),
            block: None,
        };
        if let Some(block) = saved.block {
            let path = |part| self.path(&spot.dir, block.height, part);
            let Some(data) = Part::restore(files, path("data"), &block.data)? else {
                return Ok(None);
            };
            let meta = match &block.meta {
                None => None,
                Some(meta) => match Part::restore(files, path("meta"), meta)? {
                    None => return Ok(None),
                    restored => restored,
                },
            };
            let (at, height, part) = (block.at.0, block.height, block.part);
            open.block = Some(Block { at, height, part, data, meta });
        }
        Ok(Some(open))
    }

    /// Block files have their final names, so there is nothing to clean up but the block that has
    /// not ended, and that is written anew under the same name.
    fn saved_files(&self, _: &Spot, _: &serde_json::Value) -> Vec<PathBuf> {
        Vec::new()
    }
}

impl Cosmos {
    /// The sums over the files that are there, up to a height: after a reset.
    fn recount(
        &self,
        files: &Files,
        spot: &Spot,
        target: Option<&Position>,
    ) -> Result<Blocks, FileError> {
        let mut open = Blocks::default();
        let Some(to) = target.and_then(|target| target.pointer.height()) else { return Ok(open) };
        for height in spot.from..=to {
            for part in ["meta", "data"] {
                let path = self.path(&spot.dir, height, part);
                if files.len(&path)?.is_some() {
                    open.add(height, &Finished::read(files, &path, part == "data")?);
                    let pointer = Pointer::from_height(height);
                    open.last = Some(Position::end_of(spot.generation, pointer));
                }
            }
        }
        Ok(open)
    }
}
