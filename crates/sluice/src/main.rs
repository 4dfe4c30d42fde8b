//! The `sluice` program; everything is in the library, so that tests see it too.

use std::process::ExitCode;

/// Blocks are large, live for a moment and are freed by other threads than made them. glibc gives
/// their memory back to the system and takes it again, page by page, and its threads wait for one
/// another.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    sluice::main()
}
