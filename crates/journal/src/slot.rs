//! A block's digests, stored after the block itself.
//!
//! Digests follow from a block's content, so they need not be on the disk before the block is
//! acknowledged: a block that comes alone is written and synced while they are being computed.
//! Its record ends with room for them, the slot, which is filled together with the next write: the
//! record behind it begins where it ends, so that no further page has to go to the disk. Whoever
//! finds it empty, or torn by a loss of power, computes them again from what the record's own
//! checksums vouch for.
//!
//! The slot holds a length and a checksum, 32 bits each, then the block's end as a protobuf
//! message, then zeros. The checksum begins with those of header and changes, so that what stood
//! there before the segment was recycled does not count.

use std::collections::BTreeSet;

use bytes::Bytes;
use sluice_frame::{BlockEnd, Digester, Frame, FrameError, Header, StateDigest};
use sluice_model::Digest;

use crate::{
    codec::{Get, Put},
    record::{HEAD, RecordHead},
};

/// Bytes in front of the end.
const FRONT: usize = 8;
/// Stores and topics of a block from which on nobody looks whether a slot would do.
const MAX_STORES: usize = 255;

/// What a record's slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The record has none: its header is complete.
    None,
    /// Not filled before the process ended.
    Empty,
    Filled(BlockEnd),
    /// Neither; a fill that was interrupted looks like this, and so do flipped bits.
    Damaged,
}

/// A slot's bytes and where they stand in the file.
#[derive(Clone, Debug)]
pub(crate) struct Fill {
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Fill {
    /// Where the record behind it begins.
    pub(crate) fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }
}

/// Units of 64 bytes that an end with these stores needs; `None` if no slot is that large.
pub(crate) fn units(header: &Header, end: &BlockEnd) -> Option<u8> {
    if header.routes.len() > MAX_STORES {
        return None;
    }
    let stores: BTreeSet<&str> = header.routes.iter().map(|route| route.store.as_ref()).collect();
    let mut full = end.clone();
    // Not zero, which would be left out.
    let digest = Digest::from_array([1; 32]);
    (full.digest, full.parent_digest) = (digest, digest);
    full.states =
        stores.into_iter().map(|store| StateDigest { store: store.to_owned(), digest }).collect();
    full.metadata_digest = header.metadata.as_ref().map(|_| digest);
    u8::try_from((FRONT + full.encode().len()).div_ceil(HEAD)).ok()
}

impl RecordHead {
    fn slot_len(&self) -> usize {
        usize::from(self.slot) * HEAD
    }

    fn slot_crc(&self, end: &[u8]) -> u32 {
        let mut seed = Put::default();
        seed.u32(self.header_crc).u32(self.changes_crc);
        crc32c::crc32c_append(crc32c::crc32c(&seed.0), end)
    }

    /// Where the slot stands in the file, and its length.
    pub(crate) fn slot_place(&self) -> (u64, usize) {
        (self.offset + self.slot_at(), self.slot_len())
    }

    /// The slot's bytes with this end in it, and where they stand; `None` if it does not fit.
    pub(crate) fn fill(&self, end: &BlockEnd) -> Option<Fill> {
        let end = end.encode();
        let mut out = Put::default();
        out.u32(u32::try_from(end.len()).ok()?).u32(self.slot_crc(&end)).raw(&end);
        let padding = self.slot_len().checked_sub(out.0.len())?;
        out.raw(&vec![0; padding]);
        Some(Fill { at: self.slot_place().0, bytes: out.0 })
    }

    /// Reads the slot.
    pub(crate) fn slot(&self, bytes: &Bytes) -> Slot {
        if self.slot == 0 {
            return Slot::None;
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return Slot::Empty;
        }
        self.filled(bytes).map_or(Slot::Damaged, Slot::Filled)
    }

    fn filled(&self, bytes: &Bytes) -> Option<BlockEnd> {
        let mut fields = Get(bytes);
        let (len, crc) = (fields.u32()? as usize, fields.u32()?);
        let end = fields.raw(len)?;
        if self.slot_crc(end) != crc {
            return None;
        }
        BlockEnd::parse(&bytes.slice_ref(end)).ok()
    }
}

