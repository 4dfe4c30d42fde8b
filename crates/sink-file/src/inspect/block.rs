//! The format of block files, read strictly.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use sluice_frame::varint;
use sluice_model::{Change, Digest, Op};

const HEADER: u64 = 8;

/// Longest pair that is read, in bytes.
const MAX_PAIR: u64 = 256 << 20;

/// What is wrong in a block file, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}, byte {offset}, {field}: {problem}", .path.display())]
pub struct DecodeError {
    /// The file.
    pub path: PathBuf,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// The field that is wrong: `length`, `pair`, `store_key`, …
    pub field: &'static str,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not even a length.
    #[error("the file has {0} bytes; every block file begins with a length of 8")]
    ShortHeader(u64),
    /// Fewer bytes than the length says.
    #[error("it says {says}, but {left} bytes follow: the file is torn or still being written")]
    Torn {
        /// What the length says.
        says: u64,
        /// What is there.
        left: u64,
    },
    /// More bytes than the length says.
    #[error("it says {says}, but {left} bytes follow: something was written behind the end")]
    Trailing {
        /// What the length says.
        says: u64,
        /// What is there.
        left: u64,
    },
    /// A number longer than 64 bits, or cut off.
    #[error("not a number: longer than 64 bits, or cut off")]
    Varint,
    /// A length that reaches beyond what holds it.
    #[error("it says {says} bytes, but only {left} are left")]
    Overrun {
        /// What it says.
        says: u64,
        /// What is left.
        left: u64,
    },
    /// Too large to read.
    #[error("{0} bytes are more than the {1} that are read at once")]
    TooLarge(u64, u64),
    /// A tag that the message does not have, or of another type.
    #[error("unexpected field {number} of wire type {wire}")]
    Field {
        /// The field's number.
        number: u64,
        /// The type on the wire.
        wire: u64,
    },
    /// Not text.
    #[error("not valid UTF-8")]
    Utf8,
    /// No store.
    #[error("missing or empty")]
    NoStore,
}

/// What is wrong inside a message, before it is known which file it came from.
#[derive(Debug)]
pub struct Wrong {
    offset: usize,
    field: &'static str,
    problem: Problem,
}

impl Wrong {
    pub(crate) fn at(self, path: &Path, base: u64) -> DecodeError {
        let Self { offset, field, problem } = self;
        DecodeError { path: path.to_owned(), offset: base + offset as u64, field, problem }
    }

    /// What is wrong.
    pub const fn problem(&self) -> &Problem {
        &self.problem
    }
}

pub(crate) fn open(path: &Path) -> Result<(File, u64), DecodeError> {
    let opened = File::open(path).and_then(|file| {
        let len = file.metadata()?.len();
        Ok((file, len))
    });
    opened.map_err(|source| DecodeError {
        path: path.to_owned(),
        offset: 0,
        field: "file",
        problem: source.into(),
    })
}

/// The part of a file behind its length, read in order.
pub(crate) struct Body<'a, R> {
    path: &'a Path,
    reader: BufReader<R>,
    left: u64,
    offset: u64,
    pair_at: u64,
    hasher: blake3::Hasher,
}

impl<'a, R: Read> Body<'a, R> {
    /// Reads the length and holds it against the size of the file.
    pub(crate) fn begin(path: &'a Path, reader: R, bytes: u64) -> Result<Self, DecodeError> {
        let mut body = Self {
            path,
            reader: BufReader::with_capacity(64 << 10, reader),
            left: 0,
            offset: 0,
            pair_at: 0,
            hasher: blake3::Hasher::new(),
        };
        let Some(left) = bytes.checked_sub(HEADER) else {
            return Err(body.wrong("length", Problem::ShortHeader(bytes)));
        };
        let mut header = [0; 8];
        if let Err(error) = body.reader.read_exact(&mut header) {
            return Err(body.wrong("length", error.into()));
        }
        let says = u64::from_be_bytes(header);
        match says.cmp(&left) {
            std::cmp::Ordering::Greater => {
                return Err(body.wrong("length", Problem::Torn { says, left }));
            }
            std::cmp::Ordering::Less => {
                return Err(body.wrong("length", Problem::Trailing { says, left }));
            }
            std::cmp::Ordering::Equal => {}
        }
        (body.left, body.offset) = (left, HEADER);
        Ok(body)
    }

