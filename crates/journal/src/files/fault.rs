//! A file system in memory that forgets, tears and fails on demand.
//!
//! Every changing operation has a number. A test lets the n-th one crash the machine, fail, or
//! run out of room, and then [`reboots`](FaultFiles::reboot) into what a disk could hold at that
//! moment: everything synced, and an arbitrary part of what was not.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{File, Files, Lock, LockError};

/// Writes are torn at multiples of this, as disks do.
const SECTOR: usize = 512;

/// What goes wrong, and when. Operations are counted from 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// The machine stops in this changing operation; it and all later ones fail.
    pub crash_at: Option<u64>,
    /// This sync (counted among the syncs of files and directories) fails once.
    pub fail_sync: Option<u64>,
    /// Room for this many bytes in all files together.
    pub capacity: Option<u64>,
}

/// The file system. Clones share it.
#[derive(Clone, Default)]
pub struct FaultFiles(Arc<Mutex<Disk>>);

#[derive(Default)]
struct Disk {
    plan: Plan,
    operations: u64,
    syncs: u64,
    repeated_syncs: u64,
    crashed: bool,
    next_inode: u64,
    inodes: HashMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<NameChange>,
    locked: Vec<PathBuf>,
}

#[derive(Clone, Default)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// A sync of it has failed in this process.
    failed: bool,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone)]
enum NameChange {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl fmt::Debug for FaultFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.0.lock();
        f.debug_struct("FaultFiles")
            .field("plan", &disk.plan)
            .field("operations", &disk.operations)
            .finish_non_exhaustive()
    }
}

impl FaultFiles {
    /// An empty disk on which nothing goes wrong.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decides what goes wrong from here on; counters start again at 0.
    pub fn plan(&self, plan: Plan) {
        let mut disk = self.0.lock();
        disk.plan = plan;
        disk.operations = 0;
        disk.syncs = 0;
    }

    /// Changing operations since the last plan.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Syncs since the last plan.
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// Syncs of files of which a sync had failed before in the same process. The journal must
    /// never ask such a file again.
    pub fn repeated_syncs(&self) -> u64 {
        self.0.lock().repeated_syncs
    }

    /// True once the planned crash has happened.
    pub fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// Bytes in use by all files.
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// The disk as the next boot could find it. Synced data is there; `seed` decides which of the
    /// rest is, whole or torn. Names changed since the last sync of their directory are applied up
    /// to some point, in order.
    pub fn reboot(&self, seed: u64) -> Self {
        let disk = self.0.lock();
        let mut random = Random(seed.wrapping_mul(2).wrapping_add(1));
        let mut names = disk.durable_names.clone();
        let kept = random.below(disk.unsynced_names.len() as u64 + 1);
        for change in disk.unsynced_names.iter().take(usize::try_from(kept).unwrap_or(0)) {
            change.apply(&mut names);
        }
        let mut next = Disk { next_inode: disk.next_inode, ..Disk::default() };
        for (path, inode) in &names {
            let Some(file) = disk.inodes.get(inode) else { continue };
            let content = file.after_crash(&mut random);
            let inode = Inode { cached: content.clone(), durable: content, ..Inode::default() };
            next.inodes.insert(next.next_inode, inode);
            next.names.insert(path.clone(), next.next_inode);
            next.next_inode += 1;
        }
        next.durable_names.clone_from(&next.names);
        Self(Arc::new(Mutex::new(next)))
    }

    /// The disk as it is, as if every process had been killed but the machine had not stopped.
    pub fn kill(&self) -> Self {
        let disk = self.0.lock();
        let mut inodes = disk.inodes.clone();
        // The next process knows nothing of failures that this one was told.
        inodes.values_mut().for_each(|inode| inode.failed = false);
        Self(Arc::new(Mutex::new(Disk {
            next_inode: disk.next_inode,
            inodes,
            names: disk.names.clone(),
            durable_names: disk.durable_names.clone(),
            unsynced_names: disk.unsynced_names.clone(),
            ..Disk::default()
        })))
    }

    /// The bytes of a file.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.0.lock();
        disk.inodes.get(disk.names.get(path)?).map(|inode| inode.cached.clone())
    }

    /// Puts a file there, durably.
    pub fn put(&self, path: &Path, content: Vec<u8>) {
        let mut disk = self.0.lock();
        let number = disk.next_inode;
        disk.next_inode += 1;
        let inode = Inode { cached: content.clone(), durable: content, ..Inode::default() };
        disk.inodes.insert(number, inode);
        disk.names.insert(path.to_owned(), number);
        disk.durable_names.insert(path.to_owned(), number);
    }

    /// Takes a file away, durably.
    pub fn take(&self, path: &Path) {
        let mut disk = self.0.lock();
        disk.names.remove(path);
        disk.durable_names.remove(path);
    }

    /// Every file.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().names.keys().cloned().collect()
    }
}

/// A small generator; the sequence is a function of the seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*; the state is never 0 because seeds are odd.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

impl Inode {
    fn apply(content: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Write(offset, bytes) => {
                let begin = usize::try_from(*offset).unwrap_or(usize::MAX);
                let end = begin + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                if let Some(range) = content.get_mut(begin..end) {
                    range.copy_from_slice(bytes);
                }
            }
            Change::Length(len) => content.resize(usize::try_from(*len).unwrap_or(0), 0),
        }
    }

    fn after_crash(&self, random: &mut Random) -> Vec<u8> {
        let mut content = self.durable.clone();
        for change in &self.unsynced {
            match (random.below(4), change) {
                (0, _) => {}
                (1, Change::Write(offset, bytes)) => {
                    let sectors = (bytes.len() / SECTOR) as u64 + 1;
                    let torn = usize::try_from(random.below(sectors)).unwrap_or(0) * SECTOR;
                    let part = bytes.get(..torn).unwrap_or_default().to_vec();
                    Self::apply(&mut content, &Change::Write(*offset, part));
                }
                _ => Self::apply(&mut content, change),
            }
        }
        content
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Link(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        let (Self::Link(path, _) | Self::Unlink(path) | Self::Rename(path, _)) = self;
        path.parent() == Some(dir)
    }
}

