//! What the client promises.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use sluice_client::coordination::{
    Coalesced, CommitWriter, Coordination, CoordinationError, Hold, Lock, LostCause, PutCheckpoint,
    Session, StreamState, ingestor_lock, stream_lock,
};
use sluice_coordination::{Kv, conformance::Case};
use sluice_model::{Checkpoint, Digest, Epoch, Generation, JournalId, Position, StartPosition};
use tokio::time::{Instant, timeout};

use crate::node::{Fault, Node, TTL, commit, ingestor, pointer};

pub(crate) const LOCK: &str = "ingestor/chain";
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Waits until a condition holds.
macro_rules! until {
    ($holds:expr) => {
        let since = Instant::now();
        while !$holds {
            assert!(since.elapsed() < LONG, "it never came true: {}", stringify!($holds));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
}
macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        vec![$(Case { name: stringify!($name), run: |kv| $name(kv).boxed() }),+]
    };
}

pub(crate) fn all() -> Vec<Case> {
    cases![
        an_owner_commits_and_hands_over,
        a_crashed_holder_is_followed,
        a_paused_holder_stops_in_time,
        a_paused_waiter_is_no_phantom,
        a_key_deleted_while_holding_is_reported,
        a_key_deleted_while_waiting_is_queued_again,
        a_dropped_wait_gives_its_place_up,
        a_dropped_lock_is_released,
        tasks_of_one_session_contend,
        lost_replies_take_effect_once,
        a_lock_survives_its_replica,
        conflicts_name_what_is_stored,
        streams_and_resets,
        holds_and_listing,
        a_raised_incarnation_keeps_the_lock,
        coalesced_commits,
        a_closed_session_refuses,
        a_session_lives_as_long_as_it_is_renewed,
    ]
}

pub(crate) async fn acquire(session: &Session, lock: &str) -> Lock {
    timeout(LONG, session.acquire(lock)).await.unwrap().unwrap()
}

/// Queues in the background, and waits until the store knows.
pub(crate) async fn queue(
    node: &Node,
    session: &Session,
    lock: &'static str,
) -> tokio::task::JoinHandle<Lock> {
    let before = waiters(node, lock).await;
    let session = session.clone();
    let task = tokio::spawn(async move { session.acquire(lock).await.unwrap() });
    until!(waiters(node, lock).await > before);
    task
}

async fn waiters(node: &Node, lock: &str) -> usize {
    node.core().locks(lock).await.unwrap().first().map_or(0, |lock| lock.waiters.len())
}

async fn journal(client: &Coordination) -> JournalId {
    client.ensure_journal(&ingestor("chain")).await.unwrap().id
}

async fn an_owner_commits_and_hands_over(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "hand-over");
    let client = node.client();
    assert_eq!(ingestor_lock(&ingestor("chain")), LOCK);
    let first = client.ensure_journal(&ingestor("chain")).await.unwrap();
    let again = client.ensure_journal(&ingestor("chain")).await.unwrap();
    assert!(first.created && !again.created && first.id == again.id);
    assert_eq!(client.latest(&ingestor("chain")).await.unwrap(), None);

    let (one, two) = (node.session("one").await, node.session("two").await);
    let lock = acquire(&one, LOCK).await;
    assert!(lock.is_valid() && lock.remaining() < TTL);
    let stored = client.commit(&lock, &commit(first.id, 0, 1)).await.unwrap();
    assert_eq!((stored.sequence, stored.epoch), (1, lock.epoch()));
    assert_eq!(client.latest(&ingestor("chain")).await.unwrap(), Some(stored));

    let waiter = queue(&node, &two, LOCK).await;
    let since = Instant::now();
    lock.release().await.unwrap();
    let next = timeout(LONG, waiter).await.unwrap().unwrap();
    assert!(since.elapsed() < Duration::from_millis(500), "{:?}", since.elapsed());
    assert!(next.epoch() > lock.epoch());
    assert_eq!(lock.lost().await, LostCause::Released);
    lock.release().await.unwrap();
    assert!(next.is_valid() && !lock.is_valid());
    let refused = client.commit(&lock, &commit(first.id, 1, 2)).await;
    assert!(matches!(refused, Err(CoordinationError::LostOwnership { .. })), "{refused:?}");
    client.commit(&next, &commit(first.id, 1, 2)).await.unwrap();
}

