use std::path::Path;

use sluice_config::ByteSize;
use sluice_model::Op;

use super::*;
use crate::{
    config::FileOptions,
    manifest::Line,
    testing::{Rig, Step, assert_same, block, end_of, part, paths, set, visible},
};

fn options() -> FileOptions {
    FileOptions { align_blocks: 10, ..FileOptions::default() }
}

/// Matches in several stores, unmatched stretches, a block in parts, a gap, a rewind.
pub(super) fn story() -> Vec<Step> {
    let two = |height: u64| {
        let key = height.to_be_bytes();
        Step::Frame(block(height, &[set("acc", &key, b"1"), ("bank", Op::Delete, &key, b"")]))
    };
    let in_parts = |generation, height| {
        let first = part(generation, height, 0, 0, &[set("acc", b"a", b"1")], false);
        let second = part(generation, height, 1, 1, &[set("bank", b"b", b"2")], false);
        let third = part(generation, height, 2, 2, &[set("bank", b"c", b"3")], true);
        [first, second, third].map(Step::Frame)
    };
    let mut steps = vec![two(3), Step::Through(0, 5), two(8), two(9)];
    steps.extend(in_parts(0, 12));
    steps.extend([two(13), Step::Through(0, 41), two(42), Step::Gap(0, 48, 63), two(64)]);
    steps.extend([
        two(65),
        Step::Rewind(1, 60),
        Step::Frame(part(1, 61, 0, 0, &[set("acc", b"z", b"9")], true)),
    ]);
    steps.extend(in_parts(1, 70));
    steps.push(Step::Through(1, 83));
    steps
}

