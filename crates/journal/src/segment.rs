//! Segment files: names, the header block in front of the records, and the mark in it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use sluice_model::{Head, JournalId};

use crate::{
    codec::{Get, Put, SEAL, unseal},
    error::{At, Fault},
    files::{File, Files, read_up_to, write_all},
};

/// Where the records of a segment begin.
pub(crate) const RECORDS: u64 = 4096;
/// Where the mark of the durable length stands; in another sector than the header.
const MARK_AT: usize = 2048;
/// The length of what stands before the records, in memory.
const BLOCK: usize = 4096;
/// A second copy of the header, so that one bad sector does not take a segment with it.
const COPY_AT: usize = 3072;
const MAGIC: u64 = u64::from_le_bytes(*b"SLSEGM01");
const MARK_MAGIC: u64 = u64::from_le_bytes(*b"SLMARK01");
/// Room at the end of every segment that only records of opens may use, so that a journal on a
/// full disk can still be fenced.
pub(crate) const RESERVE: u64 = 64 << 10;

/// What a segment begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) id: JournalId,
    pub(crate) number: u32,
    /// Differs each time that a file is taken into use; never repeats in a journal.
    pub(crate) incarnation: u64,
    /// Bytes of the segment before that count; 0 for the first segment.
    pub(crate) previous_len: u64,
    /// The head when the segment was begun.
    pub(crate) base: Head,
    /// Where the block begins that was unfinished then: segment and offset.
    pub(crate) open: Option<(u32, u64)>,
}

impl SegmentHeader {
    /// The header block, as long as what stands before the records.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut fields = Put::default();
        fields.raw(self.id.as_bytes()).u32(self.number).u64(self.incarnation);
        fields.u64(self.previous_len).head(&self.base);
        fields.u8(u8::from(self.open.is_some()));
        let (segment, offset) = self.open.unwrap_or_default();
        fields.u32(segment).u64(offset);
        let sealed = fields.seal(MAGIC);
        let mut block = sealed.clone();
        block.resize(COPY_AT, 0);
        block.extend_from_slice(&sealed);
        block.resize(BLOCK, 0);
        block
    }

    /// Reads the header of a segment.
    pub(crate) fn parse(block: &[u8]) -> Result<Self, &'static str> {
        let copy = || unseal(MAGIC, block.get(COPY_AT..).unwrap_or_default());
        let payload = unseal(MAGIC, block).or_else(|reason| copy().map_err(|_| reason))?;
        Self::fields(&mut Get(payload)).ok_or("its fields are not those of a segment")
    }

    fn fields(fields: &mut Get<'_>) -> Option<Self> {
        let id = JournalId::try_from(fields.raw(16)?).ok()?;
        let (number, incarnation) = (fields.u32()?, fields.u64()?);
        let (previous_len, base) = (fields.u64()?, fields.head()?);
        let open = fields.u8()? != 0;
        let place = (fields.u32()?, fields.u64()?);
        Some(Self { id, number, incarnation, previous_len, base, open: open.then_some(place) })
    }

    /// Reads the header from a file.
    pub(crate) fn read(file: &dyn File) -> io::Result<Result<Self, &'static str>> {
        let block = read_up_to(file, 0, BLOCK)?;
        Ok(Self::parse(&block))
    }
}

/// Notes in a segment how much of it is durable, for recovery. Not synced by itself: it only
/// tells more than the records do, never less.
pub(crate) fn write_mark(file: &dyn File, incarnation: u64, durable: u64) -> io::Result<()> {
    let mut fields = Put::default();
    fields.u64(incarnation).u64(durable);
    write_all(file, &fields.seal(MARK_MAGIC), MARK_AT as u64)
}

/// The durable length as marked, if it was marked in this incarnation.
pub(crate) fn mark(block: &[u8], incarnation: u64) -> Option<u64> {
    let bytes = block.get(MARK_AT..BLOCK)?;
    let mut fields = Get(unseal(MARK_MAGIC, bytes.get(..SEAL + 16)?).ok()?);
    let same = fields.u64()? == incarnation;
    fields.u64().filter(|_| same)
}

/// The directory of an ingestor's journal.
#[derive(Clone, Debug)]
pub(crate) struct Dir(pub(crate) Arc<Path>);

impl Dir {
    pub(crate) fn segment(&self, number: u32) -> PathBuf {
        self.0.join(format!("{number:08}.seg"))
    }

    pub(crate) fn index(&self, number: u32) -> PathBuf {
        self.0.join(format!("{number:08}.idx"))
    }

    pub(crate) fn cut(&self, number: u32, offset: u64) -> PathBuf {
        self.0.join(format!("{number:08}-{offset:012}.cut"))
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.0.join("control")
    }

    /// A file that is ready to become the next segment.
    pub(crate) fn spare(&self) -> PathBuf {
        self.0.join("spare")
    }

    /// A file that is becoming the next segment without having been a spare one.
    pub(crate) fn next(&self) -> PathBuf {
        self.0.join("segment.tmp")
    }

    /// A file that is being prepared.
    pub(crate) fn preparing(&self) -> PathBuf {
        self.0.join("spare.tmp")
    }
}

impl Dir {
    /// Makes a file the segment of a number: with these bytes in front, durably under its name.
    /// After a failure it is gone, whichever name it had by then, because it may not be synced
    /// again.
    pub(crate) fn publish(
        &self,
        files: &dyn Files,
        (path, file): (&Path, &dyn File),
        number: u32,
        front: &[u8],
    ) -> Result<(), Fault> {
        let target = self.segment(number);
        let publish = || {
            write_all(file, front, 0).at("write", path)?;
            file.sync().at("sync", path)?;
            files.rename(path, &target).at("rename", path)?;
            files.sync_dir(&self.0).at("sync", &self.0)
        };
        publish().inspect_err(|_| {
            files.remove(path).ok();
            files.remove(&target).ok();
        })
    }
}

/// The number in a segment's name.
pub(crate) fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() >= 8).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use sluice_model::{Digest, Generation, Pointer};

    use super::*;

    #[test]
    fn header_and_mark_round_trip() {
        let header = SegmentHeader {
            id: JournalId::from_array([7; 16]),
            number: 3,
            incarnation: 9,
            previous_len: 8192,
            base: Head {
                generation: Generation(1),
                pointer: Pointer::from_height(5),
                height: 5,
                digest: Digest::from_array([1; 32]),
                time: Some(-1),
                appended: 2,
            },
            open: Some((2, 4160)),
        };
        let block = header.encode();
        assert_eq!(block.len(), BLOCK);
        assert_eq!(SegmentHeader::parse(&block), Ok(header.clone()));
        assert_eq!(mark(&block, 9), None);
        for byte in 0..100 {
            let mut broken = block.clone();
            broken[byte] ^= 1;
            assert_eq!(SegmentHeader::parse(&broken), Ok(header.clone()), "byte {byte}");
            broken[COPY_AT + byte] ^= 1;
            assert!(SegmentHeader::parse(&broken).is_err(), "byte {byte} twice");
        }
    }

    #[test]
    fn names() {
        assert_eq!(number_of("00000012.seg"), Some(12));
        assert_eq!(number_of("100000012.seg"), Some(100_000_012));
        assert_eq!(number_of("12.seg"), None);
        assert_eq!(number_of("00000012.idx"), None);
    }
}
