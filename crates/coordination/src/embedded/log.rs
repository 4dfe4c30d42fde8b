//! The log on disk: a snapshot, then one checksummed record per batch.
//!
//! `coordination-<n>.log` holds a magic, then records of magic, length, checksum, payload. The
//! first record is a snapshot. A compaction writes file n+1 whole, syncs it under a temporary
//! name, renames it, and removes file n: the highest complete name is the truth. A record is one
//! sync, so only the last one can be torn; anything else that is damaged is refused.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use bytes::{BufMut, Bytes};

use crate::kv::KvError;

use super::{
    codec,
    state::{Mutation, State},
};

const MAGIC: &[u8; 8] = b"SLCOORD1";
const RECORD: &[u8; 4] = b"SLRC";
const HEADER: usize = 12;
/// A log below this is never compacted.
const SMALL: u64 = 4 << 20;
/// A log is compacted when it is this many times its snapshot.
const GROWTH: u64 = 4;
/// Largest file read at once when opening.
const MAX_FILE: u64 = 1 << 30;

pub(super) struct Log {
    directory: PathBuf,
    _lock: File,
    file: File,
    number: u64,
    size: u64,
    snapshot_size: u64,
}

fn storage(path: &Path, message: impl std::fmt::Display) -> KvError {
    KvError::Storage { path: path.display().to_string(), message: message.to_string() }
}

impl Log {
    /// Opens the directory for this process alone and reads the state.
    pub(super) fn open(directory: &Path) -> Result<(Self, State), KvError> {
        fs::create_dir_all(directory).map_err(|error| storage(directory, error))?;
        let lock = lock(directory)?;
        remove_leftovers(directory)?;
        let Some(number) = numbers(directory)?.into_iter().max() else {
            return Self::create(directory, lock);
        };
        let path = path_of(directory, number);
        let (state, size) = read(&path)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| storage(&path, e))?;
        cut(&file, &path, size)?;
        let log = Self {
            directory: directory.to_owned(),
            _lock: lock,
            file,
            number,
            size,
            snapshot_size: size / GROWTH,
        };
        log.remove_older()?;
        Ok((log, state))
    }

    fn create(directory: &Path, lock: File) -> Result<(Self, State), KvError> {
        let state = State::default();
        let (file, size) = write_snapshot(directory, 1, &state.snapshot())
            .map_err(|error| storage(directory, error))?;
        let directory = directory.to_owned();
        let log = Self { directory, _lock: lock, file, number: 1, size, snapshot_size: size };
        Ok((log, state))
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Writes a batch and syncs it. After an error the file must not be written again.
    pub(super) fn append(&mut self, mutations: &[Mutation]) -> Result<(), KvError> {
        let record = record(mutations).map_err(|error| storage(&self.path(), error))?;
        self.file.write_all(&record).and_then(|()| self.file.sync_data()).map_err(|error| {
            storage(&self.path(), format!("{error}; free space or replace the disk, then restart"))
        })?;
        self.size += record.len() as u64;
        Ok(())
    }

    pub(super) fn wants_snapshot(&self) -> bool {
        self.size > SMALL && self.size > self.snapshot_size.saturating_mul(GROWTH)
    }

    /// Replaces the log by a snapshot of the same state. A failure is not one of the store: the
    /// old file goes on, and the next try comes after as much growth again.
    pub(super) fn compact(&mut self, snapshot: &[Mutation]) {
        match write_snapshot(&self.directory, self.number + 1, snapshot) {
            Ok((file, size)) => {
                self.file = file;
                self.number += 1;
                self.size = size;
                self.snapshot_size = size;
                if let Err(error) = self.remove_older() {
                    tracing::warn!(%error, "an old log stays until the next start");
                }
            }
            Err(error) => {
                tracing::warn!(path = %self.path().display(), %error, "not compacted");
                self.snapshot_size = self.size;
            }
        }
    }

    fn path(&self) -> PathBuf {
        path_of(&self.directory, self.number)
    }

    fn remove_older(&self) -> Result<(), KvError> {
        for number in numbers(&self.directory)?.into_iter().filter(|&n| n < self.number) {
            let path = path_of(&self.directory, number);
            fs::remove_file(&path).map_err(|error| storage(&path, error))?;
        }
        Ok(())
    }
}

fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("coordination-{number:08}.log"))
}