impl Disk {
    /// Counts a changing operation; false if it is the one in which the machine stops.
    fn step(&mut self) -> io::Result<bool> {
        if self.crashed {
            return Err(io::Error::other("the machine has stopped"));
        }
        let number = self.operations;
        self.operations += 1;
        self.crashed = self.plan.crash_at == Some(number);
        Ok(!self.crashed)
    }

    fn step_or_stop(&mut self) -> io::Result<()> {
        if self.step()? { Ok(()) } else { Err(io::Error::other("the machine stops")) }
    }

    fn used(&self) -> u64 {
        let linked: std::collections::HashSet<_> = self.names.values().collect();
        linked.iter().filter_map(|i| self.inodes.get(i)).map(|i| i.cached.len() as u64).sum()
    }

    fn room(&self, inode: u64, len: u64) -> io::Result<()> {
        let Some(capacity) = self.plan.capacity else { return Ok(()) };
        let now = self.inodes.get(&inode).map_or(0, |inode| inode.cached.len() as u64);
        if len > now && self.used() + (len - now) > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn sync_fails(&mut self) -> bool {
        let number = self.syncs;
        self.syncs += 1;
        self.plan.fail_sync == Some(number)
    }

    fn rename_now(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }
}

impl Files for FaultFiles {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.0.lock();
        let depth = dir.components().count();
        let mut names: Vec<String> = disk
            .names
            .keys()
            .filter(|path| path.starts_with(dir))
            .filter_map(|path| path.components().nth(depth))
            .map(|name| name.as_os_str().to_string_lossy().into_owned())
            .collect();
        names.dedup();
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let disk = self.0.lock();
        let inode = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(FaultFile { disk: self.clone(), inode }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.0.lock();
        disk.step_or_stop()?;
        let inode = disk.next_inode;
        disk.next_inode += 1;
        disk.inodes.insert(inode, Inode::default());
        disk.rename_now(NameChange::Link(path.to_owned(), inode));
        Ok(Arc::new(FaultFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step_or_stop()?;
        if !disk.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.rename_now(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step_or_stop()?;
        if !disk.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.rename_now(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step_or_stop()?;
        if disk.sync_fails() {
            return Err(io::Error::other("planned failure of a directory sync"));
        }
        let (synced, rest) =
            std::mem::take(&mut disk.unsynced_names).into_iter().partition(|c| c.is_in(dir));
        let synced: Vec<NameChange> = synced;
        for change in &synced {
            change.apply(&mut disk.durable_names);
        }
        disk.unsynced_names = rest;
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        let mut disk = self.0.lock();
        if disk.locked.iter().any(|locked| locked == path) {
            return Err(LockError::Held(std::process::id()));
        }
        disk.locked.push(path.to_owned());
        Ok(Box::new(FaultLock { disk: self.clone(), path: path.to_owned() }))
    }
}

#[derive(Debug)]
struct FaultLock {
    disk: FaultFiles,
    path: PathBuf,
}

impl Lock for FaultLock {}

impl Drop for FaultLock {
    fn drop(&mut self) {
        self.disk.0.lock().locked.retain(|locked| locked != &self.path);
    }
}

#[derive(Debug)]
struct FaultFile {
    disk: FaultFiles,
    inode: u64,
}

impl FaultFile {
    fn change(&self, change: Change, grown_to: u64) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        let goes_on = disk.step()?;
        disk.room(self.inode, grown_to)?;
        if let Some(inode) = disk.inodes.get_mut(&self.inode) {
            Inode::apply(&mut inode.cached, &change);
            inode.unsynced.push(change);
        }
        if goes_on { Ok(()) } else { Err(io::Error::other("the machine stops")) }
    }
}

impl File for FaultFile {
    fn write(&self, bytes: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let joined: Vec<u8> = bytes.iter().flat_map(|slice| slice.iter().copied()).collect();
        let end = offset + joined.len() as u64;
        self.change(Change::Write(offset, joined), end)
    }

    fn read(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.disk.0.lock();
        let content = disk.inodes.get(&self.inode).map_or(&[][..], |inode| &inode.cached);
        let rest = usize::try_from(offset).ok().and_then(|o| content.get(o..)).unwrap_or_default();
        let count = rest.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        disk.step_or_stop()?;
        let fails = disk.sync_fails();
        let Some(inode) = disk.inodes.get_mut(&self.inode) else { return Ok(()) };
        let repeated = inode.failed;
        inode.failed |= fails;
        if fails {
            // As systems do it: what could not be written stays in the cache and counts as
            // written. Only writing it once more would bring it to the disk.
            inode.unsynced.clear();
        }
        for change in std::mem::take(&mut inode.unsynced) {
            Inode::apply(&mut inode.durable, &change);
        }
        disk.repeated_syncs += u64::from(repeated);
        if fails { Err(io::Error::other("planned failure of a sync")) } else { Ok(()) }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.len()? >= len {
            return Ok(());
        }
        self.change(Change::Length(len), len)
    }

    fn len(&self) -> io::Result<u64> {
        let disk = self.disk.0.lock();
        Ok(disk.inodes.get(&self.inode).map_or(0, |inode| inode.cached.len() as u64))
    }
}
