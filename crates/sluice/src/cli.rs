//! The command line: nouns, verbs, flags and their help.

mod changes;
mod demo;
mod disk;
mod ingestors;
mod operate;
mod services;
mod streams;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use self::{
    changes::{FilterArgs, FilterCommand, TailArgs},
    demo::{DemoArgs, Layout},
    disk::{ConfigCommand, FilesCommand, JournalCommand, JournalDir},
    ingestors::{CaptureArgs, GapArg, ImportArgs},
    operate::{ActArgs, IngestorsCommand, To, VerifyArgs},
    services::{ConfigArgs, ReceiveArgs, ReceiverAt, RunArgs, SinkArgs},
    streams::StreamsCommand,
};
use crate::output::Format;

const EXAMPLES: &str = "\
Examples:
  sluice run --config sluice.toml              everything in one process
  sluice status                                what runs, and what to do where it does not
  sluice tail cosmoshub-4 --store bank -o jsonl
  sluice import cosmoshub-4 /srv/gaia/stream   block files of a Cosmos node, once
  sluice ingestors list                        who captures what, and how far
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
    /// Where the services are reached; the address of `sluice run`, or of one service [default:
    /// http://127.0.0.1:7400, or what --config says]
    #[arg(long, global = true, env = "SLUICE_SERVER", value_name = "URL", hide_env_values = true)]
    pub(crate) server: Option<String>,
    /// A configuration file; clients take addresses and certificates from it
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// For https://, a PEM file: who signed the certificate of the other side
    #[arg(long, global = true, env = "SLUICE_TLS_CA", value_name = "FILE", hide_env_values = true)]
    pub(crate) tls_ca: Option<PathBuf>,
    /// For https://, a PEM file: our certificate
    #[arg(long, global = true, env = "SLUICE_TLS_CERT", value_name = "FILE")]
    #[arg(hide_env_values = true)]
    pub(crate) tls_cert: Option<PathBuf>,
    /// For https://, a PEM file: the key of our certificate
    #[arg(long, global = true, env = "SLUICE_TLS_KEY", value_name = "FILE")]
    #[arg(hide_env_values = true)]
    pub(crate) tls_key: Option<PathBuf>,
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
    /// Who captures what, how far, and what operators may do about it
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use sluice_model::{FilterSpec, Op, StartPosition};

    use super::{services::receiver_at, *};

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
        assert_eq!(cli.global.server.as_deref(), Some("http://r:1"));
        assert_eq!(cli.global.verbose, 2);
    }

    /// The same flag of a service's command is also the global one.
    #[test]
    fn the_configuration_is_named_anywhere() {
        for line in ["sluice status -c a.toml", "sluice -c a.toml status"] {
            assert_eq!(parse(line).unwrap().global.config, Some("a.toml".into()), "{line}");
        }
        for line in ["sluice run -c a.toml", "sluice -c a.toml run"] {
            let Command::Run(args) = parse(line).unwrap().command else { panic!("run") };
            assert_eq!(args.config.config, Some("a.toml".into()), "{line}");
        }
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
