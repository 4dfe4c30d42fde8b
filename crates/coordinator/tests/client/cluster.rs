//! The client and the coordinator on an etcd cluster that loses its leader or its quorum (L12).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use sluice_client::coordination::{Coordination, Lock, LostCause, Member, Session, SessionOptions};
use sluice_model::Epoch;
use tokio::time::{Instant, timeout};

use crate::{
    etcd_cluster::Cluster,
    node::{Node, commit, ingestor, pointer},
};

const LOCK: &str = "ingestor/chain";
const LONG: Duration = Duration::from_secs(60);

async fn session(client: &Coordination, name: &str, ttl: Duration) -> Session {
    let member = Member::here(name, "");
    client.session(SessionOptions { ttl, member }).await.unwrap()
}

async fn acquire(session: &Session) -> Lock {
    timeout(LONG, session.acquire(LOCK)).await.unwrap().unwrap()
}

/// Repeats a commit that does not come through; it is idempotent.
async fn commit_at_last(
    client: &Coordination,
    lock: &Lock,
    commit: &sluice_client::coordination::Commit,
) {
    let since = Instant::now();
    while let Err(error) = client.commit(lock, commit).await {
        assert!(error.is_transient() && since.elapsed() < LONG, "{error}");
    }
}

/// A leader that is followed within the lease costs nobody the lock.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_in_time_changes_no_owner() {
    let mut cluster = Cluster::start().await;
    let node = Node::new(cluster.kv().await, "leader");
    let client = node.client();
    let id = client.ensure_journal(&ingestor("chain")).await.unwrap().id;
    let ttl = Duration::from_secs(20);
    let (one, two) = (session(&client, "one", ttl).await, session(&client, "two", ttl).await);
    let lock = acquire(&one).await;
    let waiter = tokio::spawn(async move { (two.acquire(LOCK).await.unwrap(), two) });
    let (epoch, lease) = (lock.epoch(), one.id());
    let mut control = client.watch_control(&ingestor("chain"));
    control.next().await.unwrap();
    let mut height = 0;
    for round in 0..2 {
        let leader = cluster.leader().await;
        cluster.kill(leader);
        let killed = Instant::now();
        commit_at_last(&client, &lock, &commit(id, height, height + 1)).await;
        height += 1;
        let next = cluster.leader().await;
        assert_ne!(next, leader);
        // The lease is renewed by the new leader; the watches hear of what happens under it.
        let before = lock.remaining();
        while lock.remaining() <= before {
            assert!(lock.is_valid() && killed.elapsed() < ttl, "not renewed in time");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let paused = client.set_paused(&ingestor("chain"), round == 0, "ops", "").await.unwrap();
        assert_eq!(timeout(LONG, control.next()).await.unwrap().unwrap(), paused);
        assert!(lock.is_valid() && !waiter.is_finished());
        assert_eq!((lock.epoch(), one.id()), (epoch, lease));
        let owners = client.locks(LOCK).await.unwrap();
        assert_eq!((owners[0].epoch, owners[0].waiters.len()), (epoch, 1));
        println!(
            "leader {round} killed; commits, renewals and watches again after {:?}",
            killed.elapsed()
        );
        cluster.restart(leader);
        cluster.leader().await;
    }
    let stored = client.latest(&ingestor("chain")).await.unwrap().unwrap();
    assert_eq!((stored.sequence, stored.pointer), (height, pointer(height)));
    lock.release().await.unwrap();
    let (won, _two) = timeout(LONG, waiter).await.unwrap().unwrap();
    assert!(won.epoch() > epoch);
}

/// Who believes to own, and under which epochs that was so.
#[derive(Default)]
struct Owners {
    believes: AtomicBool,
    epochs: Mutex<Vec<Epoch>>,
}

/// Owns over and over, and says so while the lock is valid.
async fn contend(session: Session, owners: Arc<Owners>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::SeqCst) {
        let Ok(Ok(lock)) = timeout(Duration::from_secs(1), session.acquire(LOCK)).await else {
            continue;
        };
        assert!(!owners.believes.swap(true, Ordering::SeqCst), "two owners at once");
        owners.epochs.lock().push(lock.epoch());
        let held = Instant::now();
        while lock.is_valid() && held.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        owners.believes.store(false, Ordering::SeqCst);
        drop(lock.release().await);
    }
}

/// Without a quorum for longer than the lease: the owner stops by itself before its deadline, and
/// afterwards there is at most one, under a later epoch.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_there_is_at_most_one_owner() {
    let mut cluster = Cluster::start().await;
    let node = Node::new(cluster.kv().await, "quorum");
    let client = node.client();
    let ttl = Duration::from_secs(3);
    let holder = session(&client, "holder", ttl).await;
    let lock = acquire(&holder).await;
    let epoch = lock.epoch();
    let (owners, stop) = (Arc::new(Owners::default()), Arc::new(AtomicBool::new(false)));
    owners.believes.store(true, Ordering::SeqCst);
    let mut contenders = tokio::task::JoinSet::new();
    for name in ["two", "three"] {
        let session = session(&client, name, ttl).await;
        contenders.spawn(contend(session, Arc::clone(&owners), Arc::clone(&stop)));
    }
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    cluster.kill(leader);
    cluster.kill(other);
    let killed = Instant::now();
    let cause = timeout(ttl * 2, lock.lost()).await.unwrap();
    assert!(killed.elapsed() < ttl, "{:?}", killed.elapsed());
    assert_eq!(cause, LostCause::Deadline);
    assert!(!lock.is_valid());
    owners.believes.store(false, Ordering::SeqCst);
    tokio::time::sleep(ttl).await;
    assert!(owners.epochs.lock().is_empty(), "nobody owns without a quorum");
    cluster.restart(leader);
    cluster.restart(other);
    let since = Instant::now();
    while owners.epochs.lock().len() < 3 {
        assert!(since.elapsed() < LONG, "nobody owns afterwards");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Ordering::SeqCst);
    contenders.join_all().await;
    let epochs = owners.epochs.lock().clone();
    assert!(epochs[0] > epoch && epochs.windows(2).all(|pair| pair[0] < pair[1]), "{epochs:?}");
}
