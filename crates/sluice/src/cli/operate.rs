//! The commands about ingestors: who captures what, and what operators may do about it.

use std::str::FromStr;

use clap::{Args, Subcommand};
use sluice_config::HumanDuration;
use sluice_model::{IngestorName, SequenceId};

use super::changes::until;

const ABOUT_ACTIONS: &str = "\
What is asked for is kept by the coordinator and done by whoever owns the ingestor, now or next. The
command waits for the answer; one that was not waited for is shown by `sluice ingestors get`, and
withdrawn by `sluice ingestors cancel-action`.";

/// `sluice ingestors …`.
#[derive(Debug, Subcommand)]
pub(crate) enum IngestorsCommand {
    /// All of them: owner, head, commit, lag, state
    #[command(visible_alias = "ls")]
    List,
    /// One of them, with everything known and the end of its trail
    Get {
        /// Which
        ingestor: IngestorName,
        /// How much of its trail to show
        #[arg(long, default_value_t = 10, value_name = "ENTRIES")]
        audit: u32,
    },
    /// Stop capturing, finish what is under way, and keep the lock
    #[command(
        alias = "stop",
        alias = "suspend",
        after_help = "Example:\n  sluice ingestors pause hub --reason 'node upgrade'"
    )]
    Pause {
        /// Which, who, and how long to wait.
        #[command(flatten)]
        act: ActArgs,
        /// Why, for the trail
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        reason: String,
    },
    /// Go on after a pause
    #[command(alias = "start")]
    Resume {
        /// Which, who, and how long to wait.
        #[command(flatten)]
        act: ActArgs,
        /// Why, for the trail
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        reason: String,
    },
    /// Forget the failures and try the block it does not get past again, at once
    #[command(after_help = ABOUT_ACTIONS)]
    Retry {
        /// Which, who, and how long to wait.
        #[command(flatten)]
        act: ActArgs,
        /// Why, for the trail
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        reason: String,
    },
    /// Give the block up that it does not get past: record a gap and go on behind it
    #[command(after_help = ABOUT_ACTIONS)]
    Skip {
        /// Which, who, and how long to wait.
        #[command(flatten)]
        act: ActArgs,
        /// Why, for the trail and for every reader
        #[arg(long, value_name = "TEXT", value_parser = said)]
        reason: String,
        /// The last height of the gap [default: that of the one block]
        #[arg(long, value_name = "HEIGHT", value_parser = until)]
        through: Option<u64>,
        /// The height that it does not get past, where the owner cannot be asked for it
        #[arg(long, value_name = "HEIGHT", value_parser = until)]
        at: Option<u64>,
    },
    /// Go on from an older block as a new generation; what lies behind it is captured again
    #[command(after_help = ABOUT_ACTIONS)]
    Rewind {
        /// Which, who, and how long to wait.
        #[command(flatten)]
        act: ActArgs,
        /// The block to go on from: its height, or the sequence id of a change in it
        #[arg(long, value_name = "HEIGHT|SEQUENCE_ID")]
        to: To,
        /// Why, for the trail and for every reader
        #[arg(long, value_name = "TEXT", value_parser = said)]
        reason: String,
    },
    /// Take what the journal has for the truth, although more had been committed
    #[command(after_help = ABOUT_ACTIONS)]
    AcceptLoss {
        /// Which, who, and how long to wait.
        #[command(flatten)]
        act: ActArgs,
        /// Why, for the trail and for every reader
        #[arg(long, value_name = "TEXT", value_parser = said)]
        reason: String,
    },
    /// Finish what is under way and give the lock to the next who waits
    #[command(after_help = ABOUT_ACTIONS)]
    HandOver {
        /// Which, who, and how long to wait.
        #[command(flatten)]
        act: ActArgs,
        /// Why, for the trail
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        reason: String,
    },
    /// Withdraw what was asked for and is not done
    CancelAction {
        /// Which, who, and how long to wait.
        #[command(flatten)]
        act: ActArgs,
        /// Only this action, by its number
        #[arg(long, value_name = "NUMBER")]
        id: Option<u64>,
        /// Why, for the trail
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        reason: String,
    },
    /// The trail: changes of ownership, pauses, actions, gaps, generations
    Audit {
        /// Which; all without it
        ingestor: Option<IngestorName>,
        /// At most so many entries, the newest
        #[arg(long, default_value_t = 50, value_name = "ENTRIES")]
        limit: u32,
    },
    /// Compare the blocks of a journal with another source of truth
    Verify(VerifyArgs),
}

