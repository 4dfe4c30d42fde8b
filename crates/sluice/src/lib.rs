//! Sluice: every service in one process, each one alone, and the command line.
//!
//! `sluice run` is a fold over the services' libraries (see `node`); everything else here is a
//! client of what runs, or reads files. Results go to the standard output through `output`, and
//! what a failure means as an exit code is decided in `exit`.

mod block_line;
mod cli;
mod cmd;
mod connect;
mod demo;
mod exit;
mod lines;
mod node;
mod output;
mod progress;
mod receiver;
mod verify;

use std::{future::Future, process::ExitCode, time::Duration};

use clap::{CommandFactory as _, Parser as _};

use cli::{Cli, Command};
use connect::{Access, Peer};
use exit::{Exit, Failure, Outcome};
use output::{Out, note};

/// How long work that nobody waits for may go on after a command has ended.
const LINGER: Duration = Duration::from_millis(100);

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version count as success; a closed pipe is no reason to complain.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    // Fails only if one is installed already, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(Failure::from(error).context("cannot start"))),
    };
    let outcome = runtime.block_on(Box::pin(dispatch(&cli)));
    runtime.shutdown_timeout(LINGER);
    ended(outcome)
}

fn ended(outcome: Outcome) -> ExitCode {
    let exit = match outcome {
        Ok(exit) => exit,
        Err(failure) => {
            if !failure.is_quiet() {
                note(format!("error: {failure}"));
            }
            failure.exit()
        }
    };
    ExitCode::from(exit as u8)
}

async fn dispatch(cli: &Cli) -> Outcome {
    use cmd::serve::{self, One};
    let verbose = cli.global.verbose;
    match &cli.command {
        // These end by themselves on a signal.
        Command::Run(args) => serve::run(args, verbose).await,
        Command::Coordinator(args) => serve::one(&One::Coordinator(args), verbose).await,
        Command::Router(args) => serve::one(&One::Router(args), verbose).await,
        Command::Producer(args) => serve::one(&One::Producer(args), verbose).await,
        Command::Sink(args) => serve::one(&One::Sink(args), verbose).await,
        Command::Receive(args) => receiver::run(&mut out(cli), args).await,
        Command::Demo(args) => demo::run(&mut out(cli), args).await,
        Command::Import(args) => import(cli, args).await,
        _ => interruptible(client(cli)).await,
    }
}

/// Commands that ask, print and end; an interrupt ends them at once.
async fn client(cli: &Cli) -> Outcome {
    let (out, global) = (&mut out(cli), &cli.global);
    // Read where it is needed: what works without a service must not fail for a wrong address.
    let access = || Access::new(global, &[]);
    let at = |peer| access()?.at(peer);
    match &cli.command {
        Command::Status => cmd::status::run(&access()?, out).await,
        Command::Tail(args) => cmd::tail::run(&at(Peer::Router)?, out, args, global.verbose).await,
        Command::Capture(args) => cmd::capture::run(&at(Peer::Producer)?, out, args).await,
        Command::Ingestors(own) => cmd::ingestors::run(&access()?, out, own).await,
        Command::Streams(own) => cmd::streams::run(&at(Peer::Sink)?, out, own).await,
        Command::Filter(own) => cmd::filter::run(&at(Peer::Router)?, out, own).await,
        Command::Files(command) => cmd::files::run(out, command),
        Command::Journal(command) => cmd::journal::run(out, command, global.config.as_deref()),
        Command::Config(command) => cmd::config::run(out, command),
        Command::Completion { shell } => completion(out, *shell),
        _ => version(out),
    }
}

async fn import(cli: &Cli, args: &cli::ImportArgs) -> Outcome {
    let config = cmd::config::load(&args.config)?;
    let access = Access::new(&cli.global, &args.config.sets)?;
    let address = |flag: &Option<String>, peer| match flag {
        Some(url) => access.server(url),
        None => access.at(peer),
    };
    let peers = cmd::import::Peers {
        coordinator: address(&args.coordinator, Peer::Coordinator)?,
        router: address(&args.router, Peer::Router)?,
    };
    cmd::import::run(&peers, &mut out(cli), args, config).await
}

fn out(cli: &Cli) -> Out {
    Out::stdout(cli.global.output, cli.global.no_color)
}

async fn interruptible(command: impl Future<Output = Outcome>) -> Outcome {
    tokio::select! {
        outcome = command => outcome,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Ok(Exit::Interrupted)
        }
    }
}

fn completion(out: &mut Out, shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut script);
    out.raw(&script)?;
    out.flush()?;
    Ok(Exit::Ok)
}

fn version(out: &mut Out) -> Outcome {
    if out.is_json() {
        out.json(&serde_json::json!({"version": env!("CARGO_PKG_VERSION")}))?;
    } else {
        out.line(format!("sluice {}", env!("CARGO_PKG_VERSION")))?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}
