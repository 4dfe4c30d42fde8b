//! Commits, journals and checkpoints.

use std::sync::Arc;

use sluice_model::{
    Checkpoint, Epoch, Generation, IngestorName, JournalId, Pointer, Position, StartPosition,
};

use super::{
    LossyKv,
    helpers::{JOURNAL, LONG, commit, coordination, own, pointer, session},
};
use crate::{
    Commit, Coordination, Error, PutCheckpoint, Ticket,
    kv::{Kv, Op, Txn},
};

const NAME: &str = "chain";

/// An owner of `chain`, whose journal is minted.
async fn owner(kv: Arc<dyn Kv>, case: &str) -> (Coordination, Ticket, Epoch) {
    let c = coordination(kv, case);
    let (ticket, epoch) = owner_of(&c, NAME).await;
    (c, ticket, epoch)
}

async fn owner_of(c: &Coordination, name: &str) -> (Ticket, Epoch) {
    c.ensure_journal(&ingestor(name), JOURNAL).await.unwrap();
    own(c, &format!("ingestor/{name}"), LONG).await
}

fn ingestor(name: &str) -> IngestorName {
    name.parse().unwrap()
}

async fn latest(c: &Coordination) -> Option<Pointer> {
    c.latest(&ingestor(NAME)).await.unwrap().map(|commit| commit.pointer)
}

#[track_caller]
fn conflict(result: Result<crate::CommitRecord, Error>) -> Option<Pointer> {
    match result {
        Err(Error::PositionConflict { stored, .. }) => stored.map(|commit| commit.pointer),
        other => panic!("{other:?}"),
    }
}

pub(super) async fn c1_empty(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "c1");
    assert_eq!(latest(&c).await, None);
}

pub(super) async fn c2_first(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = owner(kv, "c2").await;
    let stored = c.commit(&ticket, epoch, &commit(NAME, 0, 1)).await.unwrap();
    assert_eq!((stored.sequence, stored.epoch), (1, epoch));
    assert_eq!(c.latest(&ingestor(NAME)).await.unwrap(), Some(stored));
}

pub(super) async fn c3_next_and_only_that_name(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = owner(kv, "c3").await;
    c.commit(&ticket, epoch, &commit(NAME, 0, 1)).await.unwrap();
    let stored = c.commit(&ticket, epoch, &commit(NAME, 1, 2)).await.unwrap();
    assert_eq!((stored.sequence, stored.pointer), (2, pointer(2)));
    assert_eq!(c.latest(&ingestor("chain/2")).await.unwrap(), None);
    assert_eq!(c.latest(&ingestor("chai")).await.unwrap(), None);
}

pub(super) async fn c4_wrong_parent(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = owner(kv, "c4").await;
    c.commit(&ticket, epoch, &commit(NAME, 0, 9)).await.unwrap();
    let refused = c.commit(&ticket, epoch, &commit(NAME, 12, 13)).await;
    assert_eq!(conflict(refused), Some(pointer(9)));
    assert_eq!(latest(&c).await, Some(pointer(9)));
}

pub(super) async fn c5_backwards(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = owner(kv, "c5").await;
    c.commit(&ticket, epoch, &commit(NAME, 0, 9)).await.unwrap();
    conflict(c.commit(&ticket, epoch, &commit(NAME, 9, 8)).await);
    assert_eq!(latest(&c).await, Some(pointer(9)));
}

pub(super) async fn c6_same_place(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = owner(kv, "c6").await;
    c.commit(&ticket, epoch, &commit(NAME, 0, 9)).await.unwrap();
    conflict(c.commit(&ticket, epoch, &commit(NAME, 9, 9)).await);
}

pub(super) async fn c7_first_with_a_parent(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = owner(kv, "c7").await;
    assert_eq!(conflict(c.commit(&ticket, epoch, &commit(NAME, 5, 3)).await), None);
    assert_eq!(conflict(c.commit(&ticket, epoch, &commit(NAME, 3, 5)).await), None);
    assert_eq!(conflict(c.commit(&ticket, epoch, &commit(NAME, 0, 0)).await), None);
    assert_eq!(latest(&c).await, None);
}