/// Which ingestor, who asks, and how long to wait.
#[derive(Clone, Debug, Args)]
pub(crate) struct ActArgs {
    /// Which
    pub(crate) ingestor: IngestorName,
    /// Who asks, for the trail [default: user@host]
    #[arg(long, env = "SLUICE_ACTOR", value_name = "NAME", hide_env_values = true)]
    pub(crate) actor: Option<String>,
    /// Do not ask back
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// How long to wait until the owner has done it; 0s does not wait
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub(crate) timeout: HumanDuration,
}

/// `sluice ingestors verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
The other source of truth is one of:
  a router                http://other:7400, with the journal of the same name (or --as)
  a directory of journals that no process works on, such as a backup of DATA_DIR/journal
  a Cosmos node's file streamer directory, or what the file sink wrote in its format

Digests are computed anew from the bytes of both sides, per block and store (not of pseudo stores),
and the chain of the journal's own digests is checked on the way. Compared is what both sides have;
that one of them is behind is no difference. Exit code 6 says that they differ.

Examples:
  sluice ingestors verify hub --against /srv/gaia/data/file_streamer
  sluice ingestors verify hub --against http://standby:7400 --from 1000000
  sluice ingestors verify hub --against /backup/journal --store bank --store staking")]
pub(crate) struct VerifyArgs {
    /// Whose journal
    pub(crate) ingestor: IngestorName,
    /// The other source of truth
    #[arg(long, value_name = "URL|DIR")]
    pub(crate) against: String,
    /// The ingestor's name on the other side [default: the same]
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) other: Option<IngestorName>,
    /// The file streamer's prefix
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Only these stores: a name, a glob such as gamm*, or !name; may be repeated
    #[arg(long = "store", value_name = "STORE")]
    pub(crate) stores: Vec<String>,
    /// The first height to compare
    #[arg(long, value_name = "HEIGHT", value_parser = until)]
    pub(crate) from: Option<u64>,
    /// The last height to compare
    #[arg(long, value_name = "HEIGHT", value_parser = until)]
    pub(crate) until: Option<u64>,
}

/// A block as an operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// By its height.
    Height(u64),
    /// By a change in it.
    Id(SequenceId),
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("height:").unwrap_or(text);
        if let Ok(height) = digits.parse() {
            return Ok(Self::Height(height));
        }
        let id = text.parse().map_err(|error| format!("{error}; a height looks like 199"))?;
        Ok(Self::Id(id))
    }
}

/// A reason that says something.
fn said(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why, in words: it is kept in the trail and told to readers".to_owned()),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(line: &str) -> Result<IngestorsCommand, String> {
        let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string())?;
        match cli.command {
            Command::Ingestors(own) => Ok(own),
            _ => Err("another command".to_owned()),
        }
    }

    #[test]
    fn a_rewind_names_its_block_either_way() {
        let to = |text: &str| {
            let line = format!("sluice ingestors rewind hub --reason r --to {text}");
            match parse(&line).unwrap() {
                IngestorsCommand::Rewind { to, .. } => to,
                _ => panic!("rewind"),
            }
        };
        assert_eq!(to("250"), To::Height(250));
        assert_eq!(to("height:250"), To::Height(250));
        let id = "00000000000000000042-0000001f";
        assert_eq!(to(id), To::Id(id.parse().unwrap()));
        let wrong = parse("sluice ingestors rewind hub --reason r --to soon").unwrap_err();
        assert!(wrong.contains("199"), "{wrong}");
    }

    #[test]
    fn what_loses_something_needs_a_reason() {
        for verb in ["skip", "rewind --to 1", "accept-loss"] {
            let wrong = parse(&format!("sluice ingestors {verb} hub")).unwrap_err();
            assert!(wrong.contains("--reason"), "{verb}: {wrong}");
        }
        let empty = ["sluice", "ingestors", "accept-loss", "hub", "--reason", " "];
        assert!(Cli::try_parse_from(empty).unwrap_err().to_string().contains("say why"));
        for verb in ["pause", "resume", "retry", "hand-over", "cancel-action", "stop", "start"] {
            assert!(parse(&format!("sluice ingestors {verb} hub")).is_ok(), "{verb}");
        }
    }

    #[test]
    fn waiting_has_a_length() {
        let IngestorsCommand::Retry { act, .. } =
            parse("sluice ingestors retry hub -y --timeout 5m --actor ops").unwrap()
        else {
            panic!("retry")
        };
        assert_eq!((act.yes, act.timeout.get().as_secs()), (true, 300));
        assert_eq!(act.actor.as_deref(), Some("ops"));
    }
}