    /// Where the pair last read begins, behind its length.
    pub(crate) const fn pair_offset(&self) -> u64 {
        self.pair_at
    }

    pub(crate) fn digest(&self) -> Digest {
        self.hasher.finalize().into()
    }

    /// Reads the next pair's bytes; gives the offset of its length, or `None` at the end.
    pub(crate) fn next_pair(&mut self, pair: &mut Vec<u8>) -> Result<Option<u64>, DecodeError> {
        if self.left == 0 {
            return Ok(None);
        }
        let begin = self.offset;
        let says = self.length()?;
        if says > self.left {
            let left = self.left;
            return Err(self.wrong_at(begin, "pair length", Problem::Overrun { says, left }));
        }
        if says > MAX_PAIR {
            return Err(self.wrong_at(begin, "pair length", Problem::TooLarge(says, MAX_PAIR)));
        }
        self.pair_at = self.offset;
        pair.clear();
        let read = (&mut self.reader).take(says).read_to_end(pair);
        self.took(read, says)?;
        self.hasher.update(pair);
        Ok(Some(begin))
    }

    /// Everything that follows.
    pub(crate) fn rest(&mut self, limit: u64) -> Result<Vec<u8>, DecodeError> {
        if self.left > limit {
            return Err(self.wrong("message", Problem::TooLarge(self.left, limit)));
        }
        let mut bytes = Vec::new();
        let says = self.left;
        let read = (&mut self.reader).take(says).read_to_end(&mut bytes);
        self.took(read, says)?;
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    pub(crate) fn skip_rest(&mut self) -> Result<(), DecodeError> {
        let says = self.left;
        match self.hasher.update_reader((&mut self.reader).take(says)) {
            Ok(_) => {
                self.left = 0;
                Ok(())
            }
            Err(error) => Err(self.wrong("message", error.into())),
        }
    }

    fn took(&mut self, read: io::Result<usize>, says: u64) -> Result<(), DecodeError> {
        match read {
            Err(error) => Err(self.wrong("pair", error.into())),
            Ok(read) if (read as u64) < says => {
                Err(self.wrong("pair", Problem::Overrun { says, left: read as u64 }))
            }
            Ok(_) => {
                self.left -= says;
                self.offset += says;
                Ok(())
            }
        }
    }

    fn length(&mut self) -> Result<u64, DecodeError> {
        let (begin, mut bytes) = (self.offset, Vec::with_capacity(10));
        while self.left > 0 && bytes.len() < 10 {
            let next = match self.reader.fill_buf() {
                Ok(buffer) => buffer.first().copied(),
                Err(error) => return Err(self.wrong("pair length", error.into())),
            };
            let Some(byte) = next else { break };
            self.reader.consume(1);
            (self.left, self.offset) = (self.left - 1, self.offset + 1);
            bytes.push(byte);
            if byte < 0x80 {
                break;
            }
        }
        self.hasher.update(&bytes);
        match varint::read_lenient(&bytes, 0) {
            Some((length, _)) => Ok(length),
            None => Err(self.wrong_at(begin, "pair length", Problem::Varint)),
        }
    }

    fn wrong(&self, field: &'static str, problem: Problem) -> DecodeError {
        self.wrong_at(self.offset, field, problem)
    }

    fn wrong_at(&self, offset: u64, field: &'static str, problem: Problem) -> DecodeError {
        DecodeError { path: self.path.to_owned(), offset, field, problem }
    }
}

/// Reads a `StoreKVPair` in any form that protobuf decoders read: fields in any order, the last
/// of a repeated one counts.
pub fn decode_pair(pair: &[u8]) -> Result<Change<'_>, Wrong> {
    let (mut store, mut op, mut key, mut value): (&[u8], _, &[u8], &[u8]) =
        (&[], Op::Set, &[], &[]);
    let mut store_at = 0;
    let mut at = 0;
    while at < pair.len() {
        let begin = at;
        let wrong = |field, problem| Wrong { offset: begin, field, problem };
        let (tag, next) =
            varint::read_lenient(pair, at).ok_or_else(|| wrong("tag", Problem::Varint))?;
        at = next;
        match tag {
            0x0a => (store_at, store) = (begin, bytes(pair, &mut at, "store_key")?),
            0x10 => {
                let (flag, next) = varint::read_lenient(pair, at)
                    .ok_or_else(|| wrong("delete", Problem::Varint))?;
                op = if flag == 0 { Op::Set } else { Op::Delete };
                at = next;
            }
            0x1a => key = bytes(pair, &mut at, "key")?,
            0x22 => value = bytes(pair, &mut at, "value")?,
            other => {
                let problem = Problem::Field { number: other >> 3, wire: other & 7 };
                return Err(wrong("tag", problem));
            }
        }
    }
    let wrong = |problem| Wrong { offset: store_at, field: "store_key", problem };
    if store.is_empty() {
        return Err(wrong(Problem::NoStore));
    }
    let store = std::str::from_utf8(store).map_err(|_| wrong(Problem::Utf8))?;
    Ok(Change { store, op, key, value })
}

