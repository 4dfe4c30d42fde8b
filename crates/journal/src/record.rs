//! A record of a segment: a head of 64 bytes, the frame's header, its changes, zeros up to a
//! multiple of 64, and a slot for what is known late. In version 1 the slot stood between header and
//! changes; such records are still read.
//!
//! ```text
//!  0 magic u32        16 crc of header u32    40 offset / 64 u32
//!  4 version u8       20 crc of changes u32   44 durable length / 64 u32
//!  5 kind u8          24 height u64           48 writer u32
//!  6 flags u8         32 incarnation u64      52 appended i64 (nanoseconds since 1970)
//!  7 slot / 64 u8     8 header length u32, 12 changes length u32
//! 60 crc of the 60 bytes before, seeded with the journal's id
//! ```
//!
//! Two checksums, because headers are read without their changes. Incarnation and offset say that
//! the record was written here, since the segment was last taken into use. The durable length is
//! that of the segment before the group the record was written in: what lies below it was
//! acknowledged and may never be cut.

use bytes::Bytes;
use sluice_frame::{Header, MAX_CHANGE, MAX_HEADER};
use sluice_model::JournalId;

use crate::codec::Get;

/// Bytes of a record's head, and what records are aligned to.
pub(crate) const UNIT: u64 = 64;
/// The same as a length in memory.
pub(crate) const HEAD: usize = 64;
const MAGIC: u32 = u32::from_le_bytes(*b"SLRC");
const VERSION: u8 = 2;
const EARLY_SLOT: u8 = 1;
const FIRST: u8 = 1;
const LAST: u8 = 2;
/// Bytes of a head that its checksum covers.
const CHECKED: usize = 60;

/// The head of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) kind: u8,
    pub(crate) first: bool,
    pub(crate) last: bool,
    /// Units of 64 bytes at the record's end; see [`Slot`](crate::slot::Slot).
    pub(crate) slot: u8,
    /// The slot stands between header and changes: the record is of version 1.
    pub(crate) early_slot: bool,
    pub(crate) header_len: u32,
    pub(crate) changes_len: u32,
    pub(crate) header_crc: u32,
    pub(crate) changes_crc: u32,
    pub(crate) height: u64,
    pub(crate) incarnation: u64,
    /// In bytes; a multiple of 64.
    pub(crate) offset: u64,
    /// In bytes; a multiple of 64.
    pub(crate) durable: u64,
    pub(crate) writer: u32,
    pub(crate) appended: i64,
}

/// What a record consists of beside its head, as far as there is something; unchecked.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) header: Bytes,
    pub(crate) changes: Bytes,
    pub(crate) slot: Bytes,
}

/// Where a record must have been written to count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// Checksum of the journal's id.
    pub(crate) seed: u32,
    pub(crate) incarnation: u64,
}

/// What the checksums of a journal's records begin with.
pub(crate) fn seed(id: JournalId) -> u32 {
    crc32c::crc32c(id.as_bytes())
}

/// The next multiple of 64.
pub(crate) const fn aligned(len: u64) -> u64 {
    len.div_ceil(UNIT) * UNIT
}

/// Bytes of a record whose parts have these lengths, the slot's in units.
pub(crate) fn record_len(header: u32, changes: u32, slot: u8) -> u64 {
    aligned(UNIT + u64::from(header) + u64::from(changes)) + UNIT * u64::from(slot)
}

/// A length in units of 64 bytes. Segments are far below 256 GiB.
fn units(len: u64) -> u32 {
    u32::try_from(len / UNIT).unwrap_or(u32::MAX)
}

impl RecordHead {
    /// Bytes of the whole record with padding and slot.
    pub(crate) fn len(&self) -> u64 {
        record_len(self.header_len, self.changes_len, self.slot)
    }

