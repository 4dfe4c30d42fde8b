//! Where a reader begins.

use sluice_model::{Digest, Generation, Head, Pointer, Position};

use crate::{
    ReadError, ReadFrom,
    index::{EntryKind, SegIndex},
    shared::{Cursor, Log, State},
};

/// A place to begin.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) cursor: Cursor,
    /// What lies before the cursor.
    pub(crate) after: Head,
    /// Inside a block: its position and the index that is done.
    pub(crate) inside: Option<(Position, u32)>,
}

/// The segment whose index has the place, if any has.
pub(crate) fn locate(state: &State, generation: Generation, pointer: &Pointer) -> u32 {
    let place = (generation, pointer);
    let at = state.sealed.partition_point(|meta| {
        let last = &meta.summary.last;
        (last.generation, &last.pointer) < place
    });
    match (state.sealed.get(at), &state.active) {
        (Some(meta), _) => meta.number,
        (None, Some(active)) => active.index.number,
        (None, None) => state.sealed.back().map_or(0, |meta| meta.number),
    }
}

/// Finds the place to begin, or says why there is none.
pub(crate) fn find_start(log: &Log, from: ReadFrom) -> Result<Start, ReadError> {
    match from {
        ReadFrom::Earliest => Ok(earliest(&log.state.read())),
        ReadFrom::Latest => Ok(latest(&log.state.read())),
        ReadFrom::After(position, digest) => after(log, &position, digest),
        ReadFrom::Height(height) => first(
            log,
            |meta| meta.max_height >= height,
            |index| {
                index
                    .entries
                    .iter()
                    .position(|e| e.kind == EntryKind::Block && e.first && e.height >= height)
            },
        ),
        ReadFrom::Time(time) => first(
            log,
            |meta| meta.max_time >= time,
            |index| {
                index.entries.iter().position(|e| {
                    e.kind == EntryKind::Block && e.first && e.time.is_some_and(|t| t >= time)
                })
            },
        ),
        ReadFrom::Last(blocks) => last(log, blocks),
    }
}

fn earliest(state: &State) -> Start {
    let cursor = Cursor { segment: state.oldest_segment(), entry: 0 };
    Start { cursor, after: state.oldest(), inside: None }
}

fn latest(state: &State) -> Start {
    let (segment, entry) = match (&state.active, state.sealed.back()) {
        (Some(active), _) => (active.index.number, active.index.entries.len()),
        (None, Some(meta)) => (meta.number, usize::MAX),
        (None, None) => (0, 0),
    };
    Start { cursor: Cursor { segment, entry }, after: state.head.clone(), inside: None }
}

/// The numbers of all segments with what is known of them.
fn summaries(state: &State) -> Vec<(u32, crate::index::Summary)> {
    let sealed = state.sealed.iter().map(|meta| (meta.number, meta.summary.clone()));
    let active = state.active.iter().map(|a| (a.index.number, a.index.summary.clone()));
    sealed.chain(active).collect()
}

/// Begins at the first block that is wanted; at the tail if there is none yet.
fn first(
    log: &Log,
    may_have: impl Fn(&crate::index::Summary) -> bool,
    find: impl Fn(&SegIndex) -> Option<usize>,
) -> Result<Start, ReadError> {
    let summaries = summaries(&log.state.read());
    for (segment, summary) in summaries {
        if !may_have(&summary) {
            continue;
        }
        let found = log.with_index(segment, |index| {
            find(index).map(|entry| Start {
                cursor: Cursor { segment, entry },
                after: head_before(index, entry),
                inside: None,
            })
        })?;
        if let Some(Some(start)) = found {
            return Ok(start);
        }
    }
    Ok(latest(&log.state.read()))
}

