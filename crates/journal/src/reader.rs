//! Readers: a cursor in the index, frames from the tail cache or the disk.

mod batch;
mod start;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use sluice_frame::Record;
use sluice_model::{Digest, Head, Position};
use tokio::sync::watch;

use crate::{
    Corruption, GapNotice, GenerationNotice, Item, ReadError, Reader, Select, Started, Stored,
    Through,
    files::File,
    index::{Entry, EntryKind, SegIndex},
    shared::{Cursor, Log},
};
pub(crate) use start::{find_start, locate};

/// Entries looked at before the runtime gets its turn.
const STEP: usize = 256;
/// Entries passed without a match before progress is told.
const PROGRESS_EVERY: usize = 4096;
/// Bytes fetched in one go.
const FETCH_BYTES: usize = 256 << 10;
/// Frames fetched in one go.
const FETCH_FRAMES: usize = 64;

/// What the reader has passed entirely.
#[derive(Clone, Debug)]
struct Done {
    position: Position,
    digest: Digest,
    height: u64,
}

/// A reader of the embedded journal.
#[derive(Debug)]
pub(crate) struct EmbeddedReader {
    log: Arc<Log>,
    select: Select,
    started: Started,
    cursor: Cursor,
    /// Frames of the first block that end at or before this index are left out.
    skip: Option<(Position, u32)>,
    done: Done,
    /// The end of `done` was told, by a frame with `end` or by progress.
    told: Position,
    /// The block of which frames were delivered, and whose end was not.
    inside: Option<Position>,
    passed: usize,
    ready: VecDeque<Item>,
    masks: Masks,
    file: Option<(u32, u64, Arc<dyn File>)>,
    /// A block that turned out to be damaged after its first frames.
    damaged: Option<Position>,
    tick: watch::Receiver<u64>,
}

/// Which route tables of the current segment the filter selects.
#[derive(Debug, Default)]
struct Masks {
    segment: u32,
    known: HashMap<u32, bool>,
}

/// A step over the index.
#[derive(Debug)]
enum Step {
    Frame(Entry),
    /// The end of a block of which other frames were delivered.
    End(Done),
    Notice(Entry),
    Damage(Corruption),
}

/// What a walk over the index gave.
#[derive(Debug)]
struct Walk {
    steps: Vec<(Step, Done)>,
    /// What is passed when all steps are done.
    done: Option<Done>,
    inside: Option<Position>,
    cursor: Cursor,
    looked_at: usize,
}

impl Walk {
    const fn new(cursor: Cursor, inside: Option<Position>) -> Self {
        Self { steps: Vec::new(), done: None, inside, cursor, looked_at: 0 }
    }
}

impl EmbeddedReader {
    pub(crate) fn new(
        log: Arc<Log>,
        select: Select,
        from: crate::ReadFrom,
    ) -> Result<Self, ReadError> {
        let tick = log.tick.subscribe();
        let start = find_start(&log, from)?;
        let head = log.state.read().visible_head();
        log.readers.fetch_add(1, Ordering::Relaxed);
        let position = start.after.position();
        let after = match &start.inside {
            Some((block, index)) => Position { index: *index, ..block.clone() },
            None => position.clone(),
        };
        Ok(Self {
            log,
            select,
            started: Started { after, head },
            cursor: start.cursor,
            skip: start.inside,
            told: position.clone(),
            inside: None,
            done: Done { position, digest: start.after.digest, height: start.after.height },
            passed: 0,
            ready: VecDeque::new(),
            masks: Masks::default(),
            file: None,
            damaged: None,
            tick,
        })
    }