fn lock(directory: &Path) -> Result<File, KvError> {
    let path = directory.join("LOCK");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| storage(&path, error))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |error| {
            storage(
                &path,
                format!("another process uses this directory ({error}); stop it, or give this one its own"),
            )
        },
    )?;
    Ok(file)
}

fn numbers(directory: &Path) -> Result<Vec<u64>, KvError> {
    let names = fs::read_dir(directory).map_err(|error| storage(directory, error))?;
    let number =
        |name: &str| name.strip_prefix("coordination-")?.strip_suffix(".log")?.parse::<u64>().ok();
    let mut numbers = Vec::new();
    for entry in names {
        let entry = entry.map_err(|error| storage(directory, error))?;
        numbers.extend(entry.file_name().to_str().and_then(number));
    }
    Ok(numbers)
}

fn remove_leftovers(directory: &Path) -> Result<(), KvError> {
    let path = directory.join("next.tmp");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(storage(&path, error)),
        _ => Ok(()),
    }
}

fn write_snapshot(directory: &Path, number: u64, snapshot: &[Mutation]) -> io::Result<(File, u64)> {
    let temporary = directory.join("next.tmp");
    let record = record(snapshot)?;
    let mut file = File::create(&temporary)?;
    file.write_all(MAGIC)?;
    file.write_all(&record)?;
    file.sync_all()?;
    fs::rename(&temporary, path_of(directory, number))?;
    File::open(directory)?.sync_all()?;
    Ok((file, (MAGIC.len() + record.len()) as u64))
}

fn record(mutations: &[Mutation]) -> io::Result<Vec<u8>> {
    let payload = codec::encode(mutations);
    let len = u32::try_from(payload.len())
        .map_err(|_| io::Error::other("a record above 4 GiB is not written"))?;
    let mut record = Vec::with_capacity(HEADER + payload.len());
    record.put_slice(RECORD);
    record.put_u32_le(len);
    record.put_u32_le(checksum(len, &payload));
    record.put_slice(&payload);
    Ok(record)
}

fn checksum(len: u32, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&len.to_le_bytes()), payload)
}

/// The payload of the record at the beginning of `input`, if it is whole.
fn payload(input: &Bytes) -> Option<Bytes> {
    let number = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(input.get(at..at + 4)?.try_into().ok()?))
    };
    if input.get(..4)? != RECORD {
        return None;
    }
    let (len, sum) = (number(4)?, number(8)?);
    let payload = input.get(HEADER..HEADER.checked_add(len as usize)?)?;
    (checksum(len, payload) == sum).then(|| input.slice_ref(payload))
}

/// The state that a file holds, and its length without a torn end.
fn read(path: &Path) -> Result<(State, u64), KvError> {
    let size = fs::metadata(path).map_err(|error| storage(path, error))?.len();
    if size > MAX_FILE {
        return Err(storage(path, format!("{size} bytes is more than a log grows to")));
    }
    let file = Bytes::from(fs::read(path).map_err(|error| storage(path, error))?);
    let mut rest = file.clone();
    if !file.starts_with(MAGIC) {
        return Err(storage(path, "this is not a coordination log; restore it from a backup"));
    }
    drop(rest.split_to(MAGIC.len()));
    let mut state = State::default();
    let mut records = 0;
    while let Some(payload) = payload(&rest) {
        let at = file.len() - rest.len();
        let damaged = |error: String| storage(path, format!("record at byte {at}: {error}"));
        for mutation in codec::decode(payload.clone()).map_err(damaged)? {
            state.replay(mutation).map_err(damaged)?;
        }
        drop(rest.split_to(HEADER + payload.len()));
        records += 1;
    }
    let end = file.len() - rest.len();
    // The snapshot is synced before the file gets its name, and only the last record can be torn.
    if records == 0 || holds_a_record(&rest) {
        return Err(storage(
            path,
            format!("damaged at byte {end} before its end; restore it from a backup"),
        ));
    }
    Ok((state, end as u64))
}

fn holds_a_record(rest: &Bytes) -> bool {
    (1..rest.len().saturating_sub(HEADER)).any(|at| payload(&rest.slice(at..)).is_some())
}

fn cut(file: &File, path: &Path, size: u64) -> Result<(), KvError> {
    let found = file.metadata().map_err(|error| storage(path, error))?.len();
    if found == size {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), bytes = found - size, "cut the torn end of the log");
    file.set_len(size).and_then(|()| file.sync_all()).map_err(|error| storage(path, error))
}

#[cfg(test)]
mod tests;
