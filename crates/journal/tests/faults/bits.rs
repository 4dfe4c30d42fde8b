//! Every bit of every file of a small journal flipped, and every file cut to every length: what
//! was acknowledged is there unchanged, or it is reported.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use sluice_frame::BlockEnd;
use sluice_journal::{
    Corruption, Item, Journal, JournalError, ReadFrom, Select,
    conformance::{name, stores},
    files::fault::{FaultFiles, Plan},
};
use sluice_model::Epoch;

use super::support::{DIR, append, content, filled, open, options, runtime, segments, start};

/// Blocks of the smallest journal: of one, two and three parts.
const SMALL: u64 = 3;
/// Zeros in a row from which on they are padding.
const PADDING: usize = 64;
/// Bytes of padding that are flipped together.
const TOGETHER: usize = 16;

/// A closed journal of some blocks.
async fn closed(blocks: u64) -> FaultFiles {
    let files = FaultFiles::new();
    let (journal, _writer) = filled(&files, options(), blocks).await;
    journal.close().await;
    without_room(files)
}

/// Cuts the room that is left in the segments, which would only be looked at again and again.
fn without_room(files: FaultFiles) -> FaultFiles {
    for path in segments(&files) {
        let mut content = files.content(&path).unwrap();
        let used = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        content.truncate(used + 2 * PADDING);
        files.put(&path, content);
    }
    files
}

/// The same files with one of them replaced.
fn with(files: &FaultFiles, path: &Path, content: Vec<u8>) -> FaultFiles {
    let copy = files.kill();
    copy.put(path, content);
    copy
}

/// Every way to flip a bit in a range of a file; in padding, the same bit of a few bytes.
fn flipped(original: &[u8], range: Range<usize>) -> impl Iterator<Item = (String, Vec<u8>)> {
    steps(original, range).flat_map(move |bytes| {
        (0..8).map(move |bit| {
            let mut broken = original.to_vec();
            broken[bytes.clone()].iter_mut().for_each(|byte| *byte ^= 1 << bit);
            (format!("bit {bit} of bytes {bytes:?}"), broken)
        })
    })
}

/// Cuts a range into single bytes, and what is padding into a few.
fn steps(original: &[u8], range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let padding = |at: usize| {
        let around = original.get(at.saturating_sub(PADDING)..at + TOGETHER + PADDING);
        around.is_some_and(|around| around.iter().all(|byte| *byte == 0))
    };
    let mut at = range.start;
    std::iter::from_fn(move || {
        let begin = at;
        at += if padding(begin) { TOGETHER } else { 1 };
        (begin < range.end).then(|| begin..at.min(range.end))
    })
}

/// Every way to cut a file; in padding, every few bytes.
fn cut(original: &[u8]) -> impl Iterator<Item = (String, Vec<u8>)> {
    let ends = steps(original, 0..original.len()).map(|bytes| bytes.start);
    ends.map(|len| (format!("cut to {len} bytes"), original[..len].to_vec()))
}

/// How many blocks are lost, all of them reported.
async fn lost(files: &FaultFiles, blocks: u64, what: &str) -> u64 {
    let journal = start(files);
    let lost = content(journal.as_ref()).await.lost(blocks, what);
    journal.close().await;
    lost
}

/// A small journal, its only segment, and the bytes of that.
fn small() -> (FaultFiles, PathBuf, Vec<u8>) {
    let files = runtime().block_on(closed(SMALL));
    let path = segments(&files).remove(0);
    assert_eq!(segments(&files).len(), 1);
    assert_eq!(runtime().block_on(lost(&files, SMALL, "sound")), 0);
    let original = files.content(&path).unwrap();
    (files, path, original)
}

/// The header, its copy, the mark and the zeros between them.
#[test]
fn every_bit_in_front_of_the_records() {
    let (files, path, original) = small();
    runtime().block_on(async {
        for (what, broken) in flipped(&original, 0..4096) {
            assert_eq!(lost(&with(&files, &path, broken), SMALL, &what).await, 0, "{what}");
        }
    });
}

#[test]
fn every_bit_of_the_records() {
    let (files, path, original) = small();
    let used = original.len();
    runtime().block_on(async {
        let mut damaged = 0;
        for (what, broken) in flipped(&original, 4096..used) {
            let cost = lost(&with(&files, &path, broken), SMALL, &what).await;
            assert!(cost <= 1, "{what} costs {cost} blocks");
            damaged += cost;
        }
        // What costs nothing is the record of the open, and padding.
        assert!(damaged > (used as u64 - 4096) * 5, "{damaged} bits of {used} bytes");
    });
}

#[test]
fn every_truncation_of_a_segment() {
    let (files, path, original) = small();
    let used = original.len();
    runtime().block_on(async {
        let mut damaged = 0;
        for (what, short) in cut(&original) {
            damaged += u64::from(lost(&with(&files, &path, short), SMALL, &what).await > 0);
        }
        assert!(damaged > used as u64 - 4096, "{damaged} of {used}");
    });
}

/// The ends of all blocks, read without their changes.
async fn ends(journal: &dyn Journal, blocks: u64) -> Vec<BlockEnd> {
    let select = Select { headers_only: true, ..stores(&[]) };
    let mut reader = journal.read(&name(), ReadFrom::Earliest, select).await.unwrap();
    let mut ends = Vec::new();
    while ends.len() < usize::try_from(blocks).unwrap() {
        match reader.next().await.unwrap() {
            Item::Entry(stored) => ends.extend(stored.header.end.clone()),
            Item::Corrupt(corruption) => panic!("{corruption}"),
            _ => {}
        }
    }
    ends
}

