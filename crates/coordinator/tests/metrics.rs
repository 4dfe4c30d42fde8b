//! What operators see of locks, sessions and commits, as Prometheus text.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::{sync::Arc, time::Duration};

use sluice_client::coordination::{Commit, Coordination, Member, Session, SessionOptions};
use sluice_coordination::EmbeddedKv;
use sluice_coordinator::{Coordinator, CoordinatorOptions, StoreOptions};
use sluice_model::{Digest, Durability, Generation, JournalId, Pointer};
use sluice_service::{Service, Shutdown, transport};
use sluice_telemetry::TelemetryOptions;
use tokio::time::Instant;

const LOCK: &str = "ingestor/chain";

/// The value of a line of the Prometheus text; `None` if there is no such line.
fn value(name: &str, labels: &[&str]) -> Option<f64> {
    let text = sluice_telemetry::prometheus_text().unwrap();
    let line = text.lines().find(|line| {
        line.split(['{', ' ']).next() == Some(name)
            && labels.iter().all(|label| line.contains(label))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

async fn until(what: &str, name: &str, labels: &[&str], holds: impl Fn(f64) -> bool) {
    let since = Instant::now();
    while !value(name, labels).is_some_and(&holds) {
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "{what}: {name} {labels:?} is {:?} in\n{}",
            value(name, labels),
            sluice_telemetry::prometheus_text().unwrap()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn commit(journal: JournalId, from: u64, to: u64) -> Commit {
    let pointer = |height| match height {
        0 => Pointer::ORIGIN,
        height => Pointer::from_height(height),
    };
    Commit {
        ingestor: "chain".parse().unwrap(),
        previous: pointer(from),
        journal,
        generation: Generation(0),
        pointer: pointer(to),
        digest: Digest::from_array([1; 32]),
        durability: Durability::Fsynced,
    }
}

async fn session(client: &Coordination, node: &str) -> Session {
    let options = SessionOptions { ttl: Duration::from_secs(3), member: Member::here(node, "") };
    client.session(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_sessions_and_commits_are_seen() {
    let _telemetry = sluice_telemetry::init("test", &TelemetryOptions::default()).unwrap();
    let options = CoordinatorOptions::new(StoreOptions::Memory);
    let coordinator = Coordinator::over(Arc::new(EmbeddedKv::in_memory()), &options);
    let client = Coordination::new(transport::local(coordinator.routes()));
    tokio::spawn(Box::new(coordinator).run(Shutdown::new(Duration::from_secs(1))));
    let (one, two) = (session(&client, "one").await, session(&client, "two").await);
    let lock = one.acquire(LOCK).await.unwrap();
    let held = ["lock=\"ingestor/chain\""];
    until("held", "sluice_lock_holder", &held, |value| value == 1.0).await;
    let epoch = |epoch: sluice_model::Epoch| move |value: f64| value == epoch.as_u64() as f64;
    until("epoch", "sluice_lock_epoch", &held, epoch(lock.epoch())).await;
    until("renewed", "sluice_session_keepalive_duration_seconds_count", &[], |n| n >= 2.0).await;
    until("remaining", "sluice_session_remaining_seconds", &[], |left| left > 0.5 && left < 3.0)
        .await;

    let id = client.ensure_journal(&"chain".parse().unwrap()).await.unwrap().id;
    client.commit(&lock, &commit(id, 0, 1)).await.unwrap();
    client.commit(&lock, &commit(id, 1, 2)).await.unwrap();
    client.commit(&lock, &commit(id, 7, 8)).await.unwrap_err();
    let chain = "ingestor=\"chain\"";
    until("commits", "sluice_commits_total", &[chain], |n| n == 2.0).await;
    let position = [chain, "kind=\"position\""];
    until("conflicts", "sluice_commit_conflicts_total", &position, |n| n == 1.0).await;
    let commits = ["kind=\"commit\""];
    until("stored", "sluice_coordinator_writes_total", &commits, |n| n == 2.0).await;
    let refused = ["call=\"Commit\"", "cause=\"position_conflict\""];
    until("refused", "sluice_coordinator_refusals_total", &refused, |n| n == 1.0).await;
    until("size", "sluice_coordinator_store_size_bytes", &[], |_| true).await;
    until("budget", "sluice_coordinator_budget_granted", &[], |n| n >= 3.0).await;

    // Another one takes over in the same process: still one holder.
    let waiter = tokio::spawn(async move { (two.acquire(LOCK).await.unwrap(), two) });
    let waits = "sluice_lock_wait_seconds_count";
    tokio::time::sleep(Duration::from_millis(50)).await;
    lock.release().await.unwrap();
    let (next, two) = waiter.await.unwrap();
    until("waited", waits, &[], |n| n == 2.0).await;
    assert_eq!(value("sluice_lock_holder", &held), Some(1.0));
    until("next epoch", "sluice_lock_epoch", &held, epoch(next.epoch())).await;
    client.commit(&lock, &commit(id, 2, 3)).await.unwrap_err();
    let lost = [chain, "kind=\"lost_ownership\""];
    until("fenced", "sluice_commit_conflicts_total", &lost, |n| n == 1.0).await;
    drop(lock);
    assert_eq!(value("sluice_lock_holder", &held), Some(1.0), "counted off once");
    // A lock that is dropped counts like one that is released; one that is lost is told apart.
    drop(next);
    until("dropped", "sluice_lock_holder", &held, |n| n == 0.0).await;
    let lost = two.acquire(LOCK).await.unwrap();
    two.close().await;
    until("closed", "sluice_lock_holder", &held, |n| n == 0.0).await;
    assert!(!lost.is_valid());
    assert_eq!(value("sluice_lock_lost_total", &held), None, "nothing was lost here");
}
