//! The file: appended and synced per batch, read again at the start.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::tally::{Batch, BatchHeader, Stats, Tally, id_of};
use crate::exit::{Exit, Failure, on_path};

/// A batch's first line.
#[derive(Serialize, Deserialize)]
struct HeaderLine {
    batch: BatchHeader,
}

/// The file of a receiver.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    file: File,
    /// Bytes of whole batches.
    len: u64,
    tally: Tally,
}

impl Store {
    /// Opens or makes the file and counts what is in it.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(on_path(parent))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(on_path(path))?;
        let mut tally = Tally::default();
        let len = recover(path, &file, &mut tally)?;
        file.set_len(len).map_err(on_path(path))?;
        file.seek(SeekFrom::Start(len)).map_err(on_path(path))?;
        Ok(Self { path: path.to_owned(), file, len, tally })
    }

    pub(super) fn stats(&self) -> Stats {
        self.tally.stats.clone()
    }

    /// Appends a batch and syncs it, then counts it. After a failure the file ends where it did.
    pub(super) fn keep(&mut self, batch: &Batch) -> Result<(), Failure> {
        let header = HeaderLine { batch: batch.header.clone() };
        let mut text = serde_json::to_vec(&header).map_err(io::Error::from)?;
        text.push(b'\n');
        for (_, event) in &batch.events {
            one_line(event.get(), &mut text);
            text.push(b'\n');
        }
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What is left of the batch is cut off, here or by the next start.
            self.file.set_len(self.len).ok();
            self.file.seek(SeekFrom::Start(self.len)).ok();
            return Err(on_path(&self.path)(error));
        }
        self.len += text.len() as u64;
        self.tally.batch(&batch.header);
        for (id, _) in &batch.events {
            self.tally.event(&batch.header.stream, id);
        }
        Ok(())
    }
}

/// JSON may have line ends between its tokens, never inside a string.
fn one_line(text: &str, out: &mut Vec<u8>) {
    out.extend(text.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r')));
}

/// Counts whole batches; gives the bytes they take.
fn recover(path: &Path, file: &File, tally: &mut Tally) -> Result<u64, Failure> {
    let mut reader = BufReader::new(file);
    let (mut whole, mut at, mut line) = (0, 0, 0u64);
    let mut text = String::new();
    // The batch that is being read, and how many of its events are still to come.
    let mut open: Option<(BatchHeader, Vec<String>)> = None;
    loop {
        text.clear();
        let read = reader.read_line(&mut text).map_err(on_path(path))?;
        if read == 0 || !text.ends_with('\n') {
            return Ok(whole);
        }
        (at, line) = (at + read as u64, line + 1);
        let damaged = |why: String| {
            let message = format!("{}, line {line}: {why}", path.display());
            Failure::new(Exit::Data, message)
                .fix(format!("mv {0} {0}.old   (then start again)", path.display()))
        };
        let (header, mut ids) = match open.take() {
            Some((header, mut ids)) => {
                ids.push(id_of(&text).map_err(damaged)?);
                (header, ids)
            }
            None => {
                let header: HeaderLine =
                    serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
                (header.batch, Vec::new())
            }
        };
        if ids.len() < header.events {
            open = Some((header, ids));
            continue;
        }
        tally.batch(&header);
        for id in ids.drain(..) {
            tally.event(&header.stream, &id);
        }
        whole = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u64, ids: &[&str]) -> Batch {
        let events: Vec<_> = ids.iter().map(|id| format!(r#"{{"sequenceId":"{id}"}}"#)).collect();
        let body =
            format!(r#"{{"stream":"s","batchNumber":{number},"events":[{}]}}"#, events.join(",\n"));
        Batch::parse(body.as_bytes(), "id").unwrap()
    }

    #[test]
    fn a_restart_goes_on_counting_and_cuts_a_batch_in_half() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/received.jsonl");
        let mut store = Store::open(&path).unwrap();
        store.keep(&batch(1, &["1", "2"])).unwrap();
        let whole = std::fs::read(&path).unwrap();
        store.keep(&batch(2, &["3", "4"])).unwrap();
        let both = std::fs::read(&path).unwrap();
        drop(store);

        for cut in [whole.len() + 3, both.len() - 1, both.len() - 20] {
            std::fs::write(&path, &both[..cut]).unwrap();
            let mut store = Store::open(&path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole, "cut at {cut}");
            store.keep(&batch(2, &["2", "3"])).unwrap();
            let Stats { batches, distinct, repeated, .. } = store.stats();
            assert_eq!((batches, distinct, repeated), (2, 3, 1));
        }
    }

    #[test]
    fn damage_is_named_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("received.jsonl");
        std::fs::write(&path, "not json\n").unwrap();
        let failure = Store::open(&path).unwrap_err();
        assert_eq!(failure.exit(), Exit::Data);
        assert!(failure.to_string().contains("line 1"), "{failure}");
    }
}
