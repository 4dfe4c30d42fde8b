//! The rows of an open range: what is in files already, and what waits in memory.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sluice_model::{
    Digest, Position, SequenceId,
    event::{Encoding, Event},
};

use crate::{
    engine::id_text,
    error::{Action, FileError},
    files::{Files, Writing},
    manifest::Id,
};

/// Longest row, in bytes: the largest change as hex, and the rest of the event.
const MAX_ROW: u64 = 128 << 20;

/// Every row begins like this.
const ROW_BEGIN: &[u8] = br#"{"sequenceId":""#;

/// The rows of an open range, by file.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    files: BTreeMap<String, OpenFile>,
    bytes: u64,
}

/// One file of an open range: a prefix that is on disk, and rows behind it in memory.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    source: Option<(PathBuf, u64)>,
    pending: Vec<u8>,
    hasher: blake3::Hasher,
    first: Position,
    last: Position,
    height: u64,
}

/// An open file as the position file remembers it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    rows: u64,
    pub(crate) bytes: u64,
    digest: Digest,
    first: Id,
    last: Id,
    height: u64,
}

impl SavedFile {
    pub(crate) fn key(&self) -> &str {
        self.store.as_deref().unwrap_or_default()
    }
}

/// What is read from the last row that is kept.
#[derive(Deserialize)]
struct RowHead {
    height: u64,
}

impl Rows {
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn push(&mut self, key: &str, event: &Event<'_>, encoding: Encoding) {
        if !self.files.contains_key(key) {
            self.files.insert(key.to_owned(), OpenFile::new(event.position, event.height));
        }
        let Some(file) = self.files.get_mut(key) else { return };
        let begin = file.pending.len();
        event.write_json(encoding, &mut file.pending);
        file.pending.push(b'\n');
        let row = file.pending.get(begin..).unwrap_or_default();
        file.hasher.update(row);
        file.bytes += row.len() as u64;
        self.bytes += row.len() as u64;
        file.rows += 1;
        file.last.clone_from(event.position);
        file.height = event.height;
    }

    pub(crate) fn last_block(&self) -> Option<(Position, u64)> {
        let last = self.files.values().max_by_key(|file| &file.last)?;
        let end = Position::end_of(last.last.generation, last.last.pointer.clone());
        Some((end, last.height))
    }

    /// The first and last id of all files.
    pub(crate) fn bounds(&self) -> Option<(String, String)> {
        let first = self.files.values().map(|file| &file.first).min()?;
        let last = self.files.values().map(|file| &file.last).max()?;
        Some((id_text(first), id_text(last)))
    }

    pub(crate) fn into_files(self) -> impl Iterator<Item = (String, OpenFile)> {
        self.files.into_iter()
    }

    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = (&String, &mut OpenFile)> {
        self.files.iter_mut()
    }

    /// Takes a file back as it was saved; `false` if it is not what was saved.
    pub(crate) fn restore(
        &mut self,
        files: &Files,
        path: PathBuf,
        saved: &SavedFile,
    ) -> Result<bool, FileError> {
        if files.len(&path)?.is_none_or(|len| len < saved.bytes) {
            return Ok(false);
        }
        let mut hasher = blake3::Hasher::new();
        hasher
            .update_reader(files.open(&path)?.take(saved.bytes))
            .map_err(FileError::io(Action::Read, &path))?;
        if Digest::from(hasher.finalize()) != saved.digest {
            return Ok(false);
        }
        let file = OpenFile {
            rows: saved.rows,
            bytes: saved.bytes,
            source: Some((path, saved.bytes)),
            pending: Vec::new(),
            hasher,
            first: saved.first.0.clone(),
            last: saved.last.0.clone(),
            height: saved.height,
        };
        self.bytes += file.bytes;
        self.files.insert(saved.key().to_owned(), file);
        Ok(true)
    }

