//! The seam to the file system: the few operations that the sink is built from, so that tests can
//! fail or cut the power at every one of them.

mod disk;
#[cfg(test)]
pub(crate) mod memory;

use std::{
    fmt::Debug,
    io::{self, Read},
    path::Path,
};

pub(crate) use disk::Disk;

/// A file system as the sink uses it. Blocking; called from threads that may block.
///
/// Contract:
/// * bytes are durable after [`Out::sync`], names (created, renamed, removed) after
///   [`Layer::sync_dir`] of their directory, and never promised before;
/// * [`Layer::rename`] replaces its target in one step: a reader sees the old or the new file;
/// * an operation that failed may have been done in part.
pub(crate) trait Layer: Send + Sync + Debug {
    /// Makes one directory; fine if it is there already.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes a file, or empties the one that is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Out>>;
    /// Opens a file for appending after its first `len` bytes; cuts what follows.
    fn reopen(&self, path: &Path, len: u64) -> io::Result<Box<dyn Out>>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>>;
    /// The size of a file in bytes; `None` if there is no such file.
    fn len(&self, path: &Path) -> io::Result<Option<u64>>;
    /// Renames within one directory, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; `false` if there was none.
    fn remove(&self, path: &Path) -> io::Result<bool>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// A file being written.
pub(crate) trait Out: Send + Debug {
    /// Appends all bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Appends the first `len` bytes of another file; an error if it has fewer.
    fn copy(&mut self, from: &Path, len: u64) -> io::Result<()>;
    /// Overwrites bytes that were written before.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the bytes durable.
    fn sync(&mut self) -> io::Result<()>;
}
