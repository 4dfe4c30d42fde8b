//! Rows of JSON in aligned height ranges.

mod rows;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use sluice_frame::Frame;
use sluice_model::{
    Checkpoint, Digest, Generation, Pointer, Position,
    event::{Encoding, Event},
};

use crate::{
    config::Keys,
    engine::{Body, Engine, Sealed, Source, Spot},
    error::FileError,
    files::Files,
    manifest::{FileLine, Line, chain},
    names::{self, Layout},
    writer::Writer,
};

pub(crate) use rows::row_position;
use rows::{Rows, SavedFile};

/// The content of files in format `jsonl`.
#[derive(Debug)]
pub(crate) struct Jsonl {
    pub(crate) layout: Layout,
    /// A range closes at the end of the block that brings it to so many bytes.
    pub(crate) max_bytes: u64,
    pub(crate) encoding: Encoding,
    pub(crate) keys: Keys,
}

impl Jsonl {
    /// The directory of a file, relative to the generation's.
    fn dir(&self, key: &str, from: u64) -> PathBuf {
        match self.layout {
            Layout::StoreHeight => PathBuf::from(names::component(key)),
            Layout::Height => names::height_dir(from),
            Layout::Flat => PathBuf::new(),
        }
    }

    fn open_path(&self, spot: &Spot, key: &str) -> PathBuf {
        spot.dir.join(self.dir(key, spot.from)).join(names::open_name(spot.from))
    }
}

impl Body for Jsonl {
    type Open = Rows;

    fn is_full(&self, open: &Rows) -> bool {
        open.bytes() >= self.max_bytes
    }

    fn last_block(&self, open: &Rows) -> Option<(Position, u64)> {
        open.last_block()
    }

    fn seal(
        &mut self,
        files: &mut Files,
        spot: &Spot,
        to: u64,
        open: Rows,
        known: Option<&Line>,
    ) -> Result<Sealed, FileError> {
        let mut sealed = Sealed { digest: Digest::ZERO, ..Sealed::default() };
        let bounds = open.bounds();
        sealed.first = bounds.as_ref().map(|(first, _)| first.clone());
        sealed.last = bounds.map(|(_, last)| last);
        for (key, file) in open.into_files() {
            let relative = self.dir(&key, spot.from).join(names::closed_name(spot.from, to));
            let path = spot.dir.join(&relative);
            let line = FileLine {
                store: (!key.is_empty()).then(|| key.clone()),
                path: relative.to_string_lossy().into_owned(),
                rows: file.rows,
                bytes: file.bytes,
                digest: file.digest(),
            };
            let written = known.is_some_and(|known| known.files.contains(&line))
                && files.len(&path)? == Some(file.bytes);
            if !written {
                let mut writing = files.create(&path)?;
                file.write_to(&mut writing)?;
                files.publish(writing)?;
            }
            let open = self.open_path(spot, &key);
            sealed.stale.extend([Files::temporary(&open), open]);
            sealed.rows += line.rows;
            sealed.bytes += line.bytes;
            sealed.digest = chain(&sealed.digest, &line.path, &line.digest);
            sealed.files.push(line);
        }
        Ok(sealed)
    }

    fn save(
        &mut self,
        files: &mut Files,
        spot: &Spot,
        open: &mut Rows,
    ) -> Result<serde_json::Value, FileError> {
        let mut saved = Vec::new();
        for (key, file) in open.files_mut() {
            let path = self.open_path(spot, key);
            if !file.is_saved_in(&path) {
                let mut writing = files.create(&path)?;
                file.write_to(&mut writing)?;
                files.publish(writing)?;
                file.saved_in(path);
            }
            saved.push(file.saved(key));
        }
        Ok(serde_json::json!({ "files": saved }))
    }

    fn restore(
        &mut self,
        files: &mut Files,
        spot: &Spot,
        source: Source<'_>,
        target: Option<&Position>,
    ) -> Result<Option<Rows>, FileError> {
        match (source, target) {
            (Source::Saved(saved), None) => {
                let mut rows = Rows::default();
                for file in saved_list(saved) {
                    let path = self.open_path(spot, file.key());
                    if !rows.restore(files, path, &file)? {
                        return Ok(None);
                    }
                }
                Ok(Some(rows))
            }
            (Source::Saved(saved), Some(target)) => {
                let sources = saved_list(saved).into_iter().map(|file| {
                    let path = self.open_path(spot, file.key());
                    (file.key().to_owned(), path, file.bytes)
                });
                Rows::cut(files, sources, target)
            }
            (Source::Line(line), target) => {
                let sources = line.files.iter().map(|file| {
                    let key = file.store.clone().unwrap_or_default();
                    (key, spot.dir.join(&file.path), file.bytes)
                });
                let end = &line.through.0;
                Rows::cut(files, sources, target.unwrap_or(end))
            }
        }
    }

    fn saved_files(&self, spot: &Spot, saved: &serde_json::Value) -> Vec<PathBuf> {
        saved_list(saved).iter().map(|file| self.open_path(spot, file.key())).collect()
    }
}

fn saved_list(saved: &serde_json::Value) -> Vec<SavedFile> {
    saved
        .get("files")
        .and_then(|list| serde_json::from_value(list.clone()).ok())
        .unwrap_or_default()
}

impl Writer for Engine<Jsonl> {
    fn resume(&mut self) -> Result<Option<Checkpoint>, FileError> {
        self.reload()
    }

    fn begin(&mut self, after: &Position, reset_epoch: u64) -> Result<(), FileError> {
        Self::begin(self, after, reset_epoch)
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), FileError> {
        let header = &frame.header;
        if header.changes() == 0 {
            return Ok(());
        }
        self.enter_generation(header.generation, &header.parent)?;
        let end = header.end_of_block();
        if self.is_done(&end) {
            return Ok(());
        }
        let done = self.cursor().map(|cursor| cursor.position.clone()).unwrap_or_default();
        let (layout, encoding) = (self.body.layout, self.body.encoding);
        let keys = self.body.keys.clone();
        let mut position = header.position(0);
        let rows = &mut self.range_at(&end, header.height)?.open;
        for change in frame.changes() {
            let (index, route, change) =
                change.map_err(|source| FileError::Frame { height: header.height, source })?;
            position.index = index;
            if position <= done || !keys.has(change.store) {
                continue;
            }
            let event = Event {
                ingestor: &header.ingestor,
                position: &position,
                height: header.height,
                time: header.time,
                topic: &route.topic,
                change,
            };
            let key = if layout == Layout::StoreHeight { change.store } else { "" };
            rows.push(key, &event, encoding);
        }
        Ok(())
    }

    fn gap(&mut self, from: &Pointer, to: &Pointer, cause: &str) -> Result<(), FileError> {
        Self::gap(self, from, to, cause)
    }

    fn rewind(&mut self, generation: Generation, base: &Pointer) -> Result<(), FileError> {
        self.enter_generation(generation, base)
    }

    fn finish(&mut self, through: &Checkpoint, height: u64) -> Result<(), FileError> {
        Self::finish(self, through, height)
    }

    fn closed_ranges(&self) -> u64 {
        self.closed()
    }
}

/// The directory of the rows that a filter chose, below the stream's.
pub(crate) fn filter_dir(filter: &str) -> String {
    filter.chars().take(16).collect()
}
