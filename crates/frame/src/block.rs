use std::{collections::VecDeque, mem};

use bytes::{Bytes, BytesMut};
use sluice_model::{Epoch, Generation, IngestorName, Kind, Op, Pointer, TopicRules};

use crate::{
    error::{ScanError, ScanReason},
    frame::Frame,
    header::{BlockEnd, Header, Metadata},
    limits::FRAME_CUT,
    scan::{Element, Elements, TableBuilder, put_change},
};

/// Metadata up to this size rides on the block's last frame; larger has frames of its own, so
/// that the frames of changes stay small to read.
const INLINE_METADATA: usize = 64 << 10;

/// What is known of a block when it begins.
#[derive(Clone, Debug)]
pub struct BlockStart {
    /// The ingestor.
    pub ingestor: IngestorName,
    /// Its history.
    pub generation: Generation,
    /// The block's place.
    pub pointer: Pointer,
    /// The block before.
    pub parent: Pointer,
    /// The block's height.
    pub height: u64,
    /// The block's own time, nanoseconds since 1970.
    pub time: Option<i64>,
    /// The writer's epoch.
    pub epoch: Epoch,
}

/// Cuts a block into frames while its changes come in. Holds at most one frame of changes and
/// what [`Self::take`] has not fetched yet.
#[derive(Debug)]
pub struct BlockBuilder<'t> {
    start: BlockStart,
    topics: &'t TopicRules,
    table: TableBuilder,
    changes: BytesMut,
    part: u32,
    first_index: u32,
    metadata: Option<Metadata>,
    ready: VecDeque<Frame>,
}

impl<'t> BlockBuilder<'t> {
    /// Begins a block.
    pub fn new(start: BlockStart, topics: &'t TopicRules) -> Self {
        Self {
            start,
            topics,
            table: TableBuilder::new(),
            changes: BytesMut::new(),
            part: 0,
            first_index: 0,
            metadata: None,
            ready: VecDeque::new(),
        }
    }

    /// Adds a region of changes in canonical form. On an error the changes before the bad one
    /// were added; the block cannot be completed.
    pub fn push_changes(&mut self, region: &[u8]) -> Result<(), ScanError> {
        let mut elements = Elements::new(region);
        let mut change = 0;
        while let Some(element) = elements.next() {
            let element = element?;
            self.push(&element).map_err(|reason| ScanError {
                change,
                offset: elements.offset() - element.raw.len(),
                reason,
            })?;
            change += 1;
        }
        Ok(())
    }

    /// Adds one change.
    pub fn push_change(
        &mut self,
        store: &str,
        op: Op,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), ScanError> {
        let mut raw = BytesMut::with_capacity(store.len() + key.len() + value.len() + 24);
        put_change(store, op, key, value, &mut raw);
        self.push_changes(&raw)
    }

    fn push(&mut self, element: &Element<'_>) -> Result<(), ScanReason> {
        let full = self.changes.len() + element.raw.len() > FRAME_CUT;
        if full && !self.changes.is_empty() {
            self.cut();
        }
        match self.table.add(element, self.topics) {
            // A frame full of routes or runs is cut like one full of bytes.
            Err(ScanReason::TooManyRoutes | ScanReason::TooManyRuns) => {
                self.cut();
                self.table.add(element, self.topics)?;
            }
            other => other?,
        }
        self.changes.extend_from_slice(element.raw);
        Ok(())
    }

    /// Sets the block's metadata. At most once per block.
    pub fn set_metadata(&mut self, type_url: &str, value: Bytes) {
        self.metadata = Some(Metadata { type_url: type_url.to_owned(), value });
    }

    /// A complete frame of the block that is not its last, if there is one.
    pub fn take(&mut self) -> Option<Frame> {
        self.ready.pop_front()
    }

    /// Changes added so far.
    pub fn changes(&self) -> u32 {
        self.first_index.saturating_add(self.table.changes)
    }

    /// Bytes held in frames that were not taken and in the one being filled.
    pub fn buffered(&self) -> usize {
        self.ready.iter().fold(self.changes.len(), |sum, frame| sum + frame.changes.len())
    }

    /// Ends the block; gives its remaining frames, the last of which carries the end. The
    /// digests are left for the journal to compute.
    pub fn finish(mut self, traceparent: &str) -> VecDeque<Frame> {
        let metadata = self.metadata.take();
        let inline = metadata.as_ref().is_none_or(|m| m.value.len() <= INLINE_METADATA);
        if let Some(large) = metadata.as_ref().filter(|_| !inline) {
            self.cut_metadata(large);
        }
        let changes = self.changes();
        self.cut();
        // A block without changes still has a frame: the one that ends it.
        if let Some(last) = self.ready.back_mut() {
            last.header.metadata = last.header.metadata.take().or(metadata.filter(|_| inline));
            last.header.end = Some(BlockEnd {
                parts: self.part,
                changes,
                traceparent: traceparent.to_owned(),
                ..BlockEnd::default()
            });
        }
        self.ready
    }

    fn cut_metadata(&mut self, metadata: &Metadata) {
        if !self.changes.is_empty() {
            self.cut();
        }
        let mut value = metadata.value.clone();
        while !value.is_empty() {
            let piece = value.split_to(value.len().min(FRAME_CUT));
            self.cut();
            if let Some(frame) = self.ready.back_mut() {
                frame.header.metadata =
                    Some(Metadata { type_url: metadata.type_url.clone(), value: piece });
            }
        }
    }

    fn cut(&mut self) {
        let table = mem::replace(&mut self.table, TableBuilder::new()).finish();
        let start = &self.start;
        let mut header =
            Header::new(Kind::Block, start.ingestor.clone(), start.pointer.clone(), start.height);
        header.generation = start.generation;
        header.parent = start.parent.clone();
        header.time = start.time;
        header.epoch = start.epoch;
        header.part = self.part;
        header.first_index = self.first_index;
        header.routes = table.routes;
        header.runs = table.runs;
        let changes = self.changes.split().freeze();
        self.ready.push_back(Frame { header, changes });
        self.part += 1;
        self.first_index = self.first_index.saturating_add(table.changes);
    }
}
