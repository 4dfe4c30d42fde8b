//! The commands that work without any service, on files.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sluice_model::{IngestorName, StartPosition};

use super::{ConfigArgs, FilterArgs, changes::until};

/// `sluice files …`.
#[derive(Debug, Subcommand)]
pub(crate) enum FilesCommand {
    /// Print what block files in Cosmos format hold, one change per line
    Decode {
        /// block-N-data files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Compare a stream's directory with its manifest
    Verify {
        /// The stream's directory under the sink's root
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Print the manifest of a stream's directory
    Manifest {
        /// The stream's directory under the sink's root
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Which journal on disk.
#[derive(Clone, Debug, Args)]
pub(crate) struct JournalDir {
    /// The directory of journals [default: data/journal, or what --config says]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// `sluice journal …`.
#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// The journals in a directory
    Ls {
        /// Where.
        #[command(flatten)]
        dir: JournalDir,
    },
    /// Print the changes of a journal
    Cat {
        /// Where.
        #[command(flatten)]
        dir: JournalDir,
        /// Whose
        ingestor: IngestorName,
        /// Which changes.
        #[command(flatten)]
        filter: FilterArgs,
        /// Where to begin
        #[arg(long, value_name = "POSITION", default_value = "earliest")]
        from: StartPosition,
        /// The last height to print
        #[arg(long, value_name = "HEIGHT", value_parser = until)]
        until: Option<u64>,
        /// End after so many changes
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Read everything; check checksums, chain and digests
    Verify {
        /// Where.
        #[command(flatten)]
        dir: JournalDir,
        /// Whose; all without it
        ingestor: Option<IngestorName>,
    },
}

/// `sluice config …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a configuration; prints nothing but what is wrong
    Check(ConfigArgs),
    /// Print the configuration as the services see it, without secrets
    Print(ConfigArgs),
    /// Turn the streamer block of a Cosmos app.toml into an ingestor
    AppToml {
        /// The node's app.toml
        file: PathBuf,
    },
}
