//! The commands about changes: which, and from where.

use clap::{Args, Subcommand, ValueEnum};
use sluice_model::{FilterSpec, IngestorName, Op, StartPosition, topic::KeyPrefix};

/// Which changes.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FilterArgs {
    /// Only these stores: a name, a glob such as gamm*, or !name; may be repeated
    #[arg(long = "store", value_name = "STORE")]
    pub(crate) stores: Vec<String>,
    /// Only topics that match this regular expression as a whole
    #[arg(long, value_name = "REGEX")]
    pub(crate) topic: Option<String>,
    /// Only keys that begin like this: hex:02 or text:abc; may be repeated
    #[arg(long = "prefix", value_name = "PREFIX")]
    pub(crate) prefixes: Vec<KeyPrefix>,
    /// Only this operation
    #[arg(long = "op", value_enum, value_name = "OP")]
    pub(crate) ops: Vec<OpArg>,
}

/// An operation on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OpArg {
    /// The key got a value.
    Set,
    /// The key is gone.
    Delete,
}

impl From<&FilterArgs> for FilterSpec {
    fn from(args: &FilterArgs) -> Self {
        let op = |op: &OpArg| match op {
            OpArg::Set => Op::Set,
            OpArg::Delete => Op::Delete,
        };
        Self {
            stores: args.stores.clone(),
            topics: args.topic.clone(),
            ops: args.ops.iter().map(op).collect(),
            prefixes: args.prefixes.clone(),
            buckets: Vec::new(),
        }
    }
}

/// `sluice tail`.
#[derive(Debug, Args)]
#[command(after_help = "\
A position is earliest, latest, height:N, time:2026-01-31T12:00:00Z or after:<sequence id>.

Examples:
  sluice tail cosmoshub-4                                what comes from now on
  sluice tail cosmoshub-4 --store bank --prefix hex:02 --op set -o jsonl
  sluice tail cosmoshub-4 --from height:100 --until 199  a bounded read
  sluice tail cosmoshub-4 --from after:00000000000000000042-0000001f --limit 10")]
pub(crate) struct TailArgs {
    /// Whose changes
    pub(crate) ingestor: IngestorName,
    /// Which changes.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Where to begin [default: latest; earliest with --until]
    #[arg(long, value_name = "POSITION")]
    pub(crate) from: Option<StartPosition>,
    /// The last height to print; ends after it
    #[arg(long, value_name = "HEIGHT", value_parser = until)]
    pub(crate) until: Option<u64>,
    /// End after so many changes
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Write keys and values as hex instead of base64 in JSON
    #[arg(long)]
    pub(crate) hex: bool,
}

/// A height, also written as the position `height:N`.
pub(super) fn until(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("height:").unwrap_or(text);
    digits.parse().map_err(|_| format!("{text:?} is not a height, as in 199 or height:199"))
}

/// `sluice filter …`.
#[derive(Debug, Subcommand)]
pub(crate) enum FilterCommand {
    /// What a filter would have matched in the last blocks, from the index alone
    #[command(after_help = "Example:\n  sluice filter test cosmoshub-4 --store bank --op set")]
    Test {
        /// Whose changes
        ingestor: IngestorName,
        /// Which changes.
        #[command(flatten)]
        filter: FilterArgs,
        /// How many of the last blocks to look at
        #[arg(long, default_value_t = 1000, value_name = "N")]
        blocks: u64,
    },
}
