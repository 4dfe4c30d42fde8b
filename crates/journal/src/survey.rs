//! Finds the records of a segment, and decides what of it is the log, what is torn and what is
//! damaged.
//!
//! Below the durable length, which later records, the segment's mark and the control record tell,
//! everything was acknowledged: what is bad there is damage and is reported. Above it the first
//! bad record is where the last write was interrupted, and the log ends.

use crate::record::{HEAD, Origin, RecordHead, UNIT};

/// A place of the log with a record, or with something that should be one.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) offset: u64,
    pub(crate) record: Result<RecordHead, String>,
}

/// The records of a segment.
#[derive(Clone, Debug)]
pub(crate) struct Survey {
    pub(crate) found: Vec<Found>,
    /// Where the log ends.
    pub(crate) end: u64,
    /// Bytes that an interrupted write left behind the end.
    pub(crate) torn: Option<(u64, u64)>,
    /// What is certain to be durable.
    pub(crate) durable: u64,
}

impl Survey {
    /// True if something is bad that was acknowledged and nothing good follows.
    pub(crate) fn ends_badly(&self) -> bool {
        self.found.last().is_some_and(|found| found.record.is_err())
    }
}

/// Looks at the records from `from` on. `durable` is what is known to be durable from elsewhere.
pub(crate) fn survey(bytes: &[u8], origin: Origin, from: u64, durable: u64) -> Survey {
    let mut survey = Survey { found: Vec::new(), end: from, torn: None, durable };
    let mut at = from;
    loop {
        let Some(record) = parse_at(bytes, origin, at) else {
            let Some(next) = next_head(bytes, origin, at + UNIT) else { break };
            let cause = "there is no valid record head".to_owned();
            survey.found.push(Found { offset: at, record: Err(cause) });
            at = next;
            continue;
        };
        survey.durable = survey.durable.max(record.durable);
        let (offset, len) = (at, record.len());
        survey.found.push(Found { offset, record: check(bytes, record) });
        at += len;
    }
    survey.end = at;
    let torn = survey.found.iter().position(|f| f.record.is_err() && f.offset >= survey.durable);
    if let Some(torn) = torn {
        let begin = survey.found.get(torn).map_or(at, |found| found.offset);
        survey.found.truncate(torn);
        survey.torn = Some((begin, at));
        survey.end = begin;
    }
    if survey.end < survey.durable {
        let cause = format!("the log ends here, but {} bytes of it were durable", survey.durable);
        survey.found.push(Found { offset: survey.end, record: Err(cause) });
    }
    survey
}

fn slice(bytes: &[u8], at: u64, len: usize) -> Option<&[u8]> {
    let at = usize::try_from(at).ok()?;
    bytes.get(at..at.checked_add(len)?)
}

fn parse_at(bytes: &[u8], origin: Origin, at: u64) -> Option<RecordHead> {
    RecordHead::parse(slice(bytes, at, HEAD)?, origin, at)
}

/// The next place with a valid head. Only looked for behind something bad.
fn next_head(bytes: &[u8], origin: Origin, from: u64) -> Option<u64> {
    let mut at = from;
    while slice(bytes, at, HEAD).is_some() {
        if parse_at(bytes, origin, at).is_some() {
            return Some(at);
        }
        at += UNIT;
    }
    None
}

fn check(bytes: &[u8], record: RecordHead) -> Result<RecordHead, String> {
    let header = slice(bytes, record.offset + UNIT, record.header_len as usize);
    let changes = slice(bytes, record.offset + record.changes_at(), record.changes_len as usize);
    let (Some(header), Some(changes)) = (header, changes) else {
        return Err("the record is cut off by the end of the file".to_owned());
    };
    if crc32c::crc32c(header) != record.header_crc {
        return Err("the checksum of the record's header is wrong".to_owned());
    }
    if crc32c::crc32c(changes) != record.changes_crc {
        return Err("the checksum of the record's changes is wrong".to_owned());
    }
    Ok(record)
}