/// Completes the header of a record's only part: with what the slot says, or from the changes.
pub(crate) fn complete(
    mut header: Header,
    slot: Slot,
    changes: &Bytes,
) -> Result<Header, FrameError> {
    match slot {
        Slot::None => Ok(header),
        Slot::Filled(end) => {
            header.end = Some(end);
            Ok(header)
        }
        Slot::Empty | Slot::Damaged => derive(header, changes),
    }
}

/// Puts the digests that follow from the changes into the header of a block's only part.
pub(crate) fn derive(header: Header, changes: &Bytes) -> Result<Header, FrameError> {
    let parent = header.end.as_ref().map_or(Digest::ZERO, |end| end.parent_digest);
    let mut digester =
        Digester::new(parent, header.generation, header.pointer.clone(), header.height);
    let mut frame = Frame { header, changes: changes.clone() };
    digester.add(&frame)?;
    if let Some(end) = &mut frame.header.end {
        digester.finish().fill(parent, end);
    }
    Ok(frame.header)
}

#[cfg(test)]
mod tests {
    use sluice_frame::{Metadata, Route, RouteTable, Run};
    use sluice_model::{Kind, Pointer};

    use super::*;
    use crate::record::Prepared;

    /// A header whose stores have a topic each beside their own name.
    fn header(stores: usize, metadata: bool) -> Header {
        let mut header =
            Header::new(Kind::Block, "chain".parse().unwrap(), Pointer::from_height(7), 7);
        let names = (0..stores).map(|number| format!("store-{number}"));
        let routes = names.flat_map(|name| {
            let store: std::sync::Arc<str> = name.into();
            ["", "topic"].map(|topic| Route { store: store.clone(), topic: topic.into() })
        });
        header.routes = RouteTable::new(routes.collect());
        let count = u32::try_from(header.routes.len()).unwrap();
        header.runs = (0..count).map(|route| Run { route, count: 0, bytes: 0, skip: 0 }).collect();
        let end = BlockEnd { parts: 1, traceparent: "00-1-1-01".into(), ..BlockEnd::default() };
        header.end = Some(BlockEnd { parent_digest: Digest::from_array([9; 32]), ..end });
        let value = Bytes::from_static(b"response");
        header.metadata = metadata.then(|| Metadata { type_url: "t".into(), value });
        header
    }

    /// The record of a block without changes, and its complete end.
    fn record(header: &Header) -> (RecordHead, BlockEnd) {
        let slot = units(header, header.end.as_ref().unwrap()).unwrap();
        let part = Prepared { slot, ..Prepared::new(header, Bytes::new(), 0) };
        let place = crate::record::Place {
            incarnation: 1,
            offset: 4096,
            durable: 4096,
            writer: 1,
            appended: 1,
        };
        (part.head(&place), derive(header.clone(), &Bytes::new()).unwrap().end.unwrap())
    }

    #[test]
    fn every_end_fits_the_slot_that_is_left_for_it() {
        for (stores, metadata) in [(0, false), (0, true), (1, false), (15, true), (100, true)] {
            let (record, end) = record(&header(stores, metadata));
            assert_eq!((end.states.len(), end.metadata_digest.is_some()), (stores, metadata));
            let Fill { at, bytes } = record.fill(&end).expect("it fits");
            assert_eq!(at + bytes.len() as u64, record.offset + record.len(), "at the end");
            assert_eq!(bytes.len(), usize::from(record.slot) * 64);
            assert!(bytes.len() - end.encode().len() < 64 + FRONT, "no larger than needed");
            assert_eq!(record.slot(&bytes.into()), Slot::Filled(end));
        }
        assert_eq!(units(&header(128, false), &BlockEnd::default()), None, "too many stores");
        let end = BlockEnd { traceparent: "x".repeat(1 << 14), ..BlockEnd::default() };
        assert_eq!(units(&header(1, false), &end), None, "too long");
    }

