//! The two-files-per-block format of the SDK's file streamer (0.45.12 to 0.47).
//!
//! Both files begin with the length of what follows, 8 big-endian bytes. There is neither a
//! checksum nor an atomic rename: a file is complete exactly when its size is 8 plus that length.
//! The data file's body is any number of `[uvarint length][StoreKVPair]`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sluice_frame::MAX_CHANGE;

/// Bytes of the length in front of the body.
pub const HEADER: u64 = 8;

/// The tag of field 15, a length-delimited element of a frame's changes.
const CHANGE_TAG: u8 = 0x7a;

/// Whether a file is there as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// All of it; the body has this many bytes.
    Complete(u64),
    /// Still being written, or torn by a crash.
    Short {
        /// What the header promises; `None` while the header itself is not whole.
        expected: Option<u128>,
        /// The size of the file.
        found: u64,
    },
    /// Bytes follow the promised end.
    Long {
        /// What the header promises.
        expected: u128,
        /// The size of the file.
        found: u64,
    },
}

/// Judges a file by its size and its header.
pub fn completeness(header: Option<[u8; 8]>, found: u64) -> Completeness {
    let Some(header) = header else { return Completeness::Short { expected: None, found } };
    let body = u64::from_be_bytes(header);
    let expected = u128::from(HEADER) + u128::from(body);
    match u128::from(found).cmp(&expected) {
        std::cmp::Ordering::Equal => Completeness::Complete(body),
        std::cmp::Ordering::Less => Completeness::Short { expected: Some(expected), found },
        std::cmp::Ordering::Greater => Completeness::Long { expected, found },
    }
}

/// Why a data file's body is no sequence of pairs. Offsets count from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The length in front of a pair has more than 10 bytes or more than 64 bits.
    #[error("the length of pair {pair} at byte {offset} is no number of at most 64 bits")]
    Length {
        /// Which pair, from 0.
        pair: u64,
        /// Where its length begins.
        offset: u64,
    },
    /// The pair goes on behind the end of the file.
    #[error(
        "pair {pair} at byte {offset} says it has {length} bytes, but only {left} are left in the \
         file"
    )]
    Overrun {
        /// Which pair, from 0.
        pair: u64,
        /// Where its length begins.
        offset: u64,
        /// What it says.
        length: u64,
        /// Bytes behind its length.
        left: u64,
    },
    /// The pair is larger than any journal takes.
    #[error("pair {pair} at byte {offset} has {length} bytes; at most {MAX_CHANGE} are accepted")]
    TooLarge {
        /// Which pair, from 0.
        pair: u64,
        /// Where its length begins.
        offset: u64,
        /// Its size.
        length: u64,
    },
    /// The file ended inside a pair although its size is right; only a file that changed while it
    /// was read can do that.
    #[error("the file ended at byte {offset}, inside pair {pair}; it changed while it was read")]
    Ended {
        /// Which pair, from 0.
        pair: u64,
        /// Where reading stopped.
        offset: u64,
    },
}

/// Whole pairs, rewritten as elements of a frame's changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Elements of field 15: each pair with its tag and length.
    pub bytes: Bytes,
    /// Where the first pair's length begins in the file.
    pub offset: u64,
    /// The number of the first pair in the file, from 0.
    pub first_pair: u64,
}

/// Turns the body of a data file, in pieces of any size, into regions of whole elements.
///
/// Holds at most one unfinished pair (at most [`MAX_CHANGE`] bytes) beside the piece at hand.
#[derive(Debug)]
pub struct Rewriter {
    body: u64,
    /// Body bytes that went into complete pairs.
    done: u64,
    pairs: u64,
    pending: BytesMut,
}

impl Rewriter {
    /// For a body of this many bytes.
    pub fn new(body: u64) -> Self {
        Self { body, done: 0, pairs: 0, pending: BytesMut::new() }
    }

    /// Pairs seen so far.
    pub const fn pairs(&self) -> u64 {
        self.pairs
    }

    /// Takes the next piece and gives the pairs that it completes.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<Region>, FormatError> {
        self.pending.extend_from_slice(piece);
        let (offset, first_pair) = (HEADER + self.done, self.pairs);
        let mut out = BytesMut::new();
        while let Some((length, prefix)) = self.complete_pair()? {
            if out.is_empty() {
                // Pairs of 32 bytes and more need no second allocation.
                out.reserve(self.pending.len() + self.pending.len() / 32 + 1);
            }
            out.put_u8(CHANGE_TAG);
            put_uvarint(&mut out, length as u64);
            self.pending.advance(prefix);
            out.extend_from_slice(&self.pending.split_to(length));
            self.done += (prefix + length) as u64;
            self.pairs += 1;
        }
        Ok((!out.is_empty()).then(|| Region { bytes: out.freeze(), offset, first_pair }))
    }

    /// To be called after the last piece.
    pub fn finish(&self) -> Result<(), FormatError> {
        if self.done == self.body {
            return Ok(());
        }
        let offset = HEADER + self.done + self.pending.len() as u64;
        Err(FormatError::Ended { pair: self.pairs, offset })
    }

    /// Size of the pair at the front and of the length before it, if all of it is here.
    fn complete_pair(&self) -> Result<Option<(usize, usize)>, FormatError> {
        let (pair, offset) = (self.pairs, HEADER + self.done);
        let left_with_prefix = self.body.saturating_sub(self.done);
        let (length, prefix) = match uvarint(&self.pending) {
            Uvarint::Value(value, size) => (value, size),
            Uvarint::Wrong => return Err(FormatError::Length { pair, offset }),
            Uvarint::More
                if self.pending.len() as u64 >= left_with_prefix && left_with_prefix > 0 =>
            {
                return Err(FormatError::Length { pair, offset });
            }
            Uvarint::More => return Ok(None),
        };
        let left = left_with_prefix.saturating_sub(prefix as u64);
        if length > left {
            return Err(FormatError::Overrun { pair, offset, length, left });
        }
        match usize::try_from(length) {
            Ok(size) if size <= MAX_CHANGE => {
                Ok((self.pending.len() - prefix >= size).then_some((size, prefix)))
            }
            _ => Err(FormatError::TooLarge { pair, offset, length }),
        }
    }
}

/// What the bytes at hand say about a length.
pub(super) enum Uvarint {
    /// The number and how many bytes it took.
    Value(u64, usize),
    /// Not all of it is here.
    More,
    /// Too long.
    Wrong,
}

/// Reads a number in base 128, least significant group first.
pub(super) fn uvarint(bytes: &[u8]) -> Uvarint {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        if i == 9 && *byte > 1 {
            return Uvarint::Wrong;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Uvarint::Value(value, i + 1);
        }
    }
    if bytes.len() >= 10 { Uvarint::Wrong } else { Uvarint::More }
}

/// Writes a number in base 128, least significant group first, in as few bytes as it needs.
pub(crate) fn put_uvarint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8((value & 0x7f) as u8);
}

#[cfg(test)]
mod tests;
