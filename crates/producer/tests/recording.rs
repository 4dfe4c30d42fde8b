//! Imports what the file streamer of a real node wrote, and compares with the summary of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Buf as _;
use sluice_frame::Elements;
use sluice_model::{Digest, Generation, Head, Op, Pointer};
use sluice_producer::source::{
    Item, OnGap, Registry, Source, SourceContext, capture::Doors, cosmos,
};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

fn source(notes: &sluice_producer::notes::Notes) -> Box<dyn Source> {
    let dir = testdata().join("cosmos-recording");
    let table = format!("dir = {dir:?}\nfollow = false").parse().unwrap();
    let context = SourceContext {
        ingestor: "rec".parse().unwrap(),
        on_gap: OnGap::Halt,
        notes: notes.clone(),
        doors: Doors::default(),
    };
    Registry::default().build(cosmos::TYPE, &context, &table).unwrap()
}

#[derive(Default)]
struct Block {
    height: u64,
    time: Option<i64>,
    region: Vec<u8>,
    metadata: Vec<u8>,
}

/// The blocks behind the head; the one at the joint comes first, to be compared.
async fn import(after: Option<u64>, notes: &sluice_producer::notes::Notes) -> Vec<Block> {
    let head = after.map(|height| Head {
        generation: Generation(0),
        pointer: Pointer::from_height(height),
        height,
        digest: Digest::ZERO,
        time: None,
        appended: 0,
    });
    let mut source = source(notes);
    let mut feed = source.blocks(head.as_ref()).await.unwrap();
    let (mut blocks, mut block, mut joint) = (Vec::new(), Block::default(), false);
    loop {
        let item = tokio::time::timeout(Duration::from_secs(60), feed.next()).await.unwrap();
        match item.expect("an end").expect("no error") {
            Item::Begin(begin) => {
                joint = begin.parent.is_some();
                assert!(!joint || Some(begin.height) == after);
                block = Block { height: begin.height, time: begin.time, ..Block::default() };
            }
            Item::Changes(piece) => block.region.extend_from_slice(&piece.bytes),
            Item::Metadata { value, .. } => block.metadata.extend_from_slice(&value),
            Item::End { .. } if joint => {}
            Item::End { .. } => blocks.push(std::mem::take(&mut block)),
            Item::Finished => return blocks,
            _ => {}
        }
    }
}

/// The body of a data file again: the elements without their tags.
fn without_tags(region: &[u8]) -> Vec<u8> {
    Elements::new(region).flat_map(|element| element.unwrap().raw[1..].to_vec()).collect()
}

/// Length-delimited fields of a message, in order.
fn fields(mut message: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut out = Vec::new();
    while message.has_remaining() {
        let (number, wire) = prost::encoding::decode_key(&mut message).unwrap();
        assert_eq!(wire, prost::encoding::WireType::LengthDelimited);
        let length = prost::encoding::decode_varint(&mut message).unwrap();
        let length = usize::try_from(length).unwrap();
        out.push((number, message.copy_to_bytes(length).to_vec()));
    }
    out
}

fn txs(metadata: &[u8]) -> Vec<Vec<u8>> {
    fields(metadata).into_iter().filter(|(number, _)| *number == 3).map(|(_, tx)| tx).collect()
}

