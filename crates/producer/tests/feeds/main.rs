//! Several replicas of one ingestor with a real coordinator, router and journal: capture beside,
//! compare, fill, agree, hand over.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bad;
mod site;
#[path = "../support/mod.rs"]
mod support;

use std::{path::Path, time::Duration};

use bytes::BytesMut;
use sluice_client::{
    capture::{Begin, Capturer},
    coordination::{AuditEntry, AuditKind},
};
use sluice_frame::put_change;
use sluice_model::Op;
use sluice_producer::{feeds::FeedOptions, status::State};

use site::{Site, beside, until, write_block};
use support::{Producer, SOON, name};

/// A directory that is followed, with little patience.
fn following(dir: &Path) -> String {
    format!("dir = {dir:?}\nrescan = '10ms'\ntorn_after = '80ms'\nmeta_wait = '10ms'")
}

fn value(height: u64) -> Vec<u8> {
    format!("value {height}").into_bytes()
}

fn write(dir: &Path, heights: impl IntoIterator<Item = u64>) {
    heights.into_iter().for_each(|height| write_block(dir, height, &value(height)));
}

/// A replica over the directory of its name.
fn replica(site: &Site, node: &str, feeds: &FeedOptions) -> Producer {
    let table = following(&site.dir(&format!("{node}-blocks")));
    site.producer(node, feeds, "cosmos-files", &table)
}

/// An owner and a standby that captures beside, each over an empty directory of its own.
async fn pair(site: &Site, feeds: &FeedOptions) -> (Producer, Producer) {
    let owner = replica(site, "one", feeds);
    owner.state(State::Active).await;
    let standby = replica(site, "two", feeds);
    standby.spooled("capturing beside", |spool| spool.beside).await;
    (owner, standby)
}

async fn reaches(site: &Site, height: u64, producer: &Producer) {
    until(
        &format!("at {height}"),
        async || site.height().await >= height,
        async || {
            format!("{} {:?} {}", site.height().await, producer.ingestor.get(), producer.notes())
        },
    )
    .await;
}

