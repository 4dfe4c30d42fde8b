//! `make chaos-coordination`: faults by a seeded schedule, and the table of what they did.
//!
//! Arguments: a seed, `--only PART` any number of times, `--sluice PATH` for another build of the
//! program, `--list`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is a failed run"
)]

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use sluice_tests::{
    chaos::{Options, faults, losses, run},
    network, skipped,
};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    // A round that panics is a row of the table; where it was is enough.
    std::panic::set_hook(Box::new(|info| {
        writeln!(std::io::stderr(), "{info}").ok();
    }));
    let Some(options) = options() else {
        for fault in [faults(), losses()].concat() {
            writeln!(stdout(), "{}", fault.name).ok();
        }
        return ExitCode::SUCCESS;
    };
    if let Err(why) = network::apart() {
        skipped("a network of its own", &why);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let good = runtime.block_on(async {
        tokio::select! {
            good = run(&options) => good,
            () = asked_to_stop() => std::process::exit(130),
        }
    });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is asked for; `None` for the list.
fn options() -> Option<Options> {
    let mut options = Options { seed: by_time(), ..Options::default() };
    let mut args = network::arguments();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" => options.only.push(args.next().expect("--only PART")),
            "--sluice" => options.program = Some(args.next().expect("--sluice PATH").into()),
            "--list" => return None,
            seed => options.seed = seed.parse().expect("a number as the seed"),
        }
    }
    Some(options)
}

/// The first process of its own namespace is ended by no signal that it does not wait for.
async fn asked_to_stop() {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

fn by_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
}