/// The head before an entry, as far as the index tells.
fn head_before(index: &SegIndex, entry: usize) -> Head {
    let before = index.entries.iter().take(entry).rev().find(|entry| entry.last);
    before.map_or_else(
        || index.summary.base.clone(),
        |entry| Head {
            generation: entry.generation,
            pointer: entry.pointer.clone(),
            height: entry.height,
            digest: entry.digest,
            time: entry.time,
            appended: 0,
        },
    )
}

fn last(log: &Log, blocks: u64) -> Result<Start, ReadError> {
    let summaries = summaries(&log.state.read());
    let mut left = blocks;
    if blocks == 0 {
        return Ok(latest(&log.state.read()));
    }
    for (segment, summary) in summaries.iter().rev() {
        if summary.blocks < left {
            left -= summary.blocks;
            continue;
        }
        let found = log.with_index(*segment, |index| {
            let mut firsts = index.entries.iter().enumerate().rev();
            let skip = usize::try_from(left).unwrap_or(usize::MAX).saturating_sub(1);
            let nth = firsts
                .by_ref()
                .filter(|(_, entry)| entry.kind == EntryKind::Block && entry.first)
                .nth(skip);
            let entry = nth.map_or(0, |(at, _)| at);
            let cursor = Cursor { segment: *segment, entry };
            Start { cursor, after: head_before(index, entry), inside: None }
        })?;
        if let Some(start) = found {
            return Ok(start);
        }
    }
    Ok(earliest(&log.state.read()))
}

fn after(log: &Log, position: &Position, digest: Option<Digest>) -> Result<Start, ReadError> {
    let place = (position.generation, &position.pointer);
    let (segment, head) = {
        let state = log.state.read();
        let (oldest, head) = (state.oldest(), &state.head);
        if *position < oldest.position() {
            return Err(ReadError::OutOfRange { oldest: oldest.position() });
        }
        let diverged = || ReadError::Diverged { head: state.visible_head() };
        if place > (head.generation, &head.pointer) {
            return Err(diverged());
        }
        if *position == oldest.position() {
            if digest.is_some_and(|digest| digest != oldest.digest) {
                return Err(diverged());
            }
            return Ok(earliest(&state));
        }
        (locate(&state, position.generation, &position.pointer), state.visible_head())
    };
    let found = log.with_index(segment, |index| within(index, position, digest))?;
    match found {
        Some(Some(start)) => Ok(start),
        Some(None) => Err(ReadError::Diverged { head }),
        None => {
            let oldest = log.state.read().oldest().position();
            Err(ReadError::OutOfRange { oldest })
        }
    }
}

fn within(index: &SegIndex, position: &Position, digest: Option<Digest>) -> Option<Start> {
    let place = (position.generation, &position.pointer);
    let at = index.lower_bound(position.generation, &position.pointer);
    let start = |entry| Start {
        cursor: Cursor { segment: index.number, entry },
        after: head_before(index, entry),
        inside: None,
    };
    let found = index.entries.get(at);
    let Some(found) = found.filter(|entry| entry.place() == place) else {
        // Between two blocks, or in a stretch that cannot be read.
        let corrupt = found.is_some_and(|entry| entry.kind == EntryKind::Corrupt);
        let same_history = found.is_some_and(|entry| entry.generation == position.generation);
        let unclaimed = digest.is_none() && same_history;
        return (corrupt || unclaimed).then(|| start(at));
    };
    if found.kind == EntryKind::Corrupt {
        let known = digest.is_none() || found.digest == Digest::ZERO;
        return (known || digest == Some(found.digest)).then(|| start(at + 1));
    }
    let parts = index.entries.iter().skip(at).take_while(|e| e.same_block(found)).count();
    let end = at + parts;
    let last = index.entries.get(end.checked_sub(1)?)?;
    if digest.is_some_and(|digest| digest != last.digest) {
        return None;
    }
    if position.is_end_of_block() {
        return Some(start(end));
    }
    let inside = Some((position.clone(), position.index))
        .map(|(block, index)| (Position::end_of(block.generation, block.pointer), index));
    Some(Start { inside, ..start(at) })
}