/// Breaks the records of a segment, byte by byte; gives how often a verification says that digests
/// which were stored after their block are damaged. They are read unharmed all the same.
async fn late_digests_reported(files: &FaultFiles, blocks: u64, path: &Path) -> u32 {
    let original = files.content(path).unwrap();
    let journal = start(files);
    let sound = ends(journal.as_ref(), blocks).await;
    journal.close().await;
    let mut told = 0;
    for bytes in steps(&original, 4096..original.len()) {
        let mut broken = original.clone();
        broken[bytes.start] ^= 1;
        let journal = start(&with(files, path, broken));
        let report = journal.verify(&name(), Box::new(|_| ())).await.unwrap();
        let late = |c: &Corruption| c.cause.contains("digests stored with the block");
        if report.corruptions.iter().any(late) {
            assert_eq!(report.corruptions.len(), 1, "{report:?}");
            assert_eq!(ends(journal.as_ref(), blocks).await, sound, "bytes {bytes:?}");
            assert_eq!(content(journal.as_ref()).await.lost(blocks, "late"), 0);
            told += 1;
        }
        journal.close().await;
    }
    told
}

#[test]
fn every_bit_of_digests_that_were_stored_late() {
    // The last one comes alone and in one part, as the others of which the height is a multiple
    // of 3.
    const BLOCKS: u64 = 12;
    let files = runtime().block_on(closed(BLOCKS));
    let paths = segments(&files);
    runtime().block_on(async {
        let told = late_digests_reported(&files, BLOCKS, &paths[0]).await;
        assert!(told > 100, "{told}: the digests of a block");
        // At the start they are stored again in the newest segment: there an interrupted write
        // looks the same.
        let told = late_digests_reported(&files, BLOCKS, paths.last().unwrap()).await;
        assert_eq!(told, 0);
    });
}

const CONTROL: &str = "chain/control";

#[test]
fn every_bit_of_the_control_record() {
    let files = runtime().block_on(closed(1));
    let path = Path::new(DIR).join(CONTROL);
    let original = files.content(&path).unwrap();
    runtime().block_on(async {
        for (what, broken) in flipped(&original, 0..original.len()) {
            let journal = start(&with(&files, &path, broken));
            let status = journal.status(&name()).await.unwrap();
            assert_eq!(status.fence, Epoch::from_u64(5), "{what}");
            assert_eq!(status.head.unwrap().height, 1, "{what}");
            assert!(status.corruptions.is_empty(), "{what}: {:?}", status.corruptions);
            journal.close().await;
        }
    });
}

#[test]
fn every_truncation_of_the_control_record() {
    let files = runtime().block_on(closed(1));
    let path = Path::new(DIR).join(CONTROL);
    let original = files.content(&path).unwrap();
    runtime().block_on(async {
        let mut refused = 0;
        for (what, short) in cut(&original) {
            let disk = with(&files, &path, short);
            let journal = start(&disk);
            match journal.status(&name()).await {
                Ok(status) => {
                    assert_eq!(status.fence, Epoch::from_u64(5), "{what}");
                    assert_eq!(status.head.unwrap().height, 1, "{what}");
                    assert!(status.corruptions.is_empty(), "{what}: {:?}", status.corruptions);
                }
                Err(JournalError::NoFenceState { file, .. }) => {
                    assert_eq!((file, segments(&disk)), (path.clone(), segments(&files)), "{what}");
                    refused += 1;
                }
                Err(error) => panic!("{what}: {error}"),
            }
            journal.close().await;
        }
        assert!(refused > 50 && refused < 4096, "{refused}");
    });
}

/// A journal whose first segment was sealed early, and the side index of that.
fn sealed() -> (FaultFiles, PathBuf, Vec<u8>) {
    let files = FaultFiles::new();
    runtime().block_on(async {
        let (journal, mut writer) = filled(&files, options(), 1).await;
        files.plan(Plan { fail_sync: Some(0), ..Plan::default() });
        append(writer.as_mut(), 2).await.unwrap_err();
        let (mut writer, _) = open(journal.as_ref(), 6).await.unwrap();
        append(writer.as_mut(), 2).await.unwrap();
        journal.close().await;
    });
    let files = without_room(files);
    let mut paths = files.paths();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "idx"));
    assert_eq!((paths.len(), segments(&files).len()), (1, 2), "{paths:?}");
    let original = files.content(&paths[0]).unwrap();
    (files, paths[0].clone(), original)
}

#[test]
fn every_bit_of_a_side_index() {
    let (files, path, original) = sealed();
    runtime().block_on(async {
        for (what, broken) in flipped(&original, 0..original.len()) {
            assert_eq!(lost(&with(&files, &path, broken), 2, &what).await, 0, "{what}");
        }
    });
}

#[test]
fn every_truncation_of_a_side_index() {
    let (files, path, original) = sealed();
    runtime().block_on(async {
        for (what, short) in cut(&original) {
            assert_eq!(lost(&with(&files, &path, short), 2, &what).await, 0, "{what}");
        }
    });
}
