//! Meta files: one `BlockMetadata` behind the header, and the SDK's defect that it repeats in
//! every file the transactions of all blocks since the node started.
//!
//! The defect is undone by comparing lists: where a file's `deliver_txs` begin with the whole list
//! of the file before, those are left out; where they do not (the node was started again), all of
//! them belong to the block. A list is remembered as its length and a hash, and files are read as
//! streams, because a node that runs for long writes gigabytes here.

use std::io::{self, BufRead, BufReader, Read};

use bytes::{BufMut, Bytes, BytesMut};

#[cfg(test)]
use super::format::put_uvarint;
use super::format::{Uvarint, uvarint};

/// The type of metadata written by SDK 0.45 to 0.47.
pub const TYPE_URL: &str = "/cosmos.base.store.v1beta1.BlockMetadata";
/// The type with the field numbers of SDK 0.50.
pub const TYPE_URL_FINALIZE: &str = "/cosmos.store.v1beta1.BlockMetadata";

const BEGIN_BLOCK: u64 = 1;
const DELIVER_TXS: u64 = 3;
const FINALIZE_BLOCK: u64 = 7;
const LENGTH_DELIMITED: u64 = 2;

/// Largest field that is looked into for the block's time. Larger ones are still copied.
const PEEK: u64 = 64 << 20;
/// Size of the pieces that a rewrite gives.
const PIECE: usize = 256 << 10;

/// Why a meta file is not one. Offsets count from the start of the file.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// The disk refused.
    #[error("reading it at byte {offset}: {source}")]
    Io {
        /// Where.
        offset: u64,
        /// The system's words.
        source: io::Error,
    },
    /// Not a protobuf message.
    #[error("field {field} at byte {offset}: {reason}")]
    Malformed {
        /// Number of the field; 0 if not even that can be read.
        field: u64,
        /// Where the field begins.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
}

/// A list of transactions, remembered by its length and a hash over its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxList {
    /// Entries.
    pub count: u64,
    hash: blake3::Hash,
}

impl TxList {
    /// The list without entries.
    pub fn empty() -> Self {
        Self { count: 0, hash: blake3::Hasher::new().finalize() }
    }
}

/// What one pass over a meta file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Its list of transactions, as it stands in the file.
    pub txs: TxList,
    /// True if the list begins with all of the previous one.
    pub continues: bool,
    /// The height that the block's header names.
    pub height: Option<u64>,
    /// The block's time, nanoseconds since 1970.
    pub time: Option<i64>,
    /// Written with the field numbers of SDK 0.50.
    pub finalize: bool,
}

/// Reads the body of a meta file once. `reader` stands behind the 8 bytes of the header.
pub fn survey(
    reader: impl Read,
    body: u64,
    previous: Option<&TxList>,
) -> Result<Survey, MetaError> {
    let mut fields = Fields::new(reader, body);
    let mut hasher = blake3::Hasher::new();
    let mut found = Survey {
        txs: TxList::empty(),
        continues: previous.is_none_or(|list| list.count == 0),
        height: None,
        time: None,
        finalize: false,
    };
    while let Some(field) = fields.next()? {
        match (field.number, field.wire) {
            (DELIVER_TXS, LENGTH_DELIMITED) => {
                hasher.update(&field.length.to_le_bytes());
                fields.each(&field, |piece| {
                    hasher.update(piece);
                })?;
                found.txs.count += 1;
                if let Some(list) = previous.filter(|list| list.count == found.txs.count) {
                    found.continues = list.hash == hasher.finalize();
                }
            }
            (BEGIN_BLOCK | FINALIZE_BLOCK, LENGTH_DELIMITED) if field.length <= PEEK => {
                let message = fields.whole(&field)?;
                found.finalize |= field.number == FINALIZE_BLOCK;
                (found.height, found.time) = height_and_time(field.number, &message);
            }
            _ => fields.each(&field, |_| {})?,
        }
    }
    found.txs.hash = hasher.finalize();
    Ok(found)
}

/// Copies the body of a meta file without its first `drop` transactions, in pieces.
///
/// Stops early, without an error, when `emit` answers false.
pub fn rewrite(
    reader: impl Read,
    body: u64,
    drop: u64,
    mut emit: impl FnMut(Bytes) -> bool,
) -> Result<(), MetaError> {
    let mut fields = Fields::new(reader, body);
    let mut out = BytesMut::with_capacity(PIECE);
    let (mut left_out, mut wanted) = (0, true);
    while wanted {
        let Some(field) = fields.next()? else { break };
        if field.number == DELIVER_TXS && field.wire == LENGTH_DELIMITED && left_out < drop {
            left_out += 1;
            fields.each(&field, |_| {})?;
            continue;
        }
        out.extend_from_slice(&field.head);
        fields.each(&field, |piece| {
            out.extend_from_slice(piece);
            if out.len() >= PIECE && wanted {
                wanted = emit(out.split().freeze());
            }
        })?;
    }
    if wanted && !out.is_empty() {
        emit(out.freeze());
    }
    Ok(())
}

/// One field of the outer message: its tag and length as written, and how much follows.
struct Field {
    number: u64,
    wire: u64,
    head: BytesMut,
    length: u64,
}

/// Walks the fields of a message that is too large to hold.
struct Fields<R> {
    reader: BufReader<io::Take<R>>,
    body: u64,
    at: u64,
}

