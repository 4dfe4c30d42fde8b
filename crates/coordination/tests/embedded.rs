//! The suites on the embedded store, in memory and on disk, and what only it does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::{sync::Arc, time::Duration};

use sluice_coordination::{
    Answer, Coordination, EmbeddedKv, Kv, KvError, LockState, Member, Op, Options, Ticket, Txn,
    conformance,
};

#[tokio::test(flavor = "multi_thread")]
async fn memory_passes_the_suite() {
    let kv: Arc<dyn Kv> = Arc::new(EmbeddedKv::in_memory());
    conformance::run(Arc::clone(&kv), conformance::cases(), true).await;
    conformance::run(kv, conformance::alone(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_passes_the_suite() {
    let directory = tempfile::tempdir().unwrap();
    let kv: Arc<dyn Kv> = Arc::new(EmbeddedKv::open(directory.path()).await.unwrap());
    conformance::run(Arc::clone(&kv), conformance::cases(), true).await;
    conformance::run(kv, conformance::alone(), false).await;
}

fn put(key: &str, value: &str, lease: Option<u64>) -> Txn {
    let value = value.as_bytes().to_vec().into();
    Txn::read(vec![Op::Put { key: key.to_owned(), value, lease }])
}

#[tokio::test]
async fn a_reopened_store_has_everything_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let kv = EmbeddedKv::open(directory.path()).await.unwrap();
    kv.grant(7, Duration::from_secs(2)).await.unwrap();
    let mut last = 0;
    for n in 0..50 {
        last = kv.txn(put(&format!("/k/{n}"), "v", None)).await.unwrap().revision;
    }
    kv.txn(put("/leased", "v", Some(7))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    kv.close().await;
    assert!(matches!(kv.get("/leased").await, Err(KvError::Unavailable(_))));

    let kv = EmbeddedKv::open(directory.path()).await.unwrap();
    let range = kv.range("/k/", 100).await.unwrap();
    assert_eq!((range.entries.len(), range.revision), (50, last + 1));
    // The lease has its full time again, and then ends.
    let left = kv.time_to_live(7).await.unwrap().unwrap();
    assert!(left > Duration::from_millis(1500), "{left:?}");
    let since = tokio::time::Instant::now();
    while kv.get("/leased").await.unwrap().1.is_some() {
        assert!(since.elapsed() < Duration::from_secs(4));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // History from before the restart is gone, and a watch says so.
    let mut watch = kv.watch("/k/1", 1).await.unwrap();
    let first = futures_util::StreamExt::next(&mut watch).await;
    assert!(matches!(first, Some(Err(KvError::Compacted { .. }))));
}

#[tokio::test]
async fn many_writers_share_a_sync() {
    let directory = tempfile::tempdir().unwrap();
    let kv = EmbeddedKv::open(directory.path()).await.unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let kv = kv.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let answer = kv.txn(put(&format!("/{n}"), "x", None)).await.unwrap();
                    assert_eq!(answer.answers, [Answer::Put]);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(kv.status().await.unwrap().0, 64 * 20);
}

/// A restart of the coordinator: the owner keeps the lock and its epoch, the waiter its place.
#[tokio::test]
async fn locks_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let kv = EmbeddedKv::open(directory.path()).await.unwrap();
    let c = Coordination::new(Arc::new(kv.clone()), &Options::default());
    let ticket = |nonce: u8, session| Ticket {
        lock: "lock".to_owned(),
        session,
        nonce: vec![nonce; 16].into(),
    };
    let ttl = Duration::from_secs(30);
    let (session, _) = c.grant_session(&vec![1; 16].into(), ttl).await.unwrap();
    let (owner, waiter) = (ticket(2, session), ticket(3, session));
    let mut owns = c.acquire(owner.clone(), Member::default()).unwrap();
    let Some(Ok(LockState::Owned { epoch })) = owns.next().await else { panic!("not owned") };
    let mut waits = c.acquire(waiter.clone(), Member::default()).unwrap();
    assert!(matches!(waits.next().await, Some(Ok(LockState::Waiting { ahead: 1, .. }))));
    kv.close().await;
    // Whoever follows a candidate hears of an outage, not of a loss.
    assert!(matches!(owns.next().await, Some(Err(_))));

    let kv = EmbeddedKv::open(directory.path()).await.unwrap();
    let c = Coordination::new(Arc::new(kv), &Options::default());
    let mut owns = c.acquire(owner.clone(), Member::default()).unwrap();
    assert_eq!(owns.next().await.unwrap().unwrap(), LockState::Owned { epoch });
    let mut waits = c.acquire(waiter, Member::default()).unwrap();
    assert!(matches!(waits.next().await, Some(Ok(LockState::Waiting { ahead: 1, .. }))));
    c.release(&owner).await.unwrap();
    let Some(Ok(LockState::Owned { epoch: next })) = waits.next().await else {
        panic!("not owned")
    };
    assert!(next > epoch);
}
