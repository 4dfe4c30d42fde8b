#![expect(
    clippy::cast_possible_truncation,
    reason = "frames are bounded far below 4 GiB, runs and routes far below 2^32"
)]

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use sluice_model::{Filter, filter::PSEUDO_STORE_PREFIX};
use smallvec::SmallVec;

use crate::{
    frame::WireFrame,
    header::{Header, Metadata, Run, StateDigest},
    routes::{Route, RouteTable},
    scan::Elements,
};

/// Most route tables whose decision is kept.
const MAX_MASKS: usize = 1024;

/// With more slices than this one copy is cheaper than the slices' bookkeeping.
const MAX_SLICES: usize = 8;

/// Cuts what a filter asks for out of stored frames: a new header and slices of the stored
/// bytes, no change decoded. One per subscriber; remembers its decision per route table.
#[derive(Debug)]
pub struct Splicer {
    filter: Arc<Filter>,
    metadata: bool,
    masks: HashMap<u64, (RouteTable, Mask)>,
}

/// Which routes of a table a filter lets through.
#[derive(Clone, Debug)]
enum Mask {
    Nothing,
    Everything,
    Some(Arc<Subset>),
}

/// Some routes of a table.
#[derive(Debug)]
struct Subset {
    /// Their table. Every route of a stored frame is in use, so this is exactly what a frame
    /// that is filtered by route alone needs, in order of first appearance.
    table: RouteTable,
    /// By number in the whole table: the number in the subset, or nothing.
    numbers: Vec<Option<u32>>,
    /// The stores in the table.
    stores: HashSet<Arc<str>>,
    /// Stores of the whole table that have a digest, and which of them are in this one.
    digested: usize,
    places: Vec<(usize, Arc<str>)>,
}

impl Subset {
    /// The digests of its stores.
    fn states<'a>(&self, all: &'a [StateDigest]) -> SmallVec<[&'a StateDigest; 4]> {
        // A block of one frame has them in the order of the frame's stores; looking at every name
        // would cost more than the rest of a small answer.
        let at = |(place, store): &(usize, Arc<str>)| {
            all.get(*place).filter(|state| *state.store == **store)
        };
        let placed = (all.len() == self.digested).then(|| self.places.iter().map(at).collect());
        placed.flatten().unwrap_or_else(|| {
            all.iter().filter(|state| self.stores.contains(state.store.as_str())).collect()
        })
    }
}

impl Splicer {
    /// For this filter; with or without the metadata of blocks.
    pub fn new(filter: Arc<Filter>, metadata: bool) -> Self {
        Self { filter, metadata, masks: HashMap::new() }
    }

    /// True if some route of the table passes the filter, so that the changes are worth reading.
    pub fn selects(&mut self, routes: &RouteTable) -> bool {
        !matches!(self.mask(routes), Mask::Nothing)
    }

    /// The part of a frame that passes, or `None` if nothing does. A frame that carries asked-for
    /// metadata passes even without a change. Of the block's state digests only those of stores
    /// in the answer are kept: the others tell of stores that were not asked for.
    pub fn splice(&mut self, header: &Header, changes: &Bytes) -> Option<WireFrame> {
        let metadata = header.metadata.as_ref().filter(|_| self.metadata);
        let inside = self.filter.looks_inside_runs();
        let mask = self.mask(&header.routes);
        let (selection, table) = match &mask {
            Mask::Nothing => (Selection::default(), RouteTable::default()),
            Mask::Everything if !inside => return whole(header, changes, metadata),
            Mask::Everything => {
                let mut selection = self.select(header, changes, |route| Some(route as u32));
                let table = renumber(&header.routes, &mut selection.runs);
                (selection, table)
            }
            Mask::Some(subset) => {
                let number = |route: usize| subset.numbers.get(route).copied().flatten();
                let mut selection = self.select(header, changes, number);
                let table = match inside {
                    false => subset.table.clone(),
                    true => renumber(&subset.table, &mut selection.runs),
                };
                (selection, table)
            }
        };
        if selection.runs.is_empty() && metadata.is_none() {
            return None;
        }
        let head = Header { routes: table, runs: selection.runs, ..bare(header) };
        let all = header.end.as_ref().map_or(&[][..], |end| &end.states);
        let states = match &mask {
            Mask::Some(subset) if !inside => subset.states(all),
            _ => {
                let asked =
                    |state: &&StateDigest| head.routes.iter().any(|r| *r.store == *state.store);
                all.iter().filter(asked).collect()
            }
        };
        let head = head.encode_with(header.end.as_ref(), states, metadata);
        Some(WireFrame { head, slices: slices(changes, &selection.ranges) })
    }

    fn mask(&mut self, routes: &RouteTable) -> Mask {
        if let Some((known, mask)) = self.masks.get(&routes.hash())
            && known == routes
        {
            return mask.clone();
        }
        let mask = self.decide(routes);
        if self.masks.len() >= MAX_MASKS {
            self.masks.clear();
        }
        self.masks.insert(routes.hash(), (routes.clone(), mask.clone()));
        mask
    }

