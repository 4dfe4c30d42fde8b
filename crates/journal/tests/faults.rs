//! The journal on a file system in memory that crashes, fails, runs full and is damaged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by panicking, as tests do"
)]

mod faults {
    mod bits;
    mod crash;
    mod damage;
    mod failure;
    mod history;
    mod support;
    mod trim;
}
