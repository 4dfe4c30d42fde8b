use std::collections::BTreeMap;

use bytes::BytesMut;
use proptest::prelude::*;
use sluice_frame::{BlockBuilder, BlockStart, Digester, put_change};
use sluice_model::{Digest, Epoch, Op, TopicRules};
use tempfile::TempDir;

use super::*;

const LIMIT: u64 = 1 << 20;

fn place(height: u64) -> Place {
    (Generation(0), Pointer::from_height(height))
}

/// The frames of a block whose value has this many bytes, with its state digests.
fn block(height: u64, size: usize, metadata: usize) -> Vec<Frame> {
    let start = BlockStart {
        ingestor: "chain".parse().unwrap(),
        generation: Generation(0),
        pointer: Pointer::from_height(height),
        parent: Pointer::from_height(height - 1),
        height,
        time: Some(7),
        epoch: Epoch::ZERO,
    };
    let topics = TopicRules::default();
    let mut builder = BlockBuilder::new(start, &topics);
    let mut region = BytesMut::new();
    let value = vec![u8::try_from(height % 251).unwrap(); size];
    put_change("bank", Op::Set, b"key", &value, &mut region);
    builder.push_changes(&region).unwrap();
    if metadata > 0 {
        builder.set_metadata("/meta", vec![1; metadata].into());
    }
    let mut frames: Vec<Frame> = std::iter::from_fn(|| builder.take()).collect();
    frames.extend(builder.finish(""));
    let mut digester =
        Digester::new(Digest::ZERO, Generation(0), Pointer::from_height(height), height);
    frames.iter().for_each(|frame| digester.add(frame).unwrap());
    let end = frames.last_mut().unwrap().header.end.as_mut().unwrap();
    digester.finish().fill(Digest::ZERO, end);
    frames
}

fn add(spool: &mut Spool, frames: &[Frame]) {
    frames.iter().for_each(|frame| spool.append(frame).unwrap());
    spool.sync().unwrap();
}

fn frames(spool: &Spool, height: u64) -> Option<Vec<Frame>> {
    let mut reader = spool.read(&place(height)).unwrap()?;
    let next = || reader.next_frame().unwrap().map(|bytes| Frame::parse(bytes).unwrap());
    Some(std::iter::from_fn(next).collect())
}

fn heights(spool: &Spool) -> Vec<u64> {
    (1..500).filter(|height| spool.get(&place(*height)).is_some()).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = listed.filter(|path| segment::number(path).is_some()).collect();
    files.sort();
    files
}

#[test]
fn what_was_synced_is_there_after_a_restart_and_what_was_not_is_not() {
    let dir = TempDir::new().unwrap();
    let mut spool = Spool::open(dir.path(), LIMIT).unwrap();
    let large = block(2, 700_000, 100_000);
    assert!(large.len() > 1, "several frames");
    add(&mut spool, &block(1, 10, 0));
    add(&mut spool, &large);
    spool.append(&block(3, 10, 0)[0]).unwrap();
    assert_eq!(heights(&spool), [1, 2], "visible only when synced");
    assert_eq!(frames(&spool, 2).unwrap(), large);
    let captured = spool.captured(&place(2)).unwrap().unwrap();
    assert_eq!(captured.end.states[0].store, "bank");
    assert_ne!(captured.end.states[0].digest, Digest::ZERO);
    drop(spool);
    let spool = Spool::open(dir.path(), LIMIT).unwrap();
    assert_eq!((frames(&spool, 2).unwrap(), spool.damaged()), (large, 0));
    assert_eq!(spool.first().unwrap().1.height, 1);
}

#[test]
fn one_process_at_a_time() {
    let dir = TempDir::new().unwrap();
    let first = Spool::open(dir.path(), LIMIT).unwrap();
    let second = Spool::open(dir.path(), LIMIT).unwrap_err();
    assert!(matches!(second, SpoolError::InUse { .. }), "{second}");
    drop(first);
    Spool::open(dir.path(), LIMIT).unwrap();
}