/// What is stored is what was there at the time of the call: a commit's bytes are counted
/// references to immutable memory, and a caller that builds its next one in the same buffer gets
/// a copy of it.
pub(super) async fn c8_the_callers_buffer(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = owner(kv, "c8").await;
    let mut buffer = bytes::BytesMut::from(&b"first"[..]);
    let mut digest = [1; 32];
    let make = |buffer: &bytes::BytesMut, digest: [u8; 32]| Commit {
        pointer: Pointer::new(buffer.clone().freeze()).unwrap(),
        digest: sluice_model::Digest::from_array(digest),
        ..commit(NAME, 0, 1)
    };
    let first = make(&buffer, digest);
    let call = c.commit(&ticket, epoch, &first);
    buffer[..].copy_from_slice(b"other");
    digest.fill(9);
    let stored = call.await.unwrap();
    buffer.fill(0xff);
    assert_eq!(stored.pointer.as_bytes(), b"first");
    let latest = c.latest(&ingestor(NAME)).await.unwrap().unwrap();
    assert_eq!((latest.pointer.as_bytes(), latest.digest.as_bytes()), (&b"first"[..], &[1; 32]));
    // Nor does what was handed out reach into the store.
    let mut handed = latest.pointer.to_bytes().to_vec();
    handed.fill(0);
    assert_eq!(c.latest(&ingestor(NAME)).await.unwrap().unwrap(), stored);
}

