//! Frames: what we write, every protobuf decoder reads; what is spliced equals what is filtered.

use crate::common::{Owned, block, change, changes, region, start, topics};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use sluice_frame::{
    BlockBuilder, Digester, Digests, FRAME_CUT, Frame, FrameError, Header, Record, Splicer,
    StateDigest, metadata_digest,
};
use sluice_model::{
    Digest, Filter, FilterSpec, Generation, Kind, Op, Pointer, TopicRules, topic::KeyPrefix,
};
use sluice_proto::v1;
use std::sync::Arc;

fn digests(frames: &[Frame], parent: Digest) -> Digests {
    let header = &frames[0].header;
    let mut digester =
        Digester::new(parent, header.generation, header.pointer.clone(), header.height);
    for frame in frames {
        digester.add(frame).unwrap();
    }
    digester.finish()
}

fn filter() -> impl Strategy<Value = FilterSpec> {
    let stores = prop_oneof![
        Just(vec![]),
        Just(vec!["bank".to_owned()]),
        Just(vec!["*".to_owned(), "!bank".to_owned()]),
        Just(vec!["abci.events".to_owned(), "st*".to_owned()]),
    ];
    let topics = prop_oneof![
        Just(None),
        Just(Some("bank\\..*".to_owned())),
        Just(Some("[a-m].*".to_owned()))
    ];
    let ops = prop_oneof![Just(vec![]), Just(vec![Op::Delete])];
    let prefixes = prop_oneof![
        3 => Just(vec![]),
        1 => Just(vec!["hex:02".parse::<KeyPrefix>().unwrap()]),
    ];
    let buckets = prop_oneof![3 => Just(vec![]), 1 => Just(vec![(0u8, 99u8), (200, 255)])];
    (stores, topics, ops, prefixes, buckets).prop_map(|(stores, topics, ops, prefixes, buckets)| {
        FilterSpec { stores, topics, ops, prefixes, buckets }
    })
}

