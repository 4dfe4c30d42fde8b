//! A file system in memory that forgets, tears and fails on demand.
//!
//! Every changing operation has a number. A test lets the n-th one crash the machine, fail, or
//! run out of room, and then [`reboots`](FaultFiles::reboot) into what a disk could hold at that
//! moment: everything synced, and an arbitrary part of what was not.
//!
//! A sync that fails behaves as systems do it: part of what was to be synced may have reached the
//! disk, the rest never will, and yet reads go on showing it and later syncs succeed, until the
//! cache is [evicted](Plan::evict_at). The same goes for names. Only writing the bytes, or naming
//! the file, once more brings them to the disk.

mod disk;

use std::{
    fmt, io,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{File, Files, Lock, LockError};
use disk::{Change, Counts, Disk, Inode, NameChange, Random};

/// What goes wrong, and when. Everything is counted from 0, from the plan on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// The machine stops in this changing operation; it and all later ones fail.
    pub crash_at: Option<u64>,
    /// This sync (counted among the syncs of files and directories) fails once.
    pub fail_sync: Option<u64>,
    /// This write fails once, after part of it.
    pub fail_write: Option<u64>,
    /// This allocation fails once.
    pub fail_allocate: Option<u64>,
    /// This renaming fails once.
    pub fail_rename: Option<u64>,
    /// How they fail; `None` for no reason that programs know.
    pub fail_as: Option<io::ErrorKind>,
    /// Decides which part of what a failing sync or write was to do is done.
    pub seed: u64,
    /// With that failure the machine stops: whoever was told of it does nothing any more.
    pub then_stop: bool,
    /// Before this read the system forgets what it only cached: what a failed sync left is gone.
    pub evict_at: Option<u64>,
    /// Room for this many bytes in all files together.
    pub capacity: Option<u64>,
}

/// The file system. Clones share it.
#[derive(Clone, Default)]
pub struct FaultFiles(Arc<Mutex<Disk>>);

impl fmt::Debug for FaultFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.0.lock();
        f.debug_struct("FaultFiles")
            .field("plan", &disk.plan)
            .field("counts", &disk.counts)
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
        disk.counts = Counts::default();
    }

    /// Changing operations since the last plan.
    pub fn operations(&self) -> u64 {
        self.0.lock().counts.operations
    }

    /// Syncs since the last plan.
    pub fn syncs(&self) -> u64 {
        self.0.lock().counts.syncs
    }

    /// Writes since the last plan.
    pub fn writes(&self) -> u64 {
        self.0.lock().counts.writes
    }

    /// Reads since the last plan.
    pub fn reads(&self) -> u64 {
        self.0.lock().counts.reads
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
        let mut random = Random::new(seed);
        let mut names = disk.durable_names.clone();
        let kept = random.below(disk.unsynced_names.len() as u64 + 1);
        for change in disk.unsynced_names.iter().take(usize::try_from(kept).unwrap_or(0)) {
            change.apply(&mut names);
        }
        let mut next = Disk { next_inode: disk.next_inode, ..Disk::default() };
        for (path, inode) in names {
            let Some(file) = disk.inodes.get(&inode) else { continue };
            next.put(path, Inode::synced(file.after_crash(&mut random)));
        }
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
        disk.inodes.get(disk.names.get(path)?).map(|inode| inode.cached.to_vec())
    }

    /// Puts a file there, durably.
    pub fn put(&self, path: &Path, content: Vec<u8>) {
        self.0.lock().put(path.to_owned(), Inode::synced(Arc::new(content)));
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
        let inode = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        disk.rename_fails()?;
        disk.rename_now(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
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
        let failure = disk.sync_fails();
        disk.sync_names(dir, failure.is_err());
        failure
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
            inode.change(change);
        }
        if goes_on { Ok(()) } else { Err(io::Error::other("the machine stops")) }
    }
}

impl File for FaultFile {
    fn write(&self, bytes: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut joined = Vec::new();
        bytes.iter().for_each(|slice| joined.extend_from_slice(slice));
        let failure = self.disk.0.lock().write_fails(&mut joined);
        let end = offset + joined.len() as u64;
        self.change(Change::Write(offset, joined.into()), end).and(failure)
    }

    fn read(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk.0.lock();
        disk.count_read();
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
        let failure = disk.sync_fails();
        let mut random = disk.random();
        let Some(inode) = disk.inodes.get_mut(&self.inode) else { return Ok(()) };
        let repeated = inode.failed;
        if failure.is_err() {
            inode.fail(&mut random);
        } else {
            inode.sync();
        }
        disk.repeated_syncs += u64::from(repeated);
        failure
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.disk.0.lock().allocate_fails()?;
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
