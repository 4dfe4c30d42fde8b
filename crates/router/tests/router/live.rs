//! At the head: tailing, heartbeats, silence, many subscribers, control records.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sluice_client::{
    backoff::Backoff,
    subscribe::{Item, SubscribeError, SubscribeOptions, Subscriber},
};
use sluice_frame::{BlockEnd, Frame, Header, Record};
use sluice_model::{Generation, Kind, Pointer, Position, StartPosition};
use sluice_service::{Transport, transport::TransportError};
use tonic::body::Body;
use tower::util::BoxCloneSyncService;

use super::support::{Block, Rig, Writer, hub, next, next_frame, options, seen, stores, until};

#[tokio::test]
async fn latest_begins_behind_the_head_and_goes_on_live() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    writer.heights(1..=3, "bank").await;
    let mut subscriber = rig.subscriber(|options| options.start = StartPosition::Latest.into());
    // Whatever comes first says that the subscription stands.
    next(&mut subscriber).await;
    writer.heights(4..=6, "bank").await;
    for height in 4..=6 {
        assert_eq!(next_frame(&mut subscriber).await.header.height, height);
    }
    assert_eq!(subscriber.connections(), 1);
}

#[tokio::test]
async fn catching_up_goes_over_into_live_without_gap_or_repeat() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    writer.heights(1..=200, "bank").await;
    let mut subscriber = rig.subscriber(|options| options.until = Some(400));
    let writing = tokio::spawn(async move {
        writer.heights(201..=400, "bank").await;
        writer
    });
    let mut heights = Vec::new();
    while let Some(item) = next(&mut subscriber).await {
        if let Item::Frame(frame) = item {
            heights.push(frame.header.height);
        }
    }
    assert_eq!(heights, (1..=400).collect::<Vec<_>>());
    writing.await.unwrap();
}

#[tokio::test]
async fn an_end_beyond_the_head_is_waited_for() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    writer.heights(1..=2, "bank").await;
    let mut subscriber = rig.subscriber(|options| {
        options.filter = stores(&["gov"]);
        options.until = Some(4);
    });
    loop {
        match next(&mut subscriber).await.unwrap() {
            Item::Heartbeat(head) => {
                assert_eq!(head.height, 2);
                break;
            }
            Item::Complete(complete) => panic!("{complete:?}"),
            _ => {}
        }
    }
    // The height itself never comes; the block above it tells that the read is at its end.
    writer.heights(3..=3, "bank").await;
    writer.heights(6..=6, "gov").await;
    let complete = loop {
        match next(&mut subscriber).await.unwrap() {
            Item::Complete(complete) => break complete,
            Item::Frame(frame) => panic!("{:?}", frame.header),
            _ => {}
        }
    };
    assert_eq!(complete.position, Block::of(3, &[]).end());
    assert_eq!(next(&mut subscriber).await, None);
}

#[tokio::test]
async fn unmatched_blocks_at_the_head_are_reported_soon() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    let mut subscriber = rig.subscriber(|options| options.filter = stores(&["gov"]));
    for height in 1..=5 {
        writer.heights(height..=height, "bank").await;
        loop {
            if let Some(Item::Through(through)) = next(&mut subscriber).await
                && through.position == Block::of(height, &[]).end()
            {
                assert_eq!(through.digest, rig.status().await.head.map(|head| head.digest));
                break;
            }
        }
    }
}

/// A server that takes calls and never says a word.
fn silent(calls: Arc<AtomicUsize>) -> Transport {
    BoxCloneSyncService::new(tower::service_fn(move |_request: http::Request<Body>| {
        calls.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<Result<http::Response<Body>, TransportError>>()
    }))
}

#[tokio::test]
async fn silence_is_a_failure_also_for_a_caller_who_gives_up_early() {
    let calls = Arc::new(AtomicUsize::new(0));
    let mut options = SubscribeOptions::new(hub(), StartPosition::Earliest);
    options.stale_after = Duration::from_millis(20);
    options.backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
    options.give_up_after = Some(Duration::from_millis(200));
    let mut subscriber = Subscriber::new(silent(Arc::clone(&calls)), options);
    let gave_up = subscriber.next().await;
    assert!(matches!(gave_up, Err(SubscribeError::GaveUp { .. })), "{gave_up:?}");
    assert!(calls.load(Ordering::Relaxed) >= 2);

    // A connection that went quiet behind its first messages, and a caller with a short tick.
    let rig = Rig::with(
        sluice_router::RouterOptions { heartbeat: Duration::from_secs(3600), ..self::options() },
        |_| {},
    )
    .await;
    let mut quiet = rig.subscriber(|options| options.stale_after = Duration::from_millis(60));
    let mut ticks = 0;
    while quiet.connections() < 2 {
        ticks += 1;
        assert!(ticks < 2000, "never connected again");
        let tick = tokio::time::timeout(Duration::from_millis(10), quiet.next()).await;
        assert!(tick.is_err() || tick.is_ok_and(|item| item.is_ok()));
    }
}

