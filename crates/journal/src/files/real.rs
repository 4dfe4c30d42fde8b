use std::{
    fs, io,
    io::IoSlice,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FallocateFlags, FlockOperation, fallocate, fdatasync, flock, fsync},
    io::Errno,
};

use super::{File, Files, Lock, LockError};

/// Most buffers in one call; the system's limit is 1024.
const MAX_BUFFERS: usize = 1024;

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(dir) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(Vec::new());
            }
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            // Names that are not text are not ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(fs::OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Ok(fsync(fs::File::open(dir)?)?)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let holder = fs::read_to_string(path).unwrap_or_default();
                return Err(LockError::Held(holder.trim().parse().unwrap_or(0)));
            }
            Err(error) => return Err(LockError::Io(error.into())),
        }
        file.set_len(0)?;
        file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)?;
        Ok(Box::new(RealLock { _file: file, _path: path.to_owned() }))
    }
}

#[derive(Debug)]
struct RealLock {
    _file: fs::File,
    _path: PathBuf,
}

impl Lock for RealLock {}

#[derive(Debug)]
struct RealFile(fs::File);

impl File for RealFile {
    fn write(&self, bytes: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        for group in bytes.chunks(MAX_BUFFERS) {
            let total: usize = group.iter().map(|slice| slice.len()).sum();
            let mut written = 0;
            while written < total {
                written += self.write_from(group, written, offset + written as u64)?;
            }
            offset += total as u64;
        }
        Ok(())
    }

    fn read(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while let Some(rest) = into.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + read as u64) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fdatasync(&self.0)?)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            // Not every file system can; then the room is only hoped for.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if self.len()? < len => self.0.set_len(len),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

impl RealFile {
    /// Writes what follows the first `skip` bytes of the buffers, possibly not all of it.
    fn write_from(&self, group: &[IoSlice<'_>], skip: usize, offset: u64) -> io::Result<usize> {
        let mut rest: Vec<IoSlice<'_>>;
        let buffers = if skip == 0 {
            group
        } else {
            let mut left = skip;
            rest = Vec::with_capacity(group.len());
            for slice in group {
                match slice.get(left..) {
                    Some(tail) => {
                        rest.push(IoSlice::new(tail));
                        left = 0;
                    }
                    None => left -= slice.len(),
                }
            }
            rest.as_slice()
        };
        match rustix::io::pwritev(&self.0, buffers, offset) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => Ok(count),
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}
