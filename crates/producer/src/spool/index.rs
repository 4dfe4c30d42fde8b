//! Which block is where. In memory only; made anew from the segments.

use std::collections::{BTreeMap, BTreeSet};

use sluice_frame::Header;
use sluice_model::Pointer;

use super::{Place, error::SpoolError};

/// Where a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The block before, as the source told it or as it was captured.
    pub parent: Pointer,
    /// The height.
    pub height: u64,
    /// It differs from the journal's, and that was told.
    pub diverged: bool,
    /// Frames.
    pub parts: u32,
    /// The segment.
    pub(super) segment: u64,
    /// Where its first record begins.
    pub(super) offset: u64,
    /// Where its last record begins.
    pub(super) last: u64,
}

/// A block that is not whole yet.
#[derive(Debug)]
pub(super) struct Partial {
    place: Place,
    pub(super) parts: u32,
    entry: Entry,
}

impl Partial {
    /// With one more frame, which is at `offset` of this segment.
    pub(super) fn next(
        before: Option<Self>,
        header: &Header,
        segment: u64,
        offset: u64,
    ) -> Result<Self, SpoolError> {
        let place = (header.generation, header.pointer.clone());
        let wrong = |expected| {
            let pointer = header.pointer.clone();
            Err(SpoolError::Order { pointer, expected, got: header.part })
        };
        match before {
            _ if header.part == 0 => {
                let entry = Entry {
                    parent: header.parent.clone(),
                    height: header.height,
                    diverged: false,
                    parts: 1,
                    segment,
                    offset,
                    last: offset,
                };
                Ok(Self { place, parts: 1, entry })
            }
            Some(mut own)
                if own.place == place
                    && own.parts == header.part
                    && own.entry.segment == segment =>
            {
                own.parts += 1;
                own.entry.parts = own.parts;
                own.entry.last = offset;
                Ok(own)
            }
            Some(own) => wrong(own.parts),
            None => wrong(0),
        }
    }

    /// The block, if this header ends it.
    pub(super) fn complete(&self, header: &Header) -> Option<(Place, Entry)> {
        let end = header.end.as_ref()?;
        (end.parts == self.parts).then(|| (self.place.clone(), self.entry.clone()))
    }
}

/// All blocks, in order.
#[derive(Debug, Default)]
pub(super) struct Index {
    blocks: BTreeMap<Place, Entry>,
    per_segment: BTreeMap<u64, BTreeSet<Place>>,
    /// Blocks that differ, with the segment that says so.
    marked: BTreeMap<Place, u64>,
}

impl Index {
    /// Adds a block; a newer copy takes the place of an older one.
    pub(super) fn insert(&mut self, place: Place, entry: Entry) {
        self.remove(&place);
        self.per_segment.entry(entry.segment).or_default().insert(place.clone());
        self.blocks.insert(place, entry);
    }

    pub(super) fn remove(&mut self, place: &Place) {
        self.marked.remove(place);
        let Some(entry) = self.blocks.remove(place) else { return };
        if let Some(places) = self.per_segment.get_mut(&entry.segment) {
            places.remove(place);
            if places.is_empty() {
                self.per_segment.remove(&entry.segment);
            }
        }
    }

    pub(super) fn remove_where(&mut self, gone: impl Fn(&Place) -> bool) {
        let places: Vec<Place> = self.blocks.keys().filter(|place| gone(place)).cloned().collect();
        for place in places {
            self.remove(&place);
        }
    }

    pub(super) fn remove_segment(&mut self, number: u64) {
        for place in self.per_segment.remove(&number).unwrap_or_default() {
            self.blocks.remove(&place);
            self.marked.remove(&place);
        }
    }

    /// A record in this segment says that the block differs.
    pub(super) fn mark(&mut self, place: &Place, segment: u64) {
        if let Some(entry) = self.blocks.get_mut(place) {
            entry.diverged = true;
            self.marked.insert(place.clone(), segment);
        }
    }

    pub(super) fn get(&self, place: &Place) -> Option<&Entry> {
        self.blocks.get(place)
    }

    pub(super) fn first(&self) -> Option<(&Place, &Entry)> {
        self.blocks.first_key_value()
    }

    pub(super) fn last(&self) -> Option<(&Place, &Entry)> {
        self.blocks.last_key_value()
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(super) fn diverged(&self) -> usize {
        self.marked.len()
    }

    /// True if something in the segment is wanted.
    pub(super) fn needs(&self, segment: u64) -> bool {
        self.per_segment.contains_key(&segment) || self.marked.values().any(|at| *at == segment)
    }

    pub(super) fn last_of(&self, segment: u64) -> Option<Place> {
        self.per_segment.get(&segment).and_then(|places| places.last().cloned())
    }
}
