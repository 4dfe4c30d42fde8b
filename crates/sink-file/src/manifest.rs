//! The manifest of a generation: one line per closed range, in order.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sluice_model::{Digest, Position, SequenceId};

use crate::{
    error::{Action, FileError},
    files::Files,
};

/// Name of the manifest in a generation's directory.
pub const FILE_NAME: &str = "manifest.jsonl";

/// Longest line, in bytes. A line lists a file per store.
const MAX_LINE: u64 = 64 << 20;

/// One closed range. What it says is final: the files are not written again with other bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// First height.
    pub from: u64,
    /// Last height.
    pub to: u64,
    /// The history.
    pub generation: u32,
    /// Rows: events, or pairs of block files.
    pub rows: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The files in order, hashed into one: see [`crate::manifest::chain`].
    pub digest: Digest,
    /// Id of the first event; absent without any. In format cosmos the ids bound the blocks.
    pub first: Option<String>,
    /// Id of the last event.
    pub last: Option<String>,
    /// Blocks that are missing for good.
    pub gaps: Vec<Gap>,
    /// Everything that matches after this position …
    pub after: Id,
    /// … and up to this one is in the files.
    pub through: Id,
    /// Hash of the filter that chose the rows.
    pub filter: String,
    /// The files that have rows. In format cosmos, where there is one or two per block, absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileLine>,
}

/// One file of a closed range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLine {
    /// The store; absent where a file holds all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Path, relative to the manifest.
    pub path: String,
    /// Rows.
    pub rows: u64,
    /// Size.
    pub bytes: u64,
    /// BLAKE3-256 of the file, as `b3sum` prints it.
    pub digest: Digest,
}

/// Blocks that the source could not give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// First missing block that falls into the range.
    pub from: Place,
    /// Last missing block that falls into the range.
    pub to: Place,
    /// Why.
    pub cause: String,
    /// Where the whole gap ends.
    pub through: Id,
}

/// A block as people read it: a height, or `x` and hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Place {
    /// A height.
    Height(u64),
    /// Any other pointer.
    Opaque(String),
}

/// A position, written as a sequence id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(pub Position);

impl TryFrom<String> for Id {
    type Error = sluice_model::SequenceIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse::<SequenceId>().map(|id| Self(id.into_position()))
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        SequenceId::new(id.0).to_string()
    }
}

/// The digest of a range, one file after the other: `BLAKE3(previous ‖ name ‖ 0 ‖ digest)`,
/// beginning with 32 zero bytes.
pub fn chain(previous: &Digest, name: &str, digest: &Digest) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous.as_bytes());
    hasher.update(name.as_bytes());
    hasher.update(&[0]);
    hasher.update(digest.as_bytes());
    hasher.finalize().into()
}

/// Reads the lines of a manifest in order and gives each with the offset behind it.
pub(crate) fn read_lines(
    path: &Path,
    reader: impl Read,
    mut each: impl FnMut(Line, u64) -> Result<(), FileError>,
) -> Result<(), FileError> {
    let mut reader = BufReader::new(reader);
    let mut offset = 0u64;
    let mut text = Vec::new();
    loop {
        text.clear();
        let read = (&mut reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut text)
            .map_err(FileError::io(Action::Read, path))?;
        if read == 0 {
            return Ok(());
        }
        let damaged = |reason: String| FileError::Damaged { path: path.to_owned(), offset, reason };
        if text.last() != Some(&b'\n') {
            return Err(damaged("the last line has no end".to_owned()));
        }
        let line = serde_json::from_slice(&text)
            .map_err(|error| damaged(format!("not a line of a manifest: {error}")))?;
        offset += read as u64;
        each(line, offset)?;
    }
}

/// The manifest as the writer keeps it: how much of it is behind, and the lines ahead that were
/// written before a restart and are expected to come again.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    path: PathBuf,
    keep: u64,
    /// The last height that is behind.
    last: Option<u64>,
    ahead: Vec<Line>,
}

impl Manifest {
    /// Reads the manifest of a directory and tells the lines that are behind from those ahead.
    pub(crate) fn load(
        files: &Files,
        dir: &Path,
        behind: impl Fn(&Line) -> bool,
    ) -> Result<Self, FileError> {
        let mut manifest = Self { path: dir.join(FILE_NAME), ..Self::default() };
        if files.len(&manifest.path)?.is_none() {
            return Ok(manifest);
        }
        let reader = files.open(&manifest.path)?;
        read_lines(&manifest.path.clone(), reader, |line, end| {
            if manifest.ahead.is_empty() && behind(&line) {
                (manifest.keep, manifest.last) = (end, Some(line.to));
            } else {
                manifest.ahead.push(line);
            }
            Ok(())
        })?;
        Ok(manifest)
    }

    /// The first height that no line behind covers; unknown without any.
    pub(crate) fn next(&self) -> Option<u64> {
        self.last.and_then(|last| last.checked_add(1))
    }

    /// The line ahead that the position stands in.
    pub(crate) fn around(&self, position: &Position) -> Option<&Line> {
        self.ahead.first().filter(|line| line.after.0 <= *position)
    }

    /// The line of exactly this range, if it was written before.
    pub(crate) fn known(&self, from: u64, to: u64) -> Option<&Line> {
        self.ahead.iter().find(|line| (line.from, line.to) == (from, to))
    }

    /// Adds lines. Lines ahead that overlap them are replaced; gives the files that only those
    /// had.
    pub(crate) fn append(
        &mut self,
        files: &mut Files,
        lines: &[Line],
    ) -> Result<Vec<PathBuf>, FileError> {
        let mut text = Vec::new();
        for line in lines {
            put_line(line, &mut text);
        }
        let overlaps =
            |old: &Line| lines.iter().any(|new| new.from <= old.to && old.from <= new.to);
        let (gone, ahead): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.ahead).into_iter().partition(overlaps);
        self.ahead = ahead;
        let mut writing = files.create(&self.path)?;
        writing.copy(&self.path, self.keep)?;
        let keep = self.keep + text.len() as u64;
        for line in &self.ahead {
            put_line(line, &mut text);
        }
        writing.write(&text)?;
        files.publish(writing)?;
        self.keep = keep;
        self.last = lines.last().map(|line| line.to).or(self.last);
        let kept: BTreeSet<&str> = lines.iter().flat_map(paths).collect();
        let dir = self.path.parent().unwrap_or(&self.path);
        let lost = gone.iter().flat_map(paths).filter(|path| !kept.contains(path));
        Ok(lost.map(|path| dir.join(path)).collect())
    }
}

fn paths(line: &Line) -> impl Iterator<Item = &str> {
    line.files.iter().map(|file| file.path.as_str())
}

fn put_line(line: &Line, out: &mut Vec<u8>) {
    // A `Line` has only text, numbers and lists of them, which always encode into memory.
    if serde_json::to_writer(&mut *out, line).is_ok() {
        out.push(b'\n');
    }
}