/// L5: nothing is said, nothing is renewed.
async fn a_crashed_holder_is_followed(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "crash");
    let crashed = Node::new(Arc::clone(node.core().kv()), "crash");
    let one = crashed.session("one").await;
    let lock = acquire(&one, LOCK).await;
    let epoch = lock.epoch();
    let two = node.session("two").await;
    let waiter = queue(&node, &two, LOCK).await;
    // As kill -9 would leave it: no release, no end of the session.
    for method in ["KeepAlive", "Release", "EndSession"] {
        crashed.fault(method, Some(Fault::Hang));
    }
    let since = Instant::now();
    drop((lock, one));
    let next = timeout(LONG, waiter).await.unwrap().unwrap();
    assert!(since.elapsed() < TTL + Duration::from_secs(2), "{:?}", since.elapsed());
    assert!(next.epoch() > epoch);
}

/// L7 and L11: the deadline passes before the store gives the lock away, nothing is committed
/// after it, and afterwards there is a fresh session and a fresh epoch.
async fn a_paused_holder_stops_in_time(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "paused");
    let client = node.client();
    let id = journal(&client).await;
    let session = node.session("paused").await;
    let lock = acquire(&session, LOCK).await;
    let (epoch, first) = (lock.epoch(), session.id());
    for method in ["KeepAlive", "EndSession", "GrantSession", "Release"] {
        node.fault(method, Some(Fault::Hang));
    }
    let cause = timeout(TTL, lock.lost()).await.unwrap();
    assert_eq!(cause, LostCause::Deadline);
    assert!(!lock.is_valid() && !session.is_valid() && lock.remaining().is_zero());
    let owners = node.core().locks(LOCK).await.unwrap();
    assert_eq!(owners[0].epoch, Some(epoch), "it stopped before the store let go");
    let refused = client.commit(&lock, &commit(id, 0, 1)).await;
    assert!(matches!(refused, Err(CoordinationError::LostOwnership { .. })), "{refused:?}");
    assert_eq!(client.latest(&ingestor("chain")).await.unwrap(), None);
    for method in ["KeepAlive", "EndSession", "GrantSession", "Release"] {
        node.fault(method, None);
    }
    let fresh = acquire(&session, LOCK).await;
    assert!(fresh.epoch() > epoch);
    assert_ne!(session.id(), first);
    assert!(!lock.is_valid(), "a lost lock stays lost");
    client.commit(&fresh, &commit(id, 0, 1)).await.unwrap();
}

/// L8: a waiter whose session ended while it did not run never owns under that session.
async fn a_paused_waiter_is_no_phantom(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "phantom");
    let holder = node.session("holder").await;
    let lock = acquire(&holder, LOCK).await;
    let paused = Node::new(Arc::clone(node.core().kv()), "phantom");
    let session = paused.session("paused").await;
    let first = session.id();
    let waiter = queue(&node, &session, LOCK).await;
    for method in ["KeepAlive", "EndSession", "GrantSession", "Release", "Acquire"] {
        paused.fault(method, Some(Fault::Hang));
    }
    until!(waiters(&node, LOCK).await == 0);
    lock.release().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiter.is_finished(), "phantom");
    assert!(node.core().locks(LOCK).await.unwrap().is_empty());
    for method in ["KeepAlive", "EndSession", "GrantSession", "Release", "Acquire"] {
        paused.fault(method, None);
    }
    let won = timeout(LONG, waiter).await.unwrap().unwrap();
    assert_ne!(won.credentials().0, first);
    assert!(won.is_valid());
}

/// L9.
async fn a_key_deleted_while_holding_is_reported(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "deleted");
    let session = node.session("one").await;
    let lock = acquire(&session, LOCK).await;
    let kept = acquire(&session, "stream/other").await;
    let since = Instant::now();
    node.delete_by_hand(&lock).await;
    let cause = timeout(LONG, lock.lost()).await.unwrap();
    assert!(matches!(cause, LostCause::KeyGone(_)), "{cause}");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    assert!(!lock.is_valid());
    assert!(kept.is_valid(), "the session's other locks are not touched");
    assert!(acquire(&session, LOCK).await.epoch() > lock.epoch());
}