fn bytes<'a>(message: &'a [u8], at: &mut usize, field: &'static str) -> Result<&'a [u8], Wrong> {
    let begin = *at;
    let wrong = |problem| Wrong { offset: begin, field, problem };
    let (says, from) =
        varint::read_lenient(message, begin).ok_or_else(|| wrong(Problem::Varint))?;
    let left = message.len().saturating_sub(from);
    let end = usize::try_from(says).ok().filter(|says| *says <= left).map(|says| from + says);
    let Some(end) = end else {
        return Err(wrong(Problem::Overrun { says, left: left as u64 }));
    };
    *at = end;
    Ok(message.get(from..end).unwrap_or_default())
}

/// A field at the top of a `BlockMetadata`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaField {
    /// Its number.
    pub number: u64,
    /// Its name; numbers 1 to 5 are those of SDK 0.45 to 0.47, 7 and 8 those of 0.50 and later.
    pub name: &'static str,
    /// Where its content begins in the message, in bytes.
    pub offset: usize,
    /// Bytes of its content.
    pub bytes: usize,
}

const META_NAMES: [&str; 9] = [
    "unknown",
    "request_begin_block",
    "response_begin_block",
    "deliver_txs",
    "request_end_block",
    "response_end_block",
    "response_commit",
    "request_finalize_block",
    "response_finalize_block",
];

pub(crate) fn meta_fields(message: &[u8]) -> Result<Vec<MetaField>, Wrong> {
    let mut fields = Vec::new();
    let mut at = 0;
    while at < message.len() {
        let begin = at;
        let wrong = |problem| Wrong { offset: begin, field: "tag", problem };
        let (tag, next) =
            varint::read_lenient(message, at).ok_or_else(|| wrong(Problem::Varint))?;
        let (number, wire) = (tag >> 3, tag & 7);
        if wire != 2 || number == 0 {
            return Err(wrong(Problem::Field { number, wire }));
        }
        at = next;
        let index = usize::try_from(number).unwrap_or(0);
        let name = META_NAMES.get(index).copied().unwrap_or("unknown");
        let content = bytes(message, &mut at, name)?;
        fields.push(MetaField { number, name, offset: at - content.len(), bytes: content.len() });
    }
    Ok(fields)
}
