//! The trail of an ingestor.

use std::sync::Arc;

use sluice_model::{Epoch, IngestorName};

use super::{
    LossyKv,
    helpers::{LONG, candidate, coordination, next, nonce, own, owned, root, waiting},
};
use crate::{
    AuditEntry, BudgetOptions, Coordination, Error, LockState, Note, Options,
    kv::{Kv, Op, Txn},
};

const LOCK: &str = "ingestor/chain";

fn chain() -> IngestorName {
    "chain".parse().expect("a valid name")
}

fn note(detail: &dyn ToString) -> Note {
    let (kind, actor) = ("blocked".to_owned(), "node".to_owned());
    Note { kind, actor, epoch: Epoch::new(0, 7), detail: detail.to_string() }
}

async fn record(c: &Coordination, detail: impl ToString + Send) -> u64 {
    c.record_audit(&chain(), &nonce(), &note(&detail)).await.expect("the store answers")
}

async fn trail(c: &Coordination) -> Vec<AuditEntry> {
    let entries = c.list_audit(&chain(), 0, usize::MAX).await.expect("the store answers");
    for pair in entries.windows(2) {
        assert_eq!(pair[0].sequence + 1, pair[1].sequence, "no gaps");
    }
    entries
}

fn kinds(entries: &[AuditEntry]) -> Vec<(&str, Epoch)> {
    entries.iter().map(|entry| (entry.kind.as_str(), entry.epoch)).collect()
}

/// Ownership is in the trail without anybody's doing, with the end of those who went silently.
pub(super) async fn ownership_is_in_the_trail(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "audit-owners");
    assert_eq!(trail(&c).await, []);
    let (first, one) = own(&c, LOCK, LONG).await;
    c.release(&first).await.expect("the store answers");
    c.release(&first).await.expect("the store answers");
    let (second, two) = own(&c, LOCK, LONG).await;
    let (waiter, mut queued) = candidate(&c, LOCK, LONG).await;
    waiting(&mut queued).await;
    c.release(&waiter).await.expect("the store answers");
    c.end_session(second.session).await.expect("the store answers");
    let (third, three) = own(&c, LOCK, LONG).await;
    let fence = Epoch::new(5, three.revision() + 9);
    let raised = c.raise_incarnation(&third, fence).await.expect("the store answers");
    assert_eq!(c.raise_incarnation(&third, fence).await.expect("the store answers"), raised);
    c.release(&third).await.expect("the store answers");
    let entries = trail(&c).await;
    assert_eq!(entries[0].sequence, 1);
    let expected = [
        ("owned", one),
        ("released", one),
        ("owned", two),
        ("lost", two),
        ("owned", three),
        ("incarnation-raised", raised),
        ("released", raised),
    ];
    assert_eq!(kinds(&entries), expected);
    assert!(entries.iter().all(|entry| entry.actor == LOCK && entry.at > 0), "{entries:?}");
    // Locks of streams have no trail, and other ingestors have their own.
    own(&c, "stream/chain", LONG).await;
    assert_eq!(
        c.list_audit(&"chai".parse().expect("a valid name"), 0, 9)
            .await
            .expect("the store answers"),
        []
    );
    assert_eq!(trail(&c).await.len(), expected.len());
}

/// The entry and the ownership are one transaction: neither is there without the other.
pub(super) async fn ownership_and_entry_are_one_write(kv: Arc<dyn Kv>) {
    let lossy = Arc::new(LossyKv::new(Arc::clone(&kv)));
    let c = coordination(Arc::clone(&lossy) as Arc<dyn Kv>, "audit-atomic");
    let (holder, _) = own(&c, LOCK, LONG).await;
    let (waiter, mut queued) = candidate(&c, LOCK, LONG).await;
    waiting(&mut queued).await;
    c.release(&holder).await.expect("the store answers");
    // Somebody else writes to the trail just before.
    let other = c.clone();
    lossy.before_next_write(async move {
        record(&other, "between").await;
    });
    let epoch = owned(&mut queued).await;
    let other = c.clone();
    lossy.before_next_write(async move {
        record(&other, "between again").await;
    });
    c.release(&waiter).await.expect("the store answers");
    let entries = trail(&c).await;
    let last: Vec<_> = entries[2..].iter().map(|e| (e.kind.as_str(), e.epoch)).collect();
    let blocked = ("blocked", Epoch::new(0, 7));
    assert_eq!(last, [blocked, ("owned", epoch), blocked, ("released", epoch)]);
    // A reply that is lost does not double the entry.
    lossy.lose(2);
    let (holder, epoch) = own(&c, LOCK, LONG).await;
    lossy.lose(1);
    c.release(&holder).await.expect("the store answers");
    assert_eq!(kinds(&trail(&c).await[6..]), [("owned", epoch), ("released", epoch)]);
    // The candidate's key goes between the look and the promotion: nobody owned anything.
    let (holder, _) = own(&c, LOCK, LONG).await;
    let (waiter, mut queued) = candidate(&c, LOCK, LONG).await;
    waiting(&mut queued).await;
    c.release(&holder).await.expect("the store answers");
    let before = trail(&c).await;
    let key = c.candidate_key(&waiter).expect("a candidate has a key");
    lossy.before_next_write(async move {
        kv.txn(Txn::read(vec![Op::Delete(key)])).await.expect("the store answers");
    });
    let state = next(&mut queued).await;
    assert!(matches!(state, LockState::Lost { .. }), "phantom: {state:?}");
    assert_eq!(trail(&c).await, before);
}

