//! Writing the parts of a header.

use bytes::{BufMut, BytesMut};
use sluice_model::Digest;

use super::{EPOCH_START, GAP, GENERATION_START};
use crate::{
    header::{BlockEnd, Metadata, Record, Run, StateDigest},
    varint,
};

const NANOS: i64 = 1_000_000_000;

fn tag(field: u64, wire_type: u64, out: &mut BytesMut) {
    varint::put(field << 3 | wire_type, out);
}

pub(super) fn uint(field: u64, value: u64, out: &mut BytesMut) {
    if value != 0 {
        tag(field, 0, out);
        varint::put(value, out);
    }
}

pub(super) fn bytes(field: u64, value: &[u8], out: &mut BytesMut) {
    if !value.is_empty() {
        tag(field, 2, out);
        varint::put(value.len() as u64, out);
        out.put_slice(value);
    }
}

fn digest(field: u64, value: &Digest, out: &mut BytesMut) {
    if *value != Digest::ZERO {
        bytes(field, value.as_bytes(), out);
    }
}

/// Writes an embedded message, also an empty one.
pub(super) fn message(field: u64, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    tag(field, 2, out);
    let begin = out.len();
    body(out);
    // Moving it to make room for its length is cheaper than writing it elsewhere first.
    let len = out.len() - begin;
    varint::put(len as u64, out);
    if let Some(message) = out.get_mut(begin..) {
        message.rotate_left(len);
    }
}

pub(super) fn timestamp(nanos: i64, out: &mut BytesMut) {
    // Protobuf numbers negative values as 64-bit two's complement; nanos are never negative.
    uint(1, nanos.div_euclid(NANOS).cast_unsigned(), out);
    uint(2, nanos.rem_euclid(NANOS).cast_unsigned(), out);
}

pub(super) fn runs(runs: &[Run], out: &mut BytesMut) {
    column(1, runs, |run| run.route, out);
    column(2, runs, |run| run.count, out);
    column(3, runs, |run| run.bytes, out);
    if runs.iter().any(|run| run.skip != 0) {
        column(4, runs, |run| run.skip, out);
    }
}

fn column(field: u64, runs: &[Run], value: impl Fn(&Run) -> u32, out: &mut BytesMut) {
    let len: usize = runs.iter().map(|run| varint::len(u64::from(value(run)))).sum();
    tag(field, 2, out);
    varint::put(len as u64, out);
    for run in runs {
        varint::put(u64::from(value(run)), out);
    }
}

/// The fields that stand last in a header: of the end, only these states.
pub(super) fn tail<'a>(
    end: Option<&BlockEnd>,
    states: impl IntoIterator<Item = &'a StateDigest>,
    metadata: Option<&Metadata>,
    out: &mut BytesMut,
) {
    if let Some(end) = end {
        message(13, out, |out| block_end(end, states, out));
    }
    if let Some(metadata) = metadata {
        message(14, out, |out| {
            bytes(1, metadata.type_url.as_bytes(), out);
            bytes(2, &metadata.value, out);
        });
    }
}

pub(super) fn block_end<'a>(
    end: &BlockEnd,
    states: impl IntoIterator<Item = &'a StateDigest>,
    out: &mut BytesMut,
) {
    uint(1, u64::from(end.parts), out);
    uint(2, u64::from(end.changes), out);
    digest(3, &end.digest, out);
    digest(4, &end.parent_digest, out);
    for state in states {
        // Measured first: a block has one of these per store.
        let store = state.store.len();
        let name = if store == 0 { 0 } else { 1 + varint::len(store as u64) + store };
        let value =
            if state.digest == Digest::ZERO { 0 } else { 2 + state.digest.as_bytes().len() };
        tag(5, 2, out);
        varint::put((name + value) as u64, out);
        bytes(1, state.store.as_bytes(), out);
        digest(2, &state.digest, out);
    }
    if let Some(metadata) = &end.metadata_digest {
        bytes(6, metadata.as_bytes(), out);
    }
    bytes(7, end.traceparent.as_bytes(), out);
}

pub(super) fn record(record: &Record, out: &mut BytesMut) {
    match record {
        Record::Gap { from, to, cause } => message(GAP, out, |out| {
            bytes(1, from.as_bytes(), out);
            bytes(2, to.as_bytes(), out);
            bytes(3, cause.as_bytes(), out);
        }),
        Record::GenerationStart {
            generation,
            base_generation,
            base_pointer,
            base_digest,
            reason,
            actor,
        } => message(GENERATION_START, out, |out| {
            uint(1, u64::from(generation.0), out);
            uint(2, u64::from(base_generation.0), out);
            bytes(3, base_pointer.as_bytes(), out);
            digest(4, base_digest, out);
            bytes(5, reason.as_bytes(), out);
            bytes(6, actor.as_bytes(), out);
        }),
        Record::EpochStart { writer_id, nonce, holder } => message(EPOCH_START, out, |out| {
            uint(1, *writer_id, out);
            bytes(2, nonce, out);
            bytes(3, holder.as_bytes(), out);
        }),
    }
}
