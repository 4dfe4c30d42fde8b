//! One file of a block, written as it comes: small ones in memory until they are whole, large
//! ones into a file that has no name yet.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sluice_model::Digest;

use crate::{
    error::{Action, FileError},
    files::{Files, Writing},
    inspect::count_pairs,
};

/// Bytes of the length before the body.
pub(crate) const HEADER: usize = 8;

/// Beyond this many bytes in memory a part goes to disk.
const SPILL: usize = 1 << 20;

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct Part {
    path: PathBuf,
    /// Bytes not yet in the file; begins with the room for the length while there is no file.
    buffer: Vec<u8>,
    writing: Option<Writing>,
    body: u64,
    rows: u64,
    hasher: blake3::Hasher,
}

/// How far a part is, for a restart inside the block.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedPart {
    body: u64,
    rows: u64,
    digest: Digest,
}

/// A file that is whole.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) name: String,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// BLAKE3-256 of everything after the length.
    pub(crate) digest: Digest,
}

impl Part {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            buffer: vec![0; HEADER],
            writing: None,
            body: 0,
            rows: 0,
            hasher: blake3::Hasher::new(),
        }
    }

    pub(crate) fn push(
        &mut self,
        files: &mut Files,
        bytes: &[u8],
        rows: u64,
    ) -> Result<(), FileError> {
        self.hasher.update(bytes);
        self.buffer.extend_from_slice(bytes);
        self.body += bytes.len() as u64;
        self.rows += rows;
        if self.buffer.len() >= SPILL { self.spill(files).map(|_| ()) } else { Ok(()) }
    }

    /// Brings everything into the file.
    fn spill(&mut self, files: &mut Files) -> Result<&mut Writing, FileError> {
        let writing = match &mut self.writing {
            Some(writing) => writing,
            none => none.insert(files.create(&self.path)?),
        };
        writing.write(&self.buffer)?;
        self.buffer.clear();
        Ok(writing)
    }

    /// Puts the length in its place and gives the file its name.
    pub(crate) fn finish(mut self, files: &mut Files) -> Result<Finished, FileError> {
        let length = self.body.to_be_bytes();
        if self.writing.is_none()
            && let Some(header) = self.buffer.get_mut(..HEADER)
        {
            header.copy_from_slice(&length);
            self.spill(files)?;
        } else {
            self.spill(files)?.write_at(0, &length)?;
        }
        if let Some(writing) = self.writing.take() {
            files.publish(writing)?;
        }
        Ok(Finished {
            name: name(&self.path),
            rows: self.rows,
            bytes: self.body + HEADER as u64,
            digest: self.hasher.finalize().into(),
        })
    }

    /// Makes what is there durable, still without a name.
    pub(crate) fn save(&mut self, files: &mut Files) -> Result<SavedPart, FileError> {
        self.spill(files)?.sync()?;
        if let Some(dir) = self.path.parent() {
            files.touch(dir);
        }
        let digest = self.hasher.finalize().into();
        Ok(SavedPart { body: self.body, rows: self.rows, digest })
    }

    /// Finds a part again; `None` if it is not what was saved. A block that was ended by a batch
    /// which then failed has its name already: its begin is taken back.
    pub(crate) fn restore(
        files: &mut Files,
        path: PathBuf,
        saved: &SavedPart,
    ) -> Result<Option<Self>, FileError> {
        let len = saved.body.saturating_add(HEADER as u64);
        let temporary = Files::temporary(&path);
        let (writing, hasher) = if let Some(hasher) = begins_with(files, &temporary, saved)? {
            (files.reopen(&path, len)?, hasher)
        } else if let Some(hasher) = begins_with(files, &path, saved)? {
            let mut writing = files.create(&path)?;
            writing.copy(&path, len)?;
            (writing, hasher)
        } else {
            return Ok(None);
        };
        let (body, rows) = (saved.body, saved.rows);
        let writing = Some(writing);
        Ok(Some(Self { path, buffer: Vec::new(), writing, body, rows, hasher }))
    }
}

/// The hash of a file's begin, if that is what was saved.
fn begins_with(
    files: &Files,
    path: &Path,
    saved: &SavedPart,
) -> Result<Option<blake3::Hasher>, FileError> {
    let len = saved.body.saturating_add(HEADER as u64);
    if files.len(path)?.is_none_or(|there| there < len) {
        return Ok(None);
    }
    let mut reader = files.open(path)?.take(len);
    let mut header = [0; HEADER];
    reader.read_exact(&mut header).map_err(FileError::io(Action::Read, path))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(reader).map_err(FileError::io(Action::Read, path))?;
    Ok((Digest::from(hasher.finalize()) == saved.digest).then_some(hasher))
}

impl Finished {
    /// Reads a file that is whole.
    pub(crate) fn read(files: &Files, path: &Path, pairs: bool) -> Result<Self, FileError> {
        let len = files.len(path)?.unwrap_or_default();
        let counted = count_pairs(path, files.open(path)?, len, pairs)?;
        Ok(Self { name: name(path), rows: counted.rows, bytes: len, digest: counted.digest })
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
