//! Reading the parts of a header.

use std::sync::Arc;

use bytes::Bytes;
use sluice_model::{Digest, Generation, Pointer};

use crate::{
    error::FrameError,
    header::{BlockEnd, Metadata, Record, Run, StateDigest},
    limits::{MAX_ROUTES, MAX_RUNS},
    routes::{ROUTES_TAG, Route, RouteInterner, RouteTable},
    varint,
};

/// A walk over the fields of a message, in ascending order.
pub(super) struct Fields<'a> {
    bytes: &'a Bytes,
    at: usize,
    last: u64,
    wire_type: u64,
    message: &'static str,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(bytes: &'a Bytes, message: &'static str) -> Self {
        Self { bytes, at: 0, last: 0, wire_type: 0, message }
    }

    pub(super) const fn at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(super) const fn offset(&self) -> usize {
        self.at
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(super) const fn error(&self, field: &'static str, reason: &'static str) -> FrameError {
        FrameError::Header { field, offset: self.at, reason }
    }

    /// The number of the next field. Fields ascend; a repeated one may follow itself.
    pub(super) fn tag(&mut self) -> Result<u64, FrameError> {
        let (tag, next) = varint::read(self.bytes, self.at)
            .ok_or_else(|| self.error(self.message, "a field's tag is cut off"))?;
        let (field, wire_type) = (tag >> 3, tag & 7);
        if field < self.last {
            return Err(self.error(self.message, "its fields are not in ascending order"));
        }
        (self.at, self.last, self.wire_type) = (next, field, wire_type);
        Ok(field)
    }

    pub(super) fn uint(&mut self, field: &'static str) -> Result<u64, FrameError> {
        if self.wire_type != 0 {
            return Err(self.error(field, "it is not a number"));
        }
        let (value, next) = varint::read(self.bytes, self.at)
            .ok_or_else(|| self.error(field, "it is not a number in its shortest form"))?;
        self.at = next;
        Ok(value)
    }

    pub(super) fn uint32(&mut self, field: &'static str) -> Result<u32, FrameError> {
        let value = self.uint(field)?;
        u32::try_from(value).map_err(|_| self.error(field, "it is beyond 32 bits"))
    }

    pub(super) fn bytes(&mut self, field: &'static str) -> Result<Bytes, FrameError> {
        if self.wire_type != 2 {
            return Err(self.error(field, "it is not length-delimited"));
        }
        let (len, begin) = varint::read(self.bytes, self.at)
            .ok_or_else(|| self.error(field, "its length is cut off"))?;
        let end = usize::try_from(len)
            .ok()
            .and_then(|len| begin.checked_add(len))
            .filter(|end| *end <= self.bytes.len())
            .ok_or_else(|| self.error(field, "its length points beyond the frame"))?;
        self.at = end;
        Ok(self.bytes.slice(begin..end))
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<String, FrameError> {
        let bytes = self.bytes(field)?;
        std::str::from_utf8(&bytes)
            .map(str::to_owned)
            .map_err(|_| self.error(field, "it is not valid UTF-8"))
    }

    fn pointer(&mut self, field: &'static str) -> Result<Pointer, FrameError> {
        Ok(Pointer::new(self.bytes(field)?)?)
    }

    fn digest(&mut self, field: &'static str) -> Result<Digest, FrameError> {
        Ok(Digest::try_from(self.bytes(field)?.as_ref())?)
    }

    fn unknown<T>(&self) -> Result<T, FrameError> {
        Err(self.error(self.message, "a field that this version does not know"))
    }
}

/// Reads every route of a frame; they stand side by side.
pub(super) fn routes(
    fields: &mut Fields<'_>,
    interner: &mut RouteInterner,
) -> Result<RouteTable, FrameError> {
    let begin = fields.at;
    let mut bodies = 0usize;
    while fields.peek() == Some(ROUTES_TAG) {
        fields.tag()?;
        fields.bytes("routes")?;
        bodies += 1;
    }
    let encoded = fields.bytes.slice(begin..fields.at);
    if let Some(known) = interner.get(&encoded) {
        return Ok(known);
    }
    if bodies > MAX_ROUTES {
        return Err(fields.error("routes", "there are more than a frame may have"));
    }
    let mut again = Fields { at: begin, last: 0, ..Fields::new(fields.bytes, "routes") };
    let mut routes: Vec<Route> = Vec::with_capacity(bodies);
    for _ in 0..bodies {
        again.tag()?;
        let route = route(&again.bytes("routes")?, routes.last())?;
        routes.push(route);
    }
    // A copy, so that a cached table does not pin the buffer that the frame came in.
    let table = RouteTable::with_encoding(routes, Bytes::copy_from_slice(&encoded));
    interner.insert(&table);
    Ok(table)
}

fn route(bytes: &Bytes, previous: Option<&Route>) -> Result<Route, FrameError> {
    let (mut store, mut topic) = (String::new(), String::new());
    let mut fields = Fields::new(bytes, "Route");
    while !fields.at_end() {
        match fields.tag()? {
            1 => store = fields.text("store_key")?,
            2 => topic = fields.text("topic")?,
            _ => return fields.unknown(),
        }
    }
    if store.is_empty() {
        return Err(fields.error("store_key", "a route needs one"));
    }
    let store = match previous {
        Some(previous) if *previous.store == *store => previous.store.clone(),
        _ => Arc::from(store),
    };
    Ok(Route { store, topic: topic.into() })
}

pub(super) fn runs(bytes: &Bytes) -> Result<Vec<Run>, FrameError> {
    let mut columns: [Vec<u32>; 4] = Default::default();
    let mut fields = Fields::new(bytes, "Runs");
    while !fields.at_end() {
        let number = fields.tag()?;
        let Some(column) = number
            .checked_sub(1)
            .and_then(|i| usize::try_from(i).ok().and_then(|i| columns.get_mut(i)))
        else {
            return fields.unknown();
        };
        let packed = fields.bytes("runs")?;
        let mut at = 0;
        while at < packed.len() {
            let (value, next) = varint::read(&packed, at)
                .ok_or_else(|| fields.error("runs", "a column is cut off"))?;
            let value = u32::try_from(value)
                .map_err(|_| fields.error("runs", "a column holds more than 32 bits"))?;
            column.push(value);
            at = next;
        }
        if column.len() > MAX_RUNS {
            return Err(fields.error("runs", "there are more than a frame may have"));
        }
    }
    let [route, count, bytes_of, skip] = columns;
    if skip.is_empty() {
        return zip_runs(&route, &count, &bytes_of, &vec![0; route.len()]);
    }
    zip_runs(&route, &count, &bytes_of, &skip)
}

fn zip_runs(
    route: &[u32],
    count: &[u32],
    bytes: &[u32],
    skip: &[u32],
) -> Result<Vec<Run>, FrameError> {
    if [count.len(), bytes.len(), skip.len()] != [route.len(); 3] {
        return Err(FrameError::Table("its columns differ in length"));
    }
    let columns = route.iter().zip(count).zip(bytes).zip(skip);
    Ok(columns
        .map(|(((route, count), bytes), skip)| Run {
            route: *route,
            count: *count,
            bytes: *bytes,
            skip: *skip,
        })
        .collect())
}

/// Nanoseconds since 1970; `None` beyond what 64 bits hold, such as Go's year 1.
pub(super) fn timestamp(bytes: &Bytes) -> Result<Option<i64>, FrameError> {
    let (mut seconds, mut nanos) = (0i64, 0i64);
    let mut fields = Fields::new(bytes, "Timestamp");
    while !fields.at_end() {
        match fields.tag()? {
            1 => seconds = fields.uint("seconds")?.cast_signed(),
            2 => nanos = i64::from(fields.uint32("nanos")?),
            _ => return fields.unknown(),
        }
    }
    Ok(seconds.checked_mul(1_000_000_000).and_then(|time| time.checked_add(nanos)))
}

pub(super) fn block_end(bytes: &Bytes) -> Result<BlockEnd, FrameError> {
    let mut end = BlockEnd::default();
    let mut fields = Fields::new(bytes, "BlockEnd");
    while !fields.at_end() {
        match fields.tag()? {
            1 => end.parts = fields.uint32("parts")?,
            2 => end.changes = fields.uint32("changes")?,
            3 => end.digest = fields.digest("digest")?,
            4 => end.parent_digest = fields.digest("parent_digest")?,
            5 => end.states.push(state(&fields.bytes("states")?)?),
            6 => end.metadata_digest = Some(fields.digest("metadata_digest")?),
            7 => end.traceparent = fields.text("traceparent")?,
            _ => return fields.unknown(),
        }
    }
    Ok(end)
}

fn state(bytes: &Bytes) -> Result<StateDigest, FrameError> {
    let mut state = StateDigest { store: String::new(), digest: Digest::ZERO };
    let mut fields = Fields::new(bytes, "StateDigest");
    while !fields.at_end() {
        match fields.tag()? {
            1 => state.store = fields.text("store_key")?,
            2 => state.digest = fields.digest("digest")?,
            _ => return fields.unknown(),
        }
    }
    Ok(state)
}

pub(super) fn metadata(bytes: &Bytes) -> Result<Metadata, FrameError> {
    let mut metadata = Metadata::default();
    let mut fields = Fields::new(bytes, "BlockMetadata");
    while !fields.at_end() {
        match fields.tag()? {
            1 => metadata.type_url = fields.text("type_url")?,
            2 => metadata.value = fields.bytes("value")?,
            _ => return fields.unknown(),
        }
    }
    Ok(metadata)
}

pub(super) fn gap(bytes: &Bytes) -> Result<Record, FrameError> {
    let (mut from, mut to, mut cause) = (Pointer::ORIGIN, Pointer::ORIGIN, String::new());
    let mut fields = Fields::new(bytes, "Gap");
    while !fields.at_end() {
        match fields.tag()? {
            1 => from = fields.pointer("from")?,
            2 => to = fields.pointer("to")?,
            3 => cause = fields.text("cause")?,
            _ => return fields.unknown(),
        }
    }
    Ok(Record::Gap { from, to, cause })
}

pub(super) fn generation_start(bytes: &Bytes) -> Result<Record, FrameError> {
    let (mut generation, mut base_generation) = (Generation::default(), Generation::default());
    let (mut base_pointer, mut base_digest) = (Pointer::ORIGIN, Digest::ZERO);
    let (mut reason, mut actor) = (String::new(), String::new());
    let mut fields = Fields::new(bytes, "GenerationStart");
    while !fields.at_end() {
        match fields.tag()? {
            1 => generation = Generation(fields.uint32("generation")?),
            2 => base_generation = Generation(fields.uint32("base_generation")?),
            3 => base_pointer = fields.pointer("base_pointer")?,
            4 => base_digest = fields.digest("base_digest")?,
            5 => reason = fields.text("reason")?,
            6 => actor = fields.text("actor")?,
            _ => return fields.unknown(),
        }
    }
    Ok(Record::GenerationStart {
        generation,
        base_generation,
        base_pointer,
        base_digest,
        reason,
        actor,
    })
}

pub(super) fn epoch_start(bytes: &Bytes) -> Result<Record, FrameError> {
    let (mut writer_id, mut nonce, mut holder) = (0, Bytes::new(), String::new());
    let mut fields = Fields::new(bytes, "EpochStart");
    while !fields.at_end() {
        match fields.tag()? {
            1 => writer_id = fields.uint("writer_id")?,
            2 => nonce = fields.bytes("nonce")?,
            3 => holder = fields.text("holder")?,
            _ => return fields.unknown(),
        }
    }
    Ok(Record::EpochStart { writer_id, nonce, holder })
}
