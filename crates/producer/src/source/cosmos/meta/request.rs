//! What is looked up inside the messages of a meta file, in memory.

use super::{LENGTH_DELIMITED, Uvarint, uvarint};
use crate::source::cosmos::txs::Hash;

/// What the request that opened a block says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// The height of the block.
    pub(super) height: Option<u64>,
    /// Its time, nanoseconds since 1970.
    pub(super) time: Option<i64>,
    /// The root over its transactions.
    pub(super) data_hash: Option<Hash>,
}

impl Request {
    /// Of a begin-block request: all of it is in the header.
    pub(super) fn begin_block(request: &[u8]) -> Self {
        let header = nested(request, 2).unwrap_or_default();
        Self {
            height: number(header, 3),
            time: nested(header, 4).and_then(nanos),
            data_hash: nested(header, 7).and_then(|hash| hash.try_into().ok()),
        }
    }

    /// Of a finalize-block request, which has no header.
    pub(super) fn finalize_block(request: &[u8]) -> Self {
        Self {
            height: number(request, 5),
            time: nested(request, 6).and_then(nanos),
            data_hash: None,
        }
    }
}

/// The bytes of the transaction in an entry of `deliver_txs`; they may be any.
pub(super) fn delivered(entry: &[u8]) -> &[u8] {
    nested(entry, 1).and_then(|request| nested(request, 1)).unwrap_or_default()
}

fn nanos(stamp: &[u8]) -> Option<i64> {
    let seconds = number(stamp, 1).unwrap_or(0).cast_signed();
    let nanos = i64::try_from(number(stamp, 2).unwrap_or(0)).ok()?;
    // Go's zero time lies before what 64 bits of nanoseconds reach: no time then.
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
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