#[tokio::test]
async fn a_real_recording_is_imported_to_the_byte() {
    let summary = fs::read_to_string(testdata().join("cosmos-recording.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let number = |path: &str| summary.pointer(path).and_then(serde_json::Value::as_u64);
    let notes = sluice_producer::notes::Notes::default();
    let blocks = import(None, &notes).await;

    let heights: Vec<u64> = blocks.iter().map(|block| block.height).collect();
    let (first, last) = (number("/first_height").unwrap(), number("/last_height").unwrap());
    assert_eq!(heights, (first..=last).collect::<Vec<_>>());

    let mut state: BTreeMap<(String, Vec<u8>), Vec<u8>> = BTreeMap::new();
    let mut per_store: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let (mut deletes, mut empty_sets) = (0, 0);
    for block in &blocks {
        let file = testdata().join(format!("cosmos-recording/block-{}-data", block.height));
        assert_eq!(without_tags(&block.region), fs::read(&file).unwrap()[8..], "{file:?}");
        assert!(block.time.is_some(), "the time of block {} is known", block.height);
        for element in Elements::new(&block.region) {
            let element = element.unwrap();
            let store = String::from_utf8(element.store.to_vec()).unwrap();
            let counts = per_store.entry(store.clone()).or_default();
            counts.0 += 1;
            let place = (store, element.key.to_vec());
            if element.op == Op::Delete {
                (deletes, counts.1) = (deletes + 1, counts.1 + 1);
                state.remove(&place);
            } else {
                empty_sets += u64::from(element.value.is_empty());
                state.insert(place, element.value.to_vec());
            }
        }
    }
    let changes: u64 = per_store.values().map(|(changes, _)| changes).sum();
    assert_eq!(Some(changes), number("/changes"));
    assert_eq!(Some(deletes), number("/deletes"));
    assert_eq!(Some(empty_sets), number("/empty_value_sets"));
    let stores = summary["stores"].as_object().unwrap();
    assert_eq!(per_store.len(), stores.len());
    for (store, (changes, deletes)) in &per_store {
        let live = state.keys().filter(|(own, _)| own == store).count() as u64;
        assert_eq!(Some(*changes), number(&format!("/stores/{store}/changes")), "{store}");
        assert_eq!(Some(*deletes), number(&format!("/stores/{store}/deletes")), "{store}");
        assert_eq!(Some(live), number(&format!("/stores/{store}/live_keys")), "{store}");
    }

    // Every transaction once, in its block, although the node repeats those of all blocks since
    // its start, and at first the one of the genesis, which is in no block.
    let mut expected: BTreeMap<u64, u64> = heights.iter().map(|height| (*height, 0)).collect();
    for block in summary["blocks_with_txs"].as_array().unwrap() {
        let number = |key: &str| block[key].as_u64().unwrap();
        *expected.get_mut(&number("height")).unwrap() = number("txs");
    }
    let found: BTreeMap<u64, u64> =
        blocks.iter().map(|block| (block.height, txs(&block.metadata).len() as u64)).collect();
    assert_eq!(found, expected);
    let listed: u64 = found.values().sum();
    assert_eq!(Some(listed), number("/txs"));
    let left_out = number("/meta_tx_entries").unwrap() - listed;
    assert_eq!(notes.list().len(), 1, "nothing but the repair: {:?}", notes.list());
    let repair = notes.list().join("\n");
    assert!(repair.starts_with(&format!("{left_out} repeated transactions")), "{repair}");
}

/// The recorded meta file of a block, without its header.
fn recorded_meta(height: u64) -> Vec<u8> {
    let file = testdata().join(format!("cosmos-recording/block-{height}-meta"));
    fs::read(file).unwrap().split_off(8)
}

#[tokio::test]
async fn metadata_is_what_the_node_wrote_but_for_transactions_at_the_begin() {
    let blocks = import(None, &sluice_producer::notes::Notes::default()).await;
    for block in &blocks {
        let mut recorded = fields(&recorded_meta(block.height));
        let own = fields(&block.metadata);
        let begin = recorded.iter().position(|(number, _)| *number == 3).unwrap_or_default();
        recorded.drain(begin..begin + recorded.len() - own.len());
        assert!(recorded == own, "block {}", block.height);
    }
}

#[tokio::test]
async fn resuming_anywhere_gives_the_rest_of_the_same_blocks() {
    let notes = sluice_producer::notes::Notes::default();
    let all = import(None, &notes).await;
    // Around the restarts of the node, in between, and at the end.
    for after in [1, 59, 60, 61, 120, 150, 299, 300] {
        let rest = import(Some(after), &notes).await;
        let expected = all.iter().skip(usize::try_from(after).unwrap());
        assert_eq!(rest.len(), expected.len());
        for (own, whole) in rest.iter().zip(expected) {
            assert_eq!(own.height, whole.height);
            assert!(own.region == whole.region && own.metadata == whole.metadata);
        }
    }
}
