//! The client against a whole coordinator, on the embedded store and on a real etcd.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test reports by panicking"
)]

#[path = "client/cases.rs"]
mod cases;
#[path = "client/clock.rs"]
mod clock;
#[path = "client/cluster.rs"]
mod cluster;
#[path = "client/control.rs"]
mod control;
#[path = "../../coordination/tests/support/etcd.rs"]
mod etcd;
#[path = "../../coordination/tests/support/cluster.rs"]
mod etcd_cluster;
#[path = "client/hang.rs"]
mod hang;
#[path = "support/hole.rs"]
mod hole;
#[path = "client/node.rs"]
mod node;

use std::sync::Arc;

use sluice_coordination::{EmbeddedKv, Kv, conformance};

fn all() -> Vec<conformance::Case> {
    cases::all().into_iter().chain(control::all()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn over_memory() {
    let kv: Arc<dyn Kv> = Arc::new(EmbeddedKv::in_memory());
    conformance::run(kv, all(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_etcd() {
    let mut etcd = etcd::Etcd::start().await;
    conformance::run(etcd.kv().await, all(), true).await;
    let options = sluice_coordination::EtcdOptions {
        timeout: std::time::Duration::from_millis(800),
        ..etcd.options()
    };
    let kv = sluice_coordination::EtcdKv::connect(options).await.unwrap();
    let before = cases::before_outage(Arc::new(kv)).await;
    etcd.kill();
    let during = cases::during_outage(before).await;
    etcd.restart().await;
    etcd.pause(false);
    cases::after_outage(during).await;
}