/// L10.
async fn a_key_deleted_while_waiting_is_queued_again(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "requeue");
    let (one, two) = (node.session("one").await, node.session("two").await);
    let lock = acquire(&one, LOCK).await;
    let waiter = queue(&node, &two, LOCK).await;
    // Everything under the waiter's session goes, as the store's own expiry would have it.
    node.core().end_session(two.id()).await.unwrap();
    until!(waiters(&node, LOCK).await == 1);
    lock.release().await.unwrap();
    let won = timeout(LONG, waiter).await.unwrap().unwrap();
    assert!(won.is_valid());
}

/// L4.
async fn a_dropped_wait_gives_its_place_up(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "dropped-wait");
    let (one, two) = (node.session("one").await, node.session("two").await);
    let lock = acquire(&one, LOCK).await;
    let waiter = queue(&node, &two, LOCK).await;
    let follower = queue(&node, &one, LOCK).await;
    waiter.abort();
    until!(waiters(&node, LOCK).await == 1);
    lock.release().await.unwrap();
    timeout(LONG, follower).await.unwrap().unwrap();
}

async fn a_dropped_lock_is_released(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "dropped-lock");
    let session = node.session("one").await;
    let lock = acquire(&session, LOCK).await;
    let clone = lock.clone();
    drop(lock);
    assert!(clone.is_valid());
    // Not even the release arrives: the keepalive no longer names the nonce.
    node.fault("Release", Some(Fault::Hang));
    drop(clone);
    until!(node.core().locks(LOCK).await.unwrap().is_empty());
    assert!(session.is_valid());
}

/// L14.
async fn tasks_of_one_session_contend(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "contend");
    let session = node.session("one").await;
    let first = acquire(&session, LOCK).await;
    let second = queue(&node, &session, LOCK).await;
    assert!(!second.is_finished());
    first.release().await.unwrap();
    assert!(timeout(LONG, second).await.unwrap().unwrap().epoch() > first.epoch());
}

/// C11, for every call that changes something.
async fn lost_replies_take_effect_once(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "lost-replies");
    for method in ["EnsureJournal", "GrantSession", "Acquire", "Commit", "PutCheckpoint"] {
        node.fault(method, Some(Fault::LoseReplies(1)));
    }
    let client = node.client();
    let id = journal(&client).await;
    let session = node.session("one").await;
    let lock = acquire(&session, LOCK).await;
    assert_eq!(waiters(&node, LOCK).await, 0, "asking twice is one place");
    assert_eq!(client.commit(&lock, &commit(id, 0, 1)).await.unwrap().sequence, 1);
    node.fault("Commit", Some(Fault::LoseReplies(2)));
    assert_eq!(client.commit(&lock, &commit(id, 1, 2)).await.unwrap().sequence, 2);
    let stream = acquire(&session, &stream_lock("out")).await;
    assert_eq!(client.put_checkpoint(&stream, &put(0, 1)).await.unwrap(), 1);
    node.fault("Release", Some(Fault::LoseReplies(1)));
    lock.release().await.unwrap();
    assert!(node.core().locks(LOCK).await.unwrap().is_empty());
}

async fn a_lock_survives_its_replica(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "replica");
    let (one, two) = (node.session("one").await, node.session("two").await);
    let lock = acquire(&one, LOCK).await;
    let epoch = lock.epoch();
    let waiter = queue(&node, &two, LOCK).await;
    for _ in 0..3 {
        node.change_replica();
        tokio::time::sleep(TTL / 2).await;
        assert!(lock.is_valid() && lock.epoch() == epoch);
        assert_eq!(waiters(&node, LOCK).await, 1);
    }
    lock.release().await.unwrap();
    assert!(timeout(LONG, waiter).await.unwrap().unwrap().epoch() > epoch);
}

