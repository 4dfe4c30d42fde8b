//! The seam itself.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;

use super::helpers::{LONG, SHORT, lease, root};
use crate::kv::{Answer, Compare, Entry, EventKind, Kv, KvError, Op, Revision, Txn, Watch};

fn put(key: &str, value: &str, lease: Option<u64>) -> Op {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Op::Put { key: key.to_owned(), value, lease }
}

async fn set(kv: &dyn Kv, key: &str, value: &str) -> Revision {
    kv.txn(Txn::read(vec![put(key, value, None)])).await.unwrap().revision
}

async fn remove(kv: &dyn Kv, key: &str) -> Revision {
    kv.txn(Txn::read(vec![Op::Delete(key.to_owned())])).await.unwrap().revision
}

async fn get(kv: &dyn Kv, key: &str) -> Option<Entry> {
    kv.get(key).await.unwrap().1
}

async fn next(watch: &mut Watch) -> Result<Vec<crate::kv::Event>, KvError> {
    tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap()
}

pub(super) async fn put_get_delete(kv: Arc<dyn Kv>) {
    let key = root("put_get_delete");
    assert_eq!(get(&*kv, &key).await, None);
    set(&*kv, &key, "one").await;
    assert_eq!(get(&*kv, &key).await.unwrap().value, "one");
    set(&*kv, &key, "").await;
    assert_eq!(get(&*kv, &key).await.unwrap().value, "");
    let delete = Txn::read(vec![Op::Delete(key.clone())]);
    assert_eq!(kv.txn(delete.clone()).await.unwrap().answers, [Answer::Deleted(true)]);
    assert_eq!(kv.txn(delete).await.unwrap().answers, [Answer::Deleted(false)]);
    assert_eq!(get(&*kv, &key).await, None);
}

pub(super) async fn revisions_of_a_key(kv: Arc<dyn Kv>) {
    let key = root("revisions");
    let first = set(&*kv, &key, "1").await;
    let second = set(&*kv, &key, "2").await;
    assert!(second > first);
    let entry = get(&*kv, &key).await.unwrap();
    assert_eq!((entry.create_revision, entry.mod_revision), (first, second));
    let gone = remove(&*kv, &key).await;
    let third = set(&*kv, &key, "3").await;
    assert!(third > gone && gone > second);
    let entry = get(&*kv, &key).await.unwrap();
    assert_eq!((entry.create_revision, entry.mod_revision), (third, third));
}

pub(super) async fn range_by_prefix(kv: Arc<dyn Kv>) {
    let root = root("range");
    for name in ["a/2", "a/1", "a/3", "ab", "b"] {
        set(&*kv, &format!("{root}/{name}"), name).await;
    }
    let keys = |entries: &[Entry]| -> Vec<String> {
        entries.iter().map(|entry| entry.key[root.len() + 1..].to_owned()).collect()
    };
    let all = kv.range(&format!("{root}/a/"), 100).await.unwrap();
    assert_eq!(keys(&all.entries), ["a/1", "a/2", "a/3"]);
    assert!(!all.more);
    let two = kv.range(&format!("{root}/a/"), 2).await.unwrap();
    assert_eq!(keys(&two.entries), ["a/1", "a/2"]);
    assert!(two.more);
    let exact = kv.range(&format!("{root}/a/"), 3).await.unwrap();
    assert!(!exact.more);
    let none = kv.range(&format!("{root}/c"), 10).await.unwrap();
    assert!(none.entries.is_empty());
    assert!(none.revision >= all.revision);
}

pub(super) async fn compares(kv: Arc<dyn Kv>) {
    let (root, absent) = (root("compares"), root("absent"));
    let created = set(&*kv, &root, "1").await;
    let modified = set(&*kv, &root, "2").await;
    let key = || root.clone();
    let table = [
        (Compare::Created(key(), created), true),
        (Compare::Created(key(), modified), false),
        (Compare::Created(absent.clone(), 0), true),
        (Compare::Created(absent.clone(), 1), false),
        (Compare::Modified(key(), modified), true),
        (Compare::Modified(key(), created), false),
        (Compare::Modified(absent.clone(), 0), true),
        (Compare::Value(key(), "2".into()), true),
        (Compare::Value(key(), "1".into()), false),
        (Compare::Value(absent.clone(), "".into()), false),
        (Compare::Absent(key()), false),
        (Compare::Absent(absent), true),
    ];
    for (compare, holds) in table {
        let when = vec![compare.clone()];
        let txn = Txn { when, then: vec![Op::Get(key())], otherwise: vec![] };
        assert_eq!(kv.txn(txn).await.unwrap().succeeded, holds, "{compare:?}");
    }
}

