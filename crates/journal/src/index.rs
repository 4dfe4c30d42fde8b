//! The sparse index: one small entry per frame of every whole block, by segment.
//!
//! A segment's index lists the blocks that *end* in it, so a block is in one index whatever it
//! spans, and positions only grow from entry to entry. Which stores and topics a frame has is an
//! id into the segment's interned route tables: a filter is decided once per table, and frames
//! that it does not select are passed without reading them.

pub(crate) mod codec;

use std::{collections::HashMap, mem::size_of};

use sluice_frame::{Header, RouteTable};
use sluice_model::{Digest, Generation, Head, Kind, Pointer, Position};

use crate::{
    Corruption,
    record::{RecordHead, record_len},
};

/// What an entry stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A frame of a block.
    Block,
    /// A `GAP` record.
    Gap,
    /// A `GENERATION` record.
    Generation,
    /// Something unreadable; `set` is its number in the index's corruptions.
    Corrupt,
}

/// One frame or control record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: EntryKind,
    pub(crate) first: bool,
    pub(crate) last: bool,
    pub(crate) metadata: bool,
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    pub(crate) header_len: u32,
    pub(crate) changes_len: u32,
    /// Units of the record's slot.
    pub(crate) slot: u8,
    /// Number of the frame's route table in the index.
    pub(crate) set: u32,
    pub(crate) changes: u32,
    /// Index in the block of the change behind the frame's last.
    pub(crate) next_index: u32,
    pub(crate) generation: Generation,
    pub(crate) height: u64,
    pub(crate) time: Option<i64>,
    pub(crate) pointer: Pointer,
    /// On a last part: what the next block is chained to.
    pub(crate) digest: Digest,
}

impl Entry {
    pub(crate) fn new(record: &RecordHead, header: &Header, segment: u32) -> Self {
        let kind = match header.kind {
            Kind::Gap => EntryKind::Gap,
            Kind::Generation => EntryKind::Generation,
            Kind::Block | Kind::Epoch | Kind::Snapshot => EntryKind::Block,
        };
        Self {
            kind,
            first: record.first,
            last: record.last,
            metadata: header.metadata.is_some(),
            segment,
            offset: record.offset,
            header_len: record.header_len,
            changes_len: record.changes_len,
            slot: record.slot,
            set: 0,
            changes: header.changes(),
            next_index: header.next_index(),
            generation: header.generation,
            height: header.height,
            time: header.time,
            pointer: header.pointer.clone(),
            digest: header.end.as_ref().map_or(Digest::ZERO, |end| end.digest),
        }
    }

    /// The end of the entry's block.
    pub(crate) fn position(&self) -> Position {
        Position::end_of(self.generation, self.pointer.clone())
    }

    /// Bytes of the record.
    pub(crate) fn len(&self) -> u64 {
        record_len(self.header_len, self.changes_len, self.slot)
    }

    /// True if this is what the index would say of the record.
    pub(crate) const fn is_of(&self, record: &RecordHead) -> bool {
        self.header_len == record.header_len
            && self.changes_len == record.changes_len
            && self.slot == record.slot
    }

    /// Generation and pointer, for comparing.
    pub(crate) fn place(&self) -> (Generation, &Pointer) {
        (self.generation, &self.pointer)
    }

    /// True for frames of the same block.
    pub(crate) fn same_block(&self, other: &Self) -> bool {
        self.kind == other.kind && self.place() == other.place()
    }
}

/// What is known of a segment without its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// The head before the segment's first entry.
    pub(crate) base: Head,
    /// The head after its last.
    pub(crate) last: Head,
    pub(crate) blocks: u64,
    pub(crate) changes: u64,
    /// Lowest number of a segment that an entry lies in.
    pub(crate) first_ref: u32,
    pub(crate) max_height: u64,
    pub(crate) max_time: i64,
    pub(crate) corruptions: u64,
    pub(crate) aborted_parts: u64,
    pub(crate) unknown_records: u64,
}

