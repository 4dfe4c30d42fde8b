//! The file operations that the embedded journal uses, as a seam, so that tests can crash between
//! any two of them.

#[cfg(feature = "faults")]
pub mod fault;
mod real;

use std::{fmt, io, io::IoSlice, path::Path, sync::Arc};

pub use real::RealFiles;

/// A file system.
///
/// # Contract
/// Nothing is durable before [`File::sync`] (bytes and length of a file) or
/// [`Files::sync_dir`] (names in a directory) returned. Calls block.
pub trait Files: Send + Sync + fmt::Debug {
    /// Makes a directory and its parents; nothing if it is there.
    ///
    /// # Errors
    /// The system's.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names in a directory, sorted; empty if there is no such directory, or it is a file.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// The system's; `NotFound` if there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Makes an empty file, or empties the one that is there.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Renames a file within its directory and replaces what has the new name.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The system's. As with [`File::sync`], asking again would not tell what is durable; only
    /// naming the files anew does.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes an exclusive lock on a file, made if missing, for as long as the result lives.
    ///
    /// # Errors
    /// [`LockError::Held`] at once if someone else has it.
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError>;
}

/// An open file.
pub trait File: Send + Sync + fmt::Debug {
    /// Writes all bytes at an offset. After an error any part of them may be written.
    ///
    /// # Errors
    /// The system's; `StorageFull` if there is no room.
    fn write(&self, bytes: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Reads until the buffer is full or the file ends; gives the bytes read.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Makes everything written durable.
    ///
    /// # Errors
    /// The system's. Afterwards nobody knows what of the file is durable, and asking again would
    /// not tell: systems keep showing what they could not write, and take it for written.
    fn sync(&self) -> io::Result<()>;

    /// Reserves room and makes the file at least this long.
    ///
    /// # Errors
    /// The system's; `StorageFull` if there is no room.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn len(&self) -> io::Result<u64>;

    /// True if the file has no bytes.
    ///
    /// # Errors
    /// The system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Keeps a lock until it is dropped.
pub trait Lock: Send + Sync + fmt::Debug {}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Someone has it.
    #[error("held by process {0}")]
    Held(u32),
    /// The file cannot be used.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes one stretch of bytes.
pub(crate) fn write_all(file: &dyn File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write(&[IoSlice::new(bytes)], offset)
}

/// Reads at most `len` bytes; fewer at the end of the file.
pub(crate) fn read_up_to(file: &dyn File, offset: u64, len: usize) -> io::Result<bytes::BytesMut> {
    let mut buffer = bytes::BytesMut::zeroed(len);
    let read = file.read(&mut buffer, offset)?;
    buffer.truncate(read);
    Ok(buffer)
}

/// Replaces a file by one with this content: whoever reads finds the old or the new one, and so
/// does the next start after a loss of power. Enough for what only repeats what other files say.
pub(crate) fn put(files: &dyn Files, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let file = files.create(&temporary)?;
    write_all(file.as_ref(), content, 0)?;
    file.sync()?;
    files.rename(&temporary, path)
}

/// The same durably: after a loss of power it is the new one.
pub(crate) fn replace(files: &dyn Files, path: &Path, content: &[u8]) -> io::Result<()> {
    put(files, path, content)?;
    files.sync_dir(path.parent().unwrap_or(Path::new(".")))
}
