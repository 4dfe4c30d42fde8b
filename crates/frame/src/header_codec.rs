//! The header's protobuf encoding, written and read by hand.
//!
//! Written in ascending order of fields, defaults left out. Read strictly: ascending fields,
//! nothing unknown; whoever sends headers is us or was normalised by us.

use bytes::{BufMut, Bytes, BytesMut};
use sluice_model::{Epoch, Generation, Kind, Pointer};

use crate::{
    error::FrameError,
    header::{BlockEnd, Header, Metadata, StateDigest},
    routes::{ROUTES_TAG, RouteInterner},
    scan::CHANGE_TAG,
};

mod read;
mod write;

use read::Fields;

const GAP: u64 = 16;
const GENERATION_START: u64 = 17;
const EPOCH_START: u64 = 18;

impl BlockEnd {
    /// The end as a message of its own.
    pub fn encode(&self) -> Bytes {
        let states: usize = self.states.iter().map(|state| state.store.len() + 48).sum();
        let mut out = BytesMut::with_capacity(160 + self.traceparent.len() + states);
        write::block_end(self, &self.states, &mut out);
        out.freeze()
    }

    /// Reads what [`Self::encode`] gave.
    pub fn parse(bytes: &Bytes) -> Result<Self, FrameError> {
        read::block_end(bytes)
    }
}

impl Header {
    /// The header's bytes; the changes follow them directly.
    pub fn encode(&self) -> Bytes {
        let mut out =
            BytesMut::with_capacity(256 + self.routes.encoded().len() + 4 * self.runs.len());
        self.encode_into(&mut out);
        out.freeze()
    }

    /// Appends the header's bytes.
    pub fn encode_into(&self, out: &mut BytesMut) {
        write::uint(1, u64::from(self.kind.number()), out);
        write::bytes(2, self.ingestor.as_str().as_bytes(), out);
        write::uint(3, u64::from(self.generation.0), out);
        write::bytes(4, self.pointer.as_bytes(), out);
        write::bytes(5, self.parent.as_bytes(), out);
        write::uint(6, self.height, out);
        if let Some(time) = self.time {
            write::message(7, out, |out| write::timestamp(time, out));
        }
        write::uint(8, self.epoch.as_u64(), out);
        write::uint(9, u64::from(self.part), out);
        out.put_slice(self.routes.encoded());
        if !self.runs.is_empty() {
            write::message(11, out, |out| write::runs(&self.runs, out));
        }
        write::uint(12, u64::from(self.first_index), out);
        let states = self.end.iter().flat_map(|end| &end.states);
        write::tail(self.end.as_ref(), states, self.metadata.as_ref(), out);
        if let Some(record) = &self.record {
            write::record(record, out);
        }
    }

    /// The bytes of this header as if it had that end, with these states, and that metadata. Its
    /// own end and metadata must be absent: they stand last.
    pub(crate) fn encode_with<'a>(
        &self,
        end: Option<&BlockEnd>,
        states: impl IntoIterator<Item = &'a StateDigest>,
        metadata: Option<&Metadata>,
    ) -> Bytes {
        let mut out = BytesMut::with_capacity(512 + self.routes.encoded().len());
        self.encode_into(&mut out);
        write::tail(end, states, metadata, &mut out);
        out.freeze()
    }

    /// Reads a header that is followed by nothing.
    pub fn parse(bytes: &Bytes) -> Result<Self, FrameError> {
        Self::parse_interned(bytes, &mut RouteInterner::default())
    }

    /// Reads a header that is followed by nothing, sharing routes with those read before.
    pub fn parse_interned(bytes: &Bytes, interner: &mut RouteInterner) -> Result<Self, FrameError> {
        let (header, end) = Self::parse_prefix(bytes, interner)?;
        if end != bytes.len() {
            return Err(FrameError::Header {
                field: "changes",
                offset: end,
                reason: "changes where only a header is expected",
            });
        }
        Ok(header)
    }

    /// Reads the header at the begin of a frame; gives it and the offset of the changes.
    pub(crate) fn parse_prefix(
        bytes: &Bytes,
        interner: &mut RouteInterner,
    ) -> Result<(Self, usize), FrameError> {
        let mut header = Self::new(Kind::Block, "?".parse()?, Pointer::ORIGIN, 0);
        let (mut kind, mut named) = (0, false);
        let mut fields = Fields::new(bytes, "Frame");
        while !fields.at_end() && fields.peek() != Some(CHANGE_TAG) {
            if fields.peek() == Some(ROUTES_TAG) {
                header.routes = read::routes(&mut fields, interner)?;
                continue;
            }
            match fields.tag()? {
                1 => kind = fields.uint("kind")?,
                2 => (header.ingestor, named) = (fields.text("ingestor")?.parse()?, true),
                3 => header.generation = Generation(fields.uint32("generation")?),
                4 => header.pointer = Pointer::new(fields.bytes("pointer")?)?,
                5 => header.parent = Pointer::new(fields.bytes("parent")?)?,
                6 => header.height = fields.uint("height")?,
                7 => header.time = read::timestamp(&fields.bytes("time")?)?,
                8 => header.epoch = Epoch::from_u64(fields.uint("epoch")?),
                9 => header.part = fields.uint32("part")?,
                11 => header.runs = read::runs(&fields.bytes("runs")?)?,
                12 => header.first_index = fields.uint32("first_index")?,
                13 => header.end = Some(read::block_end(&fields.bytes("end")?)?),
                14 => header.metadata = Some(read::metadata(&fields.bytes("metadata")?)?),
                GAP => header.record = Some(read::gap(&fields.bytes("gap")?)?),
                GENERATION_START => {
                    header.record =
                        Some(read::generation_start(&fields.bytes("generation_start")?)?);
                }
                EPOCH_START => {
                    header.record = Some(read::epoch_start(&fields.bytes("epoch_start")?)?);
                }
                _ => return Err(fields.error("unknown", "a field that this version does not know")),
            }
        }
        header.kind = Kind::from_number(kind).ok_or(FrameError::UnknownKind(kind))?;
        if !named {
            return Err(fields.error("ingestor", "it is missing"));
        }
        Ok((header, fields.offset()))
    }
}
