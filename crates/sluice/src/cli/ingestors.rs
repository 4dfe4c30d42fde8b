//! The commands that bring changes in.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sluice_model::IngestorName;

use super::ConfigArgs;

/// `sluice import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Reads block-N-data and block-N-meta as the file streamer of Cosmos SDK 0.45.12 to 0.47 writes them.
Blocks that the journal has are skipped, so an import that was interrupted goes on where it was.

Examples:
  sluice import cosmoshub-4 /srv/gaia/stream
  sluice import cosmoshub-4 ./blocks --prefix hub --on-gap record
  sluice import cosmoshub-4 ./blocks --coordinator http://c:7400 --router http://r:7400")]
pub(crate) struct ImportArgs {
    /// The ingestor that the blocks become
    pub(crate) ingestor: IngestorName,
    /// The streamer's write_dir
    pub(crate) dir: PathBuf,
    /// The streamer's file prefix
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Leave the meta files out
    #[arg(long)]
    pub(crate) no_metadata: bool,
    /// What to do about blocks that are missing
    #[arg(long, value_enum, default_value_t)]
    pub(crate) on_gap: GapArg,
    /// The coordinator, where it has an address of its own [default: --server]
    #[arg(long, value_name = "URL")]
    pub(crate) coordinator: Option<String>,
    /// The router, where it has an address of its own [default: --server]
    #[arg(long, value_name = "URL")]
    pub(crate) router: Option<String>,
    /// Addresses, and the ingestor's stores and topics.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

/// What to do about missing blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GapArg {
    /// Stop and say which are missing
    #[default]
    Halt,
    /// Record the gap in the journal and go on behind it
    Record,
}

/// `sluice capture`.
#[derive(Debug, Args)]
#[command(after_help = r#"Each line of the standard input is one block:
  {"height":1,"time":"2026-01-31T12:00:00Z","changes":[
    {"store":"bank","op":"set","key":"AQ==","value":"AQ==","encoding":"base64"},
    {"store":"bank","op":"delete","key":"02","encoding":"hex"}]}
(on one line). `encoding` is base64 (default) or hex and holds for key and value; `op` is set by
default; `time` may be absent. Blocks that the journal has are sent again and found to be the same.

The ingestor needs a source of type "capture":
  sluice run --set 'ingestors.my-app.source={type="capture"}'

Example:
  my-app export | sluice capture my-app"#)]
pub(crate) struct CaptureArgs {
    /// The ingestor that the blocks become
    pub(crate) ingestor: IngestorName,
    /// Longest line, in bytes
    #[arg(long, default_value_t = 64 << 20, value_name = "BYTES")]
    pub(crate) max_line: usize,
}