    /// The parts of a record that stands at the begin of these bytes.
    pub(crate) fn parts(&self, bytes: &Bytes) -> Parts {
        let cut = |from: u64, len: u64| {
            let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
            bytes.slice(at(from)..at(from.saturating_add(len)))
        };
        let (header, changes) = (u64::from(self.header_len), u64::from(self.changes_len));
        Parts {
            header: cut(UNIT, header),
            changes: cut(self.changes_at(), changes),
            slot: cut(self.slot_at(), UNIT * u64::from(self.slot)),
        }
    }

    /// Where in the record the changes stand.
    pub(crate) fn changes_at(&self) -> u64 {
        let slot = if self.early_slot { UNIT * u64::from(self.slot) } else { 0 };
        UNIT + u64::from(self.header_len) + slot
    }

    /// Where in the record the slot stands.
    pub(crate) fn slot_at(&self) -> u64 {
        if self.early_slot {
            UNIT + u64::from(self.header_len)
        } else {
            self.len() - UNIT * u64::from(self.slot)
        }
    }

    /// The head as stored.
    pub(crate) fn encode(&self, seed: u32) -> [u8; HEAD] {
        let mut fields = crate::codec::Put(Vec::with_capacity(HEAD));
        let flags = if self.first { FIRST } else { 0 } | if self.last { LAST } else { 0 };
        let version = if self.early_slot { EARLY_SLOT } else { VERSION };
        fields.u32(MAGIC).u8(version).u8(self.kind).u8(flags).u8(self.slot);
        fields.u32(self.header_len).u32(self.changes_len);
        fields.u32(self.header_crc).u32(self.changes_crc);
        fields.u64(self.height).u64(self.incarnation);
        fields.u32(units(self.offset)).u32(units(self.durable));
        fields.u32(self.writer).i64(self.appended);
        let crc = crc32c::crc32c_append(seed, &fields.0);
        fields.u32(crc);
        let mut out = [0; HEAD];
        for (to, from) in out.iter_mut().zip(&fields.0) {
            *to = *from;
        }
        out
    }

    /// Reads a head that stands at `offset`; `None` unless it was written exactly there.
    pub(crate) fn parse(bytes: &[u8], origin: Origin, offset: u64) -> Option<Self> {
        let mut fields = Get(bytes);
        if fields.u32()? != MAGIC {
            return None;
        }
        let covered = bytes.get(..CHECKED)?;
        let crc = Get(bytes.get(CHECKED..)?).u32()?;
        let version = fields.u8()?;
        let known = [EARLY_SLOT, VERSION].contains(&version);
        if crc32c::crc32c_append(origin.seed, covered) != crc || !known {
            return None;
        }
        let (kind, flags, slot) = (fields.u8()?, fields.u8()?, fields.u8()?);
        let head = Self {
            kind,
            first: flags & FIRST != 0,
            last: flags & LAST != 0,
            slot,
            early_slot: version == EARLY_SLOT,
            header_len: fields.u32()?,
            changes_len: fields.u32()?,
            header_crc: fields.u32()?,
            changes_crc: fields.u32()?,
            height: fields.u64()?,
            incarnation: fields.u64()?,
            offset: u64::from(fields.u32()?) * UNIT,
            durable: u64::from(fields.u32()?) * UNIT,
            writer: fields.u32()?,
            appended: fields.i64()?,
        };
        let here = head.incarnation == origin.incarnation && head.offset == offset;
        let bounded =
            head.header_len as usize <= MAX_HEADER && head.changes_len as usize <= MAX_CHANGE;
        (here && bounded).then_some(head)
    }
}

/// A frame encoded for the journal, before it has a place.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) kind: u8,
    pub(crate) first: bool,
    pub(crate) last: bool,
    pub(crate) slot: u8,
    pub(crate) height: u64,
    pub(crate) header: Bytes,
    pub(crate) header_crc: u32,
    pub(crate) changes: Bytes,
    pub(crate) changes_crc: u32,
}

impl Prepared {
    /// Encodes a header and sums it up; the changes come with their checksum.
    pub(crate) fn new(header: &Header, changes: Bytes, changes_crc: u32) -> Self {
        let encoded = header.encode();
        Self {
            kind: header.kind.number(),
            first: header.part == 0,
            last: header.end.is_some(),
            slot: 0,
            height: header.height,
            header_crc: crc32c::crc32c(&encoded),
            header: encoded,
            changes_crc,
            changes,
        }
    }