pub(super) async fn c9_race(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = owner(kv, "c9").await;
    c.commit(&ticket, epoch, &commit(NAME, 0, 1)).await.unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let (c, ticket) = (c.clone(), ticket.clone());
            // Every racer brings another block, or they would be repetitions of one commit.
            tokio::spawn(async move { c.commit(&ticket, epoch, &commit(NAME, 1, 2 + n)).await })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(stored) => {
                won += 1;
                assert_eq!(stored.sequence, 2);
            }
            Err(Error::PositionConflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(won, 1);
}

pub(super) async fn c10_older_epoch(kv: Arc<dyn Kv>) {
    let (c, old, old_epoch) = owner(kv, "c10").await;
    c.commit(&old, old_epoch, &commit(NAME, 0, 1)).await.unwrap();
    c.end_session(old.session).await.unwrap();
    let (new, epoch) = owner_of(&c, NAME).await;
    assert!(epoch > old_epoch);
    let refused = c.commit(&old, old_epoch, &commit(NAME, 1, 2)).await;
    assert!(
        matches!(refused, Err(Error::LostOwnership { current: Some(current), .. }) if current == epoch),
        "{refused:?}"
    );
    // Nor with the new owner's key and the old epoch, nor with a waiter's key.
    let refused = c.commit(&new, old_epoch, &commit(NAME, 1, 2)).await;
    assert!(matches!(refused, Err(Error::LostOwnership { .. })), "{refused:?}");
    let session = session(&c, LONG).await;
    let (waiter, mut queued) = super::helpers::candidate_under(&c, "ingestor/chain", session);
    super::helpers::waiting(&mut queued).await;
    for claim in [epoch, Epoch::ZERO, Epoch::from_u64(u64::MAX)] {
        let refused = c.commit(&waiter, claim, &commit(NAME, 1, 2)).await;
        assert!(matches!(refused, Err(Error::LostOwnership { .. })), "{refused:?}");
    }
    assert_eq!(latest(&c).await, Some(pointer(1)));
    c.commit(&new, epoch, &commit(NAME, 1, 2)).await.unwrap();
}

/// The guards are in the writing transaction itself, not only in what was read before it.
pub(super) async fn c10_between_read_and_write(kv: Arc<dyn Kv>) {
    let lossy = Arc::new(LossyKv::new(Arc::clone(&kv)));
    let (c, ticket, epoch) = owner(Arc::clone(&lossy) as Arc<dyn Kv>, "c10-between").await;
    c.commit(&ticket, epoch, &commit(NAME, 0, 1)).await.unwrap();
    // Ownership goes.
    let key = c.candidate_key(&ticket).unwrap();
    lossy.before_next_write(async move {
        kv.txn(Txn::read(vec![Op::Delete(key)])).await.unwrap();
    });
    let refused = c.commit(&ticket, epoch, &commit(NAME, 1, 2)).await;
    assert!(matches!(refused, Err(Error::LostOwnership { .. })), "{refused:?}");
    assert_eq!(latest(&c).await, Some(pointer(1)));
    // Another commit of the same owner comes first.
    let (ticket, epoch) = owner_of(&c, NAME).await;
    let (other, first) = (c.clone(), ticket.clone());
    lossy.before_next_write(async move {
        other.commit(&first, epoch, &commit(NAME, 1, 5)).await.unwrap();
    });
    let refused = c.commit(&ticket, epoch, &commit(NAME, 1, 2)).await;
    assert_eq!(conflict(refused), Some(pointer(5)));
    assert_eq!(c.latest(&ingestor(NAME)).await.unwrap().unwrap().sequence, 2);
}

pub(super) async fn c11_lost_reply(kv: Arc<dyn Kv>) {
    let lossy = Arc::new(LossyKv::new(kv));
    let (c, ticket, epoch) = owner(Arc::clone(&lossy) as Arc<dyn Kv>, "c11").await;
    for height in 1..4 {
        lossy.lose(1);
        let next = commit(NAME, height - 1, height);
        let stored = c.commit(&ticket, epoch, &next).await.unwrap();
        assert_eq!((lossy.left(), stored.sequence), (0, height));
        // The client did not hear of it either.
        assert_eq!(c.commit(&ticket, epoch, &next).await.unwrap(), stored);
    }
    lossy.lose(100);
    assert!(c.commit(&ticket, epoch, &commit(NAME, 3, 4)).await.is_ok(), "one write, read again");
    lossy.lose(0);
    assert_eq!(c.latest(&ingestor(NAME)).await.unwrap().unwrap().sequence, 4);
}

pub(super) async fn c12_rewind(kv: Arc<dyn Kv>) {
    let (c, old, old_epoch) = owner(kv, "c12").await;
    c.commit(&old, old_epoch, &commit(NAME, 0, 3)).await.unwrap();
    c.commit(&old, old_epoch, &commit(NAME, 3, 9)).await.unwrap();
    c.release(&old).await.unwrap();
    let (new, epoch) = owner_of(&c, NAME).await;
    // The operator's rewind starts generation 1 at block 3.
    let rewind = Commit { generation: Generation(1), ..commit(NAME, 9, 3) };
    c.commit(&new, epoch, &rewind).await.unwrap();
    // What the old holder had ready fits by its parent alone.
    let refused = c.commit(&old, old_epoch, &commit(NAME, 3, 4)).await;
    assert!(matches!(refused, Err(Error::LostOwnership { .. })), "{refused:?}");
    // Even an owner cannot go on in the old history.
    conflict(c.commit(&new, epoch, &commit(NAME, 3, 4)).await);
    let next = Commit { generation: Generation(1), ..commit(NAME, 3, 4) };
    c.commit(&new, epoch, &next).await.unwrap();
}

pub(super) async fn c13_other_node(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = owner(kv, "c13").await;
    let other = c.clone();
    for height in 1..20 {
        c.commit(&ticket, epoch, &commit(NAME, height - 1, height)).await.unwrap();
        assert_eq!(latest(&other).await, Some(pointer(height)));
    }
}

pub(super) async fn c14_pointer_order(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = owner(kv, "c14").await;
    let mut previous = Pointer::ORIGIN;
    for text in ["a", "ab", "abc", "b"] {
        let pointer = Pointer::new(text.as_bytes().to_vec()).unwrap();
        let next = Commit { previous, pointer: pointer.clone(), ..commit(NAME, 0, 1) };
        c.commit(&ticket, epoch, &next).await.unwrap();
        previous = pointer;
    }
    let pointer = Pointer::new(&b"azzzzzzz"[..]).unwrap();
    conflict(c.commit(&ticket, epoch, &Commit { previous, pointer, ..commit(NAME, 0, 1) }).await);
}

pub(super) async fn journal_is_minted_once(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "mint");
    let name = ingestor(NAME);
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let (c, name) = (c.clone(), name.clone());
            let fresh = JournalId::from_array([n; 16]);
            tokio::spawn(async move { c.ensure_journal(&name, fresh).await.unwrap() })
        })
        .collect();
    let mut ids = Vec::new();
    for task in tasks {
        ids.push(task.await.unwrap());
    }
    assert_eq!(ids.iter().filter(|(_, created)| *created).count(), 1);
    assert!(ids.iter().all(|(id, _)| *id == ids[0].0));
}

