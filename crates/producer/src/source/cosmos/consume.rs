//! What becomes of a block's files once the block is durable in the journal.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Options, names::Names};
use crate::source::SourceError;

/// The policy, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Consumed {
    /// They stay.
    #[default]
    Keep,
    /// They are deleted, except the newest meta file, which the next one is compared with.
    Delete,
    /// They are moved into another directory.
    Move(PathBuf),
}

impl TryFrom<String> for Consumed {
    type Error = String;

    fn try_from(written: String) -> Result<Self, String> {
        match (written.as_str(), written.strip_prefix("move:")) {
            ("keep", _) => Ok(Self::Keep),
            ("delete", _) => Ok(Self::Delete),
            (_, Some(dir)) if !dir.is_empty() => Ok(Self::Move(dir.into())),
            _ => Err(format!("{written:?} is none of keep, delete, move:DIR")),
        }
    }
}

/// Applies the policy.
#[derive(Clone, Debug)]
pub struct Consumer {
    policy: Consumed,
    dir: PathBuf,
    names: Names,
}

impl Consumer {
    /// For a directory and its policy.
    pub fn new(options: &Options) -> Self {
        Self { policy: options.consumed.clone(), dir: options.dir.clone(), names: options.names() }
    }

    /// Where a meta file that was consumed may be found.
    pub fn attic(&self) -> Option<&Path> {
        match &self.policy {
            Consumed::Move(dir) => Some(dir),
            Consumed::Keep | Consumed::Delete => None,
        }
    }

    /// Deals with the files of a block that is durable. Files that are gone already are fine.
    pub async fn durable(&self, height: u64) -> Result<(), SourceError> {
        if self.policy == Consumed::Keep {
            return Ok(());
        }
        let own = self.clone();
        let done = tokio::task::spawn_blocking(move || own.consume(height)).await;
        done.unwrap_or_else(|gone| {
            Err(SourceError::Start(format!("consuming the files of block {height}: {gone}")))
        })
    }

    fn consume(&self, height: u64) -> Result<(), SourceError> {
        let data = self.names.data(height);
        match &self.policy {
            Consumed::Keep => Ok(()),
            Consumed::Delete => {
                self.delete(&data)?;
                // The meta file of this block stays until the next block is durable: should the
                // node repeat its transactions in the next file, this one tells which they are.
                height.checked_sub(1).map_or(Ok(()), |before| self.delete(&self.names.meta(before)))
            }
            Consumed::Move(to) => {
                self.rename(&data, to)?;
                self.rename(&self.names.meta(height), to)
            }
        }
    }

    fn delete(&self, name: &str) -> Result<(), SourceError> {
        let path = self.dir.join(name);
        present(fs::remove_file(&path)).map_err(|source| SourceError::Io {
            action: "deleting",
            path,
            source,
        })
    }

    fn rename(&self, name: &str, to: &Path) -> Result<(), SourceError> {
        let (from, target) = (self.dir.join(name), to.join(name));
        let moved = fs::create_dir_all(to).and_then(|()| match fs::rename(&from, &target) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                copy_over(&from, &to.join(format!(".{name}.part")), &target)
            }
            other => other,
        });
        present(moved).map_err(|source| SourceError::Io { action: "moving", path: from, source })
    }
}

/// Moves to another file system: the original goes only when the copy is on disk.
fn copy_over(from: &Path, part: &Path, target: &Path) -> io::Result<()> {
    fs::copy(from, part)?;
    fs::File::open(part)?.sync_all()?;
    fs::rename(part, target)?;
    if let Some(dir) = target.parent() {
        fs::File::open(dir)?.sync_all()?;
    }
    fs::remove_file(from)
}

fn present(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