async fn conflicts_name_what_is_stored(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "conflicts");
    let client = node.client();
    let id = journal(&client).await;
    let session = node.session("one").await;
    let lock = acquire(&session, LOCK).await;
    client.commit(&lock, &commit(id, 0, 9)).await.unwrap();
    let refused = client.commit(&lock, &commit(id, 12, 13)).await.unwrap_err();
    let CoordinationError::PositionConflict { stored: Some(stored), .. } = refused else {
        panic!("{refused}")
    };
    assert_eq!(stored.pointer, pointer(9));
    // Another journal under the same name is not something to restart from.
    let other = JournalId::from_array([9; 16]);
    let refused = client.commit(&lock, &commit(other, 9, 10)).await.unwrap_err();
    assert!(matches!(&refused, CoordinationError::Refused { reason, .. } if reason == "NOT_HERE"));
    let refused = session.acquire("").await.unwrap_err();
    assert!(matches!(&refused, CoordinationError::Refused { reason, .. } if reason == "INVALID"));
    // Somebody else took over unseen: the error names the epoch that holds now.
    let gone = node.core();
    gone.release(&sluice_coordination::Ticket {
        lock: LOCK.to_owned(),
        session: lock.credentials().0,
        nonce: lock.credentials().1,
    })
    .await
    .unwrap();
    let refused = client.commit(&lock, &commit(id, 9, 10)).await.unwrap_err();
    assert!(matches!(refused, CoordinationError::LostOwnership { current: None, .. }), "{refused}");
}

fn put(version: u64, height: u64) -> PutCheckpoint {
    PutCheckpoint {
        stream: "out".to_owned(),
        ingestor: ingestor("chain"),
        previous_version: version,
        checkpoint: Checkpoint {
            position: Position::end_of(Generation(0), pointer(height)),
            digest: Some(Digest::from_array([2; 32])),
        },
        filter: "f".to_owned(),
        reset_epoch: 0,
    }
}

async fn streams_and_resets(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "streams");
    let client = node.client();
    let session = node.session("one").await;
    assert_eq!(client.get_checkpoint("out").await.unwrap(), StreamState::default());
    let lock = acquire(&session, "stream/out/volume").await;
    assert_eq!(client.put_checkpoint(&lock, &put(0, 5)).await.unwrap(), 1);
    let state = client.get_checkpoint("out").await.unwrap();
    assert_eq!(state.version(), 1);
    assert_eq!(state.checkpoint.unwrap().checkpoint, put(0, 5).checkpoint);
    assert_eq!(client.reset_stream("out", &StartPosition::Height(2)).await.unwrap(), 1);
    let refused = client.put_checkpoint(&lock, &put(1, 6)).await.unwrap_err();
    let CoordinationError::CheckpointConflict { stored, .. } = refused else { panic!("{refused}") };
    assert_eq!((stored.reset_epoch, stored.version()), (1, 0));
    assert_eq!(stored.start, Some(StartPosition::Height(2)));
    let next = PutCheckpoint { reset_epoch: 1, ..put(0, 2) };
    assert_eq!(client.put_checkpoint(&lock, &next).await.unwrap(), 1);
}

async fn holds_and_listing(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "holds");
    let client = node.client();
    let hold = Hold {
        name: "standby".to_owned(),
        ingestor: ingestor("chain"),
        position: Position::end_of(Generation(0), pointer(7)),
        expires_in: Some(Duration::from_secs(600)),
        implied: false,
    };
    client.put_hold(&hold).await.unwrap();
    let session = node.session("one").await;
    let lock = acquire(&session, &stream_lock("out")).await;
    client.put_checkpoint(&lock, &put(0, 5)).await.unwrap();
    let mut holds = client.holds(&ingestor("chain")).await.unwrap();
    holds.sort_by(|a, b| a.name.cmp(&b.name));
    let [by_hand, implied] = holds.as_slice() else { panic!("{holds:?}") };
    assert!(by_hand.expires_in.unwrap() > Duration::from_secs(500));
    assert!(implied.implied && implied.name == "stream/out" && implied.expires_in.is_none());
    client.delete_hold(&ingestor("chain"), "standby").await.unwrap();
    assert_eq!(client.holds(&ingestor("chain")).await.unwrap().len(), 1);
    let listed = client.locks("stream/").await.unwrap();
    assert_eq!((listed.len(), listed[0].epoch), (1, lock.epoch()));
    let owner = listed[0].owner.clone().unwrap();
    assert_eq!((owner.node.as_str(), owner.pid), ("one", std::process::id()));
}

