#![expect(
    clippy::cast_possible_truncation,
    reason = "frames are bounded far below 4 GiB, runs and routes far below 2^32"
)]

use std::{collections::HashMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use sluice_model::Filter;
use smallvec::SmallVec;

use crate::{
    frame::WireFrame,
    header::{Header, Run},
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
    Some(Arc<[bool]>),
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
    /// metadata passes even without a change.
    pub fn splice(&mut self, header: &Header, changes: &Bytes) -> Option<WireFrame> {
        let keep_metadata = self.metadata && header.metadata.is_some();
        let mask = self.mask(&header.routes);
        let filtered = match mask {
            Mask::Nothing => Selection::default(),
            Mask::Everything if !self.filter.looks_inside_runs() => {
                return whole(header, changes, keep_metadata, self.metadata);
            }
            Mask::Everything => self.select(header, changes, |_| true),
            Mask::Some(mask) => {
                self.select(header, changes, |route| mask.get(route).copied().unwrap_or(false))
            }
        };
        if filtered.runs.is_empty() && !keep_metadata {
            return None;
        }
        let (routes, runs) = renumber(&header.routes, filtered.runs);
        let metadata = if keep_metadata { header.metadata.clone() } else { None };
        let head = Header { routes, runs, metadata, ..bare(header) }.encode();
        Some(WireFrame { head, slices: slices(changes, &filtered.ranges) })
    }

    fn mask(&mut self, routes: &RouteTable) -> Mask {
        if let Some((known, mask)) = self.masks.get(&routes.hash())
            && known == routes
        {
            return mask.clone();
        }
        let decided: Vec<bool> = routes
            .iter()
            .map(|route| self.filter.matches_route(&route.store, &route.topic))
            .collect();
        let mask = match decided.iter().filter(|passes| **passes).count() {
            0 => Mask::Nothing,
            n if n == decided.len() => Mask::Everything,
            _ => Mask::Some(decided.into()),
        };
        if self.masks.len() >= MAX_MASKS {
            self.masks.clear();
        }
        self.masks.insert(routes.hash(), (routes.clone(), mask.clone()));
        mask
    }

    fn select(
        &self,
        header: &Header,
        changes: &Bytes,
        passes: impl Fn(usize) -> bool,
    ) -> Selection {
        let mut selection = Selection::default();
        let mut at = 0usize;
        for run in &header.runs {
            selection.skipped = selection.skipped.saturating_add(run.skip);
            let end = at.saturating_add(run.bytes as usize);
            let route = header.routes.get(run.route as usize);
            match route.filter(|_| passes(run.route as usize)) {
                None => selection.skipped = selection.skipped.saturating_add(run.count),
                Some(route) if self.filter.looks_inside_runs() => {
                    let bytes = changes.get(at..end).unwrap_or_default();
                    self.select_changes(run, route, (at, bytes), &mut selection);
                }
                Some(_) => selection.keep(run.route, run.count, at, end),
            }
            at = end;
        }
        selection
    }

    fn select_changes(
        &self,
        run: &Run,
        route: &Route,
        (at, bytes): (usize, &[u8]),
        selection: &mut Selection,
    ) {
        let mut elements = Elements::new(bytes);
        while let Some(Ok(element)) = elements.next() {
            let end = at + elements.offset();
            if self.filter.matches_change(&route.store, element.op, element.key) {
                selection.keep(run.route, 1, end - element.raw.len(), end);
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

fn whole(header: &Header, changes: &Bytes, keep_metadata: bool, wanted: bool) -> Option<WireFrame> {
    if header.runs.is_empty() && !keep_metadata {
        return None;
    }
    let head = if header.metadata.is_none() || wanted {
        header.encode()
    } else {
        Header { routes: header.routes.clone(), runs: header.runs.clone(), ..bare(header) }.encode()
    };
    Some(WireFrame { head, slices: SmallVec::from_iter([changes.clone()]) })
}

/// The header without routes, runs and metadata.
fn bare(header: &Header) -> Header {
    Header {
        generation: header.generation,
        parent: header.parent.clone(),
        time: header.time,
        epoch: header.epoch,
        part: header.part,
        first_index: header.first_index,
        end: header.end.clone(),
        ..Header::new(header.kind, header.ingestor.clone(), header.pointer.clone(), header.height)
    }
}

/// Leaves only the routes in use, numbered in order of first appearance.
fn renumber(table: &RouteTable, mut runs: Vec<Run>) -> (RouteTable, Vec<Run>) {
    let mut numbers: Vec<Option<u32>> = vec![None; table.len()];
    let mut routes = Vec::new();
    for run in &mut runs {
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
    (RouteTable::new(routes), runs)
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
