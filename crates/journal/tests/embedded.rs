//! What is particular to the embedded backend, on real files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by panicking, as tests do"
)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sluice_frame::Frame;
use sluice_journal::{
    Embedded, Item, Journal, JournalError, Open, Options, Policy, ReadFrom, Ticket, Writer,
    conformance::{
        ID, append, block, block_of, fill, fresh, heights, name, opening, parent_of, reader,
    },
};
use sluice_model::{Digest, Durability};

fn options() -> Options {
    Options { segment_bytes: 256 << 10, tail_cache_bytes: 1 << 20, ..Options::default() }
}

#[tokio::test]
async fn a_directory_has_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Embedded::open_dir(dir.path(), options()).unwrap();
    let error = Embedded::open_dir(dir.path(), options()).unwrap_err();
    let JournalError::InUse { pid, .. } = &error else { panic!("{error}") };
    assert_eq!(*pid, std::process::id());
    assert!(error.to_string().contains("already in use by process"), "{error}");
    journal.close().await;
    Embedded::open_dir(dir.path(), options()).unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_at_the_head_never_touch_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Embedded::open_dir(dir.path(), options()).unwrap();
    let mut writer = fresh(journal.as_ref()).await.writer;
    let mut live = reader(journal.as_ref(), ReadFrom::Latest).await;
    for height in 1..=300 {
        append(writer.as_mut(), block(height)).await.unwrap();
        loop {
            if let Item::Entry(stored) = live.next().await.unwrap() {
                assert_eq!(stored.header.height, height);
                break;
            }
        }
    }
    let status = journal.status(&name()).await.unwrap();
    assert_eq!(status.disk_reads, 0);
    assert!(status.tail_bytes > 0 && status.tail_bytes <= 1 << 20);
    assert_eq!(status.readers, 1);
    journal.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_ingestors_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Embedded::open_dir(dir.path(), options()).unwrap();
    let mut tasks = Vec::new();
    for number in 0..16 {
        let journal = Arc::clone(&journal);
        tasks.push(tokio::spawn(async move {
            let ingestor: sluice_model::IngestorName = format!("chain/{number}").parse().unwrap();
            journal.create(&ingestor, ID).await.unwrap();
            let open = Open { ingestor: ingestor.clone(), ..opening(1) };
            let mut writer = journal.open(open).await.unwrap().writer;
            let mut tickets = Vec::new();
            for height in 1..=60 {
                for mut frame in block(height) {
                    frame.header.ingestor = ingestor.clone();
                    tickets.extend(writer.append(frame).await.unwrap());
                }
            }
            for ticket in tickets {
                ticket.await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    journal.close().await;
    drop(journal);
    let journal = Embedded::open_dir(dir.path(), options()).unwrap();
    let ingestors = journal.list().await.unwrap();
    assert_eq!(ingestors.len(), 16);
    for ingestor in ingestors {
        assert_eq!(journal.status(&ingestor).await.unwrap().head.unwrap().height, 60);
    }
    journal.close().await;
}

/// A block of many parts, one at a time.
fn part(height: u64, part: u32, parts: u32, len: usize) -> Frame {
    let pair = ("bank", part.to_be_bytes().to_vec(), vec![7; len]);
    let mut frame = block_of(0, height, parent_of(height), &[pair]).remove(0);
    frame.header.part = part;
    frame.header.first_index = part;
    let end = sluice_frame::BlockEnd { parts, changes: parts, ..Default::default() };
    frame.header.end = (part + 1 == parts).then_some(end);
    frame
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_block_passes_through_a_small_queue() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 8 << 20,
        tail_cache_bytes: 2 << 20,
        queue_bytes: 2 << 20,
        ..Options::default()
    };
    let journal = Embedded::open_dir(dir.path(), options.clone()).unwrap();
    let mut writer = fresh(journal.as_ref()).await.writer;
    fill(writer.as_mut(), 1..=1).await;
    let parts = 128;
    let mut ticket = None;
    for number in 0..parts {
        ticket = writer.append(part(2, number, parts, 500 << 10)).await.unwrap();
    }
    ticket.unwrap().await.unwrap();
    fill(writer.as_mut(), 3..=3).await;
    let status = journal.status(&name()).await.unwrap();
    assert!(status.tail_bytes <= 2 << 20 && status.segments > 6, "{status:?}");
    journal.close().await;
    drop(journal);
    let journal = Embedded::open_dir(dir.path(), options).unwrap();
    let mut all = reader(journal.as_ref(), ReadFrom::Height(2)).await;
    for number in 0..parts {
        let Item::Entry(stored) = all.next().await.unwrap() else { panic!("a frame") };
        assert_eq!((stored.header.height, stored.header.part), (2, number));
        assert_eq!(stored.changes, part(2, number, parts, 500 << 10).changes);
    }
    assert_eq!(heights(all.as_mut()).await, [3]);
    assert!(journal.verify(&name(), Box::new(|_| ())).await.unwrap().is_sound());
    journal.close().await;
}

#[tokio::test]
async fn weaker_durability_is_named() {
    for (policy, durability) in [
        (Policy::Interval(Duration::from_millis(5)), Durability::Interval),
        (Policy::None, Durability::None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let journal = Embedded::open_dir(dir.path(), Options { policy, ..options() }).unwrap();
        let mut writer = fresh(journal.as_ref()).await.writer;
        let receipt = append(writer.as_mut(), block(1)).await.unwrap();
        assert_eq!(receipt.durability, durability);
        fill(writer.as_mut(), 2..=9).await;
        journal.close().await;
        drop(journal);
        let journal = Embedded::open_dir(dir.path(), options()).unwrap();
        assert_eq!(journal.status(&name()).await.unwrap().head.unwrap().height, 9);
        journal.close().await;
    }
}

#[tokio::test]
async fn people_can_look_inside() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Embedded::open_dir(dir.path(), options()).unwrap();
    let mut writer = fresh(journal.as_ref()).await.writer;
    fill(writer.as_mut(), 1..=5).await;
    journal.close().await;
    let found = sluice_journal::inspect::journals(dir.path()).unwrap();
    let [Ok(found)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((&found.ingestor, found.id), (&name(), ID));
    assert_eq!(found.recorded_head.as_ref().unwrap().height, 5);
    let segments = sluice_journal::inspect::segments(&found.dir).unwrap();
    assert_eq!(segments.len(), 1);
    let mut records = 0;
    sluice_journal::inspect::records(&found.dir, segments[0].number, |record| {
        records += u64::from(record.frame.is_ok());
        true
    })
    .unwrap();
    assert_eq!(records, 6, "the open and five blocks");
    let report = sluice_journal::inspect::verify(&found.dir, &|_| ()).unwrap();
    assert!(report.is_sound() && report.blocks == 5);
}

/// Appends a block and gives its ticket.
async fn send(writer: &mut dyn Writer, height: u64) -> Ticket {
    let mut ticket = None;
    for frame in block(height) {
        ticket = writer.append(frame).await.unwrap();
    }
    ticket.unwrap()
}

/// Waits until the journal's head is there; nobody waits for the ticket.
async fn reaches(journal: &dyn Journal, height: u64) {
    let select = sluice_journal::conformance::stores(&[]);
    let mut reader = journal.read(&name(), ReadFrom::Earliest, select).await.unwrap();
    let there = async {
        loop {
            match reader.next().await.unwrap() {
                Item::Entry(stored) if stored.header.height == height => break,
                _ => {}
            }
        }
    };
    let soon = tokio::time::timeout(Duration::from_secs(30), there).await;
    assert!(soon.is_ok(), "block {height} never becomes durable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_becomes_durable_whatever_becomes_of_its_ticket() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Embedded::open_dir(dir.path(), options()).unwrap();
    let mut writer = fresh(journal.as_ref()).await.writer;
    drop(send(writer.as_mut(), 1).await);
    reaches(journal.as_ref(), 1).await;
    let kept = send(writer.as_mut(), 2).await;
    reaches(journal.as_ref(), 2).await;
    // Waited for on another thread than it was appended on, and after the next one.
    let third = send(writer.as_mut(), 3).await;
    let fourth = send(writer.as_mut(), 4).await;
    let fourth = tokio::spawn(fourth).await.unwrap().unwrap();
    let (second, third) = (kept.await.unwrap(), third.await.unwrap());
    journal.close().await;
    drop(journal);
    // Each digest covers the one before, so a wrong one would not be followed.
    let journal = Embedded::open_dir(dir.path(), options()).unwrap();
    let report = journal.verify(&name(), Box::new(|_| ())).await.unwrap();
    assert!(report.is_sound() && report.blocks == 4, "{report:?}");
    assert_eq!(report.head.unwrap().digest, fourth.digest);
    assert!(second.digest != third.digest && third.digest != fourth.digest);
    journal.close().await;
}

/// The first state digest of the block of this height.
async fn state_digest(journal: &dyn Journal, height: u64) -> Digest {
    let mut reader = reader(journal, ReadFrom::Height(height)).await;
    loop {
        if let Item::Entry(stored) = reader.next().await.unwrap() {
            return stored.header.end.as_ref().unwrap().states[0].digest;
        }
    }
}

/// True if a segment contains the digest.
fn on_disk(dir: &Path, digest: Digest) -> bool {
    let mut segments = walk(dir);
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    assert!(!segments.is_empty(), "no segments in {}", dir.display());
    let contains = |content: Vec<u8>| content.windows(32).any(|window| window == digest.as_bytes());
    segments.iter().any(|path| contains(std::fs::read(path).unwrap()))
}

/// All files below a directory.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn late_digests_are_stored_with_the_next_block_and_at_the_close() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Embedded::open_dir(dir.path(), options()).unwrap();
    let mut writer = fresh(journal.as_ref()).await.writer;
    let mut before = None;
    for height in 1..=3 {
        append(writer.as_mut(), block(height)).await.unwrap();
        assert!(before.is_none_or(|digest| on_disk(dir.path(), digest)), "before {height}");
        before = Some(state_digest(journal.as_ref(), height).await);
    }
    journal.close().await;
    assert!(on_disk(dir.path(), before.unwrap()), "the last block");
}

/// The same blocks, each waited for at once and all of them sent ahead, have the same digests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digests_do_not_depend_on_when_they_are_computed() {
    let mut digests = Vec::new();
    for ahead in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let journal = Embedded::open_dir(dir.path(), options()).unwrap();
        let mut writer = fresh(journal.as_ref()).await.writer;
        let (mut tickets, mut found) = (Vec::new(), Vec::new());
        for height in 1..=40 {
            for frame in block(height) {
                tickets.extend(writer.append(frame).await.unwrap());
            }
            if !ahead {
                found.push(tickets.remove(0).await.unwrap().digest);
            }
        }
        for ticket in tickets {
            found.push(ticket.await.unwrap().digest);
        }
        digests.push(found);
        journal.close().await;
    }
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0].len(), 40);
}
