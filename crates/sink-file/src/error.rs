use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use sluice_frame::FrameError;

/// What was being done to a file when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Making a directory.
    MakeDir,
    /// Making a file.
    Create,
    /// Opening or reading.
    Read,
    /// Writing.
    Write,
    /// Making a file's bytes durable.
    Sync,
    /// Giving a finished file its name.
    Rename,
    /// Deleting.
    Remove,
    /// Making names in a directory durable.
    SyncDir,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MakeDir => "make directory",
            Self::Create => "create",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::SyncDir => "sync directory",
        })
    }
}

/// Why files could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}{}", .path.display(), hint(.source))]
    Io {
        /// What was tried.
        action: Action,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file that this sink wrote does not read back as such.
    #[error("{} is damaged at byte {offset}: {reason}; check it with sluice files verify", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A frame of the stream cannot be read.
    #[error("block {height}: {source}")]
    Frame {
        /// The block.
        height: u64,
        /// What is wrong with the frame.
        source: FrameError,
    },
    /// The Cosmos format names files by height, and this ingestor has other pointers.
    #[error(
        "block {0} is not placed by a height, and format cosmos names its files by height; use format = \"jsonl\""
    )]
    NoHeight(String),
    /// Blocks arrive in an order that files cannot follow.
    #[error("block {height} arrived after {cursor}: blocks of one history must arrive in order")]
    Order {
        /// The block that came.
        height: u64,
        /// How far the files are.
        cursor: String,
    },
    /// The directory holds the files of something else.
    #[error("{} already holds the files of {owner}; give this stream another write_dir", .path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
        /// Whose files are there.
        owner: String,
    },
    /// The root is not the volume it should be.
    #[error(transparent)]
    Volume(#[from] crate::volume::VolumeError),
    /// The worker that writes the files is gone.
    #[error("the thread that writes the files of stream {0} ended early; the batch is tried again")]
    Worker(String),
}

impl FileError {
    pub(crate) fn io(action: Action, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// True where the same call may succeed later without anyone changing the configuration: a
    /// full disk, an unreachable mount. False where somebody has to act: permissions, a read-only
    /// file system, damaged files, a wrong volume.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Io { source, .. } => !matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::IsADirectory
                    | io::ErrorKind::InvalidFilename
                    | io::ErrorKind::InvalidInput
            ),
            Self::Worker(_) => true,
            Self::Volume(error) => error.is_transient(),
            Self::Damaged { .. }
            | Self::Frame { .. }
            | Self::NoHeight(_)
            | Self::Taken { .. }
            | Self::Order { .. } => false,
        }
    }

    /// A word for metrics: `full`, `denied`, `read_only`, `io`, `damaged`, `input`, `volume`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "full",
                io::ErrorKind::PermissionDenied => "denied",
                io::ErrorKind::ReadOnlyFilesystem => "read_only",
                _ => "io",
            },
            Self::Damaged { .. } => "damaged",
            Self::Frame { .. } | Self::NoHeight(_) | Self::Order { .. } => "input",
            Self::Volume(_) | Self::Taken { .. } => "volume",
            Self::Worker(_) => "io",
        }
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; the stream goes on by itself when there is space again"
        }
        io::ErrorKind::PermissionDenied => "; give the service's user write access to it",
        io::ErrorKind::ReadOnlyFilesystem => "; remount it read-write",
        _ => "",
    }
}
