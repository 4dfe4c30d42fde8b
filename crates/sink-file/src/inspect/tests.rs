use std::fs;

use super::*;
use crate::{
    config::{FileOptions, Format},
    dispatcher::{Target, writer},
    layer::Disk,
    testing::{block, end_of, set},
};

const V2: &str = "0000000000000017160a0462616e6b1a040261626322083130307374616b65";
const V3: &str = "00000000000000280b0a036163631a01612201310a0a0361636310011a0162100a077374616b696e671a02ff00220100";
const M1: &str = "00000000000000480a1e121a0a02080b1206746573742d31180722060880e2cfaa062a0212001a0012001a140a040a020a01120c12026f6b28c09a0c30a29003220208072a0032081204dededede1801";
const M2: &str = "0000000000000030320218013a140a02aabb120022020102280732060880e2cfaa064214120c12026f6b28c09a0c30a290032a04dededede";

fn file(hexes: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("block-7-data");
    fs::write(&path, hex::decode(hexes).unwrap()).unwrap();
    (dir, path)
}

fn wrong(hexes: &str) -> DecodeError {
    let (_dir, path) = file(hexes);
    decode_data(&path, |_| {}).unwrap_err()
}

#[test]
fn reads_the_published_vectors() {
    let (_dir, path) = file(V3);
    let mut seen = Vec::new();
    let summary = decode_data(&path, |pair| {
        let change = pair.change;
        seen.push(format!(
            "{} {} {} {:?} {} {}",
            pair.number,
            pair.offset,
            change.store,
            change.op,
            hex::encode(change.key),
            hex::encode(change.value)
        ));
    });
    assert_eq!((summary.as_ref().unwrap().pairs, summary.unwrap().bytes), (3, 48));
    assert_eq!(seen, ["0 8 acc Set 61 31", "1 20 acc Delete 62 ", "2 31 staking Set ff00 00"]);
    let (_dir, path) = file("0000000000000000");
    assert_eq!(decode_data(&path, |_| {}).unwrap().pairs, 0);
    for (meta, names) in [
        (
            M1,
            vec![
                "request_begin_block",
                "response_begin_block",
                "deliver_txs",
                "request_end_block",
                "response_end_block",
                "response_commit",
            ],
        ),
        (M2, vec!["response_commit", "request_finalize_block", "response_finalize_block"]),
    ] {
        let (_dir, path) = file(meta);
        let (message, fields) = decode_meta(&path, 1000).unwrap();
        assert_eq!(hex::encode(message), meta[16..]);
        assert_eq!(fields.iter().map(|field| field.name).collect::<Vec<_>>(), names);
        assert!(matches!(decode_meta(&path, 10).unwrap_err().problem, Problem::TooLarge(_, 10)));
    }
}

#[test]
fn every_published_mistake_is_named_with_its_place() {
    let torn = wrong(&V2[..V2.len() - 2]);
    assert!(matches!(torn.problem, Problem::Torn { says: 23, left: 22 }));
    assert_eq!((torn.offset, torn.field), (0, "length"));
    assert!(torn.to_string().contains("block-7-data, byte 0, length"), "{torn}");
    assert!(matches!(wrong("00000000000000").problem, Problem::ShortHeader(7)));
    let trailing = wrong(&V2.replacen("17", "16", 1));
    assert!(matches!(trailing.problem, Problem::Trailing { says: 22, left: 23 }));
    let overrun = wrong("0000000000000002050a");
    assert!(matches!(overrun.problem, Problem::Overrun { says: 5, left: 1 }));
    assert_eq!((overrun.offset, overrun.field), (8, "pair length"));
    let huge = wrong("8000000000000000");
    assert!(matches!(huge.problem, Problem::Torn { says, .. } if says == 1 << 63));
    let eleven = wrong("000000000000000bffffffffffffffffffff01");
    assert!(matches!(eleven.problem, Problem::Varint));
    assert_eq!((eleven.offset, eleven.field), (8, "pair length"));
    let utf8 = wrong("0000000000000007060a02c3281a00");
    assert!(matches!(utf8.problem, Problem::Utf8));
    assert_eq!((utf8.offset, utf8.field), (9, "store_key"));
    let no_store = wrong("0000000000000004031a0161");
    assert!(matches!(no_store.problem, Problem::NoStore));
    let inner = wrong("0000000000000004030a0561");
    assert!(matches!(inner.problem, Problem::Overrun { says: 5, left: 1 }));
    assert_eq!((inner.offset, inner.field), (10, "store_key"));
    let unknown = wrong("0000000000000006050a01612a00");
    assert!(matches!(unknown.problem, Problem::Field { number: 5, wire: 2 }));
    assert_eq!(unknown.offset, 12);
    let (_dir, path) = file("00");
    let missing = decode_data(&path.with_file_name("block-8-data"), |_| {}).unwrap_err();
    assert!(matches!(missing.problem, Problem::Io(_)));
}

