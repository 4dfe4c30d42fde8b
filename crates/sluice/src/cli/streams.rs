//! The commands about event streams.

use clap::Subcommand;

/// `sluice streams …`.
#[derive(Debug, Subcommand)]
pub(crate) enum StreamsCommand {
    /// All of them
    #[command(visible_alias = "ls")]
    List,
    /// One of them, with everything known
    Get {
        /// Which
        stream: String,
    },
    /// How far each is behind its journal
    Lag {
        /// Go on until interrupted
        #[arg(short, long)]
        watch: bool,
        /// Only this one
        stream: Option<String>,
    },
}
