use proptest::prelude::*;

use super::*;
use crate::source::cosmos::txs::{leaf, root};

/// The published vector with the types of Tendermint 0.34.
const M1: &str = "00000000000000480a1e121a0a02080b1206746573742d31180722060880e2cfaa062a0212001a00\
                  12001a140a040a020a01120c12026f6b28c09a0c30a29003220208072a0032081204dededede1801";
/// The published vector with the field numbers of SDK 0.50.
const M2: &str = "0000000000000030320218013a140a02aabb120022020102280732060880e2cfaa064214120c1202\
                  6f6b28c09a0c30a290032a04dededede";

fn body(vector: &str) -> Vec<u8> {
    hex::decode(vector).unwrap().split_off(8)
}

fn surveyed(body: &[u8], previous: Option<&TxList>) -> Survey {
    survey(body, body.len() as u64, previous).unwrap()
}

fn rewritten(body: &[u8], drop: u64) -> Vec<u8> {
    let mut out = Vec::new();
    rewrite(body, body.len() as u64, drop, |piece| {
        out.extend_from_slice(&piece);
        true
    })
    .unwrap();
    out
}

/// A message with these transactions between other fields, as the SDK orders them.
fn meta(txs: &[&[u8]]) -> Vec<u8> {
    let header = [&[0x18, 9][..], &field(4, &[0x08, 100, 0x10, 5])].concat();
    let mut out = [field(1, &field(2, &header)), field(2, b"")].concat();
    for tx in txs {
        out.extend(field(3, tx));
    }
    out.extend(field(6, b"\x18\x01"));
    out
}

#[test]
fn reads_the_published_vectors() {
    let m1 = surveyed(&body(M1), None);
    assert_eq!((m1.txs.count, m1.height, m1.finalize), (1, Some(7), false));
    assert_eq!((m1.foreign, m1.doubt), (0, Some(Doubt::NoHash)));
    assert_eq!(m1.time, Some(1_700_000_000_000_000_000));
    assert_eq!(rewritten(&body(M1), 0), body(M1), "nothing to leave out: the bytes stay");
    let m2 = surveyed(&body(M2), None);
    assert_eq!((m2.txs.count, m2.height, m2.finalize), (0, Some(7), true));
    assert_eq!((m2.foreign, m2.doubt), (0, None));
    assert_eq!(m2.time, Some(1_700_000_000_000_000_000));
}

#[test]
fn drops_what_the_file_before_had() {
    let (first, second) = (meta(&[b"a", b"b"]), meta(&[b"a", b"b", b"c"]));
    let before = surveyed(&first, Some(&TxList::empty())).txs;
    let now = surveyed(&second, Some(&before));
    assert_eq!(now.foreign, 2);
    assert_eq!(rewritten(&second, before.count), meta(&[b"c"]));
    let third = meta(&[b"a", b"b", b"c"]);
    let empty = surveyed(&third, Some(&now.txs));
    assert_eq!(empty.foreign, 3);
    assert_eq!(rewritten(&third, now.txs.count), meta(&[]), "a block without transactions");
}

#[test]
fn takes_all_after_a_restart_of_the_node() {
    let before = surveyed(&meta(&[b"a", b"b"]), None).txs;
    assert_eq!(surveyed(&meta(&[b"c"]), Some(&before)).foreign, 0, "shorter");
    assert_eq!(surveyed(&meta(&[b"a", b"x", b"c"]), Some(&before)).foreign, 0, "other begin");
    assert_eq!(surveyed(&meta(&[b"ab", b"", b"c"]), Some(&before)).foreign, 0, "other cuts");
    assert_eq!(surveyed(&meta(&[]), Some(&before)).foreign, 0, "none");
}

/// An entry as the node writes it: the request with the transaction, then a response.
fn entry(tx: &[u8]) -> Vec<u8> {
    [field(1, &field(1, tx)), field(2, b"\x28\x07")].concat()
}

/// A message whose header has this hash and which lists these transactions.
fn hashed(data_hash: &[u8], txs: &[&[u8]]) -> Vec<u8> {
    let header = [&[0x18, 9][..], &field(6, &[1; 32]), &field(7, data_hash)].concat();
    let mut out = [field(1, &field(2, &header)), field(2, b"")].concat();
    for tx in txs {
        out.extend(field(3, &entry(tx)));
    }
    out
}

fn data_hash(txs: &[&[u8]]) -> Vec<u8> {
    root(txs.iter().map(|tx| leaf(tx))).to_vec()
}

#[test]
fn the_hash_tells_and_no_list_before_is_needed() {
    let all: [&[u8]; 5] = [b"genesis", b"a", b"", b"b", b"c"];
    for own in 0..=all.len() {
        let foreign = all.len() - own;
        let message = hashed(&data_hash(&all[foreign..]), &all);
        let other = surveyed(&hashed(b"", &all[..4]), None).txs;
        for previous in [None, Some(&TxList::empty()), Some(&other)] {
            let found = surveyed(&message, previous);
            assert_eq!((found.foreign, found.doubt), (foreign as u64, None), "{own} of its own");
        }
        let left = rewritten(&message, foreign as u64);
        assert_eq!(left, hashed(&data_hash(&all[foreign..]), &all[foreign..]));
    }
}