/// Nothing that is acknowledged is missing, however many add at once.
pub(super) async fn racing_entries_are_all_there(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "audit-race");
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let c = c.clone();
        tasks.spawn(async move { (record(&c, n).await, n) });
    }
    let mut recorded = tasks.join_all().await;
    recorded.sort_unstable();
    let entries = trail(&c).await;
    let listed: Vec<_> = entries
        .iter()
        .map(|e| (e.sequence, e.detail.parse::<i32>().expect("recorded above")))
        .collect();
    assert_eq!(listed, recorded);
    assert_eq!((listed.len(), listed[0].0), (16, 1));
}

pub(super) async fn a_repeated_entry_is_one_entry(kv: Arc<dyn Kv>) {
    let lossy = Arc::new(LossyKv::new(kv));
    let c = coordination(Arc::clone(&lossy) as Arc<dyn Kv>, "audit-lost");
    record(&c, "first").await;
    let stamp = nonce();
    lossy.lose(1);
    let sequence =
        c.record_audit(&chain(), &stamp, &note(&"second")).await.expect("the store answers");
    assert_eq!((sequence, lossy.left()), (2, 0));
    for n in 0..10 {
        record(&c, n).await;
    }
    assert_eq!(
        c.record_audit(&chain(), &stamp, &note(&"second")).await.expect("the store answers"),
        2
    );
    assert_eq!(trail(&c).await.len(), 12);
    // What the coordinator writes itself is not taken from others, nor is nonsense.
    for kind in ["owned", "action-done", "Not A Word", ""] {
        let note = Note { kind: kind.to_owned(), ..note(&"") };
        let refused = c.record_audit(&chain(), &nonce(), &note).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{kind}: {refused:?}");
    }
}

fn keeping(kv: &Arc<dyn Kv>, root: &str, audit_entries: u64) -> Coordination {
    let budget = BudgetOptions { writes_per_second: 5000, ..BudgetOptions::default() };
    let options = Options { root: root.to_owned(), budget, audit_entries, ..Options::default() };
    Coordination::new(Arc::clone(kv), &options)
}

pub(super) async fn the_trail_is_bounded(kv: Arc<dyn Kv>) {
    let root = root("audit-bound");
    let c = keeping(&kv, &root, 10);
    for n in 1..=35 {
        assert_eq!(record(&c, n).await, n);
        let entries = trail(&c).await;
        assert_eq!(entries.len(), usize::try_from(n.min(10)).expect("at most 10"));
        assert_eq!(entries.last().expect("one was recorded").sequence, n, "the newest stay");
    }
    let stored = kv.range(&c.keys.audit_entries(&chain()), 100).await.expect("the store answers");
    assert_eq!(stored.entries.len(), 10, "the others are gone from the store");
    // The newest so many, and those after one that was seen.
    let newest = c.list_audit(&chain(), 0, 3).await.expect("the store answers");
    assert_eq!(newest.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), [33, 34, 35]);
    let after = c.list_audit(&chain(), 33, usize::MAX).await.expect("the store answers");
    assert_eq!(after.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), [34, 35]);
    // A bound that was lowered is reached in steps.
    let wide = keeping(&kv, &root, 1000);
    for n in 36..=110 {
        record(&wide, n).await;
    }
    assert_eq!(trail(&c).await.len(), 85);
    record(&c, "narrow").await;
    record(&c, "narrow").await;
    let entries = trail(&c).await;
    assert_eq!((entries.len(), entries[0].sequence), (10, 103));
}

/// What the write budget refuses is an error, never a silent loss.
pub(super) async fn a_refused_entry_is_an_error(kv: Arc<dyn Kv>) {
    let budget =
        BudgetOptions { writes_per_second: 2, longest_wait: std::time::Duration::from_millis(1) };
    let options = Options { root: root("audit-budget"), budget, ..Options::default() };
    let c = Coordination::new(kv, &options);
    let mut recorded = 0;
    let refused = loop {
        match c.record_audit(&chain(), &nonce(), &note(&recorded)).await {
            Ok(_) => recorded += 1,
            Err(error) => break error,
        }
        assert!(recorded < 1000, "the budget is not drawn on");
    };
    assert!(matches!(refused, Error::Busy(_)), "{refused}");
    assert_eq!(trail(&c).await.len(), recorded);
    // Operators are not held back by what the ingestors write.
    c.set_paused(&chain(), true, "ops", "").await.expect("the store answers");
    assert_eq!(trail(&c).await.len(), recorded + 1);
}

/// A trail that cannot be read is an error where it is asked for, and never costs a lock.
pub(super) async fn a_damaged_trail_costs_no_lock(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "audit-damaged");
    let key = c.keys.audit(&chain());
    let value = "not a trail".into();
    c.kv()
        .txn(Txn::read(vec![Op::Put { key: key.clone(), value, lease: None }]))
        .await
        .expect("the store answers");
    let (holder, epoch) = own(&c, LOCK, LONG).await;
    let (_, mut queued) = candidate(&c, LOCK, LONG).await;
    waiting(&mut queued).await;
    c.release(&holder).await.expect("the store answers");
    assert!(owned(&mut queued).await > epoch);
    let refused = c.record_audit(&chain(), &nonce(), &note(&"")).await.unwrap_err();
    assert!(matches!(&refused, Error::Record { key: named, .. } if *named == key), "{refused}");
    let refused = c.set_paused(&chain(), true, "ops", "").await.unwrap_err();
    assert!(matches!(refused, Error::Record { .. }), "{refused}");
}
