//! What several cases need.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use sluice_model::{Digest, Durability, Epoch, Generation, JournalId, Pointer};

use crate::{
    Acquisition, BudgetOptions, Commit, Coordination, LockState, Member, Options, Ticket,
    kv::{Kv, Op, Txn},
};

/// Longer than any case runs.
pub(super) const LONG: Duration = Duration::from_secs(120);
/// The shortest that every backend grants as asked.
pub(super) const SHORT: Duration = Duration::from_secs(2);

static COUNTER: AtomicU64 = AtomicU64::new(1);

/// A nonce that differs from every other one of this and of other processes on the store.
pub(super) fn nonce() -> Bytes {
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = crate::WallClock::default().millis() << 20;
    let mut bytes =
        (now ^ (u64::from(std::process::id()) << 8)).wrapping_add(count).to_be_bytes().to_vec();
    bytes.extend(count.to_be_bytes());
    bytes.into()
}

/// A lease id like that.
pub(super) fn lease() -> u64 {
    let nonce = nonce();
    u64::from_be_bytes(nonce[..8].try_into().unwrap()) & i64::MAX.unsigned_abs()
}

/// A prefix that no other case has.
pub(super) fn root(case: &str) -> String {
    format!("/conformance/{case}-{:x}", lease())
}

pub(super) fn coordination(kv: Arc<dyn Kv>, case: &str) -> Coordination {
    let budget = BudgetOptions { writes_per_second: 5000, ..BudgetOptions::default() };
    Coordination::new(kv, &Options { root: root(case), budget, ..Options::default() })
}

pub(super) async fn session(c: &Coordination, ttl: Duration) -> u64 {
    c.grant_session(&nonce(), ttl).await.unwrap().0
}

pub(super) fn member(node: &str) -> Member {
    Member { node: node.to_owned(), ..Member::default() }
}

/// A candidate under a session of its own.
pub(super) async fn candidate(
    c: &Coordination,
    lock: &str,
    ttl: Duration,
) -> (Ticket, Acquisition) {
    let session = session(c, ttl).await;
    candidate_under(c, lock, session)
}

pub(super) fn candidate_under(c: &Coordination, lock: &str, session: u64) -> (Ticket, Acquisition) {
    let ticket = Ticket { lock: lock.to_owned(), session, nonce: nonce() };
    let acquisition = c.acquire(ticket.clone(), member(lock)).unwrap();
    (ticket, acquisition)
}

/// The next state, within a generous bound.
pub(super) async fn next(acquisition: &mut Acquisition) -> LockState {
    let next = tokio::time::timeout(Duration::from_secs(20), acquisition.next());
    next.await.unwrap().unwrap().unwrap()
}

/// Follows until owned.
pub(super) async fn owned(acquisition: &mut Acquisition) -> Epoch {
    loop {
        match next(acquisition).await {
            LockState::Owned { epoch } => return epoch,
            LockState::Waiting { .. } => {}
            LockState::Lost { cause } => panic!("lost: {cause}"),
        }
    }
}

/// Follows until the candidate is known to wait.
pub(super) async fn waiting(acquisition: &mut Acquisition) {
    let state = next(acquisition).await;
    assert!(matches!(state, LockState::Waiting { .. }), "{state:?}");
}

pub(super) async fn own(c: &Coordination, lock: &str, ttl: Duration) -> (Ticket, Epoch) {
    let (ticket, mut acquisition) = candidate(c, lock, ttl).await;
    let epoch = owned(&mut acquisition).await;
    (ticket, epoch)
}

pub(super) const JOURNAL: JournalId = JournalId::from_array([7; 16]);

pub(super) fn pointer(height: u64) -> Pointer {
    if height == 0 { Pointer::ORIGIN } else { Pointer::from_height(height) }
}

/// A commit of `to` after `from`; 0 is the origin.
pub(super) fn commit(ingestor: &str, from: u64, to: u64) -> Commit {
    Commit {
        ingestor: ingestor.parse().unwrap(),
        previous: pointer(from),
        journal: JOURNAL,
        generation: Generation(0),
        pointer: pointer(to),
        digest: Digest::from_array([u8::try_from(to % 250).unwrap(); 32]),
        durability: Durability::Fsynced,
    }
}

/// Deletes a key behind the recipe's back.
pub(super) async fn delete_by_hand(c: &Coordination, ticket: &Ticket) {
    let key = c.candidate_key(ticket).unwrap();
    c.kv().txn(Txn::read(vec![Op::Delete(key)])).await.unwrap();
}
