//! What the outside world does wrong, done to real processes: a full disk, a disk that fails to
//! sync, a huge block, a directory in use, wrong configurations, a source with holes.
//!
//! Where a machine does not allow a fault to be made, the test says so and is skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a failure here is a failed test"
)]

mod block_files;
mod full_disk;
mod large_block;
mod refusals;
mod support;
mod sync_failure;
