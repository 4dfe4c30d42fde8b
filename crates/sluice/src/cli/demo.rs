//! `sluice demo`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `sluice demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// A recording of a Cosmos node's file streamer, heights 1 to N
    #[arg(long, default_value = "testdata/cosmos-recording", value_name = "DIR")]
    pub(crate) recording: PathBuf,
    /// Where everything is kept; made anew [default: a temporary directory, removed on success]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// As which processes
    #[arg(long, value_enum, default_value_t)]
    pub(crate) layout: Layout,
    /// Kill each service once on the way
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) faults: bool,
}

/// As which processes the demo runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// One per service: coordinator, router, producer and two sinks
    #[default]
    Processes,
    /// `sluice run`
    One,
}
