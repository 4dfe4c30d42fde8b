//! The router over a real embedded journal in a temporary directory, called through the generated
//! clients over an in-process transport.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking, and their numbers are small"
)]

mod append;
mod catalog;
mod delivery;
mod ends;
mod live;
mod support;