    fn decide(&self, routes: &RouteTable) -> Mask {
        let mut kept = Vec::new();
        let numbers: Vec<Option<u32>> = routes
            .iter()
            .map(|route| {
                let passes = self.filter.matches_route(&route.store, &route.topic);
                passes.then(|| {
                    kept.push(route.clone());
                    kept.len() as u32 - 1
                })
            })
            .collect();
        match kept.len() {
            0 => Mask::Nothing,
            n if n == numbers.len() => Mask::Everything,
            _ => {
                let stores: HashSet<Arc<str>> =
                    kept.iter().map(|route| Arc::clone(&route.store)).collect();
                let mut seen = HashSet::new();
                let digested = routes.iter().map(|route| &route.store).filter(|store| {
                    !store.starts_with(PSEUDO_STORE_PREFIX) && seen.insert(Arc::clone(store))
                });
                let digested: Vec<_> = digested.cloned().enumerate().collect();
                Mask::Some(Arc::new(Subset {
                    table: RouteTable::new(kept),
                    numbers,
                    digested: digested.len(),
                    places: digested.into_iter().filter(|(_, s)| stores.contains(s)).collect(),
                    stores,
                }))
            }
        }
    }

    /// Walks the runs; `number` gives a route's number in the answer's table, if it passes.
    fn select(
        &self,
        header: &Header,
        changes: &Bytes,
        number: impl Fn(usize) -> Option<u32>,
    ) -> Selection {
        let inside = self.filter.looks_inside_runs();
        let mut selection = Selection::default();
        let mut at = 0usize;
        for run in &header.runs {
            selection.skipped = selection.skipped.saturating_add(run.skip);
            let end = at.saturating_add(run.bytes as usize);
            let route = header.routes.get(run.route as usize);
            match number(run.route as usize).zip(route) {
                None => selection.skipped = selection.skipped.saturating_add(run.count),
                Some((number, route)) if inside => {
                    let bytes = changes.get(at..end).unwrap_or_default();
                    self.select_changes(number, route, (at, bytes), &mut selection);
                }
                Some((number, _)) => selection.keep(number, run.count, at, end),
            }
            at = end;
        }
        selection
    }

    fn select_changes(
        &self,
        number: u32,
        route: &Route,
        (at, bytes): (usize, &[u8]),
        selection: &mut Selection,
    ) {
        let mut elements = Elements::new(bytes);
        while let Some(Ok(element)) = elements.next() {
            let end = at + elements.offset();
            if self.filter.matches_change(&route.store, element.op, element.key) {
                selection.keep(number, 1, end - element.raw.len(), end);
            } else {
                selection.skipped = selection.skipped.saturating_add(1);
            }
        }
    }
}

/// What passes of one frame: runs with the table's route numbers, and where their bytes are.
#[derive(Default)]
struct Selection {
    runs: Vec<Run>,
    ranges: SmallVec<[(usize, usize); 8]>,
    /// Changes left out since the last run.
    skipped: u32,
}

impl Selection {
    fn keep(&mut self, route: u32, count: u32, begin: usize, end: usize) {
        let bytes = (end - begin) as u32;
        match self.runs.last_mut() {
            Some(last) if last.route == route && self.skipped == 0 => {
                last.count += count;
                last.bytes += bytes;
            }
            _ => self.runs.push(Run { route, count, bytes, skip: self.skipped }),
        }
        match self.ranges.last_mut() {
            Some(last) if last.1 == begin => last.1 = end,
            _ => self.ranges.push((begin, end)),
        }
        self.skipped = 0;
    }
}

/// A frame that passes whole.
fn whole(header: &Header, changes: &Bytes, metadata: Option<&Metadata>) -> Option<WireFrame> {
    if header.runs.is_empty() && metadata.is_none() {
        return None;
    }
    let head = if header.metadata.is_none() || metadata.is_some() {
        header.encode()
    } else {
        let (routes, runs) = (header.routes.clone(), header.runs.clone());
        let states = header.end.iter().flat_map(|end| &end.states);
        Header { routes, runs, ..bare(header) }.encode_with(header.end.as_ref(), states, None)
    };
    Some(WireFrame { head, slices: SmallVec::from_iter([changes.clone()]) })
}

/// The header without routes, runs, metadata and end.
fn bare(header: &Header) -> Header {
    Header {
        generation: header.generation,
        parent: header.parent.clone(),
        time: header.time,
        epoch: header.epoch,
        part: header.part,
        first_index: header.first_index,
        ..Header::new(header.kind, header.ingestor.clone(), header.pointer.clone(), header.height)
    }
}

/// Leaves only the routes in use, numbered in order of first appearance.
fn renumber(table: &RouteTable, runs: &mut [Run]) -> RouteTable {
    let mut numbers: Vec<Option<u32>> = vec![None; table.len()];
    let mut routes = Vec::new();
    for run in runs {
        let Some((number, route)) =
            numbers.get_mut(run.route as usize).zip(table.get(run.route as usize))
        else {
            continue;
        };
        run.route = *number.get_or_insert_with(|| {
            routes.push(route.clone());
            routes.len() as u32 - 1
        });
    }
    RouteTable::new(routes)
}

fn slices(changes: &Bytes, ranges: &[(usize, usize)]) -> SmallVec<[Bytes; 4]> {
    if ranges.len() <= MAX_SLICES {
        return ranges.iter().map(|(begin, end)| changes.slice(begin..end)).collect();
    }
    let len = ranges.iter().map(|(begin, end)| end - begin).sum();
    let mut copy = BytesMut::with_capacity(len);
    for (begin, end) in ranges {
        copy.extend_from_slice(changes.get(*begin..*end).unwrap_or_default());
    }
    SmallVec::from_iter([copy.freeze()])
}
