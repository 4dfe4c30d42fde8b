//! The public Rust SDK: capture, append, subscribe with resume, locks and commits.
//!
//! Every module is a client of one service over a [`Transport`](sluice_service::Transport), so the
//! same code runs over the network and inside the all-in-one process.

pub mod append;
pub mod backoff;
pub mod capture;
pub mod coordination;
pub mod details;
pub mod subscribe;