pub(super) async fn branches(kv: Arc<dyn Kv>) {
    let root = root("branches");
    let txn = || Txn {
        when: vec![Compare::Absent(format!("{root}/a"))],
        then: vec![put(&format!("{root}/a"), "1", None), put(&format!("{root}/b"), "1", None)],
        otherwise: vec![Op::Get(format!("{root}/a")), Op::Range(format!("{root}/"), 10)],
    };
    let first = kv.txn(txn()).await.unwrap();
    assert!(first.succeeded);
    assert_eq!(first.answers, [Answer::Put, Answer::Put]);
    let second = kv.txn(txn()).await.unwrap();
    assert!(!second.succeeded);
    let [Answer::Got(Some(a)), Answer::Listed(both)] = second.answers.as_slice() else {
        panic!("{second:?}")
    };
    assert_eq!((a.create_revision, both.len()), (first.revision, 2));
    assert_eq!(both[1].mod_revision, first.revision, "one transaction, one revision");
}

pub(super) async fn refuses_two_changes_of_a_key(kv: Arc<dyn Kv>) {
    let key = root("twice");
    let twice = Txn::read(vec![put(&key, "1", None), put(&key, "2", None)]);
    let error = kv.txn(twice).await.unwrap_err();
    assert!(matches!(error, KvError::Invalid(_)), "{error}");
    assert_eq!(get(&*kv, &key).await, None);
}

pub(super) async fn reads_its_own_writes(kv: Arc<dyn Kv>) {
    let key = root("own");
    let txn = Txn::read(vec![put(&key, "1", None), Op::Get(key.clone())]);
    let answer = kv.txn(txn).await.unwrap();
    let Some(Answer::Got(Some(entry))) = answer.answers.last() else { panic!("{answer:?}") };
    assert_eq!((entry.create_revision, &entry.value[..]), (answer.revision, &b"1"[..]));
}

pub(super) async fn racing_swaps(kv: Arc<dyn Kv>) {
    let key = root("race");
    let at = set(&*kv, &key, "start").await;
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let (kv, key) = (Arc::clone(&kv), key.clone());
            tokio::spawn(async move {
                let when = vec![Compare::Modified(key.clone(), at)];
                let then = vec![put(&key, &n.to_string(), None)];
                kv.txn(Txn { when, then, otherwise: vec![] }).await.unwrap().succeeded
            })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        won += u32::from(task.await.unwrap());
    }
    assert_eq!(won, 1);
}

pub(super) async fn lease_takes_its_keys(kv: Arc<dyn Kv>) {
    let (root, lease) = (root("lease"), lease());
    kv.grant(lease, LONG).await.unwrap();
    let (a, b, kept) = (format!("{root}/a"), format!("{root}/b"), format!("{root}/c"));
    let puts =
        vec![put(&a, "", Some(lease)), put(&b, "", Some(lease)), put(&kept, "", Some(lease))];
    kv.txn(Txn::read(puts)).await.unwrap();
    assert_eq!(get(&*kv, &a).await.unwrap().lease, Some(lease));
    set(&*kv, &kept, "without a lease now").await;
    kv.revoke(lease).await.unwrap();
    assert_eq!(get(&*kv, &a).await, None);
    assert_eq!(get(&*kv, &b).await, None);
    assert!(get(&*kv, &kept).await.is_some());
    kv.revoke(lease).await.unwrap();
}

pub(super) async fn keepalive_extends(kv: Arc<dyn Kv>) {
    let (key, lease) = (root("keepalive"), lease());
    let ttl = kv.grant(lease, SHORT).await.unwrap();
    kv.txn(Txn::read(vec![put(&key, "", Some(lease))])).await.unwrap();
    let started = tokio::time::Instant::now();
    while started.elapsed() < ttl + ttl / 2 {
        assert_eq!(kv.keep_alive(lease).await.unwrap(), ttl);
        tokio::time::sleep(ttl / 4).await;
    }
    assert!(get(&*kv, &key).await.is_some());
    wait_until_gone(&*kv, &key, ttl + Duration::from_secs(2)).await;
}

