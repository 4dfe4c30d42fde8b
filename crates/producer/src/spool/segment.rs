//! One file of the spool: written once from its begin to its end, read anywhere.

use std::{
    fs::{File, OpenOptions},
    io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{
    error::SpoolError,
    record::{self, HEAD, Head, Kind, Place},
};

/// The first bytes of every segment; its number follows.
const MAGIC: [u8; 8] = *b"SLSPOOL1";
/// Bytes of both.
const PREFIX: usize = 16;
/// Where the first record begins.
pub(super) const BEGIN: u64 = PREFIX as u64;
const SUFFIX: &str = "spool";

/// The file of a segment.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{SUFFIX}"))
}

/// The number of a segment's file; `None` for any other file.
pub(super) fn number(path: &Path) -> Option<u64> {
    let known = path.extension().is_some_and(|suffix| suffix == SUFFIX);
    let stem = path.file_stem().filter(|_| known)?.to_str()?;
    (stem.len() == 16).then(|| u64::from_str_radix(stem, 16).ok()).flatten()
}

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) number: u64,
    pub(super) len: u64,
    file: File,
    path: PathBuf,
}

impl Writer {
    /// Makes a segment; its name is durable when this returns.
    pub(super) fn create(dir: &Path, number: u64) -> Result<Self, SpoolError> {
        let path = path(dir, number);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(SpoolError::io("creating", &path))?;
        file.write_all(&MAGIC)
            .and_then(|()| file.write_all(&number.to_le_bytes()))
            .map_err(SpoolError::io("writing", &path))?;
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(SpoolError::io("making durable the names in", dir))?;
        Ok(Self { number, len: BEGIN, file, path })
    }

    /// Writes a record; gives where it begins. After an error the segment must not be written any
    /// more: nobody knows how much of the record is there.
    pub(super) fn put(&mut self, kind: Kind, payload: &[u8]) -> Result<u64, SpoolError> {
        let offset = self.len;
        let bytes = record::encode(Place { segment: self.number, offset }, kind, payload);
        self.file.write_all(&bytes).map_err(SpoolError::io("writing", &self.path))?;
        self.len += bytes.len() as u64;
        Ok(offset)
    }

    /// Makes durable what was written. After an error the segment must not be synced again.
    pub(super) fn sync(&self) -> Result<(), SpoolError> {
        self.file.sync_data().map_err(SpoolError::io("making durable", &self.path))
    }
}

/// Reads records one after the other.
#[derive(Debug)]
pub(super) struct Records {
    file: BufReader<File>,
    path: PathBuf,
    number: u64,
    at: u64,
    len: u64,
}

/// What stands in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A record.
    Record { kind: Kind, payload: Bytes, offset: u64 },
    /// A record that is not what was written; the next one may be.
    Damaged { offset: u64 },
    /// Bytes that cannot be told apart any more, up to the end of the file.
    Torn { offset: u64 },
    /// Nothing more.
    End,
}

impl Records {
    /// From this offset on.
    pub(super) fn open(dir: &Path, number: u64, offset: u64) -> Result<Self, SpoolError> {
        let path = path(dir, number);
        let mut file = File::open(&path).map_err(SpoolError::io("opening", &path))?;
        let len = file.metadata().map_err(SpoolError::io("looking at", &path))?.len();
        file.seek(SeekFrom::Start(offset)).map_err(SpoolError::io("reading", &path))?;
        Ok(Self { file: BufReader::with_capacity(64 << 10, file), path, number, at: offset, len })
    }

    /// From the first record on. `None` if the file is no segment of this number.
    pub(super) fn begin(dir: &Path, number: u64) -> Result<Option<Self>, SpoolError> {
        let mut records = Self::open(dir, number, 0)?;
        let mut begin = [0; PREFIX];
        if !records.fill(&mut begin)? {
            return Ok(None);
        }
        records.at = BEGIN;
        let (magic, own) = begin.split_at(MAGIC.len());
        Ok((magic == MAGIC && own == number.to_le_bytes()).then_some(records))
    }

    /// Bytes of the file.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn next(&mut self) -> Result<Found, SpoolError> {
        let offset = self.at;
        if offset >= self.len {
            return Ok(Found::End);
        }
        let mut head = [0; HEAD];
        if !self.fill(&mut head)? {
            return Ok(Found::Torn { offset });
        }
        let left = self.len.saturating_sub(offset).saturating_sub(HEAD as u64);
        let Some(head) = Head::decode(head).filter(|head| head.len as u64 <= left) else {
            return Ok(Found::Torn { offset });
        };
        let mut payload = vec![0; head.len];
        if !self.fill(&mut payload)? {
            return Ok(Found::Torn { offset });
        }
        self.at = offset + HEAD as u64 + head.len as u64;
        Ok(match head.check(Place { segment: self.number, offset }, &payload) {
            Some(kind) => Found::Record { kind, payload: payload.into(), offset },
            None => Found::Damaged { offset },
        })
    }

    /// False if the file ends before.
    fn fill(&mut self, out: &mut [u8]) -> Result<bool, SpoolError> {
        match self.file.read_exact(out) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(SpoolError::io("reading", &self.path)(error)),
        }
    }

    /// The next frame's bytes; anything else than a good record is an error.
    pub(super) fn frame(&mut self) -> Result<Bytes, SpoolError> {
        loop {
            let (offset, cause) = match self.next()? {
                Found::Record { kind: Kind::Frame, payload, .. } => return Ok(payload),
                Found::Record { kind: Kind::Diverged, .. } => continue,
                Found::Damaged { offset } => (offset, "the checksum differs"),
                Found::Torn { offset } => (offset, "the record is cut off"),
                Found::End => (self.at, "the file ends before the block does"),
            };
            let path = self.path.clone();
            return Err(SpoolError::Damaged { path, offset, cause: cause.to_owned() });
        }
    }
}
