//! The side index file: a summary that is read when the journal is opened, and the entries, which
//! are read when a reader comes by. It only repeats what the segment says, so a file that is
//! missing or damaged is written anew.

use std::{collections::HashMap, sync::Arc};

use sluice_frame::{Route, RouteTable};
use sluice_model::{Generation, JournalId};

use super::{Entry, EntryKind, SegIndex, Summary};
use crate::{
    Corruption,
    codec::{Get, Put, unseal},
};

const SUMMARY_MAGIC: u64 = u64::from_le_bytes(*b"SLIDXS02");
const ENTRIES_MAGIC: u64 = u64::from_le_bytes(*b"SLIDXE02");
/// Bytes that always hold a whole summary.
pub(crate) const SUMMARY_LEN: usize = 1024;

/// Which segment an index belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) id: JournalId,
    pub(crate) number: u32,
    pub(crate) incarnation: u64,
    /// Bytes of the segment that the index covers.
    pub(crate) len: u64,
}

impl SegIndex {
    /// The side index file.
    pub(crate) fn encode(&self, subject: &Subject) -> Vec<u8> {
        let mut fields = Put::default();
        fields.raw(subject.id.as_bytes()).u32(subject.number).u64(subject.incarnation);
        fields.u64(subject.len);
        put_summary(&self.summary, &mut fields);
        let mut out = fields.seal(SUMMARY_MAGIC);
        out.resize(SUMMARY_LEN, 0);
        let mut fields = Put::default();
        fields.u32(count(self.sets.len()));
        for set in &self.sets {
            fields.u32(count(set.len()));
            for route in set.iter() {
                fields.bytes(route.store.as_bytes()).bytes(route.topic.as_bytes());
            }
        }
        fields.u32(count(self.corruptions.len()));
        for corruption in &self.corruptions {
            put_corruption(corruption, &mut fields);
        }
        fields.u32(count(self.entries.len()));
        for entry in &self.entries {
            put_entry(entry, &mut fields);
        }
        out.extend_from_slice(&fields.seal(ENTRIES_MAGIC));
        out
    }

    /// Reads the whole file.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Subject, Self)> {
        let (subject, summary) = decode_summary(bytes)?;
        let payload = unseal(ENTRIES_MAGIC, bytes.get(SUMMARY_LEN..)?).ok()?;
        let mut fields = Get(payload);
        let mut sets = Vec::new();
        for _ in 0..fields.u32()? {
            let mut routes = Vec::new();
            for _ in 0..fields.u32()? {
                let (store, topic) = (fields.text()?, fields.text()?);
                routes.push(Route { store: Arc::from(store), topic: Arc::from(topic) });
            }
            sets.push(RouteTable::new(routes));
        }
        let mut corruptions = Vec::new();
        for _ in 0..fields.u32()? {
            corruptions.push(corruption(&mut fields)?);
        }
        let mut entries = Vec::new();
        for _ in 0..fields.u32()? {
            entries.push(entry(&mut fields)?);
        }
        let number = subject.number;
        let by_hash = HashMap::new();
        Some((subject, Self { number, summary, entries, sets, corruptions, by_hash }))
    }
}

/// Reads the part in front.
pub(crate) fn decode_summary(bytes: &[u8]) -> Option<(Subject, Summary)> {
    let front = bytes.get(..SUMMARY_LEN.min(bytes.len()))?;
    let mut fields = Get(unseal(SUMMARY_MAGIC, front).ok()?);
    let subject = Subject {
        id: JournalId::try_from(fields.raw(16)?).ok()?,
        number: fields.u32()?,
        incarnation: fields.u64()?,
        len: fields.u64()?,
    };
    let summary = Summary {
        base: fields.head()?,
        last: fields.head()?,
        blocks: fields.u64()?,
        changes: fields.u64()?,
        first_ref: fields.u32()?,
        max_height: fields.u64()?,
        max_time: fields.i64()?,
        corruptions: fields.u64()?,
        aborted_parts: fields.u64()?,
        unknown_records: fields.u64()?,
    };
    Some((subject, summary))
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn put_summary(summary: &Summary, fields: &mut Put) {
    fields.head(&summary.base).head(&summary.last).u64(summary.blocks).u64(summary.changes);
    fields.u32(summary.first_ref).u64(summary.max_height).i64(summary.max_time);
    fields.u64(summary.corruptions).u64(summary.aborted_parts).u64(summary.unknown_records);
}

fn put_corruption(corruption: &Corruption, fields: &mut Put) {
    fields.position(&corruption.after).u8(u8::from(corruption.through.is_some()));
    fields.position(&corruption.through.clone().unwrap_or_default());
    fields.u8(u8::from(corruption.digest.is_some()));
    fields.raw(corruption.digest.unwrap_or_default().as_bytes());
    fields.bytes(corruption.file.as_bytes()).u64(corruption.offset);
    fields.bytes(corruption.cause.as_bytes());
}

fn corruption(fields: &mut Get<'_>) -> Option<Corruption> {
    let after = fields.position()?;
    let (known, through) = (fields.u8()? != 0, fields.position()?);
    let (named, digest) = (fields.u8()? != 0, fields.digest()?);
    Some(Corruption {
        after,
        through: known.then_some(through),
        digest: named.then_some(digest),
        file: fields.text()?,
        offset: fields.u64()?,
        cause: fields.text()?,
    })
}

fn put_entry(entry: &Entry, fields: &mut Put) {
    let flags = u8::from(entry.first) | u8::from(entry.last) << 1 | u8::from(entry.metadata) << 2;
    fields.u8(entry.kind as u8).u8(flags).u32(entry.segment).u64(entry.offset);
    fields.u32(entry.header_len).u32(entry.changes_len).u8(entry.slot);
    fields.u32(entry.set).u32(entry.changes);
    fields.u32(entry.next_index).u32(entry.generation.0).u64(entry.height).time(entry.time);
    fields.bytes(entry.pointer.as_bytes()).raw(entry.digest.as_bytes());
}

fn entry(fields: &mut Get<'_>) -> Option<Entry> {
    let kind = match fields.u8()? {
        0 => EntryKind::Block,
        1 => EntryKind::Gap,
        2 => EntryKind::Generation,
        3 => EntryKind::Corrupt,
        _ => return None,
    };
    let flags = fields.u8()?;
    Some(Entry {
        kind,
        first: flags & 1 != 0,
        last: flags & 2 != 0,
        metadata: flags & 4 != 0,
        segment: fields.u32()?,
        offset: fields.u64()?,
        header_len: fields.u32()?,
        changes_len: fields.u32()?,
        slot: fields.u8()?,
        set: fields.u32()?,
        changes: fields.u32()?,
        next_index: fields.u32()?,
        generation: Generation(fields.u32()?),
        height: fields.u64()?,
        time: fields.time()?,
        pointer: fields.pointer()?,
        digest: fields.digest()?,
    })
}
