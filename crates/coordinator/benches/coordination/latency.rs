//! How long it takes until the next one owns, and how many writes commits cost.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use sluice_client::coordination::{Coalesced, CommitWriter};
use sluice_model::{IngestorName, Pointer};

use crate::{
    rig::{Rig, TTL, commit, session},
    row, spread,
};

const GRACEFUL: usize = 100;
const CRASHES: u32 = 8;

pub(crate) async fn hand_over(rig: &Rig) {
    let (one, two) = (rig.client(), rig.client());
    let sessions = [session(&one, "one").await, session(&two, "two").await];
    let mut held = sessions[0].acquire("ingestor/graceful").await.unwrap();
    let mut times = Vec::new();
    for round in 1..=GRACEFUL {
        let next = sessions[round % 2].clone();
        let waiter = tokio::spawn(async move {
            let lock = next.acquire("ingestor/graceful").await.unwrap();
            (lock, Instant::now())
        });
        while one.locks("ingestor/graceful").await.unwrap()[0].waiters.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let begin = Instant::now();
        held.release().await.unwrap();
        let (lock, owned) = waiter.await.unwrap();
        times.push(owned - begin);
        held = lock;
    }
    row(&format!("hand-over, released, {GRACEFUL} rounds"), &spread(times));

    let mut crashes = tokio::task::JoinSet::new();
    for n in 0..CRASHES {
        let ((mortal, dead), heir) = (rig.mortal(), rig.client());
        crashes.spawn(async move {
            let name = format!("ingestor/crash-{n}");
            let dying = session(&mortal, "dying").await;
            let lock = dying.acquire(&name).await.unwrap();
            let session = session(&heir, "heir").await;
            let waiter = tokio::spawn(async move {
                let lock = session.acquire(&name).await.unwrap();
                (lock, session, Instant::now())
            });
            // At different times after the last keepalive.
            tokio::time::sleep(TTL / 3 + TTL / 3 * n / CRASHES).await;
            let begin = Instant::now();
            dead.store(true, Ordering::SeqCst);
            let stopped = tokio::spawn(async move {
                lock.lost().await;
                Instant::now()
            });
            let (lock, _session, owned) = waiter.await.unwrap();
            drop(lock);
            let stopped = stopped.await.unwrap();
            assert!(stopped < owned, "two owners");
            (owned - begin, owned - stopped)
        });
    }
    let (taken, apart): (Vec<_>, Vec<_>) = crashes.join_all().await.into_iter().unzip();
    let least = apart.into_iter().min().unwrap();
    row(&format!("hand-over, crashed, lease {TTL:?}, {CRASHES} crashes"), &spread(taken));
    row("  the old owner stopped before the new one began by, at least", &format!("{least:.1?}"));
}

pub(crate) async fn coalescing(rig: &Rig) {
    let client = rig.client();
    let ingestor: IngestorName = "coalesced".parse().unwrap();
    let journal = client.ensure_journal(&ingestor).await.unwrap().id;
    let session = session(&client, "one").await;
    let lock = session.acquire("ingestor/coalesced").await.unwrap();
    let writer = CommitWriter::new(client.clone(), lock.clone(), Pointer::ORIGIN);
    let commits = Coalesced::spawn(Duration::from_secs(1), writer);
    let (before, begin) = (rig.store().await.0, Instant::now());
    let mut offered = 0u64;
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    while begin.elapsed() < Duration::from_secs(5) {
        tick.tick().await;
        offered += 1;
        commits.offer(commit(&ingestor, journal, offered));
    }
    commits.flush().await.unwrap();
    let written = rig.store().await.0 - before;
    let stored = client.latest(&ingestor).await.unwrap().unwrap();
    assert_eq!(stored.pointer, Pointer::from_height(offered), "the newest is written");
    row("commits of one ingestor in 5 s", &format!("{offered} offered, {written} writes to etcd"));
}