#[test]
fn is_bounded_in_bytes_and_only_durable_blocks_go() {
    let dir = TempDir::new().unwrap();
    let mut spool = Spool::open(dir.path(), LIMIT).unwrap();
    let mut height = 0;
    let full = loop {
        height += 1;
        if let Err(error) = spool.append(&block(height, 20_000, 0)[0]) {
            break error;
        }
        spool.sync().unwrap();
        assert!(spool.bytes() <= LIMIT);
    };
    assert!(matches!(full, SpoolError::Full { .. }), "{full}");
    assert!(height > 40, "{height}: most of the room is used");
    let on_disk: u64 = files(dir.path()).iter().map(|p| fs::metadata(p).unwrap().len()).sum();
    assert_eq!(on_disk, spool.bytes());
    assert!(!spool.make_room(&place(0)).unwrap(), "nothing is durable yet");
    let full = spool.append(&block(height, 20_000, 0)[0]).unwrap_err();
    assert!(matches!(full, SpoolError::Full { .. }), "{full}");
    assert!(spool.make_room(&place(height)).unwrap());
    let first = heights(&spool)[0];
    assert!(first > 1 && first < 15, "{first}: the oldest go, a segment's worth");
    add(&mut spool, &block(height, 20_000, 0));
    assert_eq!(heights(&spool), (first..=height).collect::<Vec<_>>());
}

#[test]
fn a_block_that_never_fits_is_told_apart_from_a_full_spool() {
    let dir = TempDir::new().unwrap();
    let mut spool = Spool::open(dir.path(), LIMIT).unwrap();
    let error = block(1, 2_000_000, 0).iter().find_map(|frame| spool.append(frame).err());
    assert!(matches!(error, Some(SpoolError::TooLarge { .. })), "{error:?}");
    let error = block(1, 300_000, 2_000_000).iter().find_map(|frame| spool.append(frame).err());
    assert!(matches!(error, Some(SpoolError::TooLarge { .. })), "in the middle: {error:?}");
    add(&mut spool, &block(2, 10, 0));
    assert_eq!(heights(&spool), [2]);
}

#[test]
fn removed_blocks_give_their_room_back_and_marks_survive() {
    let dir = TempDir::new().unwrap();
    let mut spool = Spool::open(dir.path(), LIMIT).unwrap();
    for height in 1..=400 {
        add(&mut spool, &block(height, 20_000, 0));
        if height > 1 {
            spool.remove(&place(height - 1)).unwrap();
        }
    }
    assert!(files(dir.path()).len() <= 2, "{:?}", files(dir.path()));
    spool.mark_diverged(&place(400)).unwrap();
    drop(spool);
    let spool = Spool::open(dir.path(), LIMIT).unwrap();
    assert!(spool.captured(&place(400)).unwrap().unwrap().diverged);
    assert_eq!(spool.diverged(), 1);
}

#[test]
fn parts_out_of_order_are_refused() {
    let dir = TempDir::new().unwrap();
    let mut spool = Spool::open(dir.path(), LIMIT).unwrap();
    let frames = block(1, 100, 100_000);
    assert!(frames.len() >= 2);
    spool.append(&frames[0]).unwrap();
    let again = block(1, 100, 700_000);
    let refused = spool.append(&again[2]).unwrap_err();
    assert!(matches!(refused, SpoolError::Order { expected: 1, got: 2, .. }), "{refused}");
    add(&mut spool, &frames);
    assert_eq!(heights(&spool), [1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is cut off or flipped: what is still there is exactly what was written, and
    /// blocks before the damage are.
    #[test]
    fn recovery_never_gives_wrong_bytes(
        sizes in prop::collection::vec((0usize..3000, 0usize..2), 1..12),
        at in any::<prop::sample::Index>(),
        cut in any::<bool>(),
        bit in 0u8..8,
    ) {
        let dir = TempDir::new().unwrap();
        let mut spool = Spool::open(dir.path(), LIMIT).unwrap();
        let mut written = BTreeMap::new();
        let mut ends = BTreeMap::new();
        for (height, (size, metadata)) in (1u64..).zip(sizes) {
            let frames = block(height, size, metadata * 70_000);
            add(&mut spool, &frames);
            ends.insert(height, spool.bytes());
            written.insert(height, frames);
        }
        drop(spool);
        let files = files(dir.path());
        let (mut bytes, path) = (fs::read(&files[0]).unwrap(), &files[0]);
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        fs::write(path, &bytes).unwrap();
        let single = files.len() == 1;

        let mut spool = Spool::open(dir.path(), LIMIT).unwrap();
        for (height, expected) in &written {
            match frames(&spool, *height) {
                Some(found) => prop_assert_eq!(&found, expected),
                None => prop_assert!(!single || ends[height] > at as u64, "{} was whole", height),
            }
            let captured = spool.captured(&place(*height)).unwrap();
            prop_assert_eq!(captured.is_some(), spool.get(&place(*height)).is_some());
        }
        // And it goes on.
        add(&mut spool, &block(100, 50, 0));
        drop(spool);
        let spool = Spool::open(dir.path(), LIMIT).unwrap();
        prop_assert_eq!(frames(&spool, 100).unwrap(), block(100, 50, 0));
    }
}