impl Summary {
    pub(crate) fn new(base: Head, number: u32) -> Self {
        Self {
            last: base.clone(),
            base,
            blocks: 0,
            changes: 0,
            first_ref: number,
            max_height: 0,
            max_time: i64::MIN,
            corruptions: 0,
            aborted_parts: 0,
            unknown_records: 0,
        }
    }
}

/// The index of one segment.
#[derive(Clone, Debug)]
pub(crate) struct SegIndex {
    pub(crate) number: u32,
    pub(crate) summary: Summary,
    pub(crate) entries: Vec<Entry>,
    pub(crate) sets: Vec<RouteTable>,
    pub(crate) corruptions: Vec<Corruption>,
    by_hash: HashMap<u64, u32>,
}

/// An entry whose routes have no number yet.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) entry: Entry,
    pub(crate) routes: RouteTable,
}

impl SegIndex {
    pub(crate) fn new(number: u32, base: Head) -> Self {
        Self {
            number,
            summary: Summary::new(base, number),
            entries: Vec::new(),
            sets: Vec::new(),
            corruptions: Vec::new(),
            by_hash: HashMap::new(),
        }
    }

    /// Adds a whole block, or a control record; `head` is the head after it.
    pub(crate) fn push(&mut self, drafts: Vec<Draft>, head: Head) {
        let summary = &mut self.summary;
        for Draft { mut entry, routes } in drafts {
            summary.first_ref = summary.first_ref.min(entry.segment);
            summary.changes += u64::from(entry.changes);
            summary.max_height = summary.max_height.max(entry.height);
            summary.max_time = summary.max_time.max(entry.time.unwrap_or(i64::MIN));
            summary.blocks += u64::from(entry.last && entry.kind == EntryKind::Block);
            entry.set = intern(&mut self.sets, &mut self.by_hash, routes);
            self.entries.push(entry);
        }
        summary.last = head;
    }

    /// Adds what cannot be read, in its place.
    pub(crate) fn push_corruption(&mut self, corruption: Corruption) {
        let at = corruption.through.clone().unwrap_or_else(|| corruption.after.clone());
        self.summary.corruptions += 1;
        self.entries.push(Entry {
            kind: EntryKind::Corrupt,
            first: true,
            last: true,
            metadata: false,
            segment: self.number,
            offset: corruption.offset,
            header_len: 0,
            changes_len: 0,
            slot: 0,
            set: u32::try_from(self.corruptions.len()).unwrap_or(u32::MAX),
            changes: 0,
            next_index: 0,
            generation: at.generation,
            height: 0,
            time: None,
            pointer: at.pointer,
            digest: corruption.digest.unwrap_or_default(),
        });
        self.corruptions.push(corruption);
    }

    /// The number of the first entry at or after a place.
    pub(crate) fn lower_bound(&self, generation: Generation, pointer: &Pointer) -> usize {
        self.entries.partition_point(|entry| entry.place() < (generation, pointer))
    }

    /// Memory, roughly, in bytes.
    pub(crate) fn weight(&self) -> usize {
        let routes: usize = self.sets.iter().map(|set| set.encoded().len() * 4).sum();
        size_of::<Self>() + self.entries.len() * (size_of::<Entry>() + 16) + routes
    }
}

fn intern(sets: &mut Vec<RouteTable>, by_hash: &mut HashMap<u64, u32>, routes: RouteTable) -> u32 {
    let next = u32::try_from(sets.len()).unwrap_or(u32::MAX);
    if let Some(&known) = by_hash.get(&routes.hash()) {
        // Compared, because equal hashes can be made by whoever chooses the names.
        if sets.get(known as usize) == Some(&routes) {
            return known;
        }
    }
    by_hash.insert(routes.hash(), next);
    sets.push(routes);
    next
}

#[cfg(test)]
mod tests;