#[tokio::test]
async fn gaps_and_rewinds_come_in_their_place() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    writer.heights(1..=3, "bank").await;
    let base_digest = writer.block(&Block::of(4, &["gov"])).await.digest;
    control(&mut writer, Kind::Gap, 6, 4, |header| {
        header.record = Some(Record::Gap {
            from: Pointer::from_height(5),
            to: Pointer::from_height(6),
            cause: "pruned".into(),
        });
    })
    .await;
    writer.parent = Pointer::from_height(6);
    writer.heights(7..=8, "bank").await;
    control(&mut writer, Kind::Generation, 4, 8, |header| {
        header.generation = Generation(1);
        header.record = Some(Record::GenerationStart {
            generation: Generation(1),
            base_generation: Generation(0),
            base_pointer: Pointer::from_height(4),
            base_digest,
            reason: "rollback".into(),
            actor: "op".into(),
        });
    })
    .await;
    writer.parent = Pointer::from_height(4);
    let again = Block { generation: 1, ..Block::of(5, &["bank"]) };
    writer.block(&again).await;

    let mut subscriber = rig.subscriber(|options| options.filter = stores(&["bank"]));
    let mut words = Vec::new();
    while words.last().is_none_or(|word| word != "g1:5") {
        match next(&mut subscriber).await.unwrap() {
            Item::Frame(frame) => words.push(frame.header.end_of_block().to_string()),
            Item::Gap(gap) => words.push(format!("gap {} {}", gap.through, gap.cause)),
            Item::Rewind(rewind) => {
                assert_eq!(rewind.base_digest, base_digest);
                words.push(format!("rewind {} to {}", rewind.reason, rewind.through));
            }
            _ => {}
        }
    }
    let expected = ["1", "2", "3", "gap 6 pruned", "7", "8", "rewind rollback to g1:4", "g1:5"];
    assert_eq!(words, expected);

    // Each of these places leads back in.
    let after = |position: Position| {
        rig.subscriber(|options| {
            options.start = sluice_model::Checkpoint { position, digest: None }.into();
        })
    };
    let gap_end = Position::end_of(Generation(0), Pointer::from_height(6));
    assert_eq!(next_frame(&mut after(gap_end)).await.header.height, 7);
    let rewound = Position::end_of(Generation(1), Pointer::from_height(4));
    let frame = next_frame(&mut after(rewound)).await;
    assert_eq!((frame.header.height, frame.header.generation), (5, Generation(1)));
}

async fn control(
    writer: &mut Writer,
    kind: Kind,
    height: u64,
    parent: u64,
    set: impl FnOnce(&mut Header),
) {
    let mut header = Header::new(kind, hub(), Pointer::from_height(height), height);
    header.parent = Pointer::from_height(parent);
    header.end = Some(BlockEnd { parts: 1, ..BlockEnd::default() });
    set(&mut header);
    let frame = Frame { header, changes: bytes::Bytes::new() };
    writer.appender.send(&frame).await.unwrap();
    writer.appender.next_ack().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_subscribers_at_the_head_read_nothing_from_disk() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    let names: Vec<String> = (0..20).map(|i| format!("s{i:02}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    writer.block(&Block::of(1, &all)).await;
    let mut readers = Vec::new();
    for i in 0..100 {
        let mut subscriber = rig.subscriber(|options| {
            options.start = StartPosition::Latest.into();
            options.filter = stores(&[all[i % 20]]);
            options.until = Some(51);
        });
        next(&mut subscriber).await;
        let store = all[i % 20].to_owned();
        readers.push(tokio::spawn(async move {
            let mut heights = Vec::new();
            while let Some(item) = next(&mut subscriber).await {
                if let Item::Frame(frame) = item {
                    assert!(seen(&frame).iter().all(|seen| seen.store == store));
                    heights.push(frame.header.height);
                }
            }
            heights
        }));
    }
    assert_eq!(rig.subscribers().await, 100);
    let before = rig.status().await.disk_reads;
    for height in 2..=51 {
        writer.block(&Block::of(height, &all)).await;
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), (2..=51).collect::<Vec<_>>());
    }
    assert_eq!(rig.status().await.disk_reads, before, "served from memory");
    until("all are gone", || async { rig.subscribers().await == 0 }).await;
}

#[tokio::test]
async fn a_vanished_subscriber_holds_nothing() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    writer.heights(1..=3, "bank").await;
    let mut subscribers: Vec<_> = (0..10).map(|_| rig.subscriber(|_| {})).collect();
    for subscriber in &mut subscribers {
        next_frame(subscriber).await;
    }
    assert_eq!(rig.subscribers().await, 10);
    assert_eq!(rig.status().await.readers, 10);
    drop(subscribers);
    until("no subscriber is counted", || async { rig.subscribers().await == 0 }).await;
    until("no reader is alive", || async { rig.status().await.readers == 0 }).await;
    let distinct: HashSet<u64> = [rig.status().await.head.unwrap().height].into();
    assert!(distinct.contains(&3));
}
