//! L17: the wall clock of the whole process is stepped, with a real client and a real coordinator
//! in it. The test runs itself again under a library that fakes the wall clock and nothing else.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sluice_client::coordination::LostCause;
use sluice_coordination::EmbeddedKv;
use tokio::time::{Instant, timeout};

use crate::node::{Fault, Node, TTL, commit, ingestor};

const CHILD: &str = "clock::under_a_stepped_clock";
/// What the child steps its clock with, in the directory it runs in.
const FILE: &str = "clock";
const LOCK: &str = "ingestor/chain";

fn library() -> PathBuf {
    let candidates = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let library = |directory: std::fs::DirEntry| {
        let path = directory.path().join("faketime/libfaketimeMT.so.1");
        path.exists().then_some(path)
    };
    candidates.into_iter().find_map(library).unwrap_or_else(|| {
        panic!("libfaketime is missing, which steps the clock of this test: run `make test`, which installs it")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stepped_wall_clock_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(FILE);
    std::fs::write(&file, "+0").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", CHILD, "--nocapture"])
        .current_dir(directory.path())
        .env("LD_PRELOAD", library())
        .env("FAKETIME_TIMESTAMP_FILE", &file)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn wall() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Steps the wall clock, and sees that it was.
fn step(file: &Path, started: (f64, Instant), seconds: i32) {
    std::fs::write(file, format!("{seconds:+}")).unwrap();
    let moved = wall() - started.0 - started.1.elapsed().as_secs_f64();
    assert!((moved - f64::from(seconds)).abs() < 5.0, "stepped by {moved}, not {seconds}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the test above runs it, under a clock that can be stepped"]
async fn under_a_stepped_clock() {
    let file = Path::new(FILE);
    let started = (wall(), Instant::now());
    let node = Node::new(Arc::new(EmbeddedKv::in_memory()), "clock");
    let client = node.client();
    let id = client.ensure_journal(&ingestor("chain")).await.unwrap().id;
    let (one, two) = (node.session("one").await, node.session("two").await);
    let lock = timeout(TTL, one.acquire(LOCK)).await.unwrap().unwrap();
    let waiter = tokio::spawn(async move { (two.acquire(LOCK).await.unwrap(), two) });
    let (epoch, lease) = (lock.epoch(), one.id());
    let mut height = 0;
    for seconds in [3600, -3600, 3600, 0] {
        step(file, started, seconds);
        let since = Instant::now();
        while since.elapsed() < TTL / 2 {
            assert!(lock.is_valid() && lock.remaining() <= TTL, "{:?}", lock.remaining());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client.commit(&lock, &commit(id, height, height + 1)).await.unwrap();
        height += 1;
        assert!(!waiter.is_finished());
        assert_eq!((lock.epoch(), one.id()), (epoch, lease));
        assert_eq!(node.core().locks(LOCK).await.unwrap()[0].waiters.len(), 1);
    }
    // A clock that runs backwards does not let a lease live longer either.
    for method in ["KeepAlive", "EndSession", "Release"] {
        node.fault(method, Some(Fault::Hang));
    }
    step(file, started, -3600);
    let silent = Instant::now();
    let cause = timeout(TTL, lock.lost()).await.unwrap();
    assert_eq!(cause, LostCause::Deadline);
    assert!(silent.elapsed() < TTL && !lock.is_valid(), "{:?}", silent.elapsed());
    for method in ["KeepAlive", "EndSession", "Release"] {
        node.fault(method, None);
    }
    let (next, _two) = timeout(TTL * 3, waiter).await.unwrap().unwrap();
    assert!(next.epoch() > epoch);
    client.commit(&next, &commit(id, height, height + 1)).await.unwrap();
}
