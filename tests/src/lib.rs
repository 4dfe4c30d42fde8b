//! The harness of the end-to-end tests: real processes, a real etcd, a real HTTP receiver.
//!
//! Everything waits for a condition with a deadline; nothing sleeps for luck. A process's log is
//! kept in its directory and shown when a wait runs out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is a failed test"
)]

pub mod chaos;
pub mod checker;
pub mod disk;
pub mod etcd;
pub mod etcd_cluster;
pub mod network;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod recording;
pub mod syscalls;

use std::{
    future::Future,
    io::Write,
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

/// How long any condition may take to come true on a slow, busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until there is an answer. Panics with `what` when [`PATIENCE`] is over.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Says, past the test runner's capture, that a test could not be made here and why.
pub fn skipped(test: &str, why: &str) {
    let line = format!("SKIPPED {test}: this machine does not allow it: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).ok();
}

/// A free port of the loopback address, given to nobody else in this process. It lies below the
/// ports that the system gives to connections, so that none of those takes it before whoever it
/// is for listens.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Another process that runs tests begins elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    loop {
        let offset = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).into());
        let port = 10_000 + u16::try_from(offset % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