    /// Goes on until something is ready or the tail is reached.
    async fn advance(&mut self) -> Result<(), ReadError> {
        if self.log.closed.load(Ordering::Acquire) {
            return Err(ReadError::Closed);
        }
        self.tick.borrow_and_update();
        let walk = self.walk()?;
        if walk.steps.is_empty() && walk.looked_at == 0 {
            return self.next_segment_or_wait().await;
        }
        let quiet = walk.steps.is_empty();
        let looked_at = walk.looked_at;
        let items = self.collect(&walk).await?;
        // Nothing above has changed the reader for good, so giving up there loses nothing.
        self.cursor = walk.cursor;
        self.inside = walk.inside;
        self.ready.extend(items);
        if let Some(done) = walk.done {
            self.done = done;
        }
        self.passed = if quiet { self.passed + looked_at } else { 0 };
        // Within a block its end is told before long, and nothing earlier may follow its frames.
        let due = (self.passed >= PROGRESS_EVERY || !quiet) && self.inside.is_none();
        if due && self.told != self.done.position {
            self.tell_progress();
        }
        if quiet {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn tell_progress(&mut self) {
        self.passed = 0;
        self.told = self.done.position.clone();
        let through = self.through(&self.done);
        self.ready.push_back(through);
    }

    fn through(&self, done: &Done) -> Item {
        Item::Through(Through {
            position: done.position.clone(),
            digest: done.digest,
            height: done.height,
            head: self.log.state.read().visible_head(),
        })
    }

    async fn next_segment_or_wait(&mut self) -> Result<(), ReadError> {
        let at_end =
            self.log.with_index(self.cursor.segment, |i| i.entries.len() <= self.cursor.entry);
        match at_end? {
            // More has come in the meantime.
            Some(false) => return Ok(()),
            None if self.cursor.segment > 0 => return self.overtaken(),
            Some(true) | None => {}
        }
        if let Some((number, base)) = self.log.next_segment(self.cursor.segment) {
            if self.cursor.segment > 0 {
                self.check_seam(number, &base);
            }
            self.cursor = Cursor { segment: number, entry: 0 };
            return Ok(());
        }
        if self.told != self.done.position {
            self.tell_progress();
            return Ok(());
        }
        // The sender lives in the log, which lives as long as this reader.
        self.tick.changed().await.map_err(|_| ReadError::Closed)
    }

    /// Segments that follow each other hold blocks that do; where they do not, a file is gone.
    fn check_seam(&mut self, number: u32, base: &Head) {
        if base.position() <= self.done.position {
            return;
        }
        let corruption = Corruption {
            after: self.done.position.clone(),
            through: Some(base.position()),
            digest: Some(base.digest),
            file: self.log.dir.segment(self.cursor.segment + 1).display().to_string(),
            offset: 0,
            cause: format!("segment {number} does not follow segment {}", self.cursor.segment),
        };
        self.log.state.write().quarantine(corruption.clone());
        self.done = Done { position: base.position(), digest: base.digest, height: base.height };
        self.told = self.done.position.clone();
        self.ready.push_back(Item::Corrupt(corruption));
    }

    fn overtaken(&self) -> Result<(), ReadError> {
        let state = self.log.state.read();
        let oldest = state.oldest();
        if self.done.position >= oldest.position() && self.cursor.segment >= state.oldest_segment()
        {
            return Ok(());
        }
        Err(ReadError::OutOfRange { oldest: oldest.position() })
    }

    /// Looks at the next entries and decides what of them is wanted.
    fn walk(&mut self) -> Result<Walk, ReadError> {
        let (cursor, done) = (self.cursor, self.done.clone());
        let mut masks = std::mem::take(&mut self.masks);
        if masks.segment != cursor.segment {
            masks = Masks { segment: cursor.segment, known: HashMap::new() };
        }
        let (select, skip, inside) = (&self.select, &self.skip, self.inside.clone());
        let walk = self.log.with_index(cursor.segment, |index| {
            let mut walk = Walk::new(cursor, inside);
            walk.over(index, done, |entry, index| {
                let skipped = skip.as_ref().is_some_and(|(block, at)| {
                    entry.position() == *block && entry.next_index <= at.saturating_add(1)
                });
                !skipped && masks.selects(entry, index, select)
            });
            walk
        });
        self.masks = masks;
        match walk? {
            Some(walk) => Ok(walk),
            None if self.cursor.segment == 0 => Ok(Walk::new(cursor, None)),
            None => {
                self.overtaken()?;
                Err(ReadError::OutOfRange { oldest: self.log.state.read().oldest().position() })
            }
        }
    }
}

impl Walk {
    fn over(
        &mut self,
        index: &SegIndex,
        mut done: Done,
        mut wanted: impl FnMut(&Entry, &SegIndex) -> bool,
    ) {
        let mut bytes = 0;
        for entry in index.entries.iter().skip(self.cursor.entry).take(STEP) {
            if bytes >= FETCH_BYTES || self.steps.len() >= FETCH_FRAMES {
                break;
            }
            self.looked_at += 1;
            self.cursor.entry += 1;
            let before = done.clone();
            if entry.last {
                done = Done {
                    position: entry.position(),
                    digest: entry.digest,
                    height: if entry.kind == EntryKind::Corrupt {
                        done.height
                    } else {
                        entry.height
                    },
                };
                self.done = Some(done.clone());
            }
            let step = match entry.kind {
                EntryKind::Gap | EntryKind::Generation => Step::Notice(entry.clone()),
                EntryKind::Corrupt => {
                    let Some(found) = index.corruptions.get(entry.set as usize) else { continue };
                    Step::Damage(found.clone())
                }
                EntryKind::Block if wanted(entry, index) => {
                    bytes += entry.changes_len as usize;
                    self.inside = (!entry.last).then(|| entry.position());
                    Step::Frame(entry.clone())
                }
                EntryKind::Block if entry.last => {
                    if self.inside.take().is_none_or(|block| block != entry.position()) {
                        continue;
                    }
                    Step::End(done.clone())
                }
                EntryKind::Block => continue,
            };
            self.steps.push((step, before));
        }
    }
}

impl Masks {
    fn selects(&mut self, entry: &Entry, index: &SegIndex, select: &Select) -> bool {
        if select.every || (select.metadata && entry.metadata) {
            return true;
        }
        *self.known.entry(entry.set).or_insert_with(|| {
            let routes = index.sets.get(entry.set as usize);
            let filter = &select.filter;
            routes.is_some_and(|routes| {
                routes.iter().any(|route| filter.matches_route(&route.store, &route.topic))
            })
        })
    }
}

/// What a control record tells readers.
fn notice(entry: &Entry, stored: &Stored) -> Option<Item> {
    Some(match stored.header.record.clone()? {
        Record::Gap { from, to, cause } => Item::Gap(GapNotice {
            through: entry.position(),
            digest: entry.digest,
            from,
            to,
            cause,
        }),
        Record::GenerationStart {
            base_generation,
            base_pointer,
            base_digest,
            reason,
            actor,
            ..
        } => Item::Generation(GenerationNotice {
            through: entry.position(),
            base: Position::end_of(base_generation, base_pointer),
            base_digest,
            reason,
            actor,
        }),
        Record::EpochStart { .. } => return None,
    })
}

#[async_trait]
impl Reader for EmbeddedReader {
    fn started(&self) -> &Started {
        &self.started
    }

    async fn next(&mut self) -> Result<Item, ReadError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            self.advance().await?;
        }
    }
}

impl Drop for EmbeddedReader {
    fn drop(&mut self) {
        self.log.readers.fetch_sub(1, Ordering::Relaxed);
    }
}
