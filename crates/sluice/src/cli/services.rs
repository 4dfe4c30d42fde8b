//! The commands that run services: all of them, or one.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

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

pub(super) fn receiver_at(text: &str) -> Result<ReceiverAt, String> {
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
