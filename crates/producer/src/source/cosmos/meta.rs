//! Meta files: one `BlockMetadata` behind the header, and the SDK's defect that it repeats in
//! every file the transactions of all blocks since the node started.
//!
//! The defect is undone with the header's `data_hash`, see [`super::txs`]. Where the header has none
//! or none that fits, lists are compared: where a file's `deliver_txs` begin with the whole list of
//! the file before, those are left out; where they do not (the node was started again), all of
//! them are taken for the block's. A list is remembered as its length and a hash, and files are
//! read as streams, because a node that runs for long writes gigabytes here.

mod request;

use std::io::{self, BufRead, BufReader, Read};

use bytes::{BufMut, Bytes, BytesMut};

#[cfg(test)]
use super::format::put_uvarint;
use super::{
    format::{Uvarint, uvarint},
    txs::Ending,
};
use request::Request;

/// The type of metadata written by SDK 0.45 to 0.47.
pub const TYPE_URL: &str = "/cosmos.base.store.v1beta1.BlockMetadata";
/// The type with the field numbers of SDK 0.50.
pub const TYPE_URL_FINALIZE: &str = "/cosmos.store.v1beta1.BlockMetadata";

const BEGIN_BLOCK: u64 = 1;
const DELIVER_TXS: u64 = 3;
const FINALIZE_BLOCK: u64 = 7;
const LENGTH_DELIMITED: u64 = 2;

/// Largest field that is looked into, for the block's time or its transaction. Larger ones are
/// still copied.
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

/// Why `data_hash` did not tell which transactions are the block's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// Transactions are listed, but the header has no hash of 32 bytes.
    #[error("its header has no data_hash")]
    NoHash,
    /// No end of the list has this hash.
    #[error("the data_hash in its header is not that of the last transactions it lists")]
    OtherHash,
}

/// What one pass over a meta file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Its list of transactions, as it stands in the file.
    pub txs: TxList,
    /// How many of these, at the begin, are not the block's own.
    pub foreign: u64,
    /// Set if the list before had to tell that, or the want of one.
    pub doubt: Option<Doubt>,
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
    let mut list = ListReader::new(previous);
    let (mut request, mut finalize) = (Request::default(), false);
    while let Some(field) = fields.next()? {
        match (field.number, field.wire) {
            (DELIVER_TXS, LENGTH_DELIMITED) => list.take(&mut fields, &field)?,
            (BEGIN_BLOCK, LENGTH_DELIMITED) if field.length <= PEEK => {
                request = Request::begin_block(&fields.whole(&field)?);
            }
            (FINALIZE_BLOCK, LENGTH_DELIMITED) if field.length <= PEEK => {
                finalize = true;
                request = Request::finalize_block(&fields.whole(&field)?);
            }
            _ => fields.each(&field, |_| {})?,
        }
    }
    let (foreign, doubt) = list.foreign(&request, finalize);
    let Request { height, time, .. } = request;
    Ok(Survey { txs: list.txs(), foreign, doubt, height, time, finalize })
}

/// Reads nothing but the list of transactions in a meta file.
pub fn tx_list(reader: impl Read, body: u64) -> Result<TxList, MetaError> {
    let mut fields = Fields::new(reader, body);
    let mut list = ListReader::new(None);
    while let Some(field) = fields.next()? {
        match (field.number, field.wire) {
            (DELIVER_TXS, LENGTH_DELIMITED) => list.take(&mut fields, &field)?,
            _ => fields.each(&field, |_| {})?,
        }
    }
    Ok(list.txs())
}

/// Takes in a list of transactions while it passes.
struct ListReader<'a> {
    previous: Option<&'a TxList>,
    /// The list begins with all of the previous one.
    continues: bool,
    count: u64,
    hasher: blake3::Hasher,
    ending: Ending,
    entry: Vec<u8>,
}

impl<'a> ListReader<'a> {
    fn new(previous: Option<&'a TxList>) -> Self {
        Self {
            previous,
            continues: previous.is_some_and(|list| list.count == 0),
            count: 0,
            hasher: blake3::Hasher::new(),
            ending: Ending::default(),
            entry: Vec::new(),
        }
    }

    fn take(&mut self, fields: &mut Fields<impl Read>, field: &Field) -> Result<(), MetaError> {
        let known = field.length <= PEEK;
        self.entry.clear();
        self.hasher.update(&field.length.to_le_bytes());
        fields.each(field, |piece| {
            self.hasher.update(piece);
            if known {
                self.entry.extend_from_slice(piece);
            }
        })?;
        if known {
            self.ending.push(request::delivered(&self.entry));
        } else {
            self.ending.push_unknown();
        }
        self.count += 1;
        if let Some(list) = self.previous.filter(|list| list.count == self.count) {
            self.continues = list.hash == self.hasher.finalize();
        }
        Ok(())
    }

    /// Entries that are not the block's own. All of the list has passed.
    fn foreign(&self, request: &Request, finalize: bool) -> (u64, Option<Doubt>) {
        let repeated = self.previous.filter(|_| self.continues).map_or(0, |list| list.count);
        match &request.data_hash {
            Some(hash) => match self.ending.own(hash, self.count.saturating_sub(repeated)) {
                Some(own) => (self.count.saturating_sub(own), None),
                None => (repeated, Some(Doubt::OtherHash)),
            },
            // Neither an empty list nor one of the later SDK, which repeats nothing, is in doubt.
            None => (repeated, (self.count > 0 && !finalize).then_some(Doubt::NoHash)),
        }
    }

    fn txs(&self) -> TxList {
        TxList { count: self.count, hash: self.hasher.finalize() }
    }
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