    /// Bytes of the record with padding and slot.
    pub(crate) fn len(&self) -> u64 {
        self.used() + self.behind() as u64
    }

    /// Bytes of head, header and changes.
    fn used(&self) -> u64 {
        UNIT + (self.header.len() + self.changes.len()) as u64
    }

    /// Bytes behind the changes: padding and slot.
    pub(crate) fn behind(&self) -> usize {
        let padding = aligned(self.used()) - self.used();
        usize::from(self.slot) * HEAD + usize::try_from(padding).unwrap_or(0)
    }

    /// The head at a place. Lengths were bounded when the frame was accepted.
    pub(crate) fn head(&self, place: &Place) -> RecordHead {
        let len = |bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        RecordHead {
            kind: self.kind,
            first: self.first,
            last: self.last,
            slot: self.slot,
            early_slot: false,
            header_len: len(&self.header),
            changes_len: len(&self.changes),
            header_crc: self.header_crc,
            changes_crc: self.changes_crc,
            height: self.height,
            incarnation: place.incarnation,
            offset: place.offset,
            durable: place.durable,
            writer: place.writer,
            appended: place.appended,
        }
    }
}

/// Where and when a record is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) incarnation: u64,
    pub(crate) offset: u64,
    pub(crate) durable: u64,
    pub(crate) writer: u32,
    pub(crate) appended: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> RecordHead {
        RecordHead {
            kind: 1,
            first: true,
            last: false,
            slot: 2,
            early_slot: false,
            header_len: 100,
            changes_len: 1000,
            header_crc: 7,
            changes_crc: 8,
            height: 42,
            incarnation: 3,
            offset: 4096,
            durable: 4096,
            writer: 9,
            appended: -5,
        }
    }

    #[test]
    fn counts_only_where_it_was_written() {
        let origin = Origin { seed: 11, incarnation: 3 };
        let bytes = head().encode(origin.seed);
        assert_eq!(RecordHead::parse(&bytes, origin, 4096), Some(head()));
        assert_eq!(RecordHead::parse(&bytes, origin, 4160), None, "moved");
        let other = Origin { incarnation: 4, ..origin };
        assert_eq!(RecordHead::parse(&bytes, other, 4096), None, "before the segment was reused");
        let other = Origin { seed: 12, ..origin };
        assert_eq!(RecordHead::parse(&bytes, other, 4096), None, "another journal's");
    }

    #[test]
    fn every_flipped_bit_shows() {
        let origin = Origin { seed: 11, incarnation: 3 };
        let bytes = head().encode(origin.seed);
        for bit in 0..HEAD * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHead::parse(&flipped, origin, 4096), None, "bit {bit}");
        }
    }

    #[test]
    fn parts_stand_where_their_version_has_them() {
        let origin = Origin { seed: 11, incarnation: 3 };
        let early = RecordHead { early_slot: true, ..head() };
        let (header, changes, slot) = ([b'h'; 100], [b'c'; 1000], [b's'; 128]);
        let padding = [0; 52];
        for (head, behind) in
            [(early, [&slot[..], &changes, &padding]), (head(), [&changes[..], &padding, &slot])]
        {
            let bytes = [&head.encode(origin.seed), &header[..], &behind.concat()].concat();
            assert_eq!(bytes.len() as u64, head.len());
            assert_eq!(RecordHead::parse(&bytes, origin, 4096).as_ref(), Some(&head));
            let parts = head.parts(&bytes.into());
            assert_eq!((&parts.header[..], &parts.changes[..]), (&header[..], &changes[..]));
            assert_eq!(parts.slot, slot[..]);
        }
    }

    #[test]
    fn lengths_are_whole_units() {
        assert_eq!(head().len() % UNIT, 0);
        assert_eq!((aligned(0), aligned(1), aligned(64), aligned(65)), (0, 64, 64, 128));
    }
}