    #[test]
    fn every_flipped_bit_shows() {
        let (record, end) = record(&header(2, false));
        let bytes = record.fill(&end).unwrap().bytes;
        let used = FRONT + end.encode().len();
        for bit in 0..used * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(record.slot(&flipped.into()), Slot::Damaged, "bit {bit}");
        }
        assert_eq!(record.slot(&Bytes::from(vec![0; bytes.len()])), Slot::Empty);
        let other = RecordHead { changes_crc: record.changes_crc ^ 1, ..record };
        assert_eq!(other.slot(&bytes.into()), Slot::Damaged, "another record's");
    }

    #[test]
    fn what_is_missing_follows_from_the_block() {
        let header = header(3, true);
        let (_, end) = record(&header);
        for slot in [Slot::Empty, Slot::Damaged, Slot::Filled(end.clone())] {
            let complete = complete(header.clone(), slot, &Bytes::new()).unwrap();
            assert_eq!(complete.end.as_ref(), Some(&end));
        }
        let untouched = complete(header.clone(), Slot::None, &Bytes::new()).unwrap();
        assert_eq!(untouched, header);
    }

    /// Rewrites a segment's records as version 1 had them; gives how many have a slot.
    fn rewrite(path: &std::path::Path) -> usize {
        use crate::{record, segment::SegmentHeader, survey::survey};
        let bytes = Bytes::from(std::fs::read(path).unwrap());
        let header = SegmentHeader::parse(&bytes).unwrap();
        let origin =
            record::Origin { seed: record::seed(header.id), incarnation: header.incarnation };
        let mut out = bytes.to_vec();
        let found = survey(&bytes, origin, crate::segment::RECORDS, 0).found;
        for head in found.iter().map(|found| found.record.as_ref().unwrap()) {
            let at = usize::try_from(head.offset).unwrap();
            let parts = head.parts(&bytes.slice(at..));
            let early = RecordHead { early_slot: true, ..head.clone() };
            let mut record = early.encode(origin.seed).to_vec();
            [parts.header, parts.slot, parts.changes].iter().for_each(|part| record.extend(part));
            record.resize(usize::try_from(head.len()).unwrap(), 0);
            out[at..at + record.len()].copy_from_slice(&record);
        }
        std::fs::write(path, out).unwrap();
        found.iter().filter(|found| found.record.as_ref().is_ok_and(|head| head.slot > 0)).count()
    }

    #[tokio::test]
    async fn a_journal_with_records_of_version_1_goes_on() {
        use crate::{Embedded, Item, Journal, Options, ReadFrom, Select, conformance as suite};
        let dir = tempfile::tempdir().unwrap();
        let options = || Options { tail_cache_bytes: 0, ..Options::default() };
        let journal = Embedded::open_dir(dir.path(), options()).unwrap();
        let mut writer = suite::fresh(journal.as_ref()).await.writer;
        suite::fill(writer.as_mut(), 1..=5).await;
        journal.close().await;
        drop(journal);
        let of_ingestor = dir.path().join(suite::name().as_str());
        assert_eq!(rewrite(&of_ingestor.join("00000001.seg")), 5);
        std::fs::remove_file(of_ingestor.join("00000001.idx")).ok();

        let journal = Embedded::open_dir(dir.path(), options()).unwrap();
        let mut writer = journal.open(suite::opening(2)).await.unwrap().writer;
        suite::fill(writer.as_mut(), 6..=8).await;
        for headers_only in [false, true] {
            let select = Select { headers_only, ..suite::stores(&[]) };
            let mut reader =
                journal.read(&suite::name(), ReadFrom::Earliest, select).await.unwrap();
            let mut heights = Vec::new();
            while heights.last() != Some(&8) {
                if let Item::Entry(stored) = reader.next().await.unwrap() {
                    let end = stored.header.end.as_ref().unwrap();
                    assert!(end.states.iter().all(|state| state.digest != Digest::ZERO));
                    assert_eq!(stored.changes.is_empty(), headers_only);
                    heights.push(stored.header.height);
                }
            }
            assert_eq!(heights, (1..=8).collect::<Vec<_>>());
        }
        let report = journal.verify(&suite::name(), Box::new(|_| ())).await.unwrap();
        assert!(report.is_sound() && report.blocks == 8, "{report:?}");
        journal.close().await;
    }
}
