//! Tests of the frame format through its public face.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a failure here is a failed test"
)]

mod common;
mod frames;
mod scan;
