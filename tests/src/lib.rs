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

pub mod etcd;
pub mod process;
pub mod receiver;
pub mod recording;

use std::{
    future::Future,
    net::TcpListener,
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

/// A free port of the loopback address. Freed again at once: whoever uses it must be started
/// soon, and fails loudly if somebody was faster.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