fn lines(rig: &Rig, generation: &str) -> Vec<Line> {
    let tree = visible(&rig.run(3));
    let path = Path::new("/root/lake/f00").join(generation).join("manifest.jsonl");
    let text = std::str::from_utf8(&tree[&path]).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn ranges_are_aligned_and_names_say_so() {
    let rig = Rig::new(story(), options());
    assert_eq!(
        paths(&visible(&rig.run(3))),
        [
            "lake/f00/acc/00000000000000000001-00000000000000000009.jsonl",
            "lake/f00/acc/00000000000000000010-00000000000000000019.jsonl",
            "lake/f00/acc/00000000000000000040-00000000000000000049.jsonl",
            "lake/f00/acc/00000000000000000060-00000000000000000069.jsonl",
            "lake/f00/bank/00000000000000000001-00000000000000000009.jsonl",
            "lake/f00/bank/00000000000000000010-00000000000000000019.jsonl",
            "lake/f00/bank/00000000000000000040-00000000000000000049.jsonl",
            "lake/f00/bank/00000000000000000060-00000000000000000069.jsonl",
            "lake/f00/g1/acc/00000000000000000061-00000000000000000069.jsonl",
            "lake/f00/g1/acc/00000000000000000070-00000000000000000079.jsonl",
            "lake/f00/g1/bank/00000000000000000070-00000000000000000079.jsonl",
            "lake/f00/g1/manifest.jsonl",
            "lake/f00/manifest.jsonl",
        ]
    );
}

#[test]
fn the_manifest_has_a_line_per_range_also_for_empty_ones_and_gaps() {
    let rig = Rig::new(story(), options());
    let old = lines(&rig, "");
    let bounds: Vec<_> = old.iter().map(|line| (line.from, line.to, line.rows)).collect();
    assert_eq!(
        bounds,
        [(1, 9, 6), (10, 19, 5), (20, 29, 0), (30, 39, 0), (40, 49, 2), (50, 59, 0), (60, 69, 4)]
    );
    assert!(old.windows(2).all(|pair| pair[0].through == pair[1].after));
    assert_eq!(old[0].after.0, end_of(0, 0));
    assert_eq!(old[0].first.as_deref(), Some("00000000000000000003-00000000"));
    assert_eq!(old[0].last.as_deref(), Some("00000000000000000009-00000001"));
    assert_eq!((old[2].first.as_deref(), old[2].files.len()), (None, 0));
    let gaps: Vec<_> = old.iter().map(|line| line.gaps.len()).collect();
    assert_eq!(gaps, [0, 0, 0, 0, 1, 1, 1]);
    let gap = serde_json::to_string(&old[5].gaps[0]).unwrap();
    assert_eq!(
        gap,
        r#"{"from":50,"to":59,"cause":"lost","through":"00000000000000000063-ffffffff"}"#
    );
    let new = lines(&rig, "g1");
    let bounds: Vec<_> = new.iter().map(|line| (line.generation, line.from, line.to)).collect();
    assert_eq!(bounds, [(1, 61, 69), (1, 70, 79)]);
    assert_eq!(new[0].first.as_deref(), Some("z0001-00000000000000000061-00000000"));
}

#[test]
fn rows_are_the_golden_events() {
    let rig = Rig::new(vec![Step::Frame(block(3, &[set("a/b", b"k", b"v")]))], options());
    let tree = visible(&rig.run(1));
    let row = &tree[Path::new("/root/lake/f00/a%2Fb/00000000000000000001.open")];
    assert_eq!(
        std::str::from_utf8(row).unwrap(),
        "{\"sequenceId\":\"00000000000000000003-00000000\",\"ingestor\":\"chain\",\"height\":3,\"index\":0,\"time\":\"2023-11-14T22:13:20Z\",\"store\":\"a/b\",\"topic\":\"a/b\",\"op\":\"set\",\"key\":\"aw==\",\"value\":\"dg==\",\"encoding\":\"base64\"}\n"
    );
}

#[test]
fn a_crash_at_any_operation_leaves_no_trace() {
    Rig::new(story(), options()).survives_every_crash();
}

#[test]
fn a_crash_leaves_no_trace_where_ranges_close_by_size() {
    let options = FileOptions { max_bytes: ByteSize(900), layout: Some(Layout::Flat), ..options() };
    let rig = Rig::new(story(), options);
    assert!(lines(&rig, "").len() > 7, "the limit cuts more ranges");
    rig.survives_every_crash();
}

#[test]
fn a_full_disk_at_any_operation_leaves_no_trace() {
    Rig::new(story(), options()).survives_every_failure();
}

#[test]
fn without_fsync_a_crash_of_the_process_still_leaves_no_trace() {
    let options = FileOptions { fsync: false, ..options() };
    let rig = Rig::new(story(), options);
    let (whole, expected) = (rig.run(3), visible(&rig.run(3)));
    for at in 1..=whole.operations() {
        let layer = crate::layer::memory::Memory::default();
        layer.crash_at(at);
        let mut done = rig.start.clone();
        rig.deliver(rig.writer(&layer).as_mut(), &mut done, 3).unwrap_err();
        layer.restart(crate::layer::memory::Cut::Process);
        let mut writer = rig.writer(&layer);
        writer.resume().unwrap();
        rig.deliver(writer.as_mut(), &mut done, 2).unwrap();
        assert_same(&visible(&layer), &expected, "");
    }
}

#[test]
fn damaged_newest_rows_are_found_and_their_range_is_asked_for_again() {
    let steps = story()[..10].to_vec();
    let rig = Rig::new(steps, options());
    let layer = rig.run(3);
    let expected = visible(&layer);
    let open = Path::new("/root/lake/f00/acc/00000000000000000040.open");
    layer.overwrite(open, &vec![0; expected[open].len()]);
    let mut writer = rig.writer(&layer);
    let at = writer.resume().unwrap().unwrap();
    assert_eq!(at.position, end_of(0, 39), "the end of the last closed range");
    rig.deliver(writer.as_mut(), &mut { at.position }, 2).unwrap();
    assert_same(&visible(&layer), &expected, "");
}

#[test]
fn a_reset_writes_the_same_names_and_bytes_again() {
    let mut rig = Rig::new(story(), options());
    let layer = rig.run(3);
    let expected = visible(&layer);
    for (round, from) in
        [end_of(0, 0), end_of(0, 8), end_of(0, 41), end_of(0, 60), end_of(1, 61), end_of(1, 75)]
            .into_iter()
            .enumerate()
    {
        // A file that was lost comes back, if it is behind the place of the reset.
        let lost =
            Path::new("/root/lake/f00/g1/bank/00000000000000000070-00000000000000000079.jsonl");
        if from < end_of(1, 69) {
            crate::layer::Layer::remove(&layer, lost).unwrap();
        }
        rig.reset_epoch = round as u64 + 1;
        let mut writer = rig.writer(&layer);
        writer.resume().unwrap();
        rig.deliver(writer.as_mut(), &mut from.clone(), 2).unwrap();
        assert_same(&visible(&layer), &expected, &format!("reset to {from}"));
    }
}

#[test]
fn a_stream_set_to_a_later_place_tells_of_the_hole() {
    let first = Rig::new(vec![Step::Frame(block(3, &[set("acc", b"k", b"v")]))], options());
    let layer = first.run(1);
    let mut later = Rig::new(vec![Step::Frame(block(57, &[set("acc", b"k", b"v")]))], options());
    later.reset_epoch = 1;
    let mut writer = later.writer(&layer);
    writer.resume().unwrap();
    later.deliver(writer.as_mut(), &mut end_of(0, 52), 1).unwrap();
    assert_eq!(
        paths(&visible(&layer)),
        [
            "lake/f00/acc/00000000000000000001-00000000000000000003.jsonl",
            "lake/f00/acc/00000000000000000053.open",
            "lake/f00/manifest.jsonl",
        ]
    );
}

#[test]
fn opaque_pointers_make_the_same_files_in_any_batches() {
    let steps: Vec<Step> = [(3u64, "aa"), (5, "ab"), (14, "ba"), (38, "bb"), (39, "bc")]
        .iter()
        .map(|(height, pointer)| {
            let mut frame = block(*height, &[set("acc", b"k", b"v")]);
            frame.header.pointer = Pointer::new(pointer.as_bytes().to_vec()).unwrap();
            frame.header.parent = Pointer::ORIGIN;
            Step::Frame(frame)
        })
        .collect();
    let mut rig = Rig::new(steps, options());
    rig.start = Position::ORIGIN;
    rig.survives_every_crash();
    let bounds: Vec<_> = lines(&rig, "").iter().map(|line| (line.from, line.to)).collect();
    assert_eq!(bounds, [(0, 9), (10, 19), (20, 29), (30, 39)]);
}

#[test]
fn a_directory_of_another_stream_is_refused() {
    let rig = Rig::new(story(), options());
    let layer = rig.run(3);
    let path = Path::new("/root/lake/f00/.position.json");
    let text = String::from_utf8(layer.tree()[path].clone()).unwrap();
    layer.overwrite(path, text.replace("\"chain\"", "\"other\"").as_bytes());
    let error = rig.writer(&layer).resume().unwrap_err();
    assert!(matches!(error, FileError::Taken { .. }), "{error}");
    assert!(!error.is_transient());
}
