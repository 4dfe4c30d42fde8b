//! The suites on a real etcd, and what happens when it fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

#[path = "support/etcd.rs"]
mod support;

use std::{sync::Arc, time::Duration};

use sluice_coordination::{
    Acquisition, Coordination, KvError, LockState, Member, Options, Ticket, conformance,
};
use support::Etcd;
use tokio::time::Instant;

const TTL: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn etcd_passes_the_suite() {
    let etcd = Etcd::start().await;
    conformance::run(etcd.kv().await, conformance::cases(), true).await;
    conformance::run(etcd.kv().await, conformance::alone(), false).await;
}

async fn candidate(c: &Coordination, nonce: u8, ttl: Duration) -> (Ticket, Acquisition) {
    let (session, _) = c.grant_session(&vec![nonce; 16].into(), ttl).await.unwrap();
    let ticket = Ticket { lock: "lock".to_owned(), session, nonce: vec![nonce; 16].into() };
    (ticket.clone(), c.acquire(ticket, Member::default()).unwrap())
}

async fn next(acquisition: &mut Acquisition) -> LockState {
    tokio::time::timeout(Duration::from_secs(20), acquisition.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
}

/// L13: a restart gives leases their full time again, and never a second owner.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_owner_and_the_epoch() {
    let mut etcd = Etcd::start().await;
    let c = Coordination::new(etcd.kv().await, &Options::default());
    let (holder, mut owns) = candidate(&c, 1, Duration::from_secs(5)).await;
    let LockState::Owned { epoch } = next(&mut owns).await else { panic!("not owned") };
    let (waiter, mut waits) = candidate(&c, 2, Duration::from_secs(60)).await;
    assert!(matches!(next(&mut waits).await, LockState::Waiting { .. }));
    etcd.restart().await;
    let restarted = Instant::now();
    // Who follows either survives the outage or asks again under the same nonce.
    let mut again = c.acquire(holder.clone(), Member::default()).unwrap();
    assert_eq!(next(&mut again).await, LockState::Owned { epoch });
    let left = c.keep_alive(holder.session, &[holder.nonce]).await.unwrap();
    assert_eq!(left, Duration::from_secs(5));
    // The holder stops renewing: the waiter follows within the lease and what etcd adds.
    let mut waits = c.acquire(waiter, Member::default()).unwrap();
    let state = loop {
        match next(&mut waits).await {
            LockState::Waiting { .. } => {}
            other => break other,
        }
    };
    let LockState::Owned { epoch: later } = state else { panic!("{state:?}") };
    assert!(later > epoch);
    assert!(restarted.elapsed() > Duration::from_secs(4), "{:?}", restarted.elapsed());
    assert!(restarted.elapsed() < Duration::from_secs(12), "{:?}", restarted.elapsed());
}

/// L11: while the store is away nothing is renewed, and calls fail in bounded time, saying which
/// of them may have taken effect.
#[tokio::test(flavor = "multi_thread")]
async fn an_absent_store_is_an_error_not_a_hang() {
    let mut etcd = Etcd::start().await;
    let mut options = etcd.options();
    options.timeout = Duration::from_millis(800);
    options.renew_timeout = Duration::from_millis(500);
    let kv = sluice_coordination::EtcdKv::connect(options).await.unwrap();
    let c = Coordination::new(Arc::new(kv), &Options::default());
    let (holder, mut owns) = candidate(&c, 1, TTL).await;
    assert!(matches!(next(&mut owns).await, LockState::Owned { .. }));
    etcd.kill();
    let since = Instant::now();
    assert!(c.keep_alive(holder.session, &[]).await.is_err());
    let read = c.locks("").await.unwrap_err();
    assert!(matches!(read, sluice_coordination::Error::Kv(KvError::Unavailable(_))), "{read}");
    assert!(c.release(&holder).await.is_err());
    assert!(owns.next().await.unwrap().is_err(), "an outage is not a loss");
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    etcd.restart().await;
    // The same connections come back by themselves.
    let since = Instant::now();
    while c.locks("").await.is_err() {
        assert!(since.elapsed() < Duration::from_secs(10));
    }
    let (_, mut owns) = candidate(&c, 2, Duration::from_secs(60)).await;
    loop {
        match next(&mut owns).await {
            LockState::Owned { .. } => break,
            LockState::Waiting { .. } => {}
            LockState::Lost { cause } => panic!("{cause}"),
        }
    }
}

/// S21: a store that was stopped for longer than a lease has at most one owner afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_store_ends_leases_but_never_doubles_owners() {
    let etcd = Etcd::start().await;
    let c = Coordination::new(etcd.kv().await, &Options::default());
    let (holder, mut owns) = candidate(&c, 1, TTL).await;
    let LockState::Owned { epoch } = next(&mut owns).await else { panic!("not owned") };
    let (_, mut waits) = candidate(&c, 2, Duration::from_secs(60)).await;
    assert!(matches!(next(&mut waits).await, LockState::Waiting { .. }));
    etcd.pause(true);
    tokio::time::sleep(TTL * 2).await;
    etcd.pause(false);
    let LockState::Owned { epoch: later } = next(&mut waits).await else { panic!("not owned") };
    assert!(later > epoch);
    assert!(matches!(next(&mut owns).await, LockState::Lost { .. }));
    assert!(c.keep_alive(holder.session, &[holder.nonce]).await.unwrap().is_zero());
    assert_eq!(c.locks("").await.unwrap()[0].epoch, Some(later));
}
