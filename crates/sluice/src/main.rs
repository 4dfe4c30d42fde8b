//! The `sluice` program; everything is in the library, so that tests see it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice::main()
}
