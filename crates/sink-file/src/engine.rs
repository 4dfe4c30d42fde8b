//! What both formats share: how far the files are, aligned ranges, generations, gaps, the
//! manifest, and the order of writes that makes a commit all or nothing.
//!
//! A commit writes, in this order: the rows, their directories, the manifest, the position. The
//! position is what a restart believes; everything written after it is written again with the
//! same names and bytes. Nothing here looks at a clock, and nothing depends on where batches
//! were cut.

mod body;
mod saved;

use std::path::PathBuf;

use sluice_model::{Checkpoint, Digest, END_OF_BLOCK, Generation, Pointer, Position};
use tracing::warn;

use crate::{
    error::FileError,
    files::Files,
    manifest::{Gap, Id, Line, Manifest, Place},
    names,
};

pub(crate) use body::{Body, Sealed, Source, Spot};
pub(crate) use saved::{Identity, id_text};

/// Most lines that wait for a commit; beyond it the manifest is written early.
const MAX_LINES: usize = 4096;

/// How far the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) position: Position,
    pub(crate) digest: Option<Digest>,
    pub(crate) height: u64,
}

/// Where the next range begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) after: Position,
    /// Its first height; unknown at the start of a journal whose first block was not seen yet.
    pub(crate) next: Option<u64>,
}

impl Base {
    fn after(position: &Position) -> Self {
        // Inside a block, its own height is where rows go on.
        let over = u64::from(position.is_end_of_block());
        let next = position.pointer.height().map(|height| height.saturating_add(over));
        Self { after: position.clone(), next }
    }
}

/// A range that is not closed.
#[derive(Debug)]
pub(crate) struct Range<O> {
    pub(crate) from: u64,
    pub(crate) after: Position,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) open: O,
}

/// The files of one stream.
#[derive(Debug)]
pub(crate) struct Engine<B: Body> {
    pub(crate) body: B,
    pub(crate) files: Files,
    identity: Identity,
    dir: PathBuf,
    align: u64,
    cursor: Option<Cursor>,
    base: Base,
    range: Option<Range<B::Open>>,
    manifest: Manifest,
    lines: Vec<Line>,
    stale: Vec<PathBuf>,
    reset_epoch: u64,
    /// The history that the items of the batch belong to: behind the files' own where what they
    /// have comes again.
    feed: Generation,
    /// The end of the last batch.
    told: Option<Position>,
    /// Something failed since the last commit: memory is ahead of the files.
    dirty: bool,
    closed: u64,
}

impl<B: Body> Engine<B> {
    pub(crate) fn new(body: B, files: Files, identity: Identity, dir: PathBuf, align: u64) -> Self {
        Self {
            body,
            files,
            identity,
            dir,
            align: align.max(1),
            cursor: None,
            base: Base::after(&Position::ORIGIN),
            range: None,
            manifest: Manifest::default(),
            lines: Vec::new(),
            stale: Vec::new(),
            reset_epoch: 0,
            feed: Generation::default(),
            told: None,
            dirty: false,
            closed: 0,
        }
    }

    pub(crate) const fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    /// Ranges closed since the start.
    pub(crate) const fn closed(&self) -> u64 {
        self.closed
    }

    pub(crate) fn spot(&self, from: u64) -> Spot {
        let generation = self.generation();
        Spot { dir: names::generation_dir(&self.dir, generation), generation, from }
    }

    fn generation(&self) -> Generation {
        self.cursor.as_ref().map_or_else(Generation::default, |cursor| cursor.position.generation)
    }

    /// Everything up to here is in the files or will be with the next commit.
    pub(crate) fn is_done(&self, position: &Position) -> bool {
        self.cursor.as_ref().is_some_and(|cursor| *position <= cursor.position)
    }

    /// Begins a batch that holds everything after `after`. What the files have already is
    /// recognised and not written twice; after a reset it is written again from `after` on. Also
    /// brings memory back to what is durable, if the batch before failed.
    pub(crate) fn begin(&mut self, after: &Position, reset_epoch: u64) -> Result<(), FileError> {
        if self.dirty {
            self.reload()?;
        }
        self.dirty = true;
        // A batch may end with a rewind, which has no place of its own to end at.
        if self.told.as_ref() != Some(after) {
            self.feed = after.generation;
        }
        let reset = std::mem::replace(&mut self.reset_epoch, reset_epoch) != reset_epoch;
        match &self.cursor {
            None => self.start(after),
            Some(cursor) if *after > cursor.position => self.jump(after),
            Some(cursor) if reset && *after < cursor.position => self.rewind(after),
            Some(_) => Ok(()),
        }
    }

    fn start(&mut self, after: &Position) -> Result<(), FileError> {
        let height = after.pointer.height().unwrap_or(0);
        self.cursor = Some(Cursor { position: after.clone(), digest: None, height });
        self.base = Base::after(after);
        self.load_manifest(after)
    }

