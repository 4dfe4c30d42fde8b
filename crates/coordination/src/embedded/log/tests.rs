use bytes::Bytes;

use super::*;
use crate::kv::{Op, Txn};

fn put(state: &mut State, key: &str, value: &str) -> Mutation {
    let value = Bytes::copy_from_slice(value.as_bytes());
    let op = Op::Put { key: key.to_owned(), value, lease: None };
    state.txn(&Txn::read(vec![op])).unwrap().1.unwrap()
}

fn filled(directory: &Path, records: usize) -> State {
    let (mut log, mut state) = Log::open(directory).unwrap();
    for n in 0..records {
        let mutation = put(&mut state, &format!("k{n}"), "value");
        log.append(&[mutation]).unwrap();
    }
    state
}

#[test]
fn comes_back_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let state = filled(directory.path(), 5);
    assert_eq!(Log::open(directory.path()).unwrap().1, state);
}

#[test]
fn a_torn_end_is_cut_at_every_length() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 3);
    let path = path_of(directory.path(), 1);
    let whole = fs::read(&path).unwrap();
    let before = filled_prefix(&whole, 2);
    for len in before..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let (log, state) = Log::open(directory.path()).unwrap();
        assert_eq!(state.revision(), 2, "cut to {len}");
        assert_eq!(log.size(), before as u64);
        drop(log);
        assert_eq!(fs::metadata(&path).unwrap().len(), before as u64);
    }
}

/// The length of the file with only so many records after the snapshot.
fn filled_prefix(whole: &[u8], records: usize) -> usize {
    let mut at = MAGIC.len();
    for _ in 0..=records {
        let rest = Bytes::copy_from_slice(&whole[at..]);
        at += HEADER + payload(&rest).unwrap().len();
    }
    at
}

#[test]
fn damage_before_the_end_is_refused_and_named() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 3);
    let path = path_of(directory.path(), 1);
    let whole = fs::read(&path).unwrap();
    let last = filled_prefix(&whole, 2);
    for at in MAGIC.len()..last {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let error = Log::open(directory.path()).err().unwrap();
        assert!(error.to_string().contains("coordination-00000001.log"), "{error}");
    }
}

#[test]
fn a_second_process_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let open = Log::open(directory.path()).unwrap();
    let error = Log::open(directory.path()).err().unwrap();
    assert!(error.to_string().contains("another process uses this directory"), "{error}");
    drop(open);
    Log::open(directory.path()).unwrap();
}

#[test]
fn compaction_keeps_the_state_and_drops_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, mut state) = Log::open(directory.path()).unwrap();
    state.grant(9, 1000);
    for n in 0..100 {
        let mutation = put(&mut state, "same", &n.to_string());
        log.append(&[mutation]).unwrap();
    }
    let before = log.size();
    log.compact(&state.snapshot());
    assert!(log.size() < before);
    log.append(&[put(&mut state, "more", "x")]).unwrap();
    drop(log);
    assert!(!path_of(directory.path(), 1).exists());
    assert_eq!(Log::open(directory.path()).unwrap().1, state);
}

#[test]
fn an_unfinished_compaction_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let state = filled(directory.path(), 2);
    fs::write(directory.path().join("next.tmp"), b"half").unwrap();
    assert_eq!(Log::open(directory.path()).unwrap().1, state);
    assert!(!directory.path().join("next.tmp").exists());
}