pub(super) async fn wrong_journal(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = owner(kv, "wrong-journal").await;
    let other = JournalId::from_array([8; 16]);
    let refused = c.commit(&ticket, epoch, &Commit { journal: other, ..commit(NAME, 0, 1) }).await;
    assert!(
        matches!(refused, Err(Error::WrongJournal { minted: Some(JOURNAL), named, .. }) if named == other)
    );
}

fn put(version: u64, height: u64) -> PutCheckpoint {
    PutCheckpoint {
        stream: "out".to_owned(),
        ingestor: ingestor(NAME),
        previous_version: version,
        checkpoint: Checkpoint {
            position: Position::end_of(Generation(0), pointer(height)),
            digest: None,
        },
        filter: "stores = [\"bank\"]".to_owned(),
        reset_epoch: 0,
    }
}

async fn stream_owner(kv: Arc<dyn Kv>, case: &str) -> (Coordination, Ticket, Epoch) {
    let c = coordination(kv, case);
    let (ticket, epoch) = own(&c, "stream/out", LONG).await;
    (c, ticket, epoch)
}

#[track_caller]
fn stale(result: &Result<u64, Error>) {
    assert!(matches!(result, Err(Error::CheckpointConflict { .. })), "{result:?}");
}

pub(super) async fn checkpoint_moves(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = stream_owner(kv, "checkpoint").await;
    assert_eq!(c.stream_state("out").await.unwrap(), crate::StreamState::default());
    assert_eq!(c.put_checkpoint(&ticket, epoch, &put(0, 1)).await.unwrap(), 1);
    assert_eq!(c.put_checkpoint(&ticket, epoch, &put(0, 1)).await.unwrap(), 1, "a repetition");
    assert_eq!(c.put_checkpoint(&ticket, epoch, &put(1, 5)).await.unwrap(), 2);
    stale(&c.put_checkpoint(&ticket, epoch, &put(1, 6)).await);
    stale(&c.put_checkpoint(&ticket, epoch, &put(3, 6)).await);
    let stored = c.stream_state("out").await.unwrap().checkpoint.unwrap();
    assert_eq!((stored.version, stored.checkpoint), (2, put(1, 5).checkpoint));
}

pub(super) async fn checkpoint_needs_the_lock(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = stream_owner(kv, "checkpoint-lock").await;
    c.put_checkpoint(&ticket, epoch, &put(0, 1)).await.unwrap();
    c.release(&ticket).await.unwrap();
    let refused = c.put_checkpoint(&ticket, epoch, &put(1, 2)).await;
    assert!(matches!(refused, Err(Error::LostOwnership { current: None, .. })), "{refused:?}");
    // A lock of another name guards nothing here, a part of this one's does.
    let (other, epoch) = own(&c, "stream/outer", LONG).await;
    let refused = c.put_checkpoint(&other, epoch, &put(1, 2)).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    let (part, epoch) = own(&c, "stream/out/volume-1", LONG).await;
    assert_eq!(c.put_checkpoint(&part, epoch, &put(1, 2)).await.unwrap(), 2);
}