    /// The rows up to and including `target` of files that are on disk; `None` if one of them is
    /// missing or shorter than it should be.
    pub(crate) fn cut(
        files: &Files,
        sources: impl Iterator<Item = (String, PathBuf, u64)>,
        target: &Position,
    ) -> Result<Option<Self>, FileError> {
        let mut rows = Self::default();
        for (key, path, bytes) in sources {
            if files.len(&path)?.is_none_or(|len| len < bytes) {
                return Ok(None);
            }
            let reader = files.open(&path)?.take(bytes);
            if let Some(file) = OpenFile::cut(path, reader, target)? {
                rows.bytes += file.bytes;
                rows.files.insert(key, file);
            }
        }
        Ok(Some(rows))
    }
}

impl OpenFile {
    fn new(position: &Position, height: u64) -> Self {
        Self {
            rows: 0,
            bytes: 0,
            source: None,
            pending: Vec::new(),
            hasher: blake3::Hasher::new(),
            first: position.clone(),
            last: position.clone(),
            height,
        }
    }

    fn cut(path: PathBuf, reader: impl Read, target: &Position) -> Result<Option<Self>, FileError> {
        let mut reader = BufReader::new(reader);
        let mut file: Option<Self> = None;
        let (mut row, mut kept) = (Vec::new(), Vec::new());
        let mut offset = 0u64;
        loop {
            row.clear();
            let read = (&mut reader)
                .take(MAX_ROW)
                .read_until(b'\n', &mut row)
                .map_err(FileError::io(Action::Read, &path))? as u64;
            if read == 0 {
                break;
            }
            let position = row_position(&path, &row, offset)?;
            if position > *target {
                break;
            }
            offset += read;
            let file = file.get_or_insert_with(|| Self::new(&position, 0));
            file.hasher.update(&row);
            file.rows += 1;
            file.bytes += read;
            file.last = position;
            std::mem::swap(&mut row, &mut kept);
        }
        if let Some(file) = &mut file {
            let head: RowHead = serde_json::from_slice(&kept).map_err(|error| {
                FileError::Damaged { path: path.clone(), offset, reason: error.to_string() }
            })?;
            file.height = head.height;
            file.source = Some((path, file.bytes));
        }
        Ok(file)
    }

    pub(crate) fn digest(&self) -> Digest {
        self.hasher.finalize().into()
    }

    pub(crate) fn write_to(&self, writing: &mut Writing) -> Result<(), FileError> {
        if let Some((path, len)) = &self.source {
            writing.copy(path, *len)?;
        }
        writing.write(&self.pending)
    }

    pub(crate) fn is_saved_in(&self, path: &Path) -> bool {
        self.pending.is_empty() && self.source.as_ref().is_some_and(|(source, _)| source == path)
    }

    pub(crate) fn saved_in(&mut self, path: PathBuf) {
        self.pending = Vec::new();
        self.source = Some((path, self.bytes));
    }

    pub(crate) fn saved(&self, key: &str) -> SavedFile {
        SavedFile {
            store: (!key.is_empty()).then(|| key.to_owned()),
            rows: self.rows,
            bytes: self.bytes,
            digest: self.digest(),
            first: Id(self.first.clone()),
            last: Id(self.last.clone()),
            height: self.height,
        }
    }
}

/// The position that a row's id names.
pub(crate) fn row_position(path: &Path, row: &[u8], offset: u64) -> Result<Position, FileError> {
    let damaged = |reason: &str| FileError::Damaged {
        path: path.to_owned(),
        offset,
        reason: reason.to_owned(),
    };
    if row.last() != Some(&b'\n') {
        return Err(damaged("a row without an end"));
    }
    let rest = row.strip_prefix(ROW_BEGIN).ok_or_else(|| damaged("a row without a sequenceId"))?;
    let id = rest.split(|byte| *byte == b'"').next().unwrap_or_default();
    let id = std::str::from_utf8(id).map_err(|_| damaged("a sequenceId that is not text"))?;
    let id: SequenceId = id.parse().map_err(|error| damaged(&format!("{error}")))?;
    Ok(id.into_position())
}
