//! Sessions, locks and epochs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use sluice_model::Epoch;
use tokio::time::Instant;

use super::{
    LossyKv,
    helpers::{
        LONG, SHORT, candidate, candidate_under, commit, coordination, delete_by_hand, member,
        next, own, owned, session, waiting,
    },
};
use crate::{
    Error, LockState, Ticket, WallClock,
    kv::{Kv, Op, Txn},
};

pub(super) async fn l1_no_overlap(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "l1");
    let (held, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..2)
        .map(|_| {
            let (c, held, last) = (c.clone(), Arc::clone(&held), Arc::clone(&last));
            tokio::spawn(async move {
                for _ in 0..10 {
                    let (ticket, epoch) = own(&c, "lock", LONG).await;
                    assert!(!held.swap(true, Ordering::SeqCst), "two owners");
                    assert!(last.swap(epoch.as_u64(), Ordering::SeqCst) < epoch.as_u64());
                    tokio::task::yield_now().await;
                    held.store(false, Ordering::SeqCst);
                    c.end_session(ticket.session).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

pub(super) async fn l2_names_are_strangers(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "l2");
    let long = "x".repeat(200);
    for name in ["a", "a/b", "ab", "a%2Fb", "a%", "zürich", "a b", "..", ".", &long] {
        own(&c, name, LONG).await;
    }
    assert!(
        c.acquire(
            Ticket { lock: String::new(), session: 1, nonce: super::helpers::nonce() },
            member("")
        )
        .is_err()
    );
}

pub(super) async fn l3_first_come_first_served(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "l3");
    let (mut holder, mut last) = own(&c, "lock", LONG).await;
    let mut queue = Vec::new();
    for ahead in 1..6 {
        let (ticket, mut acquisition) = candidate(&c, "lock", LONG).await;
        let state = next(&mut acquisition).await;
        assert!(matches!(state, LockState::Waiting { ahead: n, .. } if n == ahead), "{state:?}");
        queue.push((ticket, acquisition));
    }
    for (ticket, mut acquisition) in queue {
        c.release(&holder).await.unwrap();
        let epoch = owned(&mut acquisition).await;
        assert!(epoch > last);
        (holder, last) = (ticket, epoch);
    }
}

pub(super) async fn l4_cancelled_waiter(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "l4");
    let (holder, _) = own(&c, "lock", LONG).await;
    let (cancelled, mut first) = candidate(&c, "lock", LONG).await;
    waiting(&mut first).await;
    let (_, mut second) = candidate(&c, "lock", LONG).await;
    waiting(&mut second).await;
    let follower = tokio::spawn(async move { owned(&mut second).await });
    drop(first);
    c.release(&cancelled).await.unwrap();
    assert_eq!(c.locks("lock").await.unwrap()[0].waiters.len(), 1);
    assert!(!follower.is_finished(), "the follower does not skip the owner");
    c.release(&holder).await.unwrap();
    follower.await.unwrap();
}

pub(super) async fn l5_crashed_holder(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "l5");
    own(&c, "lock", SHORT).await;
    let since = Instant::now();
    let (_, mut next) = candidate(&c, "lock", LONG).await;
    owned(&mut next).await;
    assert!(since.elapsed() < SHORT + Duration::from_secs(2), "{:?}", since.elapsed());
    assert!(since.elapsed() > SHORT / 2);
}

pub(super) async fn l6_graceful_exit(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "l6");
    let (holder, _) = own(&c, "lock", LONG).await;
    let (_, mut next) = candidate(&c, "lock", LONG).await;
    waiting(&mut next).await;
    let waiter = tokio::spawn(async move {
        owned(&mut next).await;
        Instant::now()
    });
    let since = Instant::now();
    c.end_session(holder.session).await.unwrap();
    let took = waiter.await.unwrap().duration_since(since);
    assert!(took < Duration::from_millis(500), "{took:?}");
}