/// Long enough for something to happen that must not.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_keeps_what_its_source_gives_until_the_journal_has_it() {
    let site = Site::new().await;
    let (owner, standby) = pair(&site, &beside()).await;
    let (one, two) = (site.dir("one-blocks"), site.dir("two-blocks"));
    write(&two, 1..=5);
    standby.spooled("five blocks", |spool| (spool.blocks, spool.height) == (5, 5)).await;
    assert_eq!(site.height().await, 0, "only the owner appends");
    write(&one, 1..=3);
    standby.spooled("two blocks", |spool| spool.blocks == 2).await;
    assert_eq!(site.height().await, 3);
    write(&one, 4..=8);
    reaches(&site, 8, &owner).await;
    write(&two, 6..=8);
    standby.spooled("nothing, and at 8", |spool| spool.blocks == 0).await;
    // The journal's head is what the standby waits for, not its own blocks.
    write(&one, 9..=9);
    write(&two, 9..=10);
    standby.spooled("block 10", |spool| (spool.blocks, spool.height) == (1, 10)).await;
    assert_eq!(site.control().await.paused, None);
    owner.stop().await;
    // And it takes over where the other left off.
    reaches(&site, 10, &standby).await;
    standby.stop().await;
    assert_eq!(site.blocks().await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_block_is_filled_from_a_standby_before_anything_is_blocked() {
    let site = Site::new().await;
    let (owner, standby) = pair(&site, &beside()).await;
    let (one, two) = (site.dir("one-blocks"), site.dir("two-blocks"));
    // A block of several frames is among them.
    write(&two, 1..=3);
    write_block(&two, 4, &vec![7; 2_000_000]);
    write(&two, 5..=7);
    standby.spooled("seven blocks", |spool| spool.blocks == 7).await;
    write(&one, [1, 2, 5, 7]);
    reaches(&site, 7, &owner).await;
    let status = owner.ingestor.get();
    assert_eq!(
        (status.state, status.failures, status.epoch.as_u64() > 0),
        (State::Active, 0, true)
    );
    owner.noted("block 6 was filled from http://two.test:7400").await;
    let trail = site.trail().await;
    assert!(trail.iter().all(|entry| entry.kind != AuditKind::Blocked), "{trail:?}");
    owner.stop().await;
    standby.stop().await;
    // The journal holds what one complete feed would have given.
    let reference = Site::new().await;
    let alone = replica(&reference, "alone", &FeedOptions::default());
    let dir = reference.dir("alone-blocks");
    write(&dir, 1..=3);
    write_block(&dir, 4, &vec![7; 2_000_000]);
    write(&dir, 5..=7);
    reaches(&reference, 7, &alone).await;
    assert_eq!(site.blocks().await, reference.blocks().await);
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn feeds_that_differ_halt_the_ingestor_until_somebody_resumes_it() {
    let site = Site::new().await;
    let (owner, standby) = pair(&site, &beside()).await;
    let (one, two) = (site.dir("one-blocks"), site.dir("two-blocks"));
    write(&one, 1..=2);
    write(&two, 1..=2);
    standby.spooled("nothing", |spool| spool.blocks == 0).await;
    write_block(&two, 3, b"another value");
    standby.spooled("block 3", |spool| spool.height == 3).await;
    write(&one, 3..=3);
    owner.state(State::Halted).await;
    let paused = site.control().await.paused.expect("halted durably");
    assert!(paused.by.starts_with("two pid"), "{paused:?}");
    let cause = owner.ingestor.get().cause;
    for part in [
        "two feeds differ: block 3: store bank is ",
        " in the feed of http://two.test:7400 and ",
        " in the journal, from the owner http://one.test:7400",
    ] {
        assert!(paused.reason.contains(part), "{part}: {}", paused.reason);
        assert!(cause.contains(part), "{part}: {cause}");
    }
    assert!(cause.starts_with("halted by two pid"), "{cause}");
    assert!(cause.ends_with("sluice ingestors resume chain"), "{cause}");
    standby.noted("store bank").await;
    let told = async || {
        let ours = |entry: &&AuditEntry| entry.detail.contains("two feeds differ");
        let of = |entry: &&AuditEntry| entry.kind == AuditKind::Diverged;
        site.trail().await.iter().filter(of).filter(ours).count()
    };
    until("in the trail", async || told().await == 1, async || format!("{:?}", site.trail().await))
        .await;
    // Nothing is appended any more, whatever comes, also by the next owner.
    write(&one, 4..=6);
    write(&two, 4..=6);
    owner.stop().await;
    standby.state(State::Halted).await;
    a_while().await;
    assert_eq!(site.height().await, 3);
    // Somebody looks at it and decides. The difference is kept, and is not told again.
    let owner = replica(&site, "one", &beside());
    site.coordination.set_paused(&name(), false, "me", "node two was wrong").await.unwrap();
    reaches(&site, 6, &standby).await;
    standby.stop().await;
    owner.state(State::Active).await;
    let standby = replica(&site, "two", &beside());
    standby.spooled("the evidence", |spool| spool.beside && spool.diverged == 1).await;
    write(&one, 7..=8);
    write(&two, 7..=8);
    reaches(&site, 8, &owner).await;
    standby.spooled("the evidence alone", |spool| spool.blocks == 1 && spool.height == 3).await;
    assert_eq!((site.control().await.paused, told().await), (None, 1));
    standby.stop().await;
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_who_resumes_after_a_pause_does_not_end_a_halt_that_came_meanwhile() {
    let site = Site::new().await;
    let (owner, standby) = pair(&site, &beside()).await;
    let (one, two) = (site.dir("one-blocks"), site.dir("two-blocks"));
    write(&one, 1..=3);
    reaches(&site, 3, &owner).await;
    site.coordination.set_paused(&name(), true, "me", "upgrade").await.unwrap();
    owner.state(State::Paused).await;
    write(&two, 1..=2);
    write_block(&two, 3, b"another value");
    standby.noted("two feeds differ: block 3: store bank is ").await;
    a_while().await;
    assert_eq!(site.control().await.paused.unwrap().reason, "upgrade");
    assert_eq!(owner.ingestor.get().state, State::Paused);
    site.coordination.set_paused(&name(), false, "me", "done").await.unwrap();
    owner.state(State::Halted).await;
    let paused = site.control().await.paused.unwrap();
    assert!(paused.reason.starts_with("two feeds differ: block 3: "), "{paused:?}");
    standby.stop().await;
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_agree_2_only_what_two_feeds_gave_is_appended() {
    let site = Site::new().await;
    let feeds = FeedOptions { agree: 2, ..beside() };
    let owner = replica(&site, "one", &feeds);
    owner.state(State::Active).await;
    let (one, two) = (site.dir("one-blocks"), site.dir("two-blocks"));
    write(&one, 1..=3);
    owner.noted("block 1 waits for a second feed: no other replica").await;
    assert_eq!(site.height().await, 0);
    write(&two, 1..=2);
    let standby = replica(&site, "two", &feeds);
    reaches(&site, 2, &owner).await;
    owner.noted("block 3 waits for a second feed: http://two.test:7400 has not got so far").await;
    assert_eq!(site.height().await, 2);
    write(&two, 3..=3);
    reaches(&site, 3, &owner).await;
    // Two feeds that differ: nothing is appended, and the ingestor is halted.
    write(&one, 4..=4);
    write_block(&two, 4, b"another value");
    owner.state(State::Halted).await;
    let paused = site.control().await.paused.unwrap();
    assert!(
        paused.reason.contains("block 4") && paused.reason.contains("store bank"),
        "{paused:?}"
    );
    assert_eq!(site.height().await, 3);
    standby.stop().await;
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_agree_2_a_filled_block_needs_a_third_feed() {
    let site = Site::new().await;
    let feeds = FeedOptions { agree: 2, ..beside() };
    let (owner, second) = pair(&site, &feeds).await;
    write(&site.dir("two-blocks"), 1..=3);
    write(&site.dir("one-blocks"), [1, 3]);
    reaches(&site, 1, &owner).await;
    owner.noted("block 2 was filled from http://two.test:7400").await;
    owner.noted("block 2 waits for a second feed: no other replica").await;
    assert_eq!(site.height().await, 1);
    write(&site.dir("three-blocks"), 1..=3);
    let third = replica(&site, "three", &feeds);
    reaches(&site, 3, &owner).await;
    for producer in [third, second, owner] {
        producer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_source_lags_hands_over() {
    let site = Site::new().await;
    let feeds = FeedOptions { lag_limit: 4, ..beside() };
    let (owner, standby) = pair(&site, &feeds).await;
    let (one, two) = (site.dir("one-blocks"), site.dir("two-blocks"));
    write(&one, 1..=2);
    write(&two, 1..=5);
    standby.spooled("at 5", |spool| spool.height == 5).await;
    a_while().await;
    assert_eq!(site.height().await, 2, "three blocks are below the limit");
    write(&two, 6..=7);
    reaches(&site, 7, &standby).await;
    standby.state(State::Active).await;
    let trail = site.trail().await;
    let asked = trail.iter().find(|entry| entry.kind == AuditKind::ActionRequested).unwrap();
    assert!(asked.actor.starts_with("two pid"), "{asked:?}");
    assert!(asked.detail.contains("lag_limit is 4"), "{asked:?}");
    // The old owner stands by, and does not want it back although it is behind.
    owner.spooled("capturing beside", |spool| spool.beside).await;
    a_while().await;
    standby.state(State::Active).await;
    owner.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spool_is_bounded_and_a_full_one_breaks_nothing() {
    let site = Site::new().await;
    let limit = 256 << 10;
    let feeds = FeedOptions { spool_bytes: limit, ..beside() };
    let (owner, standby) = pair(&site, &feeds).await;
    let (one, two) = (site.dir("one-blocks"), site.dir("two-blocks"));
    let large = |dir: &Path, heights: std::ops::RangeInclusive<u64>| {
        heights.for_each(|height| {
            write_block(dir, height, &vec![u8::try_from(height).unwrap(); 10_000]);
        });
    };
    large(&two, 1..=60);
    standby.spooled("full", |spool| spool.cause.contains("the spool is full")).await;
    standby.noted("raise spool_bytes").await;
    let full = standby.spool().await;
    assert!(full.bytes <= limit && full.blocks > 15 && full.blocks < 60, "{full:?}");
    large(&one, 1..=60);
    reaches(&site, 60, &owner).await;
    standby.spooled("through", |spool| spool.blocks == 0 && spool.cause.is_empty()).await;
    large(&two, 61..=61);
    standby.spooled("going on", |spool| spool.height == 61).await;
    let on_disk: u64 = std::fs::read_dir(site.spool_dir("two"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(on_disk <= limit, "{on_disk}");
    owner.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_spool_and_it_still_fills() {
    let site = Site::new().await;
    let (owner, standby) = pair(&site, &beside()).await;
    let (one, two) = (site.dir("one-blocks"), site.dir("two-blocks"));
    write(&two, 1..=6);
    standby.spooled("six blocks", |spool| spool.blocks == 6).await;
    standby.stop().await;
    // The node has pruned them meanwhile; the spool is all there is.
    (1..=6).for_each(|h| std::fs::remove_file(two.join(format!("block-{h}-data"))).unwrap());
    let standby = replica(&site, "two", &beside());
    standby.spooled("still six", |spool| spool.beside && spool.blocks == 6).await;
    write(&one, [1, 2, 4, 5, 6]);
    reaches(&site, 6, &owner).await;
    standby.spooled("nothing", |spool| spool.blocks == 0).await;
    write(&two, 7..=7);
    standby.spooled("block 7", |spool| spool.height == 7).await;
    owner.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_fills_from_its_own_spool_too() {
    let site = Site::new().await;
    let (owner, standby) = pair(&site, &beside()).await;
    let two = site.dir("two-blocks");
    write(&two, 1..=5);
    standby.spooled("five blocks", |spool| spool.blocks == 5).await;
    write(&site.dir("one-blocks"), 1..=2);
    reaches(&site, 2, &owner).await;
    std::fs::remove_file(two.join("block-3-data")).unwrap();
    std::fs::remove_file(two.join("block-4-data")).unwrap();
    owner.kill();
    reaches(&site, 5, &standby).await;
    standby.noted("block 4 was filled from the own spool").await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_blocks_and_becomes_a_gap_only_after_gap_after() {
    let site = Site::new().await;
    let (owner, standby) = pair(&site, &beside()).await;
    let (one, two) = (site.dir("one-blocks"), site.dir("two-blocks"));
    write(&one, [1, 3]);
    write(&two, [1]);
    owner.state(State::Blocked).await;
    let cause = owner.ingestor.get().cause;
    assert!(cause.contains("blocks 2 to 2 are missing"), "{cause}");
    assert!(cause.contains("http://two.test:7400: it has not got so far"), "{cause}");
    a_while().await;
    assert_eq!(site.height().await, 1, "never by itself");
    owner.stop().await;
    standby.stop().await;
    let feeds =
        FeedOptions { beside: false, gap_after: Some(Duration::from_millis(600)), ..beside() };
    let began = std::time::Instant::now();
    let owner = replica(&site, "one", &feeds);
    owner.state(State::Blocked).await;
    reaches(&site, 3, &owner).await;
    assert!(began.elapsed() >= Duration::from_millis(600));
    let blocks = site.blocks().await;
    assert_eq!(blocks.iter().map(|(height, _)| *height).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(blocks[1].1.is_empty(), "a gap");
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_may_hand_their_blocks_to_a_standby_as_well() {
    let site = Site::new().await;
    let owner = site.producer("one", &beside(), "capture", "");
    owner.state(State::Active).await;
    let standby = site.producer("two", &beside(), "capture", "");
    standby.spooled("capturing beside", |spool| spool.beside).await;
    let mut region = BytesMut::new();
    put_change("bank", Op::Set, b"key", b"value", &mut region);
    let region = region.freeze();
    let to = |producer: &Producer| Capturer::new(producer.api.clone(), name());
    let (mut beside, mut beside_acks, _) = to(&standby).resume(SOON).await.unwrap();
    let (mut owned, mut owned_acks, _) = to(&owner).resume(SOON).await.unwrap();
    for height in 1..=3 {
        beside.begin(Begin::at(height)).await.unwrap();
        beside.changes(region.clone()).await.unwrap();
        beside.end().await.unwrap();
    }
    standby.spooled("three blocks", |spool| spool.blocks == 3).await;
    for height in 1..=3 {
        owned.begin(Begin::at(height)).await.unwrap();
        owned.changes(region.clone()).await.unwrap();
        owned.end().await.unwrap();
        let ack = owned_acks.next().await.unwrap().unwrap();
        let beside = beside_acks.next().await.unwrap().unwrap();
        assert_eq!((ack.height, beside.height), (height, height));
        assert_eq!(ack.digest, beside.digest, "acknowledged when the journal has it");
    }
    standby.spooled("nothing", |spool| spool.blocks == 0).await;
    owner.stop().await;
    standby.stop().await;
}
