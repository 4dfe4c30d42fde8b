use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use crate::{
    files::{Files, write_all},
    segment::Dir,
};

const CHUNK: usize = 1 << 20;

/// Prepares the next segment's file on a thread of its own: overwriting blocks that the file
/// system has already given and written is several times faster than the first touch.
#[derive(Debug, Default)]
pub(crate) struct Spare(Option<JoinHandle<()>>);

impl Spare {
    /// Begins to prepare a file, unless one is there or under way.
    pub(crate) fn prepare(&mut self, files: &Arc<dyn Files>, dir: &Dir, len: u64) {
        if self.0.as_ref().is_some_and(|thread| !thread.is_finished())
            || files.open(&dir.spare()).is_ok()
        {
            return;
        }
        let (files, dir) = (Arc::clone(files), dir.clone());
        let work = move || {
            if let Err(error) = fill(files.as_ref(), &dir, len) {
                tracing::debug!(dir = %dir.0.display(), %error, "no spare segment");
                files.remove(&dir.preparing()).ok();
            }
        };
        self.0 = thread::Builder::new().name("journal-spare".to_owned()).spawn(work).ok();
    }

    /// Waits until nothing is under way.
    pub(crate) fn wait(&mut self) {
        if let Some(thread) = self.0.take() {
            thread.join().ok();
        }
    }
}

fn fill(files: &dyn Files, dir: &Dir, len: u64) -> io::Result<()> {
    let path = dir.preparing();
    let file = files.create(&path)?;
    file.allocate(len)?;
    let zeros = vec![0; CHUNK];
    let mut at = 0;
    while at < len {
        let chunk = usize::try_from(len - at).unwrap_or(CHUNK).min(CHUNK);
        write_all(file.as_ref(), zeros.get(..chunk).unwrap_or_default(), at)?;
        at += chunk as u64;
    }
    file.sync()?;
    // Whoever takes it into use makes its name durable. A sync of the directory from this thread
    // could be told of a failure that the committer then is not.
    files.rename(&path, &dir.spare())
}