async fn wait_until_gone(kv: &dyn Kv, key: &str, limit: Duration) {
    let started = tokio::time::Instant::now();
    while get(kv, key).await.is_some() {
        assert!(started.elapsed() < limit, "{key} outlived its lease");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn ended_lease_says_zero(kv: Arc<dyn Kv>) {
    let lease = lease();
    assert_eq!(kv.keep_alive(lease).await.unwrap(), Duration::ZERO);
    kv.grant(lease, LONG).await.unwrap();
    assert!(kv.keep_alive(lease).await.unwrap() > Duration::ZERO);
    kv.revoke(lease).await.unwrap();
    assert_eq!(kv.keep_alive(lease).await.unwrap(), Duration::ZERO);
}

pub(super) async fn grant_is_idempotent(kv: Arc<dyn Kv>) {
    let (key, lease) = (root("grant"), lease());
    let ttl = kv.grant(lease, LONG).await.unwrap();
    kv.txn(Txn::read(vec![put(&key, "", Some(lease))])).await.unwrap();
    assert_eq!(kv.grant(lease, LONG).await.unwrap(), ttl);
    assert!(get(&*kv, &key).await.is_some(), "the second grant did not make a new lease");
    assert!(kv.grant(0, LONG).await.is_err());
    assert!(kv.grant(u64::MAX, LONG).await.is_err());
}

pub(super) async fn unknown_lease(kv: Arc<dyn Kv>) {
    let (root, lease) = (root("unknown-lease"), lease());
    let (a, b) = (format!("{root}/a"), format!("{root}/b"));
    let txn = Txn::read(vec![put(&a, "", None), put(&b, "", Some(lease))]);
    let error = kv.txn(txn).await.unwrap_err();
    assert!(matches!(error, KvError::LeaseNotFound(id) if id == lease), "{error}");
    assert_eq!(get(&*kv, &a).await, None, "nothing of a refused transaction is done");
}

pub(super) async fn watch_from_the_past(kv: Arc<dyn Kv>) {
    let key = root("past");
    let first = set(&*kv, &key, "1").await;
    let second = set(&*kv, &key, "2").await;
    let third = remove(&*kv, &key).await;
    let mut watch = kv.watch(&key, first).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(next(&mut watch).await.unwrap());
    }
    let revisions: Vec<_> = seen.iter().map(|event| event.revision).collect();
    assert_eq!(revisions, [first, second, third]);
    assert_eq!(seen[1].kind, EventKind::Put("2".into()));
    assert_eq!(seen[2].kind, EventKind::Deleted);
    let fourth = set(&*kv, &key, "4").await;
    assert_eq!(next(&mut watch).await.unwrap()[0].revision, fourth);
    let mut later = kv.watch(&key, third).await.unwrap();
    assert_eq!(next(&mut later).await.unwrap()[0].revision, third, "from is inclusive");
}

pub(super) async fn watch_is_of_one_key(kv: Arc<dyn Kv>) {
    let key = root("one");
    let from = set(&*kv, &format!("{key}/below"), "").await;
    let mut watch = kv.watch(&key, from).await.unwrap();
    set(&*kv, &format!("{key}x"), "").await;
    set(&*kv, &key, "mine").await;
    let events = next(&mut watch).await.unwrap();
    assert_eq!((events.len(), events[0].key.as_str()), (1, key.as_str()));
}

pub(super) async fn watch_sees_expiry(kv: Arc<dyn Kv>) {
    let (key, lease) = (root("expiry"), lease());
    let ttl = kv.grant(lease, SHORT).await.unwrap();
    let put = kv.txn(Txn::read(vec![put(&key, "", Some(lease))])).await.unwrap();
    let mut watch = kv.watch(&key, put.revision + 1).await.unwrap();
    let started = tokio::time::Instant::now();
    assert_eq!(next(&mut watch).await.unwrap()[0].kind, EventKind::Deleted);
    assert!(started.elapsed() < ttl + Duration::from_secs(2));
    assert!(started.elapsed() > ttl - Duration::from_millis(500), "not before its time");
}

pub(super) async fn time_to_live(kv: Arc<dyn Kv>) {
    let lease = lease();
    assert_eq!(kv.time_to_live(lease).await.unwrap(), None);
    kv.grant(lease, LONG).await.unwrap();
    let left = kv.time_to_live(lease).await.unwrap().unwrap();
    assert!(left <= LONG && left > LONG / 2, "{left:?}");
}

pub(super) async fn compaction_is_reported(kv: Arc<dyn Kv>) {
    let key = root("compaction");
    let first = set(&*kv, &key, "1").await;
    let mut last = first;
    for n in 0..5 {
        last = set(&*kv, &key, &n.to_string()).await;
    }
    kv.compact(last).await.unwrap();
    kv.compact(last).await.unwrap();
    let mut watch = kv.watch(&key, first).await.unwrap();
    let error = next(&mut watch).await.unwrap_err();
    assert!(matches!(error, KvError::Compacted { oldest } if oldest > first), "{error}");
    assert!(watch.next().await.is_none(), "a watch ends with its error");
    let mut watch = kv.watch(&key, last).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap()[0].revision, last, "the rest is there");
    assert_eq!(get(&*kv, &key).await.unwrap().value, "4");
    let (revision, _) = kv.status().await.unwrap();
    assert!(revision >= last);
}
