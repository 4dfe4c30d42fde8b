//! A file system in memory that remembers what is durable, fails or loses power on demand.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::layer::{Layer, Out, disk::shorter};

/// What happens to what was not made durable when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Only the process dies: everything written stays.
    Process,
    /// Nothing unsynced survives, neither bytes nor names.
    Everything,
    /// Names survive (a journaled directory), unsynced bytes do not: zero-length files.
    Bytes,
}

#[derive(Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Dir,
    File(usize),
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    live: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    operations: u64,
    fail_at: Option<(u64, io::ErrorKind)>,
    /// After a crash nothing works until [`Memory::restart`].
    crash_at: Option<u64>,
    crashed: bool,
}

impl State {
    /// Counts one changing operation; tells whether it is the one that is cut in half.
    fn step(&mut self) -> io::Result<bool> {
        if self.crashed {
            return Err(io::Error::other("crashed"));
        }
        self.operations += 1;
        if let Some((at, kind)) = self.fail_at
            && at == self.operations
        {
            return Err(kind.into());
        }
        if self.crash_at == Some(self.operations) {
            self.crashed = true;
            return Ok(true);
        }
        Ok(false)
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.live.get(path) {
            Some(Entry::File(inode)) => Ok(*inode),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Memory(Arc<Mutex<State>>);

impl Default for Memory {
    /// With an empty root.
    fn default() -> Self {
        let root = BTreeMap::from([(PathBuf::from(crate::testing::ROOT), Entry::Dir)]);
        Self(Arc::new(Mutex::new(State { live: root.clone(), durable: root, ..State::default() })))
    }
}

impl Memory {
    pub(crate) fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// The `at`-th changing operation from now on is done in part, and nothing works after it.
    pub(crate) fn crash_at(&self, at: u64) {
        let mut state = self.0.lock();
        state.crash_at = Some(state.operations + at);
    }

    /// The `at`-th changing operation from now on fails without effect.
    pub(crate) fn fail_at(&self, at: u64, kind: io::ErrorKind) {
        let mut state = self.0.lock();
        state.fail_at = Some((state.operations + at, kind));
    }

    pub(crate) fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// Starts again with what survived.
    pub(crate) fn restart(&self, cut: Cut) {
        let mut state = self.0.lock();
        let state = &mut *state;
        if cut == Cut::Everything {
            state.live = reachable(&state.durable);
        }
        if cut != Cut::Process {
            for inode in &mut state.inodes {
                inode.live.clone_from(&inode.durable);
            }
        }
        (state.crash_at, state.crashed) = (None, false);
    }

    /// Every file with its content.
    pub(crate) fn tree(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.0.lock();
        state
            .live
            .iter()
            .filter_map(|(path, entry)| match entry {
                Entry::File(inode) => Some((path.clone(), state.inodes[*inode].live.clone())),
                Entry::Dir => None,
            })
            .collect()
    }

    /// Damages a file behind the sink's back.
    pub(crate) fn overwrite(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.0.lock();
        let inode = state.file(path).unwrap();
        state.inodes[inode].live = bytes.to_vec();
        state.inodes[inode].durable = bytes.to_vec();
    }
}

/// What a walk from the root finds: an entry whose directory is not durable is lost.
fn reachable(entries: &BTreeMap<PathBuf, Entry>) -> BTreeMap<PathBuf, Entry> {
    entries
        .iter()
        .filter(|(path, _)| {
            path.ancestors()
                .skip(1)
                .filter(|dir| dir.parent().is_some())
                .all(|dir| entries.get(dir) == Some(&Entry::Dir))
        })
        .map(|(path, entry)| (path.clone(), *entry))
        .collect()
}

impl Layer for Memory {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.step()?;
        match dir.parent() {
            Some(parent) if parent.parent().is_some() && !state.live.contains_key(parent) => {
                Err(io::ErrorKind::NotFound.into())
            }
            _ => {
                state.live.entry(dir.to_owned()).or_insert(Entry::Dir);
                Ok(())
            }
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Out>> {
        let mut state = self.0.lock();
        state.step()?;
        let parent = path.parent().unwrap_or(path);
        if parent.parent().is_some() && !state.live.contains_key(parent) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = match state.live.get(path) {
            Some(Entry::File(inode)) => *inode,
            _ => {
                state.inodes.push(Inode::default());
                state.inodes.len() - 1
            }
        };
        state.inodes[inode].live.clear();
        state.live.insert(path.to_owned(), Entry::File(inode));
        Ok(Box::new(MemoryFile { layer: self.clone(), inode }))
    }

    fn reopen(&self, path: &Path, len: u64) -> io::Result<Box<dyn Out>> {
        let mut state = self.0.lock();
        state.step()?;
        let inode = state.file(path)?;
        if (state.inodes[inode].live.len() as u64) < len {
            return Err(shorter(len));
        }
        state.inodes[inode].live.truncate(usize::try_from(len).unwrap());
        Ok(Box::new(MemoryFile { layer: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        let state = self.0.lock();
        let inode = state.file(path)?;
        Ok(Box::new(io::Cursor::new(state.inodes[inode].live.clone())))
    }

    fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        let state = self.0.lock();
        Ok(state.file(path).ok().map(|inode| state.inodes[inode].live.len() as u64))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.step()? {
            return Err(io::Error::other("crashed"));
        }
        let inode = state.file(from)?;
        state.live.remove(from);
        state.live.insert(to.to_owned(), Entry::File(inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.0.lock();
        if state.step()? {
            return Err(io::Error::other("crashed"));
        }
        Ok(state.live.remove(path).is_some())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.step()? {
            return Err(io::Error::other("crashed"));
        }
        let within = |path: &Path| path.parent() == Some(dir);
        state.durable.retain(|path, _| !within(path));
        let now: Vec<_> = state
            .live
            .iter()
            .filter(|(path, _)| within(path))
            .map(|(path, entry)| (path.clone(), *entry))
            .collect();
        state.durable.extend(now);
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryFile {
    layer: Memory,
    inode: usize,
}

impl Out for MemoryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.layer.0.lock();
        let torn = state.step()?;
        let bytes = if torn { &bytes[..bytes.len() / 2] } else { bytes };
        state.inodes[self.inode].live.extend_from_slice(bytes);
        if torn { Err(io::Error::other("crashed")) } else { Ok(()) }
    }

    fn copy(&mut self, from: &Path, len: u64) -> io::Result<()> {
        let bytes = {
            let state = self.layer.0.lock();
            let inode = state.file(from)?;
            let wanted = usize::try_from(len).unwrap();
            state.inodes[inode].live.get(..wanted).ok_or_else(|| shorter(len))?.to_vec()
        };
        self.write(&bytes)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.layer.0.lock();
        if state.step()? {
            return Err(io::Error::other("crashed"));
        }
        let begin = usize::try_from(offset).unwrap();
        state.inodes[self.inode].live[begin..begin + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.layer.0.lock();
        if state.step()? {
            return Err(io::Error::other("crashed"));
        }
        let inode = &mut state.inodes[self.inode];
        inode.durable.clone_from(&inode.live);
        Ok(())
    }
}
