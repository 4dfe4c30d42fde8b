//! What the file system in memory remembers: what is on the disk, and what only seems to be.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::Plan;

/// Writes are torn at multiples of this, as disks do.
const SECTOR: usize = 512;

/// How often what was done since the last plan.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) operations: u64,
    pub(super) syncs: u64,
    pub(super) reads: u64,
    pub(super) writes: u64,
    allocations: u64,
    renames: u64,
}

#[derive(Default)]
pub(super) struct Disk {
    pub(super) plan: Plan,
    pub(super) counts: Counts,
    pub(super) repeated_syncs: u64,
    pub(super) crashed: bool,
    pub(super) next_inode: u64,
    pub(super) inodes: HashMap<u64, Inode>,
    pub(super) names: BTreeMap<PathBuf, u64>,
    pub(super) durable_names: BTreeMap<PathBuf, u64>,
    pub(super) unsynced_names: Vec<NameChange>,
    pub(super) locked: Vec<PathBuf>,
}

/// A file. Copies share their bytes.
#[derive(Clone, Default)]
pub(super) struct Inode {
    /// What reads show.
    pub(super) cached: Arc<Vec<u8>>,
    /// What is on the disk.
    durable: Arc<Vec<u8>>,
    /// What the next sync brings there.
    unsynced: Vec<Change>,
    /// A sync of it has failed in this process.
    pub(super) failed: bool,
}

#[derive(Clone)]
pub(super) enum Change {
    Write(u64, Arc<[u8]>),
    Length(u64),
}

#[derive(Clone)]
pub(super) enum NameChange {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, u64),
}

/// A small generator; the sequence is a function of the seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        // The state is never 0.
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                let begin = usize::try_from(*offset).unwrap_or(usize::MAX);
                let end = begin + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                if let Some(range) = content.get_mut(begin..end) {
                    range.copy_from_slice(bytes);
                }
            }
            Self::Length(len) => content.resize(usize::try_from(*len).unwrap_or(0), 0),
        }
    }
}

impl Inode {
    pub(super) fn synced(content: Arc<Vec<u8>>) -> Self {
        Self { cached: Arc::clone(&content), durable: content, ..Self::default() }
    }

    pub(super) fn change(&mut self, change: Change) {
        change.apply(Arc::make_mut(&mut self.cached));
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            change.apply(Arc::make_mut(&mut self.durable));
        }
    }

    /// A sync that fails: part of it may be on the disk, the rest counts as written.
    pub(super) fn fail(&mut self, random: &mut Random) {
        self.failed = true;
        self.durable = self.after_crash(random);
        self.unsynced.clear();
    }

    /// Forgets what is neither on the disk nor waiting to be written.
    fn evict(&mut self) {
        self.cached = Arc::clone(&self.durable);
        for change in &self.unsynced {
            change.apply(Arc::make_mut(&mut self.cached));
        }
    }

    /// What the disk could hold.
    pub(super) fn after_crash(&self, random: &mut Random) -> Arc<Vec<u8>> {
        let mut content = Arc::clone(&self.durable);
        for change in &self.unsynced {
            match (random.below(4), change) {
                (0, _) => {}
                (1, Change::Write(offset, bytes)) => {
                    let sectors = (bytes.len() / SECTOR) as u64 + 1;
                    let torn = usize::try_from(random.below(sectors)).unwrap_or(0) * SECTOR;
                    let part = bytes.get(..torn).unwrap_or_default().into();
                    Change::Write(*offset, part).apply(Arc::make_mut(&mut content));
                }
                _ => change.apply(Arc::make_mut(&mut content)),
            }
        }
        content
    }
}

impl NameChange {
    pub(super) fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Link(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
            Self::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        let (Self::Link(path, _) | Self::Unlink(path) | Self::Rename(path, ..)) = self;
        path.parent() == Some(dir)
    }
}

impl Disk {
    /// Puts a file there, durably.
    pub(super) fn put(&mut self, path: PathBuf, inode: Inode) {
        let number = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(number, inode);
        self.names.insert(path.clone(), number);
        self.durable_names.insert(path, number);
    }

    /// Counts a changing operation; false if it is the one in which the machine stops.
    pub(super) fn step(&mut self) -> io::Result<bool> {
        if self.crashed {
            return Err(io::Error::other("the machine has stopped"));
        }
        let number = self.counts.operations;
        self.counts.operations += 1;
        self.crashed = self.plan.crash_at == Some(number);
        Ok(!self.crashed)
    }

    pub(super) fn step_or_stop(&mut self) -> io::Result<()> {
        if self.step()? { Ok(()) } else { Err(io::Error::other("the machine stops")) }
    }

    pub(super) fn used(&self) -> u64 {
        let linked: std::collections::HashSet<_> = self.names.values().collect();
        linked.iter().filter_map(|i| self.inodes.get(i)).map(|i| i.cached.len() as u64).sum()
    }

    pub(super) fn room(&self, inode: u64, len: u64) -> io::Result<()> {
        let Some(capacity) = self.plan.capacity else { return Ok(()) };
        let now = self.inodes.get(&inode).map_or(0, |inode| inode.cached.len() as u64);
        if len > now && self.used() + (len - now) > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(super) fn sync_fails(&mut self) -> io::Result<()> {
        let number = count(&mut self.counts.syncs);
        self.fails(self.plan.fail_sync == Some(number), "planned failure of a sync")
    }

    /// A write that fails writes some of the first sectors.
    pub(super) fn write_fails(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let number = count(&mut self.counts.writes);
        let failure =
            self.fails(self.plan.fail_write == Some(number), "planned failure of a write");
        if failure.is_err() {
            let sectors = self.random().below((bytes.len() / SECTOR) as u64 + 1);
            bytes.truncate(usize::try_from(sectors).unwrap_or(0) * SECTOR);
        }
        failure
    }

    pub(super) fn allocate_fails(&mut self) -> io::Result<()> {
        let number = count(&mut self.counts.allocations);
        self.fails(self.plan.fail_allocate == Some(number), "planned failure of an allocation")
    }

    pub(super) fn rename_fails(&mut self) -> io::Result<()> {
        let number = count(&mut self.counts.renames);
        self.fails(self.plan.fail_rename == Some(number), "planned failure of a renaming")
    }

    fn fails(&mut self, now: bool, what: &'static str) -> io::Result<()> {
        if !now {
            return Ok(());
        }
        self.crashed |= self.plan.then_stop;
        Err(io::Error::new(self.plan.fail_as.unwrap_or(io::ErrorKind::Other), what))
    }

    pub(super) const fn random(&self) -> Random {
        Random::new(self.plan.seed.wrapping_add(self.counts.operations))
    }

    pub(super) fn count_read(&mut self) {
        if self.plan.evict_at == Some(self.counts.reads) {
            self.inodes.values_mut().for_each(Inode::evict);
        }
        self.counts.reads += 1;
    }

    pub(super) fn rename_now(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    /// Makes the names in a directory durable; only the first few of them if that fails, and the
    /// rest counts as written.
    pub(super) fn sync_names(&mut self, dir: &Path, fails: bool) {
        let (synced, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unsynced_names).into_iter().partition(|c| c.is_in(dir));
        self.unsynced_names = rest;
        let all = synced.len() as u64;
        let count = if fails { self.random().below(all + 1) } else { all };
        for change in synced.iter().take(usize::try_from(count).unwrap_or(0)) {
            change.apply(&mut self.durable_names);
        }
    }
}

/// The number of something that happens.
fn count(counter: &mut u64) -> u64 {
    *counter += 1;
    *counter - 1
}
