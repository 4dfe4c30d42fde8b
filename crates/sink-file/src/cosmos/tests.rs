use sluice_model::Op;

use super::{writer::STARTED_INSIDE, *};
use crate::{
    config::{FileOptions, Format},
    layer::memory::Memory,
    manifest::Line,
    testing::{Rig, Step, assert_same, block, end_of, part, paths, set, visible, with_metadata},
};

fn options(metadata: bool) -> FileOptions {
    FileOptions {
        format: Format::Cosmos,
        align_blocks: 5,
        output_metadata: metadata,
        write_dir: ".".to_owned(),
        ..FileOptions::default()
    }
}

fn file(layer: &Memory, name: &str) -> String {
    hex::encode(&layer.tree()[&Path::new("/root").join(name)])
}

const V2: &str = "0000000000000017160a0462616e6b1a040261626322083130307374616b65";
const V3: &str = "00000000000000280b0a036163631a01612201310a0a0361636310011a0162100a077374616b696e671a02ff00220100";
const M1: &str = "00000000000000480a1e121a0a02080b1206746573742d31180722060880e2cfaa062a0212001a0012001a140a040a020a01120c12026f6b28c09a0c30a29003220208072a0032081204dededede1801";

#[test]
fn writes_the_published_vectors() {
    let two_hundred: Vec<u8> = (0..200).collect();
    let meta = hex::decode(&M1[16..]).unwrap();
    let steps = vec![
        Step::Through(0, 1),
        Step::Frame(block(2, &[set("bank", b"\x02abc", b"100stake")])),
        Step::Frame(with_metadata(
            block(
                3,
                &[
                    set("acc", b"a", b"1"),
                    ("acc", Op::Delete, b"b", b""),
                    set("staking", b"\xff\x00", b"\x00"),
                ],
            ),
            &meta,
        )),
        Step::Frame(block(
            4,
            &[
                set("acc", b"\x01\xaa\xbb", b""),
                ("bank", Op::Delete, b"k", b""),
                set("bank", b"\x00", &two_hundred),
            ],
        )),
    ];
    let layer = Rig::new(steps, options(true)).run(2);
    assert_eq!(file(&layer, "block-1-data"), "0000000000000000", "V1");
    assert_eq!(file(&layer, "block-2-data"), V2);
    assert_eq!(file(&layer, "block-3-data"), V3);
    assert_eq!(file(&layer, "block-3-meta"), M1);
    let v4 = file(&layer, "block-4-data");
    let begin = "00000000000000ed0a0a036163631a0301aabb0b0a0462616e6b10011a016bd4010a0462616e6b1a010022c801";
    assert_eq!(v4, format!("{begin}{}", hex::encode(&two_hundred)), "V4");
    assert_eq!(v4.len(), 245 * 2);
}

/// Matches, unmatched stretches, a block in parts, metadata in a frame of its own, a gap, a
/// rewind.
fn story() -> Vec<Step> {
    let one = |height: u64| {
        let key = height.to_be_bytes();
        Step::Frame(with_metadata(block(height, &[set("acc", &key, b"1")]), &key))
    };
    let in_parts = |generation, height| {
        let meta = with_metadata(part(generation, height, 0, 0, &[], false), b"\x0a\x00");
        let first = part(generation, height, 1, 0, &[set("acc", b"a", b"1")], false);
        let second = with_metadata(
            part(generation, height, 2, 1, &[set("bank", b"b", b"2")], false),
            b"\x12\x00",
        );
        let third = part(generation, height, 3, 2, &[set("bank", b"c", b"3")], true);
        [meta, first, second, third].map(Step::Frame)
    };
    let mut steps = vec![one(1), Step::Through(0, 3)];
    steps.extend(in_parts(0, 4));
    steps.extend([one(5), Step::Frame(block(8, &[])), Step::Through(0, 9), Step::Gap(0, 11, 12)]);
    steps.extend([one(13), Step::Rewind(1, 11)]);
    steps.extend(in_parts(1, 12));
    steps.push(Step::Through(1, 16));
    steps
}

#[test]
fn every_block_has_its_files_and_gaps_have_none() {
    let layer = Rig::new(story(), options(false)).run(3);
    let tree = visible(&layer);
    let expected: Vec<String> = (1..=10)
        .chain([13])
        .map(|height| format!("block-{height}-data"))
        .chain((12..=16).map(|height| format!("g1/block-{height}-data")))
        .chain(["manifest.jsonl".to_owned(), "g1/manifest.jsonl".to_owned()])
        .collect();
    let mut sorted = expected;
    sorted.sort_by_key(|name| Path::new(name).to_owned());
    assert_eq!(paths(&tree), sorted);
    for empty in ["block-2-data", "block-8-data", "block-10-data", "g1/block-16-data"] {
        assert_eq!(tree[&Path::new("/root").join(empty)], [0; 8]);
    }
    assert_eq!(
        file(&layer, "block-4-data"),
        "00000000000000260b0a036163631a01612201310c0a0462616e6b1a01622201320c0a0462616e6b1a0163220133"
    );
}

