//! The position file: what a restart believes, and how it finds back into an open range.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sluice_model::{Checkpoint, Digest, Position, SequenceId};
use tracing::{info, warn};

use crate::{
    engine::{Base, Body, Cursor, Engine, Range, Source, Spot},
    error::FileError,
    manifest::{Gap, Id, Line, Manifest},
    names,
};

/// Name of the position file in a stream's directory.
pub(crate) const POSITION_FILE: &str = ".position.json";

const VERSION: u32 = 1;

/// Whose files these are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) stream: String,
    pub(crate) ingestor: String,
    pub(crate) format: String,
    /// Hash of the filter.
    pub(crate) filter: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    version: u32,
    #[serde(flatten)]
    identity: Identity,
    through: Id,
    height: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    digest: Option<Digest>,
    reset_epoch: u64,
    base: Id,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    next: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    range: Option<SavedRange>,
    /// Files to be removed, should the process have died before it did.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    stale: Vec<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedRange {
    from: u64,
    after: Id,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    gaps: Vec<Gap>,
    content: serde_json::Value,
}

impl<B: Body> Engine<B> {
    pub(super) fn write_position(
        &mut self,
        cursor: &Cursor,
        content: Option<serde_json::Value>,
    ) -> Result<(), FileError> {
        let range = self.range.as_ref().zip(content).map(|(range, content)| SavedRange {
            from: range.from,
            after: Id(range.after.clone()),
            gaps: range.gaps.clone(),
            content,
        });
        let relative = |path: &PathBuf| path.strip_prefix(&self.dir).map(PathBuf::from).ok();
        let saved = Saved {
            version: VERSION,
            identity: self.identity.clone(),
            through: Id(cursor.position.clone()),
            height: cursor.height,
            digest: cursor.digest,
            reset_epoch: self.reset_epoch,
            base: Id(self.base.after.clone()),
            next: self.base.next,
            range,
            stale: self.stale.iter().filter_map(relative).collect(),
        };
        let path = self.dir.join(POSITION_FILE);
        let mut text = serde_json::to_vec(&saved).map_err(|error| FileError::Damaged {
            path: path.clone(),
            offset: 0,
            reason: format!("the position cannot be written: {error}"),
        })?;
        text.push(b'\n');
        self.files.replace(&path, &text)
    }

    fn read_position(&self) -> Result<Option<Saved>, FileError> {
        let path = self.dir.join(POSITION_FILE);
        let Some(text) = self.files.read_small(&path)? else { return Ok(None) };
        let damaged = |reason: String| FileError::Damaged { path: path.clone(), offset: 0, reason };
        let saved: Saved = serde_json::from_slice(&text)
            .map_err(|error| damaged(format!("not a position: {error}")))?;
        let (own, theirs) = (&self.identity, &saved.identity);
        if saved.version != VERSION {
            let version = saved.version;
            return Err(damaged(format!("it has version {version}; this program knows {VERSION}")));
        }
        if (&own.stream, &own.ingestor, &own.format)
            != (&theirs.stream, &theirs.ingestor, &theirs.format)
        {
            return Err(FileError::Taken {
                path: self.dir.clone(),
                owner: format!(
                    "stream {} of ingestor {} in format {}",
                    theirs.stream, theirs.ingestor, theirs.format
                ),
            });
        }
        Ok(Some(saved))
    }

    /// Brings memory to what the files say. Gives how far they are; `None` if they have not
    /// begun.
    pub(crate) fn reload(&mut self) -> Result<Option<Checkpoint>, FileError> {
        (self.cursor, self.range) = (None, None);
        self.lines.clear();
        self.stale.clear();
        self.told = None;
        self.base = Base::after(&Position::ORIGIN);
        let Some(mut saved) = self.read_position()? else { return Ok(None) };
        for path in std::mem::take(&mut saved.stale) {
            self.files.remove(&self.dir.join(path))?;
        }
        self.reset_epoch = saved.reset_epoch;
        self.restore(saved)?;
        self.dirty = false;
        Ok(self
            .cursor
            .as_ref()
            .map(|cursor| Checkpoint { position: cursor.position.clone(), digest: cursor.digest }))
    }

