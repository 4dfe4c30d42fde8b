//! The file layer with paths in its errors, whole files published in one step, and directories
//! synced once per commit.

use std::{
    collections::{BTreeSet, HashSet},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::{Action, FileError},
    layer::{Layer, Out},
};

/// Largest file that is read into memory whole: positions, never rows.
const MAX_SMALL: u64 = 16 << 20;

/// Files below one root.
#[derive(Debug)]
pub(crate) struct Files {
    layer: Arc<dyn Layer>,
    fsync: bool,
    root: PathBuf,
    /// Directories that are there for sure.
    known: HashSet<PathBuf>,
    /// Directories with names that are not yet durable.
    touched: BTreeSet<PathBuf>,
}

impl Files {
    pub(crate) fn new(layer: Arc<dyn Layer>, root: PathBuf, fsync: bool) -> Self {
        let known = HashSet::from([root.clone()]);
        Self { layer, fsync, root, known, touched: BTreeSet::new() }
    }

    /// Makes a directory and those above it, durably, up to the root.
    pub(crate) fn ensure_dir(&mut self, dir: &Path) -> Result<(), FileError> {
        if self.known.contains(dir) || !dir.starts_with(&self.root) {
            return Ok(());
        }
        if let Some(parent) = dir.parent() {
            self.ensure_dir(parent)?;
            self.layer.make_dir(dir).map_err(FileError::io(Action::MakeDir, dir))?;
            if self.fsync {
                self.layer.sync_dir(parent).map_err(FileError::io(Action::SyncDir, parent))?;
            }
        }
        self.known.insert(dir.to_owned());
        Ok(())
    }

    /// Where a file is written before it gets its name.
    pub(crate) fn temporary(path: &Path) -> PathBuf {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!(".{name}.tmp"))
    }

    /// Makes the temporary file of a path.
    pub(crate) fn create(&mut self, path: &Path) -> Result<Writing, FileError> {
        if let Some(dir) = path.parent() {
            self.ensure_dir(dir)?;
        }
        let temporary = Self::temporary(path);
        let out =
            self.layer.create(&temporary).map_err(FileError::io(Action::Create, &temporary))?;
        Ok(Writing { out, temporary, path: path.to_owned(), fsync: self.fsync })
    }

    /// Goes on with the temporary file of a path after its first `len` bytes.
    pub(crate) fn reopen(&self, path: &Path, len: u64) -> Result<Writing, FileError> {
        let temporary = Self::temporary(path);
        let out = self
            .layer
            .reopen(&temporary, len)
            .map_err(FileError::io(Action::Create, &temporary))?;
        Ok(Writing { out, temporary, path: path.to_owned(), fsync: self.fsync })
    }

    /// Gives a finished file its name. Durable after the next [`Files::settle`].
    pub(crate) fn publish(&mut self, writing: Writing) -> Result<(), FileError> {
        let Writing { mut out, temporary, path, fsync } = writing;
        if fsync {
            out.sync().map_err(FileError::io(Action::Sync, &temporary))?;
        }
        drop(out);
        self.layer.rename(&temporary, &path).map_err(FileError::io(Action::Rename, &path))?;
        if let Some(dir) = path.parent() {
            self.touched.insert(dir.to_owned());
        }
        Ok(())
    }

    /// Replaces a file by these bytes in one step.
    pub(crate) fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
        let mut writing = self.create(path)?;
        writing.write(bytes)?;
        self.publish(writing)
    }

    /// Notes that a directory has a new name.
    pub(crate) fn touch(&mut self, dir: &Path) {
        self.touched.insert(dir.to_owned());
    }

    /// Makes every name given since the last call durable.
    pub(crate) fn settle(&mut self) -> Result<(), FileError> {
        let touched = std::mem::take(&mut self.touched);
        if self.fsync {
            for dir in &touched {
                self.layer.sync_dir(dir).map_err(FileError::io(Action::SyncDir, dir))?;
            }
        }
        Ok(())
    }

    /// Removes a file, if it is there. Durable after the next [`Files::settle`].
    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), FileError> {
        let removed = self.layer.remove(path).map_err(FileError::io(Action::Remove, path))?;
        if let Some(dir) = path.parent().filter(|_| removed) {
            self.touch(dir);
        }
        Ok(())
    }

    pub(crate) fn len(&self, path: &Path) -> Result<Option<u64>, FileError> {
        self.layer.len(path).map_err(FileError::io(Action::Read, path))
    }

    pub(crate) fn open(&self, path: &Path) -> Result<Box<dyn Read + Send>, FileError> {
        self.layer.open(path).map_err(FileError::io(Action::Read, path))
    }

    /// A small file whole; `None` if there is none.
    pub(crate) fn read_small(&self, path: &Path) -> Result<Option<Vec<u8>>, FileError> {
        match self.len(path)? {
            None => Ok(None),
            Some(len) if len > MAX_SMALL => Err(FileError::Damaged {
                path: path.to_owned(),
                offset: MAX_SMALL,
                reason: format!("it is {len} bytes long; at most {MAX_SMALL} are expected"),
            }),
            Some(_) => {
                let mut bytes = Vec::new();
                let mut reader = self.open(path)?.take(MAX_SMALL);
                reader.read_to_end(&mut bytes).map_err(FileError::io(Action::Read, path))?;
                Ok(Some(bytes))
            }
        }
    }
}

/// A file that has no name yet.
#[derive(Debug)]
pub(crate) struct Writing {
    out: Box<dyn Out>,
    temporary: PathBuf,
    path: PathBuf,
    fsync: bool,
}

impl Writing {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.out.write(bytes).map_err(FileError::io(Action::Write, &self.temporary))
    }

    pub(crate) fn copy(&mut self, from: &Path, len: u64) -> Result<(), FileError> {
        if len == 0 {
            return Ok(());
        }
        self.out.copy(from, len).map_err(FileError::io(Action::Write, &self.temporary))
    }

    pub(crate) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        self.out.write_at(offset, bytes).map_err(FileError::io(Action::Write, &self.temporary))
    }

    /// Makes what was written so far durable, still without a name.
    pub(crate) fn sync(&mut self) -> Result<(), FileError> {
        if self.fsync {
            self.out.sync().map_err(FileError::io(Action::Sync, &self.temporary))?;
        }
        Ok(())
    }
}
