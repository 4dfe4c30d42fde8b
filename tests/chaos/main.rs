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

use sluice_tests::chaos::{Options, faults, run};

#[tokio::main]
async fn main() -> ExitCode {
    // A round that panics is a row of the table; where it was is enough.
    std::panic::set_hook(Box::new(|info| {
        writeln!(std::io::stderr(), "{info}").ok();
    }));
    let mut options = Options { seed: by_time(), ..Options::default() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" => options.only.push(args.next().expect("--only PART")),
            "--sluice" => options.program = Some(args.next().expect("--sluice PATH").into()),
            "--list" => {
                for fault in faults() {
                    writeln!(stdout(), "{}", fault.name).ok();
                }
                return ExitCode::SUCCESS;
            }
            seed => options.seed = seed.parse().expect("a number as the seed"),
        }
    }
    if run(&options).await { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn by_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
}
