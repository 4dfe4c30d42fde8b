//! 1,000 ingestors: 100 producers with ten each, every ingestor owned, watched for operators'
//! wishes, and committing; before and after a crash of the only coordinator.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sluice_client::coordination::{
    Coalesced, Commit, CommitWriter, Coordination, CoordinationError, Session, Write,
};
use sluice_model::{IngestorName, Pointer};

use crate::{
    rig::{Rig, commit, session},
    row,
};

const PRODUCERS: usize = 100;
const EACH: usize = 10;
const ALL: usize = PRODUCERS * EACH;
const STEADY: Duration = Duration::from_secs(15);

/// What the whole fleet did.
#[derive(Default)]
struct Seen {
    owned: AtomicUsize,
    watching: AtomicUsize,
    lost: AtomicUsize,
    offered: AtomicU64,
    committed: AtomicU64,
    /// Counts the crashes; an ingestor that commits after one says so once.
    crashes: AtomicUsize,
    back: AtomicUsize,
}

struct Counting {
    inner: CommitWriter,
    seen: Arc<Seen>,
    crashes: usize,
}

#[async_trait]
impl Write<Commit> for Counting {
    type Error = CoordinationError;

    async fn write(&mut self, value: Commit) -> Result<(), CoordinationError> {
        let crashes = self.seen.crashes.load(Ordering::SeqCst);
        self.inner.write(value).await?;
        self.seen.committed.fetch_add(1, Ordering::SeqCst);
        if self.crashes < crashes {
            self.crashes = crashes;
            self.seen.back.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

async fn ingestor(client: Coordination, session: Session, name: String, seen: Arc<Seen>) {
    let ingestor: IngestorName = name.parse().unwrap();
    let lock = session.acquire(&format!("ingestor/{name}")).await.unwrap();
    let journal = client.ensure_journal(&ingestor).await.unwrap().id;
    seen.owned.fetch_add(1, Ordering::SeqCst);
    let mut watch = client.watch_control(&ingestor);
    let watching = Arc::clone(&seen);
    tokio::spawn(async move {
        watch.next().await.unwrap();
        watching.watching.fetch_add(1, Ordering::SeqCst);
        drop(watch.next().await);
    });
    let inner = CommitWriter::new(client, lock.clone(), Pointer::ORIGIN);
    let counting = Counting { inner, seen: Arc::clone(&seen), crashes: 0 };
    let commits = Coalesced::spawn(Duration::from_secs(1), counting);
    let mut height = 0;
    let mut blocks = tokio::time::interval(Duration::from_millis(100));
    let lost = lock.lost();
    tokio::pin!(lost);
    loop {
        tokio::select! {
            _ = &mut lost => break,
            error = commits.failed() => { println!("{name}: {error}"); break }
            _ = blocks.tick() => {}
        }
        height += 1;
        seen.offered.fetch_add(1, Ordering::SeqCst);
        commits.offer(commit(&ingestor, journal, height));
    }
    seen.lost.fetch_add(1, Ordering::SeqCst);
}

/// Waits until all have it; the time that took.
async fn all(counter: &AtomicUsize) -> Duration {
    let begin = Instant::now();
    while counter.load(Ordering::SeqCst) < ALL {
        assert!(begin.elapsed() < Duration::from_secs(60), "{counter:?} of {ALL}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begin.elapsed()
}

pub(crate) async fn run(rig: &mut Rig) {
    let seen = Arc::new(Seen::default());
    let idle = rig.memory();
    let begin = Instant::now();
    for producer in 0..PRODUCERS {
        let (client, seen) = (rig.client(), Arc::clone(&seen));
        tokio::spawn(async move {
            let session = session(&client, &format!("producer-{producer}")).await;
            for n in 0..EACH {
                let name = format!("chain-{producer}-{n}");
                tokio::spawn(ingestor(client.clone(), session.clone(), name, Arc::clone(&seen)));
            }
        });
    }
    all(&seen.owned).await;
    row(
        "1,000 ingestors of 100 producers: until all are owned",
        &format!("{:.1?}", begin.elapsed()),
    );
    all(&seen.watching).await;
    steady(rig, &seen, idle).await;

    rig.crash();
    let begin = Instant::now();
    seen.crashes.fetch_add(1, Ordering::SeqCst);
    all(&seen.back).await;
    let lost = seen.lost.load(Ordering::SeqCst);
    let text = format!("{:.1?}, {lost} locks lost", begin.elapsed());
    row("  coordinator killed and started again: until all commit again", &text);
    row("  its memory then", &format!("{} MiB", rig.memory() / 1024));
}

async fn steady(rig: &Rig, seen: &Seen, idle: u64) {
    let count = || (seen.offered.load(Ordering::SeqCst), seen.committed.load(Ordering::SeqCst));
    let (before, (offered, committed)) = (rig.store().await.0, count());
    tokio::time::sleep(STEADY).await;
    let (revision, size) = rig.store().await;
    let (offered, committed) = (count().0 - offered, count().1 - committed);
    let per_second = |n: u64| n as f64 / STEADY.as_secs_f64();
    let text = format!(
        "{:.0} offered/s, {:.0} committed/s (budget 500), {:.0} etcd writes/s",
        per_second(offered),
        per_second(committed),
        per_second(revision - before)
    );
    row("  commits, each block offered, at most one a second each", &text);
    let text = format!("{} MiB, {} MiB before", rig.memory() / 1024, idle / 1024);
    row("  memory of the coordinator", &text);
    row("  size of etcd's database", &format!("{:.1} MiB", size as f64 / f64::from(1 << 20)));
}