pub(super) async fn l7_paused_holder(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "l7");
    c.ensure_journal(&"chain".parse().unwrap(), super::helpers::JOURNAL).await.unwrap();
    let (paused, mut acquisition) = candidate(&c, "ingestor/chain", SHORT).await;
    let epoch = owned(&mut acquisition).await;
    c.commit(&paused, epoch, &commit("chain", 0, 1)).await.unwrap();
    // Sends no keepalive, as a stopped process would not.
    let (successor, new) = own(&c, "ingestor/chain", LONG).await;
    let refused = c.commit(&paused, epoch, &commit("chain", 1, 2)).await;
    assert!(matches!(refused, Err(Error::LostOwnership { .. })), "{refused:?}");
    assert!(c.keep_alive(paused.session, &[paused.nonce]).await.unwrap().is_zero());
    assert!(matches!(next(&mut acquisition).await, LockState::Lost { .. }));
    let stored = c.commit(&successor, new, &commit("chain", 1, 2)).await.unwrap();
    assert_eq!(stored.sequence, 2, "nothing of the paused holder landed");
}

pub(super) async fn l8_phantom_waiter(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "l8");
    let (holder, _) = own(&c, "lock", LONG).await;
    let (stopped, mut acquisition) = candidate(&c, "lock", SHORT).await;
    waiting(&mut acquisition).await;
    // The waiter does not run: it neither renews nor sees its key go.
    let gone = Instant::now();
    while !c.locks("lock").await.unwrap()[0].waiters.is_empty() {
        assert!(gone.elapsed() < SHORT + Duration::from_secs(3));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    c.release(&holder).await.unwrap();
    let state = next(&mut acquisition).await;
    assert!(matches!(state, LockState::Lost { .. }), "phantom: {state:?}");
    assert!(acquisition.next().await.is_none());
    // Asking again under the ended session says so.
    let mut again = c.acquire(stopped, member("again")).unwrap();
    assert!(matches!(again.next().await, Some(Err(Error::SessionLost(_)))));
}

pub(super) async fn l9_own_key_deleted_while_holding(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "l9");
    let (ticket, mut acquisition) = candidate(&c, "lock", LONG).await;
    owned(&mut acquisition).await;
    let watcher = tokio::spawn(async move { (next(&mut acquisition).await, Instant::now()) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let since = Instant::now();
    delete_by_hand(&c, &ticket).await;
    let (state, at) = watcher.await.unwrap();
    assert!(matches!(state, LockState::Lost { .. }), "{state:?}");
    assert!(at.duration_since(since) < Duration::from_secs(1));
}

pub(super) async fn l10_own_key_deleted_while_waiting(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "l10");
    own(&c, "lock", LONG).await;
    let (ticket, mut acquisition) = candidate(&c, "lock", LONG).await;
    waiting(&mut acquisition).await;
    let watcher = tokio::spawn(async move { next(&mut acquisition).await });
    delete_by_hand(&c, &ticket).await;
    let state = watcher.await.unwrap();
    assert!(matches!(state, LockState::Lost { .. }), "{state:?}");
    // The same nonce queues again.
    let mut again = c.acquire(ticket, member("again")).unwrap();
    waiting(&mut again).await;
}

pub(super) async fn l14_one_session_two_tasks(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "l14");
    let session = session(&c, LONG).await;
    let (first, mut one) = candidate_under(&c, "lock", session);
    let (_, mut two) = candidate_under(&c, "lock", session);
    let epoch = owned(&mut one).await;
    waiting(&mut two).await;
    c.release(&first).await.unwrap();
    assert!(owned(&mut two).await > epoch);
}

pub(super) async fn l15_release_spares_the_successor(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "l15");
    let (first, _) = own(&c, "lock", LONG).await;
    c.release(&first).await.unwrap();
    let (_, epoch) = own(&c, "lock", LONG).await;
    c.release(&first).await.unwrap();
    c.end_session(first.session).await.unwrap();
    c.end_session(first.session).await.unwrap();
    c.release(&first).await.unwrap();
    assert_eq!(c.locks("lock").await.unwrap()[0].epoch, Some(epoch));
}