pub(super) async fn checkpoint_goes_not_back(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = stream_owner(kv, "checkpoint-back").await;
    c.put_checkpoint(&ticket, epoch, &put(0, 5)).await.unwrap();
    stale(&c.put_checkpoint(&ticket, epoch, &put(1, 4)).await);
    // The same place under another filter is progress of its own.
    let same = PutCheckpoint { filter: "stores = []".to_owned(), ..put(1, 5) };
    assert_eq!(c.put_checkpoint(&ticket, epoch, &same).await.unwrap(), 2);
    let mut next = put(2, 3);
    next.checkpoint.position.generation = Generation(1);
    assert_eq!(c.put_checkpoint(&ticket, epoch, &next).await.unwrap(), 3);
    let other = PutCheckpoint { ingestor: ingestor("else"), ..put(3, 9) };
    stale(&c.put_checkpoint(&ticket, epoch, &other).await);
}

pub(super) async fn checkpoint_after_reset(kv: Arc<dyn Kv>) {
    let (c, ticket, epoch) = stream_owner(kv, "checkpoint-reset").await;
    c.put_checkpoint(&ticket, epoch, &put(0, 9)).await.unwrap();
    let start = StartPosition::Height(3);
    assert_eq!(c.reset_stream("out", 0, &start).await.unwrap(), 1);
    assert_eq!(c.reset_stream("out", 0, &start).await.unwrap(), 1, "a repetition");
    assert!(c.reset_stream("out", 0, &StartPosition::Earliest).await.is_err());
    let state = c.stream_state("out").await.unwrap();
    assert_eq!((state.checkpoint, state.reset_epoch, state.start), (None, 1, Some(start)));
    // What was delivered before the reset no longer counts.
    stale(&c.put_checkpoint(&ticket, epoch, &put(1, 10)).await);
    stale(&c.put_checkpoint(&ticket, epoch, &put(0, 10)).await);
    let again = PutCheckpoint { reset_epoch: 1, ..put(0, 3) };
    assert_eq!(c.put_checkpoint(&ticket, epoch, &again).await.unwrap(), 1);
}

pub(super) async fn checkpoint_lost_reply(kv: Arc<dyn Kv>) {
    let lossy = Arc::new(LossyKv::new(kv));
    let (c, ticket, epoch) =
        stream_owner(Arc::clone(&lossy) as Arc<dyn Kv>, "checkpoint-lost").await;
    lossy.lose(1);
    assert_eq!(c.put_checkpoint(&ticket, epoch, &put(0, 1)).await.unwrap(), 1);
    assert_eq!(lossy.left(), 0);
    assert_eq!(c.stream_state("out").await.unwrap().checkpoint.unwrap().version, 1);
}

pub(super) async fn checkpoint_between_read_and_write(kv: Arc<dyn Kv>) {
    let lossy = Arc::new(LossyKv::new(kv));
    let c = stream_owner(Arc::clone(&lossy) as Arc<dyn Kv>, "checkpoint-between").await;
    let (c, ticket, epoch) = c;
    let other = c.clone();
    lossy.before_next_write(async move {
        other.reset_stream("out", 0, &StartPosition::Earliest).await.unwrap();
    });
    stale(&c.put_checkpoint(&ticket, epoch, &put(0, 1)).await);
    let next = |version| PutCheckpoint { reset_epoch: 1, ..put(version, 1) };
    let (other, first) = (c.clone(), ticket.clone());
    lossy.before_next_write(async move {
        let put = PutCheckpoint { reset_epoch: 1, ..put(0, 2) };
        other.put_checkpoint(&first, epoch, &put).await.unwrap();
    });
    stale(&c.put_checkpoint(&ticket, epoch, &next(0)).await);
    let (other, gone) = (c.clone(), ticket.clone());
    lossy.before_next_write(async move { other.release(&gone).await.unwrap() });
    let third = PutCheckpoint { reset_epoch: 1, ..put(1, 3) };
    let refused = c.put_checkpoint(&ticket, epoch, &third).await;
    assert!(matches!(refused, Err(Error::LostOwnership { .. })), "{refused:?}");
    assert_eq!(c.stream_state("out").await.unwrap().checkpoint.unwrap().version, 1);
}
