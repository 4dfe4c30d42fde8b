//! The tail cache: the newest durable frames in memory, so that readers at the head never touch
//! the disk. Also the cache of side indexes of sealed segments.

use std::{
    collections::{HashMap, VecDeque},
    mem::size_of,
    sync::Arc,
};

use sluice_frame::{Header, Run};

use crate::{Stored, index::SegIndex};

/// Where a frame is stored: segment and offset. Grows from frame to frame.
pub(crate) type Location = (u32, u64);

/// Frames of whole durable blocks, oldest first, within a budget in bytes.
#[derive(Debug)]
pub(crate) struct Tail {
    budget: usize,
    bytes: usize,
    frames: VecDeque<(Location, usize, Arc<Stored>)>,
}

impl Tail {
    pub(crate) const fn new(budget: usize) -> Self {
        Self { budget, bytes: 0, frames: VecDeque::new() }
    }

    /// Adds the next frame; forgets the oldest as needed.
    pub(crate) fn push(&mut self, location: Location, frame: Arc<Stored>) {
        let weight = weight(&frame);
        self.bytes += weight;
        self.frames.push_back((location, weight, frame));
        while self.bytes > self.budget {
            let Some((_, weight, _)) = self.frames.pop_front() else { break };
            self.bytes -= weight;
        }
    }

    /// The frame stored there, if it is still cached.
    pub(crate) fn get(&self, location: Location) -> Option<Arc<Stored>> {
        let at = self.frames.binary_search_by_key(&location, |(at, _, _)| *at).ok()?;
        self.frames.get(at).map(|(_, _, frame)| Arc::clone(frame))
    }

    /// Bytes held.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Memory that a cached frame keeps: its changes are most of what they share, by the contract of
/// [`crate::Writer::append`].
pub(crate) fn weight(frame: &Stored) -> usize {
    frame.changes.len() + header_weight(&frame.header)
}

fn header_weight(header: &Header) -> usize {
    let metadata = header.metadata.as_ref().map_or(0, |metadata| metadata.value.len());
    let states = header.end.as_ref().map_or(0, |end| end.states.len() * 96);
    size_of::<Header>() + header.runs.capacity() * size_of::<Run>() + metadata + states + 128
}

/// Side indexes of sealed segments that readers use at the moment, by journal and segment.
#[derive(Debug)]
pub(crate) struct IndexCache {
    budget: usize,
    bytes: usize,
    turn: u64,
    indexes: HashMap<(u64, u32), (u64, Arc<SegIndex>)>,
}

impl IndexCache {
    pub(crate) fn new(budget: usize) -> Self {
        Self { budget, bytes: 0, turn: 0, indexes: HashMap::new() }
    }

    pub(crate) fn get(&mut self, journal: u64, segment: u32) -> Option<Arc<SegIndex>> {
        self.turn += 1;
        let (used, index) = self.indexes.get_mut(&(journal, segment))?;
        *used = self.turn;
        Some(Arc::clone(index))
    }

    pub(crate) fn insert(&mut self, journal: u64, index: Arc<SegIndex>) {
        self.turn += 1;
        self.bytes += index.weight();
        if let Some((_, old)) = self.indexes.insert((journal, index.number), (self.turn, index)) {
            self.bytes -= old.weight();
        }
        while self.bytes > self.budget && self.indexes.len() > 1 {
            let oldest = self.indexes.iter().min_by_key(|(_, (used, _))| *used);
            let Some(key) = oldest.map(|(key, _)| *key) else { break };
            self.remove(key.0, key.1);
        }
    }

    pub(crate) fn remove(&mut self, journal: u64, segment: u32) {
        if let Some((_, old)) = self.indexes.remove(&(journal, segment)) {
            self.bytes -= old.weight();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sluice_model::{Kind, Pointer};

    use super::*;
    use crate::codec::origin;

    fn frame(len: usize) -> Arc<Stored> {
        let name = "chain".parse().unwrap();
        let header = Header::new(Kind::Block, name, Pointer::from_height(1), 1);
        Arc::new(Stored { header: Arc::new(header), changes: Bytes::from(vec![0; len]) })
    }

    #[test]
    fn the_tail_keeps_its_budget_and_the_newest() {
        let one = weight(&frame(1000));
        let mut tail = Tail::new(3 * one);
        for offset in 0..10 {
            tail.push((1, offset), frame(1000));
            assert!(tail.bytes() <= 3 * one);
        }
        assert!(tail.get((1, 6)).is_none() && tail.get((1, 7)).is_some());
        tail.push((2, 0), frame(10 * one));
        assert_eq!(tail.bytes(), 0, "what exceeds the budget is not kept");
    }

    #[test]
    fn the_index_cache_forgets_what_was_not_used() {
        let one = SegIndex::new(0, origin()).weight();
        let mut cache = IndexCache::new(2 * one);
        for number in 0..2 {
            cache.insert(7, Arc::new(SegIndex::new(number, origin())));
        }
        assert!(cache.get(7, 0).is_some());
        cache.insert(7, Arc::new(SegIndex::new(2, origin())));
        assert!(cache.get(7, 1).is_none() && cache.get(7, 0).is_some());
    }
}
