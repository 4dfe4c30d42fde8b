//! The scan accepts exactly what a protobuf decoder reads and writes back unchanged.

use crate::common::{Owned, Region, changes, region, topics};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use sluice_frame::{ScanReason, canonicalize, scan};
use sluice_model::{Op, TopicRules};

/// What the scan must agree with. Empty store keys and sizes are rules of ours, not of protobuf.
fn judged_canonical(bytes: &[u8]) -> bool {
    Region::decode(bytes).is_ok_and(|read| {
        read.encode_to_vec() == bytes && read.changes.iter().all(|pair| !pair.store_key.is_empty())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn accepts_what_prost_writes(changes in changes(40)) {
        let table = scan(&region(&changes), &TopicRules::default()).unwrap();
        prop_assert_eq!(table.changes as usize, changes.len());
        let bytes: u32 = table.runs.iter().map(|run| run.bytes).sum();
        prop_assert_eq!(bytes as usize, region(&changes).len());
    }

    #[test]
    fn agrees_with_prost_on_mutations(
        changes in changes(6),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..4),
    ) {
        let mut bytes = region(&changes).to_vec();
        for (at, byte, how) in edits {
            let at = at.index(bytes.len() + 1);
            match how {
                0 if at < bytes.len() => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => bytes.truncate(at),
            }
        }
        prop_assert_eq!(scan(&bytes, &TopicRules::default()).is_ok(), judged_canonical(&bytes));
    }

    #[test]
    fn agrees_with_prost_on_noise(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        prop_assert_eq!(scan(&bytes, &TopicRules::default()).is_ok(), judged_canonical(&bytes));
    }

    #[test]
    fn canonicalize_reads_like_prost(bytes in loose_region()) {
        let judged = Region::decode(bytes.as_slice());
        match canonicalize(&bytes) {
            Ok(canonical) => {
                prop_assert_eq!(&Bytes::from(judged.unwrap().encode_to_vec()), &canonical);
                prop_assert!(scan(&canonical, &TopicRules::default()).is_ok());
            }
            Err(error) => prop_assert!(
                matches!(error.reason, ScanReason::NoStore),
                "{} although prost says {:?}", error, judged
            ),
        }
    }

    #[test]
    fn every_cut_is_refused(changes in prop::collection::vec(crate::common::change(), 1..4)) {
        let whole = region(&changes);
        let ends: Vec<usize> = (0..=changes.len()).map(|n| region(&changes[..n]).len()).collect();
        for cut in 0..whole.len() {
            let accepted = scan(&whole[..cut], &TopicRules::default()).is_ok();
            prop_assert_eq!(accepted, ends.contains(&cut), "cut at {}", cut);
        }
    }
}

/// Changes as a careless encoder writes them: fields in any order, repeated, with defaults.
fn loose_region() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        "[a-z]{0,3}".prop_map(|text| [&[0x0a, text.len() as u8], text.as_bytes()].concat()),
        any::<bool>().prop_map(|delete| vec![0x10, u8::from(delete)]),
        Just(vec![0x10, 0x81, 0x00]),
        prop::collection::vec(any::<u8>(), 0..4).prop_map(|key| [
            &[0x1a, key.len() as u8],
            key.as_slice()
        ]
        .concat()),
        prop::collection::vec(any::<u8>(), 0..4).prop_map(|value| [
            &[0x22, value.len() as u8],
            value.as_slice()
        ]
        .concat()),
    ];
    let change = prop::collection::vec(field, 0..7).prop_map(|fields| {
        let body = fields.concat();
        [&[0x7a, body.len() as u8], body.as_slice()].concat()
    });
    prop::collection::vec(change, 0..4).prop_map(|changes| changes.concat())
}

fn reason(bytes: &[u8]) -> ScanReason {
    scan(bytes, &TopicRules::default()).unwrap_err().reason
}

/// Each of these was accepted by a sloppier scan and refused by decoders, or read differently.
#[test]
fn names_what_is_wrong() {
    assert_eq!(reason(&[0x7b, 0]), ScanReason::Tag(0x7b));
    assert_eq!(reason(&[0x7a, 0]), ScanReason::NoStore);
    assert_eq!(reason(&[0x7a, 3, 0x0a, 1, 0xff]), ScanReason::StoreUtf8);
    assert_eq!(reason(&[0x7a, 5, 0x0a, 1, b'a', 0x10, 0]), ScanReason::Default("delete"));
    assert_eq!(reason(&[0x7a, 5, 0x0a, 1, b'a', 0x1a, 0]), ScanReason::Default("key"));
    assert_eq!(reason(&[0x7a, 0x83, 0, 0x0a, 1, b'a']), ScanReason::Varint("the change"));
    assert_eq!(reason(&[0x7a, 6, 0x0a, 1, b'a', 0x0a, 1, b'b']), ScanReason::Field(0x0a));
    assert_eq!(reason(&[0x7a, 5, 0x0a, 1, b'a', 0x28, 1]), ScanReason::Field(0x28));
    assert_eq!(
        reason(&[0x7a, 5, 0x0a]),
        ScanReason::Overrun { field: "the change", length: 5, left: 1 }
    );
    let huge = [0x7a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(matches!(reason(&huge), ScanReason::Overrun { .. }), "nothing is allocated for it");
}

#[test]
fn errors_say_which_change_and_where() {
    let good = region(&[Owned { store: "bank".into(), op: Op::Set, key: vec![1], value: vec![2] }]);
    let bytes = [good.as_ref(), &[0x7a, 0]].concat();
    let error = scan(&bytes, &TopicRules::default()).unwrap_err();
    assert_eq!((error.change, error.offset), (1, good.len()));
}

#[test]
fn rules_cut_runs_by_topic() {
    let set = |store: &str, key: u8| Owned {
        store: store.into(),
        op: Op::Set,
        key: vec![key],
        value: vec![9],
    };
    let changes = [
        set("bank", 2),
        set("bank", 2),
        set("bank", 3),
        set("bank", 9),
        set("gov", 2),
        set("bank", 2),
    ];
    let table = scan(&region(&changes), &topics()).unwrap();
    let routes: Vec<_> = table.routes.iter().map(|r| (&*r.store, r.topic())).collect();
    let expected =
        [("bank", "bank.balances"), ("bank", "bank.denoms"), ("bank", "bank"), ("gov", "gov")];
    assert_eq!(routes, expected);
    let runs: Vec<_> = table.runs.iter().map(|run| (run.route, run.count)).collect();
    assert_eq!(runs, [(0, 2), (1, 1), (2, 1), (3, 1), (0, 1)]);
}
