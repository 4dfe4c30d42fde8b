//! Real blocks as seeds for the fuzzer: `make fuzz` calls it with the corpus directory.
//!
//! `scan/` gets the changes of the recording's blocks, whole and one by one, `frame/` the frames
//! made of them, with digests and metadata, and control records. Small ones matter most: one
//! wrong byte in them is soon found.

#![allow(clippy::unwrap_used, reason = "a program for developers ends at the first surprise")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use sluice_frame::{BlockBuilder, BlockStart, Digester, Frame, Header, Record, put_change};
use sluice_model::{
    Digest, Epoch, Generation, IngestorName, Kind, Op, Pointer, TopicRule, TopicRules,
};
use sluice_tests::recording::{self, Block, Pair};

fn main() {
    let corpus = PathBuf::from(std::env::args_os().nth(1).unwrap());
    let mut blocks = recording::blocks();
    for (number, pair) in small(&blocks).into_iter().enumerate() {
        let region = region(std::slice::from_ref(&pair));
        write(&corpus, "scan", &format!("change-{number}"), &region);
        let block = Block { height: 7, pairs: vec![pair] };
        let frame = frames(&block, &region).remove(0);
        write(&corpus, "frame", &format!("change-{number}"), &frame.encode());
    }
    blocks.sort_by_key(|block| block.pairs.len());
    blocks.dedup_by_key(|block| block.pairs.len());
    for block in &blocks {
        let region = region(&block.pairs);
        write(&corpus, "scan", &format!("block-{}", block.height), &region);
        for (part, frame) in frames(block, &region).into_iter().enumerate() {
            write(&corpus, "frame", &format!("block-{}-{part}", block.height), &frame.encode());
        }
    }
    for (name, frame) in control_records() {
        write(&corpus, "frame", name, &frame.encode());
    }
}

fn write(corpus: &Path, target: &str, name: &str, bytes: &[u8]) {
    let dir = corpus.join(target);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(name), bytes).unwrap();
}

/// The smallest set and the smallest delete of every store.
fn small(blocks: &[Block]) -> Vec<Pair> {
    let mut smallest = BTreeMap::<_, &Pair>::new();
    for pair in blocks.iter().flat_map(|block| &block.pairs) {
        let known = smallest.entry((&pair.store, pair.delete)).or_insert(pair);
        if pair.raw.len() < known.raw.len() {
            *known = pair;
        }
    }
    smallest.into_values().cloned().collect()
}

fn region(pairs: &[Pair]) -> Bytes {
    let mut region = BytesMut::new();
    for pair in pairs {
        let op = if pair.delete { Op::Delete } else { Op::Set };
        put_change(&pair.store, op, &pair.key, &pair.value, &mut region);
    }
    region.freeze()
}

fn frames(block: &Block, region: &Bytes) -> Vec<Frame> {
    let (pointer, parent) =
        (Pointer::from_height(block.height), Pointer::from_height(block.height - 1));
    let topics = TopicRules::new(vec![TopicRule {
        store: "bank".into(),
        prefix: Some("hex:02".parse().unwrap()),
        topic: "bank.balances".into(),
    }]);
    let start = BlockStart {
        ingestor: name(),
        generation: Generation(0),
        pointer: pointer.clone(),
        parent,
        height: block.height,
        time: Some(1_700_000_000_000_000_001),
        epoch: Epoch::new(1, 9),
    };
    let mut builder = BlockBuilder::new(start, &topics);
    builder.push_changes(region).unwrap();
    builder.set_metadata("type/x", Bytes::from_static(b"metadata"));
    let mut frames: Vec<Frame> = builder.finish("").into();
    let before = Digest::from_array([3; 32]);
    let mut digester = Digester::new(before, Generation(0), pointer, block.height);
    frames.iter().for_each(|frame| digester.add(frame).unwrap());
    let end = frames.last_mut().unwrap().header.end.as_mut().unwrap();
    digester.finish().fill(before, end);
    frames
}

fn control_records() -> [(&'static str, Frame); 3] {
    let pointer = Pointer::from_height(9);
    let gap = Record::Gap { from: pointer.clone(), to: pointer.clone(), cause: "lost".into() };
    let generation = Record::GenerationStart {
        generation: Generation(1),
        base_generation: Generation(0),
        base_pointer: pointer.clone(),
        base_digest: Digest::from_array([3; 32]),
        reason: "rollback".into(),
        actor: "operator".into(),
    };
    let epoch = Record::EpochStart { writer_id: 4, nonce: "n".into(), holder: "node-1".into() };
    [
        ("gap", Kind::Gap, gap),
        ("generation", Kind::Generation, generation),
        ("epoch", Kind::Epoch, epoch),
    ]
    .map(|(title, kind, record)| {
        let mut header = Header::new(kind, name(), pointer.clone(), 9);
        header.record = Some(record);
        (title, Frame { header, changes: Bytes::new() })
    })
}

fn name() -> IngestorName {
    "chain-1".parse().unwrap()
}