pub(super) async fn l16_compacted_watch(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "l16");
    let (holder, _) = own(&c, "lock", LONG).await;
    let (waiter, mut acquisition) = candidate(&c, "lock", LONG).await;
    waiting(&mut acquisition).await;
    // It will watch from a revision that is gone by then.
    let (other, _) = own(&c, "other", LONG).await;
    c.release(&other).await.unwrap();
    let (revision, _) = c.kv().status().await.unwrap();
    c.kv().compact(revision).await.unwrap();
    let wait = tokio::spawn(async move {
        let epoch = owned(&mut acquisition).await;
        (epoch, acquisition)
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    c.release(&holder).await.unwrap();
    let (_, mut acquisition) = wait.await.unwrap();
    // The same for an owner that watches its own key.
    let (other, _) = own(&c, "other", LONG).await;
    c.release(&other).await.unwrap();
    let (revision, _) = c.kv().status().await.unwrap();
    c.kv().compact(revision).await.unwrap();
    let watcher = tokio::spawn(async move { next(&mut acquisition).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!watcher.is_finished());
    delete_by_hand(&c, &waiter).await;
    assert!(matches!(watcher.await.unwrap(), LockState::Lost { .. }));
}

/// A wall clock that is stepped by an hour, forwards or backwards, at every look.
fn stepping() -> WallClock {
    const HOUR: u64 = 3_600_000;
    let looks = AtomicU64::new(0);
    WallClock::new(move || {
        let look = looks.fetch_add(1, Ordering::SeqCst);
        1_800_000_000_000 + (look * 7919 % 5) * HOUR
    })
}

/// Nothing of locks, commits and trails is decided by a wall clock. (Clients count their lease on
/// the boot clock, `clock.rs` of the client; their test steps the clock of a process.)
pub(super) async fn l17_wall_clock_stepped(kv: Arc<dyn Kv>) {
    let options = crate::Options {
        root: super::helpers::root("l17"),
        clock: stepping(),
        ..crate::Options::default()
    };
    let c = crate::Coordination::new(kv, &options);
    let chain = "chain".parse().unwrap();
    c.ensure_journal(&chain, super::helpers::JOURNAL).await.unwrap();
    let (holder, mut holds) = candidate(&c, "ingestor/chain", SHORT).await;
    let epoch = owned(&mut holds).await;
    let (waiter, mut queued) = candidate(&c, "ingestor/chain", LONG).await;
    waiting(&mut queued).await;
    let since = Instant::now();
    let mut height = 0;
    while since.elapsed() < SHORT + SHORT / 2 {
        let left = c.keep_alive(holder.session, std::slice::from_ref(&holder.nonce)).await.unwrap();
        assert!(left > SHORT / 2, "{left:?}");
        c.commit(&holder, epoch, &commit("chain", height, height + 1)).await.unwrap();
        height += 1;
        c.set_paused(&chain, height % 2 == 1, "ops", "").await.unwrap();
        assert_eq!(c.locks("ingestor/").await.unwrap()[0].epoch, Some(epoch));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Then it is silent, and followed as soon as without the steps.
    let silent = Instant::now();
    let next = owned(&mut queued).await;
    assert!(silent.elapsed() < SHORT + Duration::from_secs(2), "{:?}", silent.elapsed());
    assert!(next > epoch);
    let stored = c.commit(&waiter, next, &commit("chain", height, height + 1)).await.unwrap();
    assert_eq!(stored.sequence, height + 1);
    let trail = c.list_audit(&chain, 0, usize::MAX).await.unwrap();
    assert!(trail.windows(2).all(|pair| pair[0].sequence + 1 == pair[1].sequence));
    assert!(trail.windows(2).any(|pair| pair[0].at > pair[1].at), "the clock was stepped");
}

pub(super) async fn l18_one_wakeup(kv: Arc<dyn Kv>) {
    const WAITERS: usize = 200;
    let c = coordination(kv, "l18");
    let (holder, _) = own(&c, "lock", LONG).await;
    let session = session(&c, LONG).await;
    let mut tasks = tokio::task::JoinSet::new();
    let stop = tokio_util::sync::CancellationToken::new();
    let (ready, mut readied) = tokio::sync::mpsc::channel(WAITERS);
    for _ in 0..WAITERS {
        let (_, mut acquisition) = candidate_under(&c, "lock", session);
        waiting(&mut acquisition).await;
        let (stop, ready) = (stop.clone(), ready.clone());
        tasks.spawn(async move {
            ready.send(()).await.unwrap();
            let won = tokio::select! {
                () = stop.cancelled() => None,
                epoch = owned(&mut acquisition) => Some(epoch),
            };
            if won.is_some() {
                stop.cancel();
            }
            (won, acquisition.wakeups())
        });
    }
    for _ in 0..WAITERS {
        readied.recv().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    c.release(&holder).await.unwrap();
    let ended = tasks.join_all().await;
    assert_eq!(ended.iter().filter(|(won, _)| won.is_some()).count(), 1);
    let wakeups: u64 = ended.iter().map(|(_, wakeups)| wakeups).sum();
    assert!((1..=2).contains(&wakeups), "{wakeups} wakeups");
    c.end_session(session).await.unwrap();
}

pub(super) async fn asking_twice_is_asking_once(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "twice");
    let (holder, epoch) = own(&c, "lock", LONG).await;
    let mut again = c.acquire(holder.clone(), member("other replica")).unwrap();
    assert_eq!(owned(&mut again).await, epoch);
    let (waiter, mut first) = candidate(&c, "lock", LONG).await;
    waiting(&mut first).await;
    let (_, mut behind) = candidate(&c, "lock", LONG).await;
    waiting(&mut behind).await;
    let mut again = c.acquire(waiter, member("other replica")).unwrap();
    let state = next(&mut again).await;
    assert!(matches!(state, LockState::Waiting { ahead: 1, .. }), "kept its place: {state:?}");
    assert_eq!(c.locks("lock").await.unwrap()[0].waiters.len(), 2);
    let nonce = super::helpers::nonce();
    let (one, _) = c.grant_session(&nonce, LONG).await.unwrap();
    assert_eq!(c.grant_session(&nonce, LONG).await.unwrap().0, one);
}

pub(super) async fn unwanted_candidates_go(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "unwanted");
    let session = session(&c, LONG).await;
    let (kept, mut keeps) = candidate_under(&c, "a/b", session);
    let (gone, mut goes) = candidate_under(&c, "a", session);
    let epoch = owned(&mut keeps).await;
    owned(&mut goes).await;
    let left = c.keep_alive(session, std::slice::from_ref(&kept.nonce)).await.unwrap();
    assert!(left > Duration::ZERO);
    assert!(matches!(next(&mut goes).await, LockState::Lost { .. }));
    assert!(c.locks("").await.unwrap().iter().all(|lock| lock.lock != gone.lock));
    assert_eq!(c.locks("a/b").await.unwrap()[0].epoch, Some(epoch));
}

pub(super) async fn epochs_rise(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "epochs");
    let mut last = Epoch::ZERO;
    for _ in 0..5 {
        let (ticket, epoch) = own(&c, "lock", LONG).await;
        assert!(epoch > last);
        last = epoch;
        c.release(&ticket).await.unwrap();
        // The same nonce again is a new place and a new epoch.
        let mut again = c.acquire(ticket.clone(), member("again")).unwrap();
        let epoch = owned(&mut again).await;
        assert!(epoch > last);
        last = epoch;
        c.release(&ticket).await.unwrap();
    }
}

pub(super) async fn raised_incarnation(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "incarnation");
    c.ensure_journal(&"chain".parse().unwrap(), super::helpers::JOURNAL).await.unwrap();
    let (ticket, epoch) = own(&c, "ingestor/chain", LONG).await;
    // A journal that was fenced before the store was restored from an older backup.
    let fence = Epoch::new(2, epoch.revision() + 1000);
    let raised = c.raise_incarnation(&ticket, fence).await.unwrap();
    assert!(raised > fence);
    assert_eq!(raised.revision(), epoch.revision());
    assert_eq!(c.raise_incarnation(&ticket, fence).await.unwrap(), raised, "once");
    let refused = c.commit(&ticket, epoch, &commit("chain", 0, 1)).await;
    assert!(
        matches!(refused, Err(Error::LostOwnership { current: Some(now), .. }) if now == raised)
    );
    c.commit(&ticket, raised, &commit("chain", 0, 1)).await.unwrap();
    // Everyone who wins from now on is above it too.
    let (_, other) = own(&c, "stream/other", LONG).await;
    assert!(other > raised);
    // Only the owner, and only as far as numbers go.
    let (waiter, mut queued) = candidate(&c, "ingestor/chain", LONG).await;
    waiting(&mut queued).await;
    let refused = c.raise_incarnation(&waiter, Epoch::new(9, 0)).await;
    assert!(matches!(refused, Err(Error::LostOwnership { .. })), "{refused:?}");
    let refused = c.raise_incarnation(&ticket, Epoch::from_u64(u64::MAX)).await;
    assert!(matches!(refused, Err(Error::Fence { .. })), "{refused:?}");
}

