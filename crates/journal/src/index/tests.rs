use std::sync::Arc;

use sluice_frame::Route;

use super::{codec::Subject, *};
use crate::codec::origin;

fn draft(height: u64, store: &str) -> Draft {
    let routes = vec![Route { store: Arc::from(store), topic: Arc::from("") }];
    let entry = Entry {
        kind: EntryKind::Block,
        first: true,
        last: true,
        metadata: false,
        segment: 2,
        offset: height * 64,
        header_len: 100,
        slot: 3,
        changes_len: 1000,
        set: 0,
        changes: 3,
        next_index: 3,
        generation: Generation(0),
        height,
        time: Some(-5),
        pointer: Pointer::from_height(height),
        digest: Digest::from_array([1; 32]),
    };
    Draft { entry, routes: RouteTable::new(routes) }
}

fn index() -> SegIndex {
    let mut index = SegIndex::new(2, origin());
    for height in 1..=10 {
        let store = if height % 5 == 0 { "bank" } else { "staking" };
        let head = Head { pointer: Pointer::from_height(height), height, ..origin() };
        index.push(vec![draft(height, store)], head);
    }
    index.push_corruption(Corruption {
        after: Position::end_of(Generation(0), Pointer::from_height(10)),
        through: Some(Position::end_of(Generation(0), Pointer::from_height(12))),
        digest: None,
        file: "2.seg".to_owned(),
        offset: 64,
        cause: "test".to_owned(),
    });
    index
}

#[test]
fn round_trips_and_refuses_every_flipped_byte() {
    let subject =
        Subject { id: JournalId::from_array([3; 16]), number: 2, incarnation: 8, len: 4096 };
    let index = index();
    let bytes = index.encode(&subject);
    let (read, back) = SegIndex::decode(&bytes).unwrap();
    assert_eq!((read, &back.summary), (subject, &index.summary));
    assert_eq!((&back.entries, &back.sets), (&index.entries, &index.sets));
    assert_eq!(back.corruptions, index.corruptions);
    let payload = codec::SUMMARY_LEN + 16;
    for at in (0..16).chain(payload..bytes.len()) {
        let mut broken = bytes.clone();
        broken[at] ^= 0x10;
        assert!(SegIndex::decode(&broken).is_none(), "byte {at}");
    }
}

#[test]
fn interns_tables_and_finds_places() {
    let index = index();
    assert_eq!(index.sets.len(), 2);
    assert_eq!(index.lower_bound(Generation(0), &Pointer::from_height(4)), 3);
    assert_eq!(index.lower_bound(Generation(0), &Pointer::from_height(11)), 10);
    assert_eq!(index.lower_bound(Generation(1), &Pointer::ORIGIN), 11);
    assert_eq!((index.summary.blocks, index.summary.max_height), (10, 10));
}

use sluice_model::JournalId;