    fn restore(&mut self, saved: Saved) -> Result<(), FileError> {
        let position = saved.through.0;
        let generation = position.generation;
        let dir = names::generation_dir(&self.dir, generation);
        let next = saved.range.as_ref().map(|range| range.from).or(saved.next);
        let behind = |line: &Line| next.is_some_and(|next| line.to < next);
        self.manifest = Manifest::load(&self.files, &dir, behind)?;
        self.base = Base { after: saved.base.0, next: saved.next };
        self.cursor = Some(Cursor { position, digest: saved.digest, height: saved.height });
        if let Some(range) = saved.range {
            let spot = Spot { dir, generation, from: range.from };
            let source = Source::Saved(&range.content);
            match undamaged(self.body.restore(&mut self.files, &spot, source, None))? {
                Some(open) => self.set_range(range.from, range.after.0, range.gaps, open),
                None => self.begin_again(range, &spot),
            }
        }
        let whole = self.cursor.as_ref().is_some_and(|cursor| cursor.position.is_end_of_block());
        if whole && saved.identity.filter != self.identity.filter {
            info!(stream = %self.identity.stream, "the filter changed; the open range closes here");
            let new = std::mem::replace(&mut self.identity.filter, saved.identity.filter);
            let closed = self.close_early();
            self.identity.filter = new;
            closed?;
        }
        Ok(())
    }

    fn set_range(&mut self, from: u64, after: Position, gaps: Vec<Gap>, open: B::Open) {
        self.base = Base { after: after.clone(), next: Some(from) };
        self.range = Some(Range { from, after, gaps, open });
    }

    /// The files of the open range are not what was saved: the range is done again from its
    /// begin, which is how far the files are then.
    fn begin_again(&mut self, range: SavedRange, spot: &Spot) {
        warn!(stream = %self.identity.stream, from = range.from, dir = %spot.dir.display(),
            "the newest files are damaged or missing; their range is written again from its begin");
        self.stale = self.body.saved_files(spot, &range.content);
        let after = range.after.0;
        let height = after.pointer.height().unwrap_or(0);
        self.cursor = Some(Cursor { position: after.clone(), digest: None, height });
        self.base = Base { after, next: Some(range.from) };
    }

    /// Goes back to an earlier place, after a reset of the stream. Files stay as they are until
    /// the same rows come again; rows of an open range before the place are kept.
    pub(super) fn rewind(&mut self, to: &Position) -> Result<(), FileError> {
        let saved = self.read_position()?;
        let generation = to.generation;
        let dir = names::generation_dir(&self.dir, generation);
        self.range = None;
        let height = to.pointer.height().unwrap_or(0);
        self.cursor = Some(Cursor { position: to.clone(), digest: None, height });
        self.base = Base::after(to);
        self.load_manifest(to)?;
        if let Some(saved) = &saved {
            self.give_up(saved);
        }
        if let Some(line) = self.manifest.around(to).cloned() {
            let spot = Spot { dir, generation, from: line.from };
            let restored = self.body.restore(&mut self.files, &spot, Source::Line(&line), Some(to));
            return match undamaged(restored)? {
                Some(open) => {
                    let gaps = line.gaps.into_iter().filter(|gap| gap.through.0 <= *to).collect();
                    self.set_range(line.from, line.after.0, gaps, open);
                    Ok(())
                }
                // What cannot be read cannot be kept; the new range tells where it begins.
                None => {
                    warn!(dir = %spot.dir.display(), from = line.from, "a closed file is damaged; its range begins anew where the stream was reset to");
                    Ok(())
                }
            };
        }
        let Some(saved) = saved.filter(|s| s.through.0.generation == generation) else {
            return Ok(());
        };
        match saved.range {
            Some(range) if range.after.0 <= *to => {
                let spot = Spot { dir, generation, from: range.from };
                let source = Source::Saved(&range.content);
                let restored = self.body.restore(&mut self.files, &spot, source, Some(to));
                if let Some(open) = undamaged(restored)? {
                    let gaps = range.gaps.into_iter().filter(|gap| gap.through.0 <= *to).collect();
                    self.set_range(range.from, range.after.0, gaps, open);
                }
            }
            None if saved.base.0 <= *to => {
                self.base = Base { after: saved.base.0, next: saved.next };
            }
            _ => {}
        }
        Ok(())
    }

    /// The newest rows beyond the place gone back to go with the next commit; they come again.
    fn give_up(&mut self, saved: &Saved) {
        if let Some(range) = &saved.range {
            let generation = saved.through.0.generation;
            let dir = names::generation_dir(&self.dir, generation);
            let spot = Spot { dir, generation, from: range.from };
            self.stale.extend(self.body.saved_files(&spot, &range.content));
        }
    }
}

/// Damage in what could be restored is the same as nothing to restore.
fn undamaged<T>(restored: Result<Option<T>, FileError>) -> Result<Option<T>, FileError> {
    match restored {
        Err(FileError::Damaged { path, offset, reason }) => {
            warn!(path = %path.display(), offset, "{reason}");
            Ok(None)
        }
        other => other,
    }
}

/// A position as an id in text, for rows.
pub(crate) fn id_text(position: &Position) -> String {
    SequenceId::new(position.clone()).to_string()
}