pub(super) async fn promotion_with_a_lost_reply(kv: Arc<dyn Kv>) {
    let lossy = Arc::new(LossyKv::new(kv));
    let c = coordination(Arc::clone(&lossy) as Arc<dyn Kv>, "lost-promotion");
    lossy.lose(2);
    let (_, epoch) = own(&c, "lock", LONG).await;
    assert_eq!(lossy.left(), 0);
    assert_eq!(c.locks("lock").await.unwrap()[0].epoch, Some(epoch));
}

pub(super) async fn promotion_of_a_key_that_just_went(kv: Arc<dyn Kv>) {
    let lossy = Arc::new(LossyKv::new(kv));
    let c = coordination(Arc::clone(&lossy) as Arc<dyn Kv>, "gone-promotion");
    let (holder, _) = own(&c, "lock", LONG).await;
    let (waiter, mut acquisition) = candidate(&c, "lock", LONG).await;
    waiting(&mut acquisition).await;
    c.release(&holder).await.unwrap();
    // It looked and found itself first; its key goes before it takes the lock.
    let (other, key) = (c.clone(), c.candidate_key(&waiter).unwrap());
    lossy.before_next_write(async move {
        other.kv().txn(Txn::read(vec![Op::Delete(key)])).await.unwrap();
    });
    let state = next(&mut acquisition).await;
    assert!(matches!(state, LockState::Lost { .. }), "phantom: {state:?}");
    assert!(c.locks("lock").await.unwrap().is_empty());
}

