//! The root of a file sink: a volume with an id of its own, used by one process at a time.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

/// Name of the file with the volume's id.
pub const VOLUME_FILE: &str = ".sluice-volume";

/// Name of the file that is locked while a process uses the root.
pub const LOCK_FILE: &str = ".sluice-lock";

/// Why a root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No volume id, and something else in the directory.
    #[error(
        "{} is not a volume of this sink: it has no {VOLUME_FILE}, and it is not empty. Mount the right volume, choose an empty directory, or put back the file with the id",
        .root.display()
    )]
    NotAVolume {
        /// The root.
        root: PathBuf,
    },
    /// A volume id is expected, and there is none.
    #[error(
        "{} has no {VOLUME_FILE}, but volume {expected} is expected there; is it mounted?",
        .root.display()
    )]
    Missing {
        /// The root.
        root: PathBuf,
        /// The id in the configuration.
        expected: String,
    },
    /// Another volume than expected.
    #[error(
        "{} is volume {found}, but volume {expected} is expected there; mount the right one, or change `volume` in the sink's table",
        .root.display()
    )]
    Other {
        /// The root.
        root: PathBuf,
        /// The id in the configuration.
        expected: String,
        /// The id in the root.
        found: String,
    },
    /// The id file is not one.
    #[error("{} does not hold a volume id (a UUID) but {found:?}", .path.display())]
    BadId {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// Another process writes there.
    #[error("{} is in use by another process{}; one process writes below a root", .root.display(), .holder)]
    InUse {
        /// The root.
        root: PathBuf,
        /// `" (pid N)"`, if it said so.
        holder: String,
    },
}

impl VolumeError {
    /// True where waiting may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::InUse { .. } | Self::Missing { .. } => true,
            Self::Io { source, .. } => !matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ),
            Self::NotAVolume { .. } | Self::Other { .. } | Self::BadId { .. } => false,
        }
    }
}

/// A root in use by this process. The lock goes with the value.
#[derive(Debug)]
pub struct Volume {
    root: PathBuf,
    id: Uuid,
    _lock: File,
}

impl Volume {
    /// Makes a new volume in a directory that is missing or empty, durably. The only place where
    /// an id is minted.
    pub fn create(root: &Path) -> Result<Uuid, VolumeError> {
        fs::create_dir_all(root).map_err(io_error("make directory", root))?;
        if has_content(root)? {
            return Err(VolumeError::NotAVolume { root: root.to_owned() });
        }
        let id = Uuid::new_v4();
        let path = root.join(VOLUME_FILE);
        let temporary = root.join(format!("{VOLUME_FILE}.tmp"));
        let mut file = File::create(&temporary).map_err(io_error("create", &temporary))?;
        writeln!(file, "{id}")
            .and_then(|()| file.sync_all())
            .map_err(io_error("write", &temporary))?;
        // A link never replaces: of two processes that make a volume at once, one wins.
        match fs::hard_link(&temporary, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(io_error("create", &path))?,
        }
        fs::remove_file(&temporary).map_err(io_error("remove", &temporary))?;
        File::open(root)
            .and_then(|dir| dir.sync_all())
            .map_err(io_error("sync directory", root))?;
        read_id(root)?.ok_or_else(|| VolumeError::NotAVolume { root: root.to_owned() })
    }