    /// Reads the manifest of a position's generation; what reaches beyond the position is ahead.
    fn load_manifest(&mut self, at: &Position) -> Result<(), FileError> {
        let dir = names::generation_dir(&self.dir, at.generation);
        self.manifest = Manifest::load(&self.files, &dir, |line| line.through.0 <= *at)?;
        if self.base.next.is_none() {
            self.base.next = self.manifest.next();
        }
        Ok(())
    }

    /// The stream was set to a later place: what lies between is not in the files, and the
    /// manifest's ranges say so.
    fn jump(&mut self, after: &Position) -> Result<(), FileError> {
        let Some(cursor) = self.cursor.clone() else { return Ok(()) };
        warn!(stream = %self.identity.stream, from = %cursor.position, to = %after,
            "the stream jumped; the files do not have what lies between");
        self.check_full()?;
        self.close_early()?;
        self.write_manifest()?;
        self.start(after)
    }

    /// The open range that a block of this height belongs to; closes those before it.
    pub(crate) fn range_at(
        &mut self,
        at: &Position,
        height: u64,
    ) -> Result<&mut Range<B::Open>, FileError> {
        let end = Position { index: END_OF_BLOCK, ..at.clone() };
        if self.last_content().is_none_or(|(last, _)| last != end) {
            self.check_full()?;
            self.advance(height)?;
        }
        let from = self.base.next.unwrap_or_else(|| names::range_start(height, self.align));
        let first = self.range.as_ref().map_or(from, |range| range.from);
        if height < first {
            let cursor = self.cursor.as_ref().map(|c| c.position.to_string()).unwrap_or_default();
            return Err(FileError::Order { height, cursor });
        }
        let after = self.base.after.clone();
        Ok(self.range.get_or_insert_with(|| Range::new(from, after)))
    }

    /// The last block with rows in the open range, and its height.
    fn last_content(&self) -> Option<(Position, u64)> {
        self.range.as_ref().and_then(|range| self.body.last_block(&range.open))
    }

    pub(crate) fn open_mut(&mut self) -> Option<&mut B::Open> {
        self.range.as_mut().map(|range| &mut range.open)
    }

    /// Works on the open range's content and the files at once.
    pub(crate) fn with_open<T>(
        &mut self,
        work: impl FnOnce(&mut Files, &mut B::Open) -> Result<T, FileError>,
    ) -> Result<T, FileError>
    where
        T: Default,
    {
        match &mut self.range {
            Some(range) => work(&mut self.files, &mut range.open),
            None => Ok(T::default()),
        }
    }

    /// Closes every range that ends before a height.
    fn advance(&mut self, height: u64) -> Result<(), FileError> {
        loop {
            let from = self.range.as_ref().map(|range| range.from).or(self.base.next);
            let Some(end) = from.map(|from| names::range_end(from, self.align)) else {
                return Ok(());
            };
            if height <= end {
                return Ok(());
            }
            self.seal(end)?;
        }
    }

    /// Everything that matches up to here has been given.
    fn reached(&mut self, through: &Checkpoint, height: u64) -> Result<(), FileError> {
        if through.position.generation > self.generation() {
            self.enter_generation(through.position.generation, &Pointer::ORIGIN)?;
        }
        if self.is_done(&through.position) {
            return Ok(());
        }
        if through.position.is_end_of_block() {
            self.check_full()?;
            self.advance(height)?;
            let from = self.range.as_ref().map(|range| range.from).or(self.base.next);
            if from.is_some_and(|from| names::range_end(from, self.align) == height) {
                self.seal(height)?;
            }
        }
        let Checkpoint { position, digest } = through.clone();
        self.cursor = Some(Cursor { position, digest, height });
        Ok(())
    }

    /// Blocks that do not exist: noted in every range that they fall into.
    pub(crate) fn gap(
        &mut self,
        from: &Pointer,
        to: &Pointer,
        cause: &str,
    ) -> Result<(), FileError> {
        let through = Position::end_of(self.feed, to.clone());
        if self.is_done(&through) {
            return Ok(());
        }
        self.check_full()?;
        let align = self.align;
        let gap =
            |from, to| Gap { from, to, cause: cause.to_owned(), through: Id(through.clone()) };
        if let (Some(low), Some(high)) = (from.height(), to.height()) {
            // A reset may have led inside the gap: what was closed before stays.
            let first = self.range.as_ref().map(|range| range.from).or(self.base.next);
            let mut low = low.max(first.unwrap_or(low));
            while low <= high {
                let first = Position::end_of(through.generation, Pointer::from_height(low));
                let range = self.range_at(&first, low)?;
                let cut = high.min(names::range_end(range.from, align));
                range.gaps.push(gap(Place::Height(low), Place::Height(cut)));
                let Some(next) = cut.checked_add(1) else { break };
                low = next;
            }
        } else {
            let height = self.cursor.as_ref().map_or(0, |cursor| cursor.height);
            let noted = gap(Place::Opaque(from.to_string()), Place::Opaque(to.to_string()));
            self.range_at(&through, height)?.gaps.push(noted);
        }
        let height = to.height().or_else(|| self.cursor.as_ref().map(|c| c.height)).unwrap_or(0);
        self.reached(&Checkpoint { position: through, digest: None }, height)
    }