impl<R: Read> Fields<R> {
    fn new(reader: R, body: u64) -> Self {
        Self { reader: BufReader::with_capacity(64 << 10, reader.take(body)), body, at: 0 }
    }

    const fn offset(&self) -> u64 {
        super::format::HEADER + self.at
    }

    fn next(&mut self) -> Result<Option<Field>, MetaError> {
        if self.at >= self.body {
            return Ok(None);
        }
        let offset = self.offset();
        let mut head = BytesMut::new();
        let wrong = |field, reason| MetaError::Malformed { field, offset, reason };
        let tag = self.number(&mut head)?.ok_or_else(|| wrong(0, "its tag is no number"))?;
        let (number, wire) = (tag >> 3, tag & 7);
        if number == 0 {
            return Err(wrong(0, "fields are numbered from 1"));
        }
        let length = match wire {
            0 => {
                self.number(&mut head)?.ok_or_else(|| wrong(number, "its value is no number"))?;
                0
            }
            1 => 8,
            5 => 4,
            LENGTH_DELIMITED => {
                self.number(&mut head)?.ok_or_else(|| wrong(number, "its length is no number"))?
            }
            _ => return Err(wrong(number, "its wire type is none that is written here")),
        };
        if length > self.body - self.at {
            return Err(wrong(number, "it goes on behind the end of the file"));
        }
        Ok(Some(Field { number, wire, head, length }))
    }

    /// Reads a number; `None` if the bytes are none.
    fn number(&mut self, copy: &mut BytesMut) -> Result<Option<u64>, MetaError> {
        let start = copy.len();
        loop {
            let mut byte = [0];
            if self.at >= self.body {
                return Ok(None);
            }
            self.fill(&mut byte)?;
            copy.put_u8(byte[0]);
            match uvarint(copy.get(start..).unwrap_or_default()) {
                Uvarint::Value(value, _) => return Ok(Some(value)),
                Uvarint::Wrong => return Ok(None),
                Uvarint::More => {}
            }
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), MetaError> {
        let offset = self.offset();
        self.reader.read_exact(buffer).map_err(|source| MetaError::Io { offset, source })?;
        self.at += buffer.len() as u64;
        Ok(())
    }

    /// Hands the content of a field over in pieces.
    fn each(&mut self, field: &Field, mut take: impl FnMut(&[u8])) -> Result<(), MetaError> {
        let mut left = field.length;
        while left > 0 {
            let offset = self.offset();
            let io = |source| MetaError::Io { offset, source };
            let buffer = self.reader.fill_buf().map_err(io)?;
            let size = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            if size == 0 {
                return Err(io(io::ErrorKind::UnexpectedEof.into()));
            }
            take(buffer.get(..size).unwrap_or_default());
            self.reader.consume(size);
            self.at += size as u64;
            left -= size as u64;
        }
        Ok(())
    }

    fn whole(&mut self, field: &Field) -> Result<BytesMut, MetaError> {
        let mut message = BytesMut::new();
        self.each(field, |piece| message.extend_from_slice(piece))?;
        Ok(message)
    }
}

/// Height and time of a begin-block or finalize-block request.
fn height_and_time(kind: u64, request: &[u8]) -> (Option<u64>, Option<i64>) {
    let (holder, height, time) = if kind == BEGIN_BLOCK {
        (nested(request, 2).unwrap_or_default(), 3, 4)
    } else {
        (request, 5, 6)
    };
    let nanos = nested(holder, time).and_then(|stamp| {
        let seconds = number(stamp, 1).unwrap_or(0).cast_signed();
        let nanos = i64::try_from(number(stamp, 2).unwrap_or(0)).ok()?;
        // Go's zero time lies before what 64 bits of nanoseconds reach: no time then.
        seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
    });
    (number(holder, height), nanos)
}

/// The content of a length-delimited field; the last one wins, as protobuf has it.
fn nested(message: &[u8], wanted: u64) -> Option<&[u8]> {
    walk(message).filter_map(|(n, value)| (n == wanted).then_some(value.bytes?)).last()
}

/// The value of a number field.
fn number(message: &[u8], wanted: u64) -> Option<u64> {
    walk(message).filter_map(|(n, value)| (n == wanted).then_some(value.number?)).last()
}

struct Value<'a> {
    bytes: Option<&'a [u8]>,
    number: Option<u64>,
}

/// Fields of a message in memory; ends at the first thing that is none.
fn walk(mut rest: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || {
        let tag = take_number(&mut rest)?;
        let value = match tag & 7 {
            0 => Value { bytes: None, number: Some(take_number(&mut rest)?) },
            1 => Value { bytes: Some(rest.split_off(..8)?), number: None },
            5 => Value { bytes: Some(rest.split_off(..4)?), number: None },
            LENGTH_DELIMITED => {
                let length = usize::try_from(take_number(&mut rest)?).ok()?;
                Value { bytes: Some(rest.split_off(..length)?), number: None }
            }
            _ => return None,
        };
        Some((tag >> 3, value))
    })
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let Uvarint::Value(value, size) = uvarint(rest) else { return None };
    rest.split_off(..size)?;
    Some(value)
}

/// Builds a field.
#[cfg(test)]
pub(super) fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_uvarint(&mut out, number << 3 | LENGTH_DELIMITED);
    put_uvarint(&mut out, content.len() as u64);
    out.extend_from_slice(content);
    out.to_vec()
}

#[cfg(test)]
mod tests;