    /// Takes the root for this process. `expected` is the id in the configuration: with it the
    /// root must carry that id; without it a missing or empty root becomes a new volume.
    pub fn open(root: &Path, expected: Option<&str>) -> Result<Self, VolumeError> {
        let found = if root.is_dir() { read_id(root)? } else { None };
        let id = match (found, expected) {
            (Some(id), None) => id,
            (Some(id), Some(expected)) if id.to_string() == expected.trim().to_lowercase() => id,
            (Some(id), Some(expected)) => {
                return Err(VolumeError::Other {
                    root: root.to_owned(),
                    expected: expected.to_owned(),
                    found: id.to_string(),
                });
            }
            (None, Some(expected)) => {
                return Err(VolumeError::Missing {
                    root: root.to_owned(),
                    expected: expected.to_owned(),
                });
            }
            (None, None) => {
                let id = Self::create(root)?;
                tracing::info!(root = %root.display(), volume = %id,
                    "made a new volume; name it in the sink's table (volume = \"…\"), so that an empty mount point is never taken for it");
                id
            }
        };
        let lock = lock(root)?;
        Ok(Self { root: root.to_owned(), id, _lock: lock })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The id.
    pub const fn id(&self) -> Uuid {
        self.id
    }

    /// Checks that the root still is the volume that was opened: it may have been unmounted.
    pub fn check(&self) -> Result<(), VolumeError> {
        match read_id(&self.root)? {
            Some(id) if id == self.id => Ok(()),
            Some(id) => Err(VolumeError::Other {
                root: self.root.clone(),
                expected: self.id.to_string(),
                found: id.to_string(),
            }),
            None => {
                Err(VolumeError::Missing { root: self.root.clone(), expected: self.id.to_string() })
            }
        }
    }
}

/// The id that a root carries; `None` without one.
pub fn read_id(root: &Path) -> Result<Option<Uuid>, VolumeError> {
    let path = root.join(VOLUME_FILE);
    let text = match read_short(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    match text.trim().parse() {
        Ok(id) => Ok(Some(id)),
        Err(_) => Err(VolumeError::BadId { path, found: text.trim().to_owned() }),
    }
}

fn read_short(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(128).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What is in a fresh file system and says nothing about its use.
const HARMLESS: [&str; 2] = ["lost+found", LOCK_FILE];

fn has_content(root: &Path) -> Result<bool, VolumeError> {
    for entry in fs::read_dir(root).map_err(io_error("list", root))? {
        let name = entry.map_err(io_error("list", root))?.file_name();
        let name = name.to_string_lossy();
        if !HARMLESS.contains(&name.as_ref()) && !name.starts_with(VOLUME_FILE) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn lock(root: &Path) -> Result<File, VolumeError> {
    let path = root.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = read_short(&path).unwrap_or_default();
            holder.truncate(32);
            let holder = holder.trim();
            let holder = if holder.is_empty() { String::new() } else { format!(" (pid {holder})") };
            return Err(VolumeError::InUse { root: root.to_owned(), holder });
        }
        Err(error) => return Err(io_error("lock", &path)(error.into())),
    }
    // Only for people who meet the lock; the lock itself is the kernel's.
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(io_error("write", &path))?;
    Ok(file)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_minted_once_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("new/root");
        let id = Volume::open(&root, None).unwrap().id();
        let again = Volume::open(&root, Some(&id.to_string())).unwrap();
        assert_eq!(again.id(), id);
        again.check().unwrap();
    }

    #[test]
    fn refuses_other_volumes_and_strange_directories() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let expected = Uuid::new_v4().to_string();
        assert!(matches!(Volume::open(root, Some(&expected)), Err(VolumeError::Missing { .. })));
        fs::write(root.join("thesis.doc"), "x").unwrap();
        assert!(matches!(Volume::open(root, None), Err(VolumeError::NotAVolume { .. })));
        fs::remove_file(root.join("thesis.doc")).unwrap();
        let volume = Volume::open(root, None).unwrap();
        let error = Volume::open(root, Some(&expected)).unwrap_err();
        assert!(
            matches!(&error, VolumeError::Other { found, .. } if *found == volume.id().to_string())
        );
        assert!(error.to_string().contains(&expected));
        fs::write(root.join(VOLUME_FILE), "nonsense").unwrap();
        assert!(matches!(volume.check(), Err(VolumeError::BadId { .. })));
        fs::remove_file(root.join(VOLUME_FILE)).unwrap();
        assert!(matches!(volume.check(), Err(VolumeError::Missing { .. })));
    }

    #[test]
    fn one_user_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Volume::open(dir.path(), None).unwrap();
        let error = Volume::open(dir.path(), None).unwrap_err();
        assert!(matches!(error, VolumeError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())));
        drop(first);
        Volume::open(dir.path(), None).unwrap();
    }
}