async fn a_raised_incarnation_keeps_the_lock(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "incarnation");
    let client = node.client();
    let id = journal(&client).await;
    let session = node.session("one").await;
    let lock = acquire(&session, LOCK).await;
    let before = lock.epoch();
    let fence = Epoch::new(3, 1 << 40);
    node.fault("RaiseIncarnation", Some(Fault::LoseReplies(1)));
    let epoch = client.raise_incarnation(&lock, fence).await.unwrap();
    assert!(epoch > fence && lock.epoch() == epoch && epoch.revision() == before.revision());
    client.commit(&lock, &commit(id, 0, 1)).await.unwrap();
    // Another replica tells the same epoch of the same key.
    node.change_replica();
    tokio::time::sleep(TTL / 2).await;
    assert!(lock.is_valid() && lock.epoch() == epoch);
}

async fn coalesced_commits(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "coalesced");
    let client = node.client();
    let id = journal(&client).await;
    let session = node.session("one").await;
    let lock = acquire(&session, LOCK).await;
    let writer = CommitWriter::new(client.clone(), lock.clone(), pointer(0));
    let commits = Coalesced::spawn(Duration::from_millis(300), writer);
    commits.flush().await.unwrap();
    let since = Instant::now();
    let mut height = 0;
    while since.elapsed() < Duration::from_millis(1000) {
        height += 1;
        commits.offer(commit(id, 0, height));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    commits.flush().await.unwrap();
    let stored = client.latest(&ingestor("chain")).await.unwrap().unwrap();
    assert_eq!(stored.pointer, pointer(height), "flush writes the newest at once");
    assert!((2..=6).contains(&stored.sequence), "{} writes of {height}", stored.sequence);
    // The same again is nothing new.
    commits.offer(commit(id, 0, height));
    commits.flush().await.unwrap();
    assert_eq!(client.latest(&ingestor("chain")).await.unwrap().unwrap(), stored);
    // A failure ends it and is told to everyone who asks.
    lock.release().await.unwrap();
    commits.offer(commit(id, 0, height + 1));
    let failed = timeout(LONG, commits.failed()).await.unwrap();
    assert!(matches!(*failed, CoordinationError::LostOwnership { .. }), "{failed}");
    commits.offer(commit(id, 0, height + 2));
    assert!(commits.flush().await.is_err());
}

async fn a_closed_session_refuses(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "closed");
    let (one, two) = (node.session("one").await, node.session("two").await);
    let lock = acquire(&one, LOCK).await;
    let waiter = queue(&node, &two, LOCK).await;
    one.close().await;
    assert!(!lock.is_valid());
    assert!(matches!(one.acquire("x").await, Err(CoordinationError::Closed)));
    timeout(Duration::from_secs(1), waiter).await.unwrap().unwrap();
    one.close().await;
}

async fn a_session_lives_as_long_as_it_is_renewed(kv: Arc<dyn Kv>) {
    let node = Node::new(kv, "renewed");
    let session = node.session("one").await;
    let lock = acquire(&session, LOCK).await;
    let (id, since) = (session.id(), Instant::now());
    while since.elapsed() < TTL * 2 {
        assert!(lock.is_valid() && session.id() == id);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A renewal that fails now and then is made up for in time.
    node.fault("KeepAlive", Some(Fault::LoseReplies(1)));
    tokio::time::sleep(TTL).await;
    assert!(lock.is_valid() && session.id() == id);
}

/// An owner, before the store goes away.
pub(crate) async fn before_outage(kv: Arc<dyn Kv>) -> (Node, Session, Lock) {
    let node = Node::new(kv, "outage");
    let session = node.session("one").await;
    let lock = acquire(&session, LOCK).await;
    (node, session, lock)
}

/// L11: it works on until its deadline, then stops; no call hangs.
pub(crate) async fn during_outage(owner: (Node, Session, Lock)) -> (Node, Session, Lock) {
    let (node, session, lock) = owner;
    let since = Instant::now();
    assert!(lock.is_valid(), "an outage alone costs nothing");
    let cause = timeout(TTL, lock.lost()).await.unwrap();
    assert_eq!(cause, LostCause::Deadline);
    let refused = node.client().latest(&ingestor("chain")).await.unwrap_err();
    assert!(refused.is_transient(), "{refused}");
    assert!(since.elapsed() < Duration::from_secs(10));
    (node, session, lock)
}

/// And comes back with a fresh session and a fresh epoch.
pub(crate) async fn after_outage(owner: (Node, Session, Lock)) {
    let (_node, session, lock) = owner;
    let fresh = acquire(&session, LOCK).await;
    assert!(fresh.epoch() > lock.epoch());
    assert!(!lock.is_valid());
}
