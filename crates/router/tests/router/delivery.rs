//! What is delivered is what a reader that decodes, filters and encodes everything would see.

use std::time::Duration;

use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestCaseError};
use sluice_client::{
    backoff::Backoff,
    subscribe::{Item, Start, SubscribeOptions, Subscriber},
};
use sluice_model::{Checkpoint, Filter, FilterSpec, Op, Position, StartPosition};

use super::support::{Block, Rig, Seen, flaky, hub, next, read, stores};

fn filters() -> impl Strategy<Value = FilterSpec> {
    let stores =
        select(vec![vec![], vec!["bank"], vec!["gov", "mint"], vec!["*", "!bank"], vec!["no"]]);
    let topics = select(vec![None, Some("bank\\.two"), Some("bank.*|mint")]);
    let ops = select(vec![vec![], vec![Op::Set], vec![Op::Delete]]);
    let prefixes = select(vec![vec![], vec!["hex:02"], vec!["hex:01", "hex:0203"]]);
    let buckets = select(vec![vec![], vec![(0u8, 127u8)]]);
    (stores, topics, ops, prefixes, buckets).prop_map(|(stores, topics, ops, prefixes, buckets)| {
        FilterSpec {
            stores: stores.into_iter().map(str::to_owned).collect(),
            topics: topics.map(str::to_owned),
            ops,
            prefixes: prefixes.into_iter().map(|p| p.parse().unwrap()).collect(),
            buckets,
        }
    })
}

fn blocks() -> impl Strategy<Value = Vec<Block>> {
    let change = (
        select(vec!["bank", "gov", "mint", "staking"]),
        any::<bool>(),
        vec(1u8..4, 0..4),
        vec(any::<u8>(), 0..40),
    )
        .prop_map(|(store, set, key, value)| {
            let op = if set { Op::Set } else { Op::Delete };
            let value = if set { value } else { Vec::new() };
            (store.to_owned(), op, key, value)
        });
    let block = (1u64..3, vec(change, 0..24), 0usize..7);
    vec(block, 1..14).prop_map(|blocks| {
        let mut height = 0;
        blocks
            .into_iter()
            .map(|(step, changes, part)| {
                height += step;
                Block { height, generation: 0, changes, part }
            })
            .collect()
    })
}

