//! The command line: nouns, verbs, flags and their help.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use sluice_model::{FilterSpec, IngestorName, Op, StartPosition, topic::KeyPrefix};

use crate::output::Format;

const EXAMPLES: &str = "\
Examples:
  sluice run --config sluice.toml              everything in one process
  sluice status                                what runs, and what to do where it does not
  sluice tail cosmoshub-4 --store bank -o jsonl
  sluice import cosmoshub-4 /srv/gaia/stream   block files of a Cosmos node, once
  sluice streams lag -w                        how far each stream is behind

Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 refused, 5 unreachable, 6 data problem,
130 interrupted. `sluice status`: 0 ok, 1 degraded, 2 down.";

/// Every committed state change of a chain or app, once in a durable log, then as files, webhooks
/// or gRPC streams, filtered and resumable.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, about, after_help = EXAMPLES, propagate_version = true)]
#[command(arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Flags that every command understands.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command understands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Where the services are reached; the address of `sluice run`, or of one service
    #[arg(long, global = true, env = "SLUICE_SERVER", value_name = "URL")]
    #[arg(default_value = "http://127.0.0.1:7400", hide_env_values = true)]
    pub(crate) server: String,
    /// How results are written
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// No colours, also on a terminal
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// Say more: positions, epochs, heartbeats
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process: coordinator, router, producer and all sinks
    Run(RunArgs),
    /// Run the coordinator: sessions, locks, commits and checkpoints
    Coordinator(ConfigArgs),
    /// Run the router: the journals, append and filtered subscriptions
    Router(ConfigArgs),
    /// Run the producer: the sources of the configured ingestors, and the capture API
    Producer(ConfigArgs),
    /// Run one sink deployment: the event streams that name it
    Sink(SinkArgs),
    /// One screen of what runs; each bad line ends with the command to run
    Status,
    /// Print the changes of an ingestor as they come
    Tail(TailArgs),
    /// Bring the block files of a Cosmos node in, once; resumable
    Import(ImportArgs),
    /// Hand in blocks from the standard input, one JSON object per line; resumable
    Capture(CaptureArgs),
    /// The ingestors of a producer
    #[command(subcommand)]
    Ingestors(IngestorsCommand),
    /// The event streams of a sink
    #[command(subcommand)]
    Streams(StreamsCommand),
    /// Look into what the file sink wrote; works without any service
    #[command(subcommand)]
    Files(FilesCommand),
    /// Look into a journal's directory; works without any service
    #[command(subcommand)]
    Journal(JournalCommand),
    /// Filters
    #[command(subcommand)]
    Filter(FilterCommand),
    /// The configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Run the bundled webhook receiver: writes every event to a file and counts repeats
    Receive(ReceiveArgs),
    /// Run the services as processes, kill each once, and verify that nothing was lost
    Demo(DemoArgs),
    /// Print the completion script of a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file (TOML); without it everything has its default
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one key, as in --set listen.api=127.0.0.1:7500; wins over file and environment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
}

/// `sluice run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice run                                   no ingestors yet; says how to add one
  sluice run --config sluice.toml --set journal.durability=fsync
  sluice run --set 'ingestors.my-app.source={type=\"capture\"}'
  sluice run --config deploy/example.toml --with-receiver 127.0.0.1:7402:received.jsonl")]
pub(crate) struct RunArgs {
    /// Configuration.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Run the bundled webhook receiver too, at ADDR (127.0.0.1:PORT), writing to FILE
    #[arg(long, value_name = "ADDR:FILE", value_parser = receiver_at)]
    pub(crate) with_receiver: Option<ReceiverAt>,
}

/// Where a bundled receiver listens and writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceiverAt {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Where it writes.
    pub(crate) file: PathBuf,
}

fn receiver_at(text: &str) -> Result<ReceiverAt, String> {
    let wrong = || format!("{text:?} is not ADDR:FILE, as in 127.0.0.1:7402:received.jsonl");
    // The address has colons of its own; the first one followed by a port and a colon ends it.
    let ends = text.match_indices(':').map(|(at, _)| at);
    for end in ends {
        let (address, file) = text.split_at(end);
        if let Ok(listen) = address.parse::<SocketAddr>() {
            let file = file.trim_start_matches(':');
            return if file.is_empty() {
                Err(wrong())
            } else {
                Ok(ReceiverAt { listen, file: file.into() })
            };
        }
    }
    Err(wrong())
}

