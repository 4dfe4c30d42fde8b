//! Retiring old segments.

use std::sync::Arc;

use sluice_model::Position;

use crate::{
    JournalError, Trimmed,
    committer::Core,
    error::{At, Fault},
    recovery::Meta,
    shared::State,
};

/// What decides about a segment.
struct Limits<'a> {
    bytes: Option<u64>,
    /// Nanoseconds since 1970; older segments go.
    before: Option<i64>,
    blocks: Option<u64>,
    holds: &'a [Position],
}

impl Core {
    /// Retires whole segments from the front. Whatever is retired, the control record knows the
    /// head and what stays first, so that an interrupted trim is completed by the next start.
    pub(crate) fn trim(
        &mut self,
        holds: Option<&[Position]>,
        now: i64,
    ) -> Result<Trimmed, JournalError> {
        let retention = &self.log.options.retention;
        let age = retention.age.map(|age| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
        let limits = Limits {
            bytes: retention.bytes,
            before: age.filter(|_| holds.is_some()).map(|age| now.saturating_sub(age)),
            blocks: retention.blocks.filter(|_| holds.is_some()),
            holds: holds.unwrap_or(&[]),
        };
        let count = {
            let state = self.log.state.read();
            let count = limits.surplus(&state);
            safe(&state, count, self.assembler.open().map(|(segment, _)| segment))
        };
        if count == 0 {
            return Ok(Trimmed::default());
        }
        self.record_oldest(count)?;
        let retired: Vec<Arc<Meta>> = self.log.state.write().sealed.drain(..count).collect();
        self.log.announce();
        let mut trimmed = Trimmed::default();
        let mut done = Ok(());
        for meta in &retired {
            trimmed.segments += 1;
            trimmed.blocks += meta.summary.blocks;
            trimmed.bytes += meta.file_len;
            self.log.indexes.lock().remove(self.log.key, meta.number);
            done = done.and(self.retire(meta));
        }
        // The next start removes what stays behind.
        done = done.and(self.log.files.sync_dir(&self.log.dir.0).at("sync", &self.log.dir.0));
        done.map_err(|fault| self.give_up(fault))?;
        tracing::info!(ingestor = %self.log.ingestor, ?trimmed, "retired segments");
        Ok(trimmed)
    }

    /// Notes which segment stays as the oldest when so many are retired.
    fn record_oldest(&mut self, count: usize) -> Result<(), JournalError> {
        let before = self.control.oldest;
        self.control.oldest = self.oldest_after(count);
        let recorded = self.record_head_now();
        recorded.map_err(|fault| {
            self.control.oldest = before;
            self.give_up(fault)
        })
    }

    /// What fails here leaves unknown which names are durable; the writer is poisoned unless room
    /// is all that was missing.
    fn give_up(&mut self, fault: Fault) -> JournalError {
        if !fault.is_full() {
            self.poison(fault.to_string());
        }
        fault.into()
    }

    /// The oldest segment that stays when so many are retired.
    fn oldest_after(&self, count: usize) -> u32 {
        let state = self.log.state.read();
        let active = state.active.as_ref().map(|active| active.index.number);
        let stays = state.sealed.get(count).map(|meta| meta.number).or(active);
        // Retention keeps the head's segment, so there is one.
        stays.unwrap_or(self.control.oldest)
    }

    /// Makes a segment's file the next spare, or removes it.
    fn retire(&self, meta: &Meta) -> Result<(), Fault> {
        let (files, dir) = (&self.log.files, &self.log.dir);
        let (segment, index, spare) =
            (dir.segment(meta.number), dir.index(meta.number), dir.spare());
        // It only repeats what the segment says.
        files.remove(&index).ok();
        let fit = meta.file_len >= self.log.options.segment_bytes && !meta.spoiled;
        if fit && files.open(&spare).is_err() {
            return files.rename(&segment, &spare).at("rename", &segment);
        }
        files.remove(&segment).at("remove", &segment)
    }
}

impl Limits<'_> {
    /// How many segments at the front are over a limit and needed by no hold.
    fn surplus(&self, state: &State) -> usize {
        let active = state.active.as_ref();
        let mut bytes = active.map_or(0, |active| active.len);
        let mut blocks = active.map_or(0, |active| active.index.summary.blocks);
        for meta in &state.sealed {
            bytes += meta.len;
            blocks += meta.summary.blocks;
        }
        let mut count = 0;
        for meta in &state.sealed {
            let last = &meta.summary.last;
            let over = self.bytes.is_some_and(|limit| bytes > limit)
                || self.before.is_some_and(|before| last.appended < before)
                || self.blocks.is_some_and(|limit| blocks - meta.summary.blocks >= limit);
            let held = self.holds.iter().any(|hold| *hold < last.position());
            if !over || held {
                break;
            }
            bytes -= meta.len;
            blocks -= meta.summary.blocks;
            count += 1;
        }
        count
    }
}

/// At most so many that the head block stays and no block loses its begin.
fn safe(state: &State, count: usize, unfinished: Option<u32>) -> usize {
    let active = state.active.as_ref().map(|active| &active.index);
    let mut needed = unfinished.unwrap_or(u32::MAX);
    let sealed = state.sealed.iter().map(|meta| (meta.number, &meta.summary));
    let all: Vec<_> = sealed.chain(active.map(|index| (index.number, &index.summary))).collect();
    let head = all.iter().rposition(|(_, summary)| summary.blocks > 0);
    let Some(head) = head else { return 0 };
    let mut first = all.len();
    // From the back: every segment that stays says what it needs.
    for (at, (number, summary)) in all.iter().enumerate().rev() {
        let stays = at >= count || at >= head || *number >= needed;
        if stays {
            needed = needed.min(summary.first_ref).min(*number);
            first = at;
        }
    }
    first.min(count)
}