#[test]
fn without_a_hash_that_fits_lists_are_compared() {
    let (first, second): ([&[u8]; 2], [&[u8]; 3]) = ([b"a", b"b"], [b"a", b"b", b"c"]);
    let before = surveyed(&hashed(&[], &first), None).txs;
    let cases = [
        (hashed(&[], &second), Doubt::NoHash),
        (hashed(&[7; 31], &second), Doubt::NoHash),
        (hashed(&[7; 32], &second), Doubt::OtherHash),
        // A transaction in the middle is no end.
        (hashed(&data_hash(&[b"b"]), &second), Doubt::OtherHash),
    ];
    for (message, doubt) in cases {
        let found = surveyed(&message, Some(&before));
        assert_eq!((found.foreign, found.doubt), (2, Some(doubt)));
        assert_eq!(surveyed(&message, None).foreign, 0);
    }
    let lost = surveyed(&hashed(&data_hash(&[b"x"]), &[]), Some(&before));
    assert_eq!((lost.foreign, lost.doubt), (0, Some(Doubt::OtherHash)), "it is not in the list");
    assert_eq!(surveyed(&hashed(&[], &[]), Some(&before)).doubt, None, "nothing to tell");
}

#[test]
fn an_entry_too_large_to_look_into_hides_what_is_before_it() {
    let large = vec![0; usize::try_from(PEEK).unwrap() + 1];
    let message = |own: &[&[u8]]| {
        let mut out = hashed(&data_hash(own), &[b"a"]);
        out.extend(field(3, &large));
        out.extend(field(3, &entry(b"b")));
        out
    };
    assert_eq!(surveyed(&message(&[b"b"]), None).foreign, 2);
    let found = surveyed(&message(&[b"a", &large, b"b"]), None);
    assert_eq!((found.foreign, found.doubt), (0, Some(Doubt::OtherHash)));
}

#[test]
fn the_list_alone_is_the_same_list() {
    let message = hashed(&[], &[b"a", b"b"]);
    let list = tx_list(&message[..], message.len() as u64).unwrap();
    assert_eq!(list, surveyed(&message, None).txs);
}

#[test]
fn names_field_and_offset_of_damage() {
    let mut damaged = meta(&[b"a"]);
    let at = damaged.len() - 3;
    damaged[at] = 0x7f;
    let error = survey(&damaged[..], damaged.len() as u64, None).unwrap_err();
    let MetaError::Malformed { field: 6, offset, .. } = error else { panic!("{error}") };
    assert_eq!(offset, 8 + damaged.len() as u64 - 4);
    let error = survey(&[0x0b][..], 1, None).unwrap_err();
    assert!(error.to_string().contains("wire type"), "{error}");
}

#[test]
fn a_time_before_what_nanoseconds_reach_is_none() {
    let zero =
        [&[0x08][..], &[0x80, 0x92, 0xb8, 0xc3, 0x98, 0xfe, 0xff, 0xff, 0xff, 0x01]].concat();
    let message = field(1, &field(2, &field(4, &zero)));
    assert_eq!(surveyed(&message, None).time, None);
}

#[test]
fn large_files_come_in_pieces() {
    let tx = vec![7; PIECE];
    let whole = meta(&[&tx, &tx, &tx]);
    let mut pieces = Vec::new();
    rewrite(&whole[..], whole.len() as u64, 1, |piece| {
        pieces.push(piece.len());
        true
    })
    .unwrap();
    assert_eq!(pieces.iter().sum::<usize>(), meta(&[&tx, &tx]).len());
    assert!(pieces.iter().all(|size| *size < PIECE + (64 << 10)), "{pieces:?}");
}

proptest! {
    /// What is left after dropping the common begin, put behind it, is the file again.
    #[test]
    fn dropping_loses_only_the_begin(
        txs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8),
        cut in 0usize..8,
    ) {
        let all: Vec<&[u8]> = txs.iter().map(Vec::as_slice).collect();
        let cut = cut.min(all.len());
        let before = surveyed(&meta(&all[..cut]), None).txs;
        let whole = meta(&all);
        prop_assert_eq!(surveyed(&whole, Some(&before)).foreign, cut as u64);
        prop_assert_eq!(rewritten(&whole, before.count), meta(&all[cut..]));
    }

    /// No bytes make the reader panic.
    #[test]
    fn garbage_is_an_error_or_fields(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survey(&bytes[..], bytes.len() as u64, None).ok();
        rewrite(&bytes[..], bytes.len() as u64, 1, |_| true).ok();
    }
}