    /// A new history begins behind `base`. The old one's last range with rows closes.
    pub(crate) fn enter_generation(
        &mut self,
        generation: Generation,
        base: &Pointer,
    ) -> Result<(), FileError> {
        self.feed = generation;
        if generation <= self.generation() && self.cursor.is_some() {
            return Ok(());
        }
        self.check_full()?;
        if let Some(range) = &self.range {
            // Nothing follows in the old history, so its last range is complete as it is.
            self.seal(names::range_end(range.from, self.align))?;
        }
        self.write_manifest()?;
        let position = Position::end_of(generation, base.clone());
        let height = base.height().unwrap_or(0);
        self.base = Base::after(&position);
        self.cursor = Some(Cursor { position: position.clone(), digest: None, height });
        self.load_manifest(&position)
    }

    /// Closes the open range, if it has begun, at the height that was reached.
    pub(crate) fn close_early(&mut self) -> Result<(), FileError> {
        let Some(cursor) = &self.cursor else { return Ok(()) };
        let reached = cursor.height;
        let last = self.last_content().map(|(_, height)| height);
        let from = self.range.as_ref().map(|range| range.from).or(self.base.next);
        let to = last.unwrap_or(reached).max(reached);
        match from {
            Some(from) if to >= from => self.seal(to),
            _ => Ok(()),
        }
    }

    /// Closes a range that has grown large enough, at the last block that has rows.
    fn check_full(&mut self) -> Result<(), FileError> {
        match (&self.range, self.last_content()) {
            (Some(range), Some((_, height))) if self.body.is_full(&range.open) => self.seal(height),
            _ => Ok(()),
        }
    }

    fn seal(&mut self, to: u64) -> Result<(), FileError> {
        let base = self.base.clone();
        let range = match self.range.take() {
            Some(range) => range,
            None => Range::new(base.next.unwrap_or(to), base.after),
        };
        let spot = self.spot(range.from);
        let known = self.manifest.known(range.from, to).cloned();
        let Range { from, after, gaps, open } = range;
        let content = self.body.last_block(&open).map(|(last, _)| last);
        let gap = gaps.last().map(|gap| gap.through.0.clone());
        let reached = content.max(gap).unwrap_or_else(|| after.clone());
        let through = match reached.pointer.height() {
            Some(_) => Position::end_of(spot.generation, Pointer::from_height(to)),
            None => reached,
        };
        let sealed = self.body.seal(&mut self.files, &spot, to, open, known.as_ref())?;
        self.lines.push(Line {
            from,
            to,
            generation: spot.generation.0,
            rows: sealed.rows,
            bytes: sealed.bytes,
            digest: sealed.digest,
            first: sealed.first,
            last: sealed.last,
            gaps,
            after: Id(after),
            through: Id(through.clone()),
            filter: self.identity.filter.clone(),
            files: sealed.files,
        });
        self.stale.extend(sealed.stale);
        self.base = Base { after: through, next: to.checked_add(1) };
        self.closed += 1;
        if self.lines.len() >= MAX_LINES { self.write_manifest() } else { Ok(()) }
    }

    fn write_manifest(&mut self) -> Result<(), FileError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        self.files.settle()?;
        let lost = self.manifest.append(&mut self.files, &self.lines)?;
        self.stale.extend(lost);
        self.lines.clear();
        self.files.settle()
    }

    /// Ends a batch.
    pub(crate) fn finish(&mut self, through: &Checkpoint, height: u64) -> Result<(), FileError> {
        self.reached(through, height)?;
        self.commit()?;
        self.told = Some(through.position.clone());
        Ok(())
    }

    /// The history that the items of the batch belong to.
    pub(crate) const fn feed(&self) -> Generation {
        self.feed
    }

    /// Makes everything given so far durable.
    fn commit(&mut self) -> Result<(), FileError> {
        let Some(cursor) = self.cursor.clone() else { return Ok(()) };
        let spot = self.range.as_ref().map(|range| self.spot(range.from));
        let content = match (&mut self.range, &spot) {
            (Some(range), Some(spot)) => {
                Some(self.body.save(&mut self.files, spot, &mut range.open)?)
            }
            _ => None,
        };
        self.files.settle()?;
        self.write_manifest()?;
        if let (Some(spot), Some(content)) = (&spot, &content) {
            // A range that was given up and begun again has its newest rows under the same name.
            let current = self.body.saved_files(spot, content);
            self.stale.retain(|path| !current.contains(path));
        }
        self.write_position(&cursor, content)?;
        self.files.settle()?;
        for path in std::mem::take(&mut self.stale) {
            self.files.remove(&path)?;
        }
        self.dirty = false;
        Ok(())
    }
}

impl<O: Default> Range<O> {
    fn new(from: u64, after: Position) -> Self {
        Self { from, after, gaps: Vec::new(), open: O::default() }
    }
}
