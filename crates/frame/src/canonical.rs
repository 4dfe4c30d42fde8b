use bytes::Bytes;
use sluice_model::Op;

use crate::{
    error::{ScanError, ScanReason},
    scan::{CHANGE_TAG, put_change},
    varint,
};

#[derive(Default)]
struct Fields<'a> {
    store: &'a [u8],
    delete: bool,
    key: &'a [u8],
    value: &'a [u8],
}

/// Brings the changes of a foreign encoder into canonical form: any order of fields, explicit
/// defaults, long numbers, and of a repeated field the last, as every protobuf decoder reads it.
///
/// Unknown fields are refused, not dropped: what a sender says must not get lost silently.
pub fn canonicalize(region: &[u8]) -> Result<Bytes, ScanError> {
    let mut out = Vec::with_capacity(region.len());
    let (mut at, mut change) = (0, 0);
    while at < region.len() {
        let (fields, next) =
            fields(region, at).map_err(|reason| ScanError { change, offset: at, reason })?;
        let wrong = |reason| ScanError { change, offset: at, reason };
        let store = std::str::from_utf8(fields.store).map_err(|_| wrong(ScanReason::StoreUtf8))?;
        if store.is_empty() {
            return Err(wrong(ScanReason::NoStore));
        }
        let op = if fields.delete { Op::Delete } else { Op::Set };
        put_change(store, op, fields.key, fields.value, &mut out);
        (at, change) = (next, change.saturating_add(1));
    }
    Ok(out.into())
}

fn fields(region: &[u8], at: usize) -> Result<(Fields<'_>, usize), ScanReason> {
    let (tag, at) = varint::read_lenient(region, at).ok_or(ScanReason::Varint("the tag"))?;
    if tag != u64::from(CHANGE_TAG) {
        return Err(ScanReason::Field(tag));
    }
    let (mut at, end) = bounded(region, at, "the change")?;
    let body = region.get(..end).unwrap_or_default();
    let mut fields = Fields::default();
    while at < end {
        let (tag, next) = varint::read_lenient(body, at).ok_or(ScanReason::Varint("a tag"))?;
        at = match tag {
            0x10 => {
                let (value, next) =
                    varint::read_lenient(body, next).ok_or(ScanReason::Varint("delete"))?;
                fields.delete = value != 0;
                next
            }
            0x0a | 0x1a | 0x22 => {
                let (begin, end) = bounded(body, next, "a field")?;
                let bytes = body.get(begin..end).unwrap_or_default();
                match tag {
                    0x0a => fields.store = bytes,
                    0x1a => fields.key = bytes,
                    _ => fields.value = bytes,
                }
                end
            }
            other => return Err(ScanReason::Field(other)),
        };
    }
    Ok((fields, end))
}

fn bounded(bytes: &[u8], at: usize, field: &'static str) -> Result<(usize, usize), ScanReason> {
    let (length, begin) = varint::read_lenient(bytes, at).ok_or(ScanReason::Varint(field))?;
    let left = bytes.len() - begin;
    match usize::try_from(length) {
        Ok(len) if len <= left => Ok((begin, begin + len)),
        _ => Err(ScanReason::Overrun { field, length, left }),
    }
}
