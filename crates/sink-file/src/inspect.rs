//! Reading what was written, for people and for checks: block files of any Cosmos node, rows,
//! manifests. Everything is streamed; no length in a file is believed before the bytes are there.

mod block;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use sluice_model::{Change, Digest};

use crate::{
    error::{Action, FileError},
    manifest::{self, Line},
};

pub use block::{DecodeError, MetaField, Problem, decode_pair};
pub use verify::{Finding, Report, verify};

/// A pair in a data file and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    /// Number in the file, from 0.
    pub number: u64,
    /// Offset of its length in the file, in bytes.
    pub offset: u64,
    /// The change.
    pub change: Change<'a>,
}

/// What a file held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Pairs.
    pub pairs: u64,
    /// Bytes of the whole file.
    pub bytes: u64,
    /// BLAKE3-256 of everything after the length at the begin.
    pub digest: Digest,
}

/// Reads a `block-N-data` file and shows every pair in order. Stops at the first thing that is
/// wrong and names file, offset and field.
pub fn decode_data(path: &Path, mut each: impl FnMut(Pair<'_>)) -> Result<Summary, DecodeError> {
    let (file, bytes) = block::open(path)?;
    let mut body = block::Body::begin(path, file, bytes)?;
    let mut buffer = Vec::new();
    let mut pairs = 0;
    while let Some(offset) = body.next_pair(&mut buffer)? {
        let change =
            decode_pair(&buffer).map_err(|problem| problem.at(path, body.pair_offset()))?;
        each(Pair { number: pairs, offset, change });
        pairs += 1;
    }
    Ok(Summary { pairs, bytes, digest: body.digest() })
}

/// Reads a `block-N-meta` file of at most `limit` bytes: its message as it stands, and the fields
/// at its top.
pub fn decode_meta(path: &Path, limit: u64) -> Result<(Vec<u8>, Vec<MetaField>), DecodeError> {
    let (file, bytes) = block::open(path)?;
    let mut body = block::Body::begin(path, file, bytes)?;
    let message = body.rest(limit)?;
    let fields = block::meta_fields(&message).map_err(|problem| problem.at(path, 8))?;
    Ok((message, fields))
}

/// The lines of a manifest.
pub fn read_manifest(path: &Path) -> Result<Vec<Line>, FileError> {
    let file = File::open(path).map_err(FileError::io(Action::Read, path))?;
    let mut lines = Vec::new();
    manifest::read_lines(path, file, |line, _| {
        lines.push(line);
        Ok(())
    })?;
    Ok(lines)
}

/// Pairs and digest of a file, without looking into the pairs.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) rows: u64,
    pub(crate) digest: Digest,
}

pub(crate) fn count_pairs(
    path: &Path,
    reader: impl Read,
    bytes: u64,
    pairs: bool,
) -> Result<Counted, FileError> {
    let count = || {
        let mut body = block::Body::begin(path, reader, bytes)?;
        let mut rows = 0;
        if pairs {
            let mut buffer = Vec::new();
            while body.next_pair(&mut buffer)?.is_some() {
                rows += 1;
            }
        } else {
            body.skip_rest()?;
        }
        Ok(Counted { rows, digest: body.digest() })
    };
    count().map_err(|error: DecodeError| match error.problem {
        Problem::Io(source) => FileError::Io { action: Action::Read, path: error.path, source },
        problem => FileError::Damaged {
            path: PathBuf::from(path),
            offset: error.offset,
            reason: format!("{}: {problem}", error.field),
        },
    })
}
