//! What coordination costs: hand-over latency, commits offered against writes to etcd, and 1,000
//! ingestors on one coordinator and one etcd, across a crash of the coordinator. A coordinator is
//! a process of its own (this program, started again), reached over the loopback interface.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a benchmark prints its table and panics when something is wrong"
)]

#[path = "../../../coordination/tests/support/etcd.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod etcd;
mod fleet;
mod latency;
mod rig;

use std::time::Duration;

/// A line of the table.
pub(crate) fn row(what: &str, value: &str) {
    println!("{what:<66} {value}");
}

pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

/// The median, the 99th percentile and the greatest.
pub(crate) fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    format!("p50 {}, p99 {}, max {}", millis(at(50)), millis(at(99)), millis(at(100)))
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let [_, verb, endpoint, port] = arguments.as_slice()
        && verb == "serve"
    {
        return runtime.block_on(rig::serve(endpoint, port.parse().unwrap()));
    }
    runtime.block_on(async {
        let mut rig = rig::Rig::start().await;
        row("etcd, alone", &rig.etcd_write().await);
        latency::hand_over(&rig).await;
        latency::coalescing(&rig).await;
        fleet::run(&mut rig).await;
        rig.stop();
    });
}