fn expected(blocks: &[Block], spec: &FilterSpec) -> Vec<Seen> {
    let filter = Filter::compile(spec).unwrap();
    blocks.iter().flat_map(|block| block.expected(&filter)).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn filled(blocks: &[Block]) -> Rig {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    for block in blocks {
        writer.send(block).await;
    }
    for block in blocks {
        let ack = writer.appender.next_ack().await.unwrap().unwrap();
        assert_eq!(ack.position(), block.end(), "acknowledged in order");
    }
    rig
}

/// Reads everything through a link that breaks, and compares.
async fn equals_naive(
    blocks: &[Block],
    spec: &FilterSpec,
    cuts: Vec<usize>,
    metadata: bool,
) -> Result<(), TestCaseError> {
    let rig = filled(blocks).await;
    let mut options = SubscribeOptions::new(hub(), StartPosition::Earliest);
    options.filter = spec.clone();
    options.until = blocks.last().map(|block| block.height);
    options.metadata = metadata;
    options.backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
    let mut subscriber = Subscriber::new(flaky(rig.transport.clone(), cuts), options);
    let read = read(&mut subscriber).await;
    prop_assert_eq!(&read.changes, &expected(blocks, spec));
    let head = rig.status().await.head.unwrap();
    prop_assert_eq!(&read.end.position, &head.position());
    prop_assert!(read.end.digest.is_none_or(|digest| digest == head.digest));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn everything_that_matches_once_and_in_order(
        blocks in blocks(),
        spec in filters(),
        cuts in vec(1usize..60, 0..6),
        metadata in any::<bool>(),
    ) {
        runtime().block_on(equals_naive(&blocks, &spec, cuts, metadata))?;
    }
}

fn mixed() -> Vec<Block> {
    (1..=6)
        .map(|height| {
            let stores = ["bank", "gov", "bank", "mint", "gov", "bank", "bank"];
            Block::of(height, &stores[..(height as usize % 4) + 3]).parts_of(height as usize % 3)
        })
        .collect()
}

#[tokio::test]
async fn resumes_after_every_position() {
    let blocks = mixed();
    let rig = filled(&blocks).await;
    for spec in [stores(&[]), stores(&["bank"]), stores(&["gov"]), stores(&["none"])] {
        let all = expected(&blocks, &spec);
        let everything = expected(&blocks, &stores(&[]));
        let ends = blocks.iter().map(Block::end).chain([Position::ORIGIN]);
        for after in everything.iter().map(|seen| seen.position.clone()).chain(ends) {
            let mut subscriber = rig.subscriber(|options| {
                options.filter = spec.clone();
                options.until = Some(6);
                options.start = Start::After(Checkpoint { position: after.clone(), digest: None });
            });
            let read = read(&mut subscriber).await;
            let rest: Vec<_> = all.iter().filter(|s| s.position > after).cloned().collect();
            assert_eq!(read.changes, rest, "after {after} of {spec:?}");
            assert_eq!(read.end.position, blocks[5].end(), "after {after}");
        }
    }
}

#[tokio::test]
async fn digests_of_progress_and_frames_lead_back_in() {
    let blocks = mixed();
    let rig = filled(&blocks).await;
    let mut subscriber = rig.subscriber(|options| {
        options.filter = stores(&["bank"]);
        options.until = Some(6);
    });
    let digests = read(&mut subscriber).await.digests;
    assert!(digests.len() >= 5, "{digests:?}");
    for (position, digest) in digests {
        let mut subscriber = rig.subscriber(|options| {
            options.until = Some(6);
            options.start = Checkpoint { position: position.clone(), digest: Some(digest) }.into();
        });
        let all = expected(&blocks, &stores(&[]));
        let rest = all.into_iter().filter(|s| s.position > position).collect::<Vec<_>>();
        assert_eq!(read(&mut subscriber).await.changes, rest);
    }
}

#[tokio::test]
async fn starts_at_heights_and_times() {
    let blocks = mixed();
    let rig = filled(&blocks).await;
    let from = |start: StartPosition| {
        rig.subscriber(|options| {
            options.start = start.into();
            options.until = Some(6);
        })
    };
    let first = |read: super::support::Read| read.changes[0].position.pointer.height().unwrap();
    assert_eq!(first(read(&mut from(StartPosition::Height(4))).await), 4);
    assert_eq!(first(read(&mut from(StartPosition::Time(4_500_000_000))).await), 5);
}

#[tokio::test]
async fn metadata_only_if_asked_for() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    let block = Block::of(1, &["bank", "gov"]);
    let mut frames = block.frames(&writer.parent);
    let metadata =
        sluice_frame::Metadata { type_url: "t".into(), value: bytes::Bytes::from_static(b"value") };
    frames[0].header.metadata = Some(metadata.clone());
    writer.appender.send(&frames[0]).await.unwrap();
    writer.appender.next_ack().await.unwrap().unwrap();
    for (filter, asked, frames) in
        [("bank", false, 1), ("bank", true, 1), ("none", false, 0), ("none", true, 1)]
    {
        let mut subscriber = rig.subscriber(|options| {
            options.filter = stores(&[filter]);
            options.metadata = asked;
            options.until = Some(1);
        });
        let mut got = Vec::new();
        while let Some(item) = next(&mut subscriber).await {
            if let Item::Frame(frame) = item {
                got.push(frame.header.metadata);
            }
        }
        let expected = vec![asked.then(|| metadata.clone()); frames];
        assert_eq!(got, expected, "{filter}, asked: {asked}");
    }
}