pub(super) async fn promotion_while_the_incarnation_rises(kv: Arc<dyn Kv>) {
    let lossy = Arc::new(LossyKv::new(kv));
    let c = coordination(Arc::clone(&lossy) as Arc<dyn Kv>, "rising-promotion");
    let (owner, epoch) = own(&c, "other", LONG).await;
    let (holder, _) = own(&c, "lock", LONG).await;
    let (_, mut acquisition) = candidate(&c, "lock", LONG).await;
    waiting(&mut acquisition).await;
    c.release(&holder).await.unwrap();
    let fence = Epoch::new(4, epoch.revision());
    let other = c.clone();
    lossy.before_next_write(async move {
        other.raise_incarnation(&owner, fence).await.unwrap();
    });
    let won = owned(&mut acquisition).await;
    assert!(won > fence, "{won} read the incarnation before it rose");
}

pub(super) async fn listing(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "listing");
    let (_, epoch) = own(&c, "stream/a", LONG).await;
    own(&c, "ingestor/a", LONG).await;
    let (_, mut queued) = candidate(&c, "stream/a", LONG).await;
    waiting(&mut queued).await;
    let locks = c.locks("stream/").await.unwrap();
    assert_eq!(locks.len(), 1);
    assert_eq!((locks[0].epoch, locks[0].waiters.len()), (Some(epoch), 1));
    assert_eq!(locks[0].owner, Some(member("stream/a")));
    assert_eq!(c.locks("").await.unwrap().len(), 2);
    // A stranger's key under our root is named, not taken for a candidate.
    let key = format!("{}x", c.keys.candidates("stream/a").unwrap());
    let value = "not a candidate".into();
    c.kv().txn(Txn::read(vec![Op::Put { key, value, lease: None }])).await.unwrap();
    let error = c.locks("stream/").await.unwrap_err();
    assert!(matches!(error, Error::Record { .. }), "{error}");
}