/// `sluice sink NAME`.
#[derive(Debug, Args)]
pub(crate) struct SinkArgs {
    /// The deployment, as in [sinks.NAME]
    pub(crate) name: String,
    /// Configuration.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

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
fn until(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("height:").unwrap_or(text);
    digits.parse().map_err(|_| format!("{text:?} is not a height, as in 199 or height:199"))
}

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

/// `sluice ingestors …`.
#[derive(Debug, Subcommand)]
pub(crate) enum IngestorsCommand {
    /// All of them
    #[command(visible_alias = "ls")]
    List,
    /// One of them, with everything known
    Get {
        /// Which
        ingestor: IngestorName,
    },
}

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
    /// The directory of journals
    #[arg(long, value_name = "DIR", default_value = "data/journal")]
    pub(crate) dir: PathBuf,
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

/// `sluice receive`.
#[derive(Debug, Args)]
#[command(after_help = "\
Answers 200 when a batch is durable in the file. GET /stats tells the counts as JSON.

Example:
  sluice receive --listen 127.0.0.1:7402 --out received.jsonl")]
pub(crate) struct ReceiveArgs {
    /// Where it listens; a loopback address
    #[arg(long, default_value = "127.0.0.1:7402", value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// Where the events go, one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// The share of requests to answer with 503, from 0 to 1; half of them after writing
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share)]
    pub(crate) fail_rate: f64,
    /// End when so many distinct events were received
    #[arg(long, value_name = "N")]
    pub(crate) expect: Option<u64>,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(format!("{text} is not between 0 and 1"))
    }
}

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let cli = parse("sluice tail hub -o jsonl --server http://r:1 -vv").unwrap();
        assert_eq!(cli.global.output, Format::Jsonl);
        assert_eq!(cli.global.server, "http://r:1");
        assert_eq!(cli.global.verbose, 2);
    }

    #[test]
    fn a_tail_with_everything() {
        let line = "sluice tail hub --store bank --store !gov --topic b.* --prefix hex:02 --op set \
                    --from height:7 --until height:9 -n 3";
        let Command::Tail(args) = parse(line).unwrap().command else { panic!("tail") };
        let spec = FilterSpec::from(&args.filter);
        assert_eq!(spec.stores, ["bank", "!gov"]);
        assert_eq!((spec.topics.as_deref(), spec.ops), (Some("b.*"), vec![Op::Set]));
        assert_eq!(args.from, Some(StartPosition::Height(7)));
        assert_eq!((args.until, args.limit), (Some(9), Some(3)));
    }

    #[test]
    fn wrong_values_name_what_would_be_right() {
        for (line, part) in [
            ("sluice tail hub --from oldest", "earliest"),
            ("sluice tail hub --until yesterday", "199"),
            ("sluice tail hub --prefix 02", "hex:"),
            ("sluice receive --out x --fail-rate 2", "between 0 and 1"),
            ("sluice run --with-receiver 127.0.0.1:7402", "ADDR:FILE"),
        ] {
            let text = parse(line).unwrap_err().to_string();
            assert!(text.contains(part), "{line}: {text}");
        }
    }

    #[test]
    fn a_receiver_has_an_address_and_a_file() {
        let at = receiver_at("127.0.0.1:7402:data/received.jsonl").unwrap();
        assert_eq!(at.listen, "127.0.0.1:7402".parse().unwrap());
        assert_eq!(at.file, PathBuf::from("data/received.jsonl"));
        assert_eq!(receiver_at("[::1]:80:a:b").unwrap().file, PathBuf::from("a:b"));
    }

    #[test]
    fn faults_can_be_turned_off() {
        let faults = |line| match parse(line).unwrap().command {
            Command::Demo(args) => args.faults,
            _ => panic!("demo"),
        };
        assert!(faults("sluice demo") && faults("sluice demo --faults"));
        assert!(!faults("sluice demo --faults=false"));
    }
}