#[test]
fn metadata_of_one_block_only_in_order_of_parts() {
    let layer = Rig::new(story(), options(true)).run(1);
    assert_eq!(file(&layer, "block-4-meta"), "00000000000000040a001200");
    assert_eq!(file(&layer, "block-5-meta"), "00000000000000080000000000000005");
    assert_eq!(file(&layer, "block-2-meta"), "0000000000000000", "nothing is known of it");
}

#[test]
fn a_crash_at_any_operation_leaves_no_trace() {
    Rig::new(story(), options(true)).survives_every_crash();
}

#[test]
fn a_full_disk_at_any_operation_leaves_no_trace() {
    Rig::new(story(), options(true)).survives_every_failure();
}

#[test]
fn the_manifest_sums_up_block_files() {
    let layer = Rig::new(story(), options(false)).run(3);
    let text = String::from_utf8(layer.tree()[Path::new("/root/manifest.jsonl")].clone()).unwrap();
    let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bounds: Vec<_> = lines.iter().map(|line| (line.from, line.to, line.rows)).collect();
    assert_eq!(bounds, [(1, 4, 4), (5, 9, 1), (10, 14, 1)]);
    assert_eq!(lines[2].gaps.len(), 1);
    assert_eq!(lines[0].first.as_deref(), Some("00000000000000000001-00000000"));
    assert_eq!(lines[0].last.as_deref(), Some("00000000000000000004-ffffffff"));
}

#[test]
fn prefix_layout_and_stores() {
    let options = FileOptions {
        prefix: "hub".to_owned(),
        layout: Some(Layout::Height),
        keys: vec!["bank".to_owned()],
        ..options(false)
    };
    let pairs = [set("acc", b"a", b"1"), set("bank", b"\x02abc", b"100stake")];
    let mut rig = Rig::new(vec![Step::Frame(block(1_234_567, &pairs))], options);
    rig.start = end_of(0, 1_234_566);
    let layer = rig.run(1);
    assert_eq!(file(&layer, "h/001/234/hub-block-1234567-data"), V2);
}

#[test]
fn large_blocks_go_through_the_disk() {
    let value = vec![7; 300 << 10];
    let steps: Vec<Step> = (0..12u32)
        .map(|n| {
            let key = n.to_be_bytes();
            Step::Frame(part(0, 1, n, n, &[set("acc", &key, &value)], n == 11))
        })
        .collect();
    let rig = Rig::new(steps, options(false));
    let (one, all) = (rig.run(1), rig.run(12));
    assert_eq!(visible(&one), visible(&all));
    let whole = &all.tree()[Path::new("/root/block-1-data")];
    assert_eq!(whole[..8], (whole.len() as u64 - 8).to_be_bytes());
    assert!(one.operations() > all.operations());
}

#[test]
fn a_block_begun_inside_is_noted_and_not_written() {
    let mut rig = Rig::new(
        vec![
            Step::Frame(part(0, 4, 1, 2, &[set("acc", b"k", b"v")], true)),
            Step::Frame(block(5, &[set("acc", b"k", b"v")])),
            Step::Through(0, 9),
        ],
        options(false),
    );
    rig.start = Position { index: 1, ..end_of(0, 4) };
    let tree = visible(&rig.run(1));
    let names = paths(&tree);
    assert!(
        !names.contains(&"block-4-data".to_owned()) && names.contains(&"block-5-data".to_owned())
    );
    let text = String::from_utf8(tree[Path::new("/root/manifest.jsonl")].clone()).unwrap();
    assert!(text.contains(STARTED_INSIDE), "{text}");
}

#[test]
fn blocks_without_heights_are_refused() {
    let mut frame = block(3, &[set("acc", b"k", b"v")]);
    frame.header.pointer = Pointer::new(&b"abc"[..]).unwrap();
    let rig = Rig::new(vec![Step::Frame(frame)], options(false));
    let mut writer = rig.writer(&Memory::default());
    let mut done = Position::ORIGIN;
    let error = rig.deliver(writer.as_mut(), &mut done, 1).unwrap_err();
    assert!(matches!(error, FileError::NoHeight(_)), "{error}");
}

#[test]
fn a_reset_writes_the_same_bytes_again() {
    let mut rig = Rig::new(story(), options(true));
    let layer = rig.run(3);
    let expected = visible(&layer);
    for (round, from) in [end_of(0, 0), end_of(0, 7), end_of(1, 12)].into_iter().enumerate() {
        rig.reset_epoch = round as u64 + 1;
        let mut writer = rig.writer(&layer);
        writer.resume().unwrap();
        rig.deliver(writer.as_mut(), &mut from.clone(), 2).unwrap();
        assert_same(&visible(&layer), &expected, &format!("reset to {from}"));
    }
}