/// (index, store, topic, change) of what passes, decided change by change.
fn naively(frame: &Frame, filter: &Filter) -> Vec<(u32, String, String, Owned)> {
    frame
        .changes()
        .map(Result::unwrap)
        .filter(|(_, route, change)| {
            filter.matches_route(&route.store, &route.topic)
                && filter.matches_change(&route.store, change.op, change.key)
        })
        .map(|(index, route, change)| {
            let owned = Owned {
                store: change.store.to_owned(),
                op: change.op,
                key: change.key.to_vec(),
                value: change.value.to_vec(),
            };
            (index, route.store.to_string(), route.topic().to_owned(), owned)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn splice_equals_decode_filter_encode(changes in changes(60), spec in filter()) {
        let frame = &block(&changes, &topics())[0];
        let filter = Arc::new(Filter::compile(&spec).unwrap());
        let mut splicer = Splicer::new(filter.clone(), false);
        let expected = naively(frame, &filter);
        let spliced = splicer.splice(&frame.header, &frame.changes);
        prop_assert_eq!(spliced.is_some(), !expected.is_empty());
        if !expected.is_empty() {
            prop_assert!(splicer.selects(&frame.header.routes));
        }
        if let Some(wire) = spliced {
            let bytes = wire.into_bytes();
            let read = Frame::parse(bytes.clone()).unwrap();
            read.verify().unwrap();
            prop_assert_eq!(naively(&read, &filter), expected);
            // A stock decoder sees the same, and splicing again changes nothing.
            let stock = v1::Frame::decode(bytes.clone()).unwrap();
            prop_assert_eq!(stock.encode_to_vec(), bytes.as_ref());
            let again = splicer.splice(&read.header, &read.changes).unwrap().into_bytes();
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn headers_read_back_and_by_stock_decoders(changes in changes(30), parent in any::<[u8; 32]>()) {
        let mut frame = block(&changes, &topics()).remove(0);
        frame.header.first_index = 12;
        let parent = Digest::from_array(parent);
        digests(std::slice::from_ref(&frame), parent)
            .fill(parent, frame.header.end.as_mut().unwrap());
        let bytes = frame.encode();
        prop_assert_eq!(&Frame::parse(bytes.clone()).unwrap(), &frame);
        let stock = v1::Frame::decode(bytes.clone()).unwrap();
        prop_assert_eq!(stock.changes.len(), changes.len());
        prop_assert_eq!(stock.encode_to_vec(), bytes.as_ref());
    }

    #[test]
    fn damaged_frames_never_panic(
        changes in changes(5),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = block(&changes, &topics())[0].encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if Frame::parse(bytes.clone().into()).is_ok_and(|frame| frame.verify().is_ok()) {
            let read = v1::Frame::decode(bytes.as_slice());
            prop_assert!(read.is_ok(), "accepted, but a stock decoder says {:?}", read);
        }
        Frame::parse(Bytes::from(bytes).slice(..at)).map(|frame| frame.verify()).ok();
    }

    #[test]
    fn digests_see_content_only(
        changes in prop::collection::vec(change(), 1..30),
        flip in any::<prop::sample::Index>(),
    ) {
        let plain = block(&changes, &TopicRules::default());
        let ruled = block(&changes, &topics());
        let whole = digests(&plain, Digest::ZERO);
        prop_assert_eq!(&whole, &digests(&ruled, Digest::ZERO), "topics are not content");
        let mut other = changes.clone();
        let at = flip.index(other.len());
        other[at].key.push(1);
        let other = digests(&block(&other, &topics()), Digest::ZERO);
        prop_assert_eq!(whole.digest == other.digest, changes[at].store.starts_with("abci."));
        prop_assert_ne!(whole.digest, digests(&plain, Digest::from_array([1; 32])).digest);
    }
}

#[test]
fn long_blocks_are_cut_between_changes_and_keep_their_indices() {
    let big: Vec<Owned> = (0..40u8)
        .map(|i| Owned {
            store: "bank".into(),
            op: Op::Set,
            key: vec![2, i],
            value: vec![i; 60_000],
        })
        .collect();
    let frames = block(&big, &topics());
    assert!(frames.len() > 3, "{}", frames.len());
    let mut seen = Vec::new();
    for (part, frame) in frames.iter().enumerate() {
        frame.verify().unwrap();
        assert_eq!(frame.header.part as usize, part);
        assert!(frame.changes.len() <= FRAME_CUT);
        seen.extend(frame.changes().map(|change| change.unwrap().0));
    }
    assert_eq!(seen, (0..40).collect::<Vec<u32>>());
    let end = frames.last().unwrap().header.end.as_ref().unwrap();
    assert_eq!((end.parts as usize, end.changes), (frames.len(), 40));
    assert!(frames.iter().rev().skip(1).all(|frame| frame.header.end.is_none()));
    // The digest does not see where the cuts are.
    let whole = digests(&frames, Digest::ZERO);
    let mut one = frames[0].clone();
    one.changes = region(&big);
    let table = sluice_frame::scan(&one.changes, &topics()).unwrap();
    (one.header.routes, one.header.runs) = (table.routes, table.runs);
    assert_eq!(whole, digests(&[one], Digest::ZERO));
}

#[test]
fn a_change_larger_than_the_cut_has_a_frame_of_its_own() {
    let set =
        |len: usize| Owned { store: "wasm".into(), op: Op::Set, key: vec![1], value: vec![7; len] };
    let frames = block(&[set(10), set(FRAME_CUT * 3), set(10)], &TopicRules::default());
    assert_eq!(frames.iter().map(|f| f.header.changes()).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn an_empty_block_is_one_frame_that_ends_it() {
    let frames = block(&[], &TopicRules::default());
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].header.end.as_ref().unwrap().changes, 0);
    assert!(frames[0].changes.is_empty());
    assert_eq!(Frame::parse(frames[0].encode()).unwrap(), frames[0]);
}

#[test]
fn large_metadata_has_frames_of_its_own() {
    let value = Bytes::from(vec![5; FRAME_CUT * 2 + 17]);
    let rules = TopicRules::default();
    let mut builder = BlockBuilder::new(start(7), &rules);
    builder.push_change("bank", Op::Set, b"k", b"v").unwrap();
    builder.set_metadata("type/x", value.clone());
    let frames: Vec<Frame> = builder.finish("").into();
    let pieces: Vec<&Bytes> =
        frames.iter().filter_map(|f| f.header.metadata.as_ref()).map(|m| &m.value).collect();
    assert_eq!(pieces.len(), 3);
    assert_eq!(pieces.into_iter().flatten().copied().collect::<Vec<u8>>(), value);
    let digests = digests(&frames, Digest::ZERO);
    assert_eq!(digests.metadata, Some(metadata_digest("type/x", &value)));
}

#[test]
fn metadata_is_only_sent_when_asked_for() {
    let rules = TopicRules::default();
    let mut builder = BlockBuilder::new(start(7), &rules);
    builder.push_change("bank", Op::Set, b"k", b"v").unwrap();
    builder.set_metadata("type/x", Bytes::from_static(b"meta"));
    let frame = builder.finish("").remove(0).unwrap();
    let all = Arc::new(Filter::all());
    let without = Splicer::new(all.clone(), false).splice(&frame.header, &frame.changes).unwrap();
    assert_eq!(without.parse().unwrap().header.metadata, None);
    let with = Splicer::new(all, true).splice(&frame.header, &frame.changes).unwrap();
    assert_eq!(with.parse().unwrap(), frame);
    let none = Filter::compile(&FilterSpec { stores: vec!["gov".into()], ..FilterSpec::default() });
    let only = Splicer::new(Arc::new(none.unwrap()), true)
        .splice(&frame.header, &frame.changes)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!((only.header.metadata, only.changes.len()), (frame.header.metadata, 0));
}

#[test]
fn control_records_round_trip() {
    let pointer = Pointer::from_height(9);
    for (kind, record) in [
        (
            Kind::Gap,
            Record::Gap { from: pointer.clone(), to: pointer.clone(), cause: "lost".into() },
        ),
        (
            Kind::Generation,
            Record::GenerationStart {
                generation: Generation(1),
                base_generation: Generation(0),
                base_pointer: pointer.clone(),
                base_digest: Digest::from_array([3; 32]),
                reason: "rollback".into(),
                actor: "operator".into(),
            },
        ),
        (
            Kind::Epoch,
            Record::EpochStart { writer_id: 4, nonce: "n".into(), holder: "node-1".into() },
        ),
    ] {
        let mut header = Header::new(kind, "c".parse().unwrap(), pointer.clone(), 9);
        header.record = Some(record);
        let bytes = header.encode();
        assert_eq!(Header::parse(&bytes).unwrap(), header);
        let stock = v1::Frame::decode(bytes.clone()).unwrap();
        assert_eq!(stock.encode_to_vec(), bytes.as_ref());
    }
}

#[test]
fn a_lying_table_is_refused() {
    let set =
        |store: &str| Owned { store: store.into(), op: Op::Set, key: vec![1], value: vec![2] };
    let honest = block(&[set("bank"), set("gov")], &TopicRules::default()).remove(0);
    honest.verify().unwrap();
    let lies: [fn(&mut Frame); 5] = [
        |frame| frame.header.runs.swap(0, 1),
        |frame| frame.header.runs[0].count = 2,
        |frame| frame.header.runs[0].bytes += 1,
        |frame| frame.header.runs.truncate(1),
        |frame| frame.header.runs[1].route = 9,
    ];
    for lie in lies {
        let mut frame = honest.clone();
        lie(&mut frame);
        assert!(matches!(frame.verify(), Err(FrameError::Table(_))));
    }
}

/// A block whose changes go round so many stores, one by one.
fn interleaved(stores: u32) -> Frame {
    let mut changes = bytes::BytesMut::new();
    for i in 0..stores * 9 {
        let store = format!("s{:02}", i % stores);
        sluice_frame::put_change(&store, Op::Set, &i.to_be_bytes(), &[7; 300], &mut changes);
    }
    let rules = TopicRules::default();
    let mut builder = BlockBuilder::new(start(2), &rules);
    builder.push_changes(&changes.freeze()).unwrap();
    builder.finish("").pop_back().unwrap()
}

#[test]
fn a_stores_digest_is_over_its_changes_and_then_the_height() {
    let frame = interleaved(6);
    let states = digests(std::slice::from_ref(&frame), Digest::ZERO).states;
    assert_eq!(states.len(), 6);
    for state in states {
        let mut hasher = blake3::Hasher::new_derive_key("sluice.v1 state digest");
        for change in frame.changes().map(Result::unwrap).filter(|c| c.2.store == state.store) {
            let mut raw = Vec::new();
            let change = change.2;
            sluice_frame::put_change(change.store, change.op, change.key, change.value, &mut raw);
            hasher.update(&raw);
        }
        hasher.update(&frame.header.height.to_le_bytes());
        assert_eq!(state.digest, hasher.finalize().into(), "{}", state.store);
    }
}

#[test]
fn answers_keep_the_state_digests_of_their_stores_only() {
    let mut frame = interleaved(12);
    let digests = digests(std::slice::from_ref(&frame), Digest::ZERO);
    digests.fill(Digest::ZERO, frame.header.end.as_mut().unwrap());
    // The last frame of a larger block has digests of stores that are not in it, in their order.
    let mut last = frame.clone();
    let states = &mut last.header.end.as_mut().unwrap().states;
    states.rotate_left(5);
    let mut longer = last.clone();
    let states = &mut longer.header.end.as_mut().unwrap().states;
    states.push(StateDigest { store: "earlier".into(), digest: Digest::ZERO });
    for frame in [frame, last, longer] {
        for kept in [1, 4, 5, 9] {
            let stores: Vec<String> = (0..kept).map(|i| format!("s{i:02}")).collect();
            let spec = FilterSpec { stores: stores.clone(), ..FilterSpec::default() };
            let mut splicer = Splicer::new(Arc::new(Filter::compile(&spec).unwrap()), false);
            let answer = splicer.splice(&frame.header, &frame.changes).unwrap().parse().unwrap();
            let of_block = frame.header.end.as_ref().unwrap().states.iter();
            let wanted = of_block.filter(|state| stores.contains(&state.store)).cloned();
            let states = answer.header.end.unwrap().states;
            assert_eq!(states, wanted.collect::<Vec<_>>(), "{kept} of 12 stores");
            assert_eq!(states.len(), kept);
        }
    }
}
