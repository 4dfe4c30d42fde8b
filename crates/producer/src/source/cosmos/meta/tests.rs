use proptest::prelude::*;

use super::*;

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
    assert_eq!(m1.time, Some(1_700_000_000_000_000_000));
    assert_eq!(rewritten(&body(M1), 0), body(M1), "nothing to leave out: the bytes stay");
    let m2 = surveyed(&body(M2), None);
    assert_eq!((m2.txs.count, m2.height, m2.finalize), (0, Some(7), true));
    assert_eq!(m2.time, Some(1_700_000_000_000_000_000));
}

#[test]
fn drops_what_the_file_before_had() {
    let (first, second) = (meta(&[b"a", b"b"]), meta(&[b"a", b"b", b"c"]));
    let before = surveyed(&first, Some(&TxList::empty())).txs;
    let now = surveyed(&second, Some(&before));
    assert!(now.continues);
    assert_eq!(rewritten(&second, before.count), meta(&[b"c"]));
    let third = meta(&[b"a", b"b", b"c"]);
    let empty = surveyed(&third, Some(&now.txs));
    assert!(empty.continues);
    assert_eq!(rewritten(&third, now.txs.count), meta(&[]), "a block without transactions");
}

#[test]
fn takes_all_after_a_restart_of_the_node() {
    let before = surveyed(&meta(&[b"a", b"b"]), None).txs;
    assert!(!surveyed(&meta(&[b"c"]), Some(&before)).continues, "shorter");
    assert!(!surveyed(&meta(&[b"a", b"x", b"c"]), Some(&before)).continues, "other begin");
    assert!(!surveyed(&meta(&[b"ab", b"", b"c"]), Some(&before)).continues, "other cuts");
    assert!(!surveyed(&meta(&[]), Some(&before)).continues, "none");
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
        prop_assert!(surveyed(&whole, Some(&before)).continues);
        prop_assert_eq!(rewritten(&whole, before.count), meta(&all[cut..]));
    }

    /// No bytes make the reader panic.
    #[test]
    fn garbage_is_an_error_or_fields(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survey(&bytes[..], bytes.len() as u64, None).ok();
        rewrite(&bytes[..], bytes.len() as u64, 1, |_| true).ok();
    }
}