proptest::proptest! {
    /// No bytes make the reader do anything but answer.
    #[test]
    fn any_bytes_are_answered(body in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
        let mut bytes = (body.len() as u64).to_be_bytes().to_vec();
        bytes.extend(&body);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("block-1-data");
        fs::write(&path, &bytes).unwrap();
        let mut pairs = 0;
        if let Ok(summary) = decode_data(&path, |_| pairs += 1) {
            proptest::prop_assert_eq!(summary.pairs, pairs);
        }
    }
}

/// A lake of rows and one of block files, on a real disk.
fn lake(dir: &Path, format: Format) {
    let options = FileOptions { format, align_blocks: 5, ..FileOptions::default() };
    let target = Target {
        layer: std::sync::Arc::new(Disk),
        root: dir.to_owned(),
        stream: format.name().to_owned(),
        ingestor: "chain".to_owned(),
        filter: "f00".to_owned(),
        encoding: sluice_model::event::Encoding::Hex,
    };
    let mut writer = writer(&options, target);
    writer.resume().unwrap();
    writer.begin(&end_of(0, 0), 0).unwrap();
    for height in 1..=12u64 {
        let key = height.to_be_bytes();
        writer.frame(&block(height, &[set("acc", &key, b"v"), set("bank", &key, b"")])).unwrap();
    }
    let through = sluice_model::Checkpoint { position: end_of(0, 12), digest: None };
    writer.finish(&through, 12).unwrap();
}

#[test]
fn what_was_written_verifies_and_every_flipped_byte_is_found() {
    let dir = tempfile::tempdir().unwrap();
    lake(dir.path(), Format::Jsonl);
    lake(dir.path(), Format::Cosmos);
    let report = verify(dir.path()).unwrap();
    assert_eq!(report.findings, []);
    assert!(report.is_clean() && report.holes.is_empty());
    // Two closed ranges of 9 blocks with two rows each, and 12 blocks with two pairs.
    assert_eq!((report.manifests, report.ranges), (2, 4));
    assert_eq!((report.files, report.rows), (4 + 24, 18 + 24));
    let mut checked = 0;
    for path in [
        "jsonl/f00/acc/00000000000000000001-00000000000000000004.jsonl",
        "jsonl/f00/bank/00000000000000000005-00000000000000000009.jsonl",
        "cosmos/block-3-data",
        "cosmos/block-4-meta",
    ] {
        let path = dir.path().join(path);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x01;
            fs::write(&path, bad).unwrap();
            assert!(!verify(dir.path()).unwrap().is_clean(), "{} byte {at}", path.display());
            checked += 1;
        }
        fs::remove_file(&path).unwrap();
        assert!(!verify(dir.path()).unwrap().is_clean(), "{} missing", path.display());
        fs::write(&path, good).unwrap();
    }
    assert!(checked > 400);
    assert!(verify(dir.path()).unwrap().is_clean());
}

#[test]
fn a_node_s_own_directory_is_checked_for_holes_and_lone_files() {
    let dir = tempfile::tempdir().unwrap();
    for height in [1, 2, 5] {
        fs::write(dir.path().join(format!("hub-block-{height}-data")), [0; 8]).unwrap();
    }
    let report = verify(dir.path()).unwrap();
    assert!(report.is_clean());
    assert_eq!(report.holes, [(dir.path().to_owned(), 3, 4)]);
    fs::write(dir.path().join("hub-block-6-meta"), [0; 8]).unwrap();
    fs::write(dir.path().join("hub-block-2-data"), [0; 7]).unwrap();
    assert_eq!(verify(dir.path()).unwrap().wrong, 2);
}
